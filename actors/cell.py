"""The cell: what there is of an actor beyond its incarnations.

Owns the mailbox, the reference, and the record of crashes on outside messages;
makes a new instance for each incarnation and runs it on `Lanes`. Does not decide
about restarts: it raises `Crash` and its supervisor does.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Literal, Protocol

import attrs
import trio

from .actor import Actor
from .behavior import Behavior
from .context import CURRENT, Hand
from .envelope import Envelope
from .errors import Retry
from .incarnation import Incarnation
from .lanes import Lanes
from .lifecycle import Bus, Undelivered
from .mailbox import Mailbox
from .ref import Ref
from .sickness import Sickness
from .timers import Timer, Timers

__all__ = ["Cell", "CellOptions", "CellServices"]


@attrs.frozen
class CellOptions:
    """How one actor treats its messages. Times in seconds.

    `concurrency` messages interleave; on a crash the others in hand may take
    `crash_grace` to finish. Messages that ask for a `Retry` are kept no longer than
    `max_age`. After `sick_after` different outside messages crashed it in a row the
    actor is sick: its events are held back, or with `on_sick="escalate"` its
    supervisor decides. `blame="actor"` counts crashes on outside messages like all others.
    """

    mailbox: int = 1024
    concurrency: int = 1
    crash_grace: float = 1.0
    max_age: float = 3600.0
    sick_after: int = 10
    on_sick: Literal["hold", "escalate"] = "hold"
    blame: Literal["message", "actor"] = "message"


class CellServices(Protocol):
    """What a cell needs from the system it lives in."""

    timers: Timers
    bus: Bus
    random: Random
    threads: bool
    """False runs `thread=True` handlers in place, so that virtual time holds."""

    def set_aside(
        self, envelope: Envelope, error: BaseException, reason: str, path: str, incarnation: int
    ) -> None:
        """Make a dead letter of a local message that has no receipt."""


class Cell:
    """One logical actor; a `Runnable` for its supervisor."""

    def __init__(
        self,
        path: str,
        actor: type[Actor[Any]],
        arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        options: CellOptions,
        services: CellServices,
    ) -> None:
        self.path = path
        self.actor = actor
        self.behavior = Behavior.of(actor)
        self.options = options
        self.services = services
        self.mailbox = Mailbox(path, options.mailbox)
        self.ref: Ref[Any] = Ref(self.mailbox, self.behavior, services.timers, self.undelivered)
        self.sickness = Sickness(
            self.mailbox, services.timers, options.sick_after, self._cannot_hold
        )
        self._arguments = arguments
        self._local_ids = 0
        self._postponed: dict[Timer, Envelope] = {}
        self._number = 0

    def __repr__(self) -> str:
        return f"<Cell {self.path} {self.actor.__qualname__}>"

    async def run(self, incarnation: Incarnation) -> None:
        """One incarnation: a new instance, `started()`, its messages, `stopping()`."""
        self._number = incarnation.number
        hand = Hand(incarnation)
        CURRENT.set(hand)
        incarnation.on_fence(hand.fence)
        actor = self._instance(incarnation)
        await actor.started()
        if not self.mailbox.is_open:
            self.mailbox.open()
        incarnation.announce(self.ref)
        await Lanes(self, actor, incarnation, hand).run()
        if incarnation.ending is None and not incarnation.scope.cancel_called:
            await actor.stopping()

    def open(self) -> None:
        """Take mail from now on, also before the first incarnation has started."""
        if not self.mailbox.is_open:
            self.mailbox.open()

    def close(self, why: str) -> None:
        """No further incarnation comes: release all mail and take no more."""
        for timer, envelope in self._postponed.items():
            timer.cancel()
            self.mailbox.free()
            self.release(envelope, why)
        self._postponed.clear()
        self.mailbox.close(lambda envelope: self.release(envelope, why))
        self.sickness.release(lambda envelope: self.release(envelope, why))

    def release(self, envelope: Envelope, why: str) -> None:
        """Give one message back to where it came from, unhandled."""
        if envelope.receipt is not None:
            envelope.receipt.released(why)
        else:
            self.undelivered(envelope.message, why)

    def give_back(self, envelope: Envelope, why: str) -> None:
        """A message was cancelled in hand, through no fault of its own: the next life has it."""
        if envelope.receipt is None and self.mailbox.is_open:
            self.mailbox.readmit(envelope, first=True)
        else:
            self.release(envelope, why)

    def undelivered(self, message: Any, why: str) -> None:
        # The type alone: contents of messages do not belong in logs.
        name = type(message).__name__
        notice = Undelivered(path=self.path, incarnation=self._number, why=why, message=name)
        self.services.bus.publish(notice)

    def postpone(self, envelope: Envelope, error: Retry) -> None:
        """Let a local message without a receipt come back in `error.after` seconds."""
        now = trio.current_time()
        if envelope.attempt == 1:
            envelope.since = now
        due = now + error.after
        if due - envelope.since > self.options.max_age or not self.mailbox.reserve():
            self.set_aside(envelope, error, "expired")
            return
        envelope.attempt += 1

        def back() -> None:
            del self._postponed[timer]
            self.mailbox.free()
            self.mailbox.readmit(envelope)

        timer = self.services.timers.call_at(due, back)
        self._postponed[timer] = envelope

    def set_aside(self, envelope: Envelope, error: BaseException, reason: str) -> None:
        """Make a dead letter of a local message."""
        self.services.set_aside(envelope, error, reason, self.path, self._number)

    def next_local_id(self) -> str:
        self._local_ids += 1
        return f"{self.path}#{self._local_ids}"

    def _instance(self, incarnation: Incarnation) -> Actor[Any]:
        actor: Actor[Any] = self.actor.__new__(self.actor)
        actor._incarnation = incarnation
        actor._ref = self.ref
        positional, keywords = self._arguments()
        actor.__init__(*positional, **keywords)  # type: ignore[misc]
        return actor

    def _cannot_hold(self, envelope: Envelope) -> None:
        # Not `released`: with the mailbox open, that would bring it back at once, for ever.
        if envelope.receipt is not None:
            why = "the actor is sick and holds as many events as it may"
            envelope.receipt.failed(Retry(why))
