"""A child at run time: one place in the tree, whichever life is in it.

Owned and changed by its supervisor alone; everybody else reads it.
"""

import math
from typing import Any, Literal, Protocol

import trio

from ..actors.incarnation import Incarnation, Runnable
from .child import ChildSpec
from .delivery.intake import IntakeServices
from .strategy import Backoff

__all__ = ["Above", "Child", "State"]

State = Literal["down", "starting", "running", "restarting", "stopping", "ended"]


class Above(Protocol):
    """What a child needs of the supervisor above it."""

    @property
    def path(self) -> str: ...

    def offer(self, name: str, asker: str, number: int) -> Any:
        """What the child `name`, there or further up, offers just now."""


class Child:
    """One place under a supervisor: its spec, what runs there, and in which life."""

    runnable: Runnable
    """What runs there, in one life after the other; set by the supervisor that builds it."""

    def __init__(self, spec: ChildSpec, above: Above, services: IntakeServices) -> None:
        self.spec = spec
        self.path = f"{above.path}/{spec.name}"
        self.services = services
        self._above = above
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
    def alive(self) -> bool:
        return self.incarnation is not None and self.incarnation.ending is None

    def become(self, state: State) -> None:
        self.state = state
        self.since = trio.current_time()

    def resolve(self, name: str) -> Any:
        """What `needs(name)` means here."""
        return self._above.offer(name, self.path, self.number)

    def backoff_delay(self, backoff: Backoff | None) -> float:
        """Count a failure and say how long to wait before the next start."""
        if backoff is None:
            return 0.0
        # Time that it ran counts, not time that it waited: a long delay is no quiet time.
        if trio.current_time() - self.up_since > backoff.quiet:
            self.failures = 0
        self.failures += 1
        return backoff.delay(self.failures, self.services.random)
