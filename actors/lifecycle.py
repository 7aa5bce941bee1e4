"""What a tree publishes about itself: one frozen notice per thing that happened.

The log, the health record, probes in tests and observers are all subscribers of
the same stream, so that none of them can tell another story. It stands on the
lowest floor because actors publish too (undelivered mail, sickness).
"""

from collections.abc import Callable
from typing import Any

import attrs

__all__ = [
    "Activated",
    "Blocked",
    "Bus",
    "Crashed",
    "DeadLettered",
    "Escalated",
    "GaveUp",
    "Notice",
    "Passivated",
    "Recovered",
    "Restarting",
    "Sick",
    "Started",
    "StateChanged",
    "Stopped",
    "Stopping",
    "Stuck",
    "Undelivered",
]


@attrs.frozen(kw_only=True)
class Notice:
    """Something happened to the child at `path`, in its life number `incarnation`."""

    path: str
    incarnation: int = 0


@attrs.frozen(kw_only=True)
class Started(Notice):
    """Its start is complete. `address` is where a bridge listens, if it does."""

    address: str | None = None


@attrs.frozen(kw_only=True)
class Crashed(Notice):
    """It ended abnormally. `origin` names the outside message that is to blame, if one is."""

    error: BaseException = attrs.field(eq=False)
    pattern: str | None = None
    origin: str | None = None


@attrs.frozen(kw_only=True)
class Restarting(Notice):
    """It will be back as `incarnation` in `delay` seconds.

    `siblings` are restarted with it by the strategy. Its supervisor allows
    `max_restarts` restarts `within` seconds; `left` is how many more it would allow just
    now, or None when this one was not counted.
    """

    delay: float
    left: int | None
    max_restarts: int
    within: float
    siblings: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class GaveUp(Notice):
    """A supervisor saw more than `max_restarts` restarts `within` seconds and stopped."""

    max_restarts: int
    within: float
    cause: BaseException | None = attrs.field(eq=False)


@attrs.frozen(kw_only=True)
class Escalated(Notice):
    """The failure of `child` is now the failure of its supervisor at `path`."""

    child: str


@attrs.frozen(kw_only=True)
class Stopping(Notice):
    """It was told to stop."""

    why: str


@attrs.frozen(kw_only=True)
class Stopped(Notice):
    """It has ended, `how`: normal, shutdown, killed..."""

    how: str


@attrs.frozen(kw_only=True)
class Stuck(Notice):
    """It was cancelled `after` seconds ago and has not ended; it is fenced and left behind."""

    after: float


@attrs.frozen(kw_only=True)
class StateChanged(Notice):
    """A bridge's connection changed: connected, waiting, draining..."""

    state: str
    why: str = ""


@attrs.frozen(kw_only=True)
class Sick(Notice):
    """`crashes` different outside messages in a row crashed it; events are held back."""

    crashes: int


@attrs.frozen(kw_only=True)
class Recovered(Notice):
    """A held event succeeded; the others follow."""

    held: int


@attrs.frozen(kw_only=True)
class Passivated(Notice):
    """It had nothing to do for `after` seconds and has laid down its state."""

    after: float


@attrs.frozen(kw_only=True)
class Activated(Notice):
    """Mail came for it while it was passive: it has started again."""


@attrs.frozen(kw_only=True)
class Blocked(Notice):
    """`handler` kept the event loop from running for `seconds`; `at` is the line it was in."""

    handler: str
    seconds: float
    at: str


@attrs.frozen(kw_only=True)
class DeadLettered(Notice):
    """A message was set aside, durably, as the dead letter `id`."""

    id: str
    pattern: str
    reason: str
    attempts: int


@attrs.frozen(kw_only=True)
class Undelivered(Notice):
    """A message reached nobody. Not a dead letter: it is counted, not kept."""

    why: str
    message: str


class Bus:
    """Calls every subscriber with every notice, in order, at once.

    Subscribers must be quick and must not raise; one that does is a defect of the
    subscriber, so its exception goes to whoever published.
    """

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Notice], Any]] = []

    def subscribe(self, subscriber: Callable[[Notice], Any]) -> Callable[[], None]:
        """Add a subscriber; call what is returned to remove it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, notice: Notice) -> None:
        for subscriber in self._subscribers:
            subscriber(notice)
