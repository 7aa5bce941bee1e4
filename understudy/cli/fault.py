"""One thing that is wrong with a tree, as `understudy check` tells it."""

from typing import Literal

import attrs

__all__ = ["Fault"]


@attrs.frozen
class Fault:
    """One thing that is wrong: where, what, and what to do about it.

    A fault keeps the tree from starting, or a part of it from ever doing its work; a doubt
    may be meant.
    """

    path: str
    text: str
    level: Literal["fault", "doubt"] = "fault"
