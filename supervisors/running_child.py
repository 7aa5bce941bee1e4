"""A child at run time: one place in the tree, whichever life is in it.

Owned and changed by its supervisor alone; everybody else reads it. There may be a
hundred thousand of them, so a child has slots and nothing made in advance.
"""

import math
from typing import Any, Final, Literal, Protocol

import trio

from ..actors.incarnation import Incarnation, Runnable
from .child import ChildSpec
from .delivery.intake import IntakeServices
from .registry import Visibility
from .strategy import Backoff

__all__ = ["UP", "Above", "Child", "State", "Tree"]

State = Literal["down", "starting", "running", "restarting", "stopping", "ended"]

UP: Final[frozenset[State]] = frozenset({"starting", "running", "restarting", "stopping"})
"""States of a child that has not ended, or will be back."""


class Tree(IntakeServices, Protocol):
    """What supervisors need from the system: what children need, and a register of them."""

    def joined(self, child: "Child", visibility: Visibility) -> None:
        """A child takes its place in the tree."""

    def left(self, child: "Child") -> None:
        """A child is gone from the tree, for good."""


class Above(Protocol):
    """What a child needs of the supervisor above it."""

    @property
    def path(self) -> str: ...

    @property
    def tree(self) -> Tree: ...

    def offer(self, name: str, asker: str, number: int) -> Any:
        """What the child `name`, there or further up, offers just now."""


class Child:
    """One place under a supervisor: its spec, what runs there, and in which life."""

    __slots__ = (
        "above",
        "failures",
        "incarnation",
        "listed",
        "number",
        "path",
        "runnable",
        "since",
        "spec",
        "state",
        "up_since",
    )

    runnable: Runnable
    """What runs there, in one life after the other; set by the supervisor that builds it."""

    def __init__(self, spec: ChildSpec, above: Above) -> None:
        self.spec = spec
        self.path = f"{above.path}/{spec.name}"
        self.above = above
        self.state: State = "down"
        self.since = 0.0
        self.number = 0
        self.failures = 0
        self.up_since = math.inf
        self.listed = False
        self.incarnation: Incarnation | None = None

    def __repr__(self) -> str:
        return f"<Child {self.path} {self.state} {self.number}>"

    @property
    def services(self) -> Tree:
        return self.above.tree

    @property
    def alive(self) -> bool:
        return self.incarnation is not None and self.incarnation.ending is None

    def become(self, state: State) -> None:
        self.state = state
        self.since = trio.current_time()

    def resolve(self, name: str) -> Any:
        """What `needs(name)` means here."""
        return self.above.offer(name, self.path, self.number)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What its spec gives to a new incarnation, with `needs(...)` filled in."""
        return self.spec.resolved(self.resolve)

    def backoff_delay(self, backoff: Backoff | None) -> float:
        """Count a failure and say how long to wait before the next start."""
        if backoff is None:
            return 0.0
        # Time that it ran counts, not time that it waited: a long delay is no quiet time.
        if trio.current_time() - self.up_since > backoff.quiet:
            self.failures = 0
        self.failures += 1
        return backoff.delay(self.failures, self.services.random)
