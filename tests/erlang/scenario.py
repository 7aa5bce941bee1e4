"""Scenarios: a supervision tree, and a schedule of what is done to it.

Pure data, the same for both sides: `ours.py` plays a scenario on our tree, `otp.py` on a
real Erlang/OTP. `draw.py` makes them. Each step has a whole second of virtual time of its
own (`at`).
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs

__all__ = [
    "Act",
    "Auto",
    "Failing",
    "Limit",
    "Member",
    "Restart",
    "Scenario",
    "Step",
    "Stops",
    "Strategy",
    "Team",
    "Worker",
    "paths",
    "without",
]

Restart = Literal["permanent", "transient", "temporary"]
Limit = Literal["brutal", "seconds", "infinity"]
Stops = Literal["clean", "slow", "hangs"]
Failing = Literal["raises", "hangs", "ignores"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Auto = Literal["never", "any", "all"]


@attrs.frozen
class Worker:
    """A child that does nothing but live, and end as it is told.

    `limit` is what its supervisor grants it for an ordered stop; `stops` is how it takes
    that; `failing` says which of its starts fail, and how. One that `ignores` is no failure,
    but does not run.
    """

    name: str
    restart: Restart = "permanent"
    limit: Limit = "seconds"
    stops: Stops = "clean"
    significant: bool = False
    failing: tuple[tuple[int, Failing], ...] = ()

    @property
    def takes_time(self) -> bool:
        return self.stops != "clean" or any(how == "hangs" for _, how in self.failing)


@attrs.frozen
class Team:
    """A supervisor; `period` in seconds."""

    name: str
    members: "tuple[Member, ...]"
    restart: Restart = "permanent"
    strategy: Strategy = "one_for_one"
    intensity: int = 1
    period: int = 5
    auto_shutdown: Auto = "never"
    significant: bool = False


Member: TypeAlias = Worker | Team

Act = Literal["crash", "leave", "kill", "start", "stop", "hold", "release", "halt"]


@attrs.frozen
class Step:
    """One thing that is done to the tree, to the child at `path`.

    `hold` crashes a child and keeps its next start waiting, so that what is done next
    queues up at its supervisor; `release` lets the start go on, or with `how="fail"` fail.
    `leave` ends a child by itself, in order. `halt` stops the tree.
    """

    at: int
    act: Act
    path: str = ""
    how: Literal["", "normal", "shutdown", "fail"] = ""
    member: Member | None = None


@attrs.frozen
class Scenario:
    """A tree and what is done to it; `seed` and `number` draw it again."""

    seed: int
    number: int
    tree: Team
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"scenario {self.number} of seed {self.seed}", *_shown(self.tree, 1)]
        for index, step in enumerate(self.steps):
            rest = " ".join(filter(None, [step.path, step.how]))
            lines.append(f"  step {index} at {step.at} s: {step.act} {rest}".rstrip())
            if step.member is not None:
                lines.extend(_shown(step.member, 3))
        return "\n".join(lines)


def paths(member: Member, path: str) -> Iterator[tuple[str, Member]]:
    """All children from `member` down, with the paths they have if it is at `path`."""
    yield path, member
    if isinstance(member, Team):
        for inner in member.members:
            yield from paths(inner, f"{path}/{inner.name}")


def without(scenario: Scenario) -> Iterator[Scenario]:
    """The same with one step less, and with fewer children: what a failure may not need."""
    steps = scenario.steps
    for index, step in enumerate(steps[:-1]):
        last = index
        if step.act == "hold":  # it goes with its release, and what lies between goes, too
            last = next(i for i in range(index, len(steps)) if steps[i].act == "release")
        elif step.act == "release":
            continue
        yield attrs.evolve(scenario, steps=steps[:index] + steps[last + 1 :])
    for tree in _thinner(scenario.tree):
        yield attrs.evolve(scenario, tree=tree)


def _thinner(team: Team) -> Iterator[Team]:
    for index, member in enumerate(team.members):
        before, after = team.members[:index], team.members[index + 1 :]
        yield attrs.evolve(team, members=before + after)
        if isinstance(member, Team):
            for smaller in _thinner(member):
                yield attrs.evolve(team, members=(*before, smaller, *after))


def _shown(member: Member, depth: int) -> list[str]:
    facts = attrs.asdict(member, recurse=False, filter=lambda a, _: a.name != "members")
    text = " ".join(f"{name}={value}" for name, value in facts.items() if name != "name")
    lines = [f"{'  ' * depth}{member.name}: {text}"]
    if isinstance(member, Team):
        for inner in member.members:
            lines.extend(_shown(inner, depth + 1))
    return lines
