"""An actor's own timers: messages to itself, later or again and again.

They belong to one incarnation and are gone with it: what is still planned is
cancelled, and a tick that waits in the mailbox is skipped by the next life. A key
names a timer; planning under the same key replaces it, a waiting tick included.

A periodic timer keeps its rate, but never more than one tick of it waits: an actor
that is slower than its timer misses ticks instead of drowning in them.

Ticks are local messages: they have one attempt, and a crash on one counts.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import trio

from .envelope import Envelope
from .errors import MailboxFull, Retry

if TYPE_CHECKING:
    from .behavior import Handler
    from .cell import Cell
    from .timers import Timer

__all__ = ["Schedule", "Scheduled"]


class Scheduled:
    """A timer of an actor, and the receipt of its ticks; `cancel` ends it."""

    __slots__ = (
        "_due",
        "_handler",
        "_message",
        "_schedule",
        "_timer",
        "_waiting",
        "key",
        "open",
        "period",
    )

    def __init__(
        self,
        schedule: "Schedule",
        key: Hashable,
        due: float,
        period: float | None,
        message: Any,
        handler: "Handler | None",
    ) -> None:
        self.key = key
        self.period = period
        self.open = True
        self._schedule = schedule
        self._due = due
        self._waiting = False
        # Not the envelope: it would hold this, and no garbage collector looks into one.
        self._message = message
        self._handler = handler
        self._timer: Timer = schedule.cell.services.timers.call_at(due, self._fire)

    def cancel(self) -> None:
        """No further tick; one that waits in the mailbox is skipped."""
        if self.open:
            self.open = False
            self._timer.cancel()
            self._schedule.forget(self)

    def _fire(self) -> None:
        cell = self._schedule.cell
        if not self._waiting and cell.mailbox.is_open:
            self._waiting = True
            cell.mailbox.readmit(Envelope(self._message, self._handler, self))
        if self.period is not None:
            now = trio.current_time()
            missed = max(0.0, (now - self._due) // self.period)
            self._due += self.period * (missed + 1)
            self._timer = cell.services.timers.call_at(self._due, self._fire)

    # -- as a receipt

    async def ready(self) -> None:
        """Nobody takes the items of a stream here, so there is always room."""

    def item(self, value: Any, *, last: bool) -> None:
        if last:
            self._handled()

    def succeeded(self, value: Any) -> None:
        self._handled()

    def failed(self, error: Exception) -> None:
        if not isinstance(error, MailboxFull):  # dropped, as its user chose
            reason = "expired" if isinstance(error, Retry) else "rejected"
            self._set_aside(error, reason)
        self._handled()

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        self._set_aside(error, "crashed")
        self._handled()

    def released(self, why: str) -> None:
        """It was cancelled in hand, or its actor has ended: its timer ends as well."""
        self._handled()

    def _set_aside(self, error: BaseException, reason: str) -> None:
        self._schedule.cell.set_aside(Envelope(self._message, self._handler), error, reason)

    def _handled(self) -> None:
        self._waiting = False
        if self.period is None:
            self.cancel()


class Schedule:
    """The timers of one incarnation."""

    def __init__(self, cell: "Cell") -> None:
        self.cell = cell
        self._by_key: dict[Hashable, Scheduled] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(
        self,
        key: Hashable | None,
        delay: float,
        period: float | None,
        message: Any,
        handler: "Handler | None",
    ) -> Scheduled:
        """Plan a message in `delay` seconds, then every `period` seconds if that is given."""
        if not delay >= 0 or (period is not None and not period > 0):
            raise ValueError(
                f"{self.cell.path}: a timer's delay must not be negative and its period must be "
                f"positive (seconds), got {delay} and {period}."
            )
        before = self._by_key.get(key)  # first: a key that cannot be one must plan nothing
        due = trio.current_time() + delay
        scheduled = Scheduled(self, key, due, period, message, handler)
        if key is None:
            scheduled.key = scheduled
        if before is not None:
            before.cancel()
        self._by_key[scheduled.key] = scheduled
        return scheduled

    def forget(self, scheduled: Scheduled) -> None:
        if self._by_key.get(scheduled.key) is scheduled:
            del self._by_key[scheduled.key]

    def end(self) -> None:
        """The incarnation is over."""
        for scheduled in list(self._by_key.values()):
            scheduled.cancel()
