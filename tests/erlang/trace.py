"""Traces: what a side did in each step, in the same words on both sides.

Compared are: what the workers logged, in order; how lives ended; how commands went;
which children each living supervisor lists, and which of them live; and the root.
"""

from collections.abc import Sequence
from itertools import zip_longest

import attrs

__all__ = ["Difference", "Moment", "first_difference"]


@attrs.frozen
class Moment:
    """One step, once everything is at rest. `step` -1 is the start of the tree."""

    step: int
    log: str
    ended: str
    done: str
    tree: str
    root: str

    @classmethod
    def parse(cls, line: str) -> "Moment":
        step, *texts = line.split("\t")
        return cls(int(step), *texts)

    def __str__(self) -> str:
        texts = (f"{name}: {text}" for name, text in attrs.asdict(self).items() if name != "step")
        return f"step {self.step}\n    " + "\n    ".join(texts)


@attrs.frozen
class Difference:
    """The first step in which the two sides differ, and all up to there."""

    ours: Sequence[Moment]
    otp: Sequence[Moment]

    def __str__(self) -> str:
        same = "\n".join(f"  {moment}" for moment in self.otp[:-1])
        return f"{same}\n  OTP  {_last(self.otp)}\n  ours {_last(self.ours)}"


def _last(trace: Sequence[Moment]) -> str:
    return str(trace[-1]) if trace else "nothing"


def first_difference(ours: Sequence[Moment], otp: Sequence[Moment]) -> Difference | None:
    for index, (one, other) in enumerate(zip_longest(ours, otp)):
        if one != other:
            return Difference(ours[: index + 1], otp[: index + 1])
    return None
