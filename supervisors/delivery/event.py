"""One event on its way to one handler, and what is decided when its run has ended.

The receipt of the envelope in the mailbox, and the origin of all that its handler tells
and asks meanwhile. Owns attempts, ages and the choice between acknowledging, trying
again, giving back and a dead letter. Does not own who the handlers are (`intake.py`), the
numbers (`policy.py`) or the keeping (`office.py`).

Invariant: it is settled exactly once; told again how it ended, it does nothing. An event
that waits for its next attempt holds a place in its mailbox, so there are never more
of them than the mailbox may hold.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ...actors.cell import Cell
from ...actors.envelope import Burying, Envelope, Postponing, Settlement
from ...actors.errors import MailboxFull, PayloadError, Retry, RpcError
from ...actors.retry import RetryPolicy
from ..registry import Target
from .office import describe_error
from .record import DeadLetter

if TYPE_CHECKING:
    from .intake import Inbound, Intake

__all__ = ["AgingDelivery", "EventDelivery", "FacedDelivery", "Replay", "Shared", "kind_for"]


def kind_for(policy: RetryPolicy) -> "type[EventDelivery]":
    """What delivers under a policy: looking at ages costs, so only who has a limit does."""
    return EventDelivery if policy.stale_after == math.inf else AgingDelivery


class _Unsettled:
    """One slot, for two names: what a receipt shows as `open` may be more than this."""

    __slots__ = ("unsettled",)

    unsettled: bool


class EventDelivery(_Unsettled):
    """One event on its way to one handler: its receipt, and the origin of all it causes."""

    __slots__ = ("_age_from", "_intake", "_settlement", "_target", "inbound", "policy")

    if TYPE_CHECKING:

        @property
        def open(self) -> bool: ...

    else:
        # The slot itself, since lanes look at it for every event (benchmarks/mailbox.py).
        open = _Unsettled.unsettled

    def __init__(
        self,
        intake: "Intake",
        target: Target,
        inbound: "Inbound",
        settlement: Settlement,
        policy: RetryPolicy,
    ) -> None:
        self._intake = intake
        self._target = target
        self._settlement = settlement
        self.inbound = inbound
        self.policy = policy
        self.unsettled = True
        self._age_from: float | None = None
        if inbound.order_key is not None:
            target.cell.keep_order()

    async def begin(self) -> None:
        """Put it into the mailbox, waiting for room; what does not fit is dead at once."""
        envelope = self.envelope()
        if envelope is not None and not await self._target.cell.mailbox.put_wait(envelope):
            self.released("the actor has ended")

    def hand_back(self, which: Callable[[Settlement], bool]) -> None:
        """Instead of trying again later, let the broker deliver it again, if it can."""
        if which(self._settlement) and self._settlement.give_back():
            self.unsettled = False
            del self._intake.waiting[self]
            self._target.cell.mailbox.free()

    def envelope(self) -> Envelope | None:
        """What goes into the mailbox; None for what does not fit, which is dead at once."""
        handler = self._target.handler
        try:
            # Decoded anew for each attempt: a handler may have changed what it got.
            message = handler.payload.decode(self.inbound.facts().data)
        except PayloadError as error:
            self._dead(error, "does not fit", 0)
            return None
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class: kept, not lost
            self._dead(error, "crashed", 0)
            return None
        return Envelope(message, handler, self, self)

    # -- as a receipt

    async def ready(self) -> None:
        """Nobody takes the items of an event's handler, so there is always room."""

    def item(self, value: Any, *, last: bool) -> None:
        if last:
            self.succeeded(None)

    def succeeded(self, value: Any) -> None:
        if self.unsettled:
            self.unsettled = False
            self._settlement.acknowledge()

    def failed(self, error: Exception) -> None:
        if not self.unsettled:
            return
        if isinstance(error, Retry):
            delay = self.policy.after_retry(self._age(), error.after)
            if delay is None:
                self._dead(error, "expired", 0)
            elif not self._again(
                delay, msgspec.structs.replace(self.inbound.facts(), redelivered=True)
            ):
                self._dead(error, "too many wait", 0)
        elif isinstance(error, MailboxFull) and error.__traceback__ is None:
            # Never raised, so not a handler's: its own mailbox had no room for it.
            self.unsettled = False
            self._dropped(error)
        else:
            self._dead(error, "rejected", 0)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        if not self.unsettled:
            return
        attempt = self.inbound.attempt
        delay = self.policy.after_crash(attempt, self._intake.services.random)
        if delay is None:
            self._dead(error, "crashed", incarnation)
        elif not self.policy.allows(self._age() + delay):
            self._dead(error, "expired", incarnation)
        elif not self._again(
            delay,
            msgspec.structs.replace(self.inbound.facts(), attempt=attempt + 1, redelivered=True),
        ):
            self._dead(error, "too many wait", incarnation)

    def ran(self, times: int) -> None:
        inbound = self.inbound.facts()
        self.inbound = msgspec.structs.replace(
            inbound, attempt=inbound.attempt + times, redelivered=True
        )

    def released(self, why: str) -> None:
        if not self.unsettled:
            return
        if self._target.cell.mailbox.is_open:
            # Cancelled with an incarnation, not by its own fault: it waits for the next.
            self.inbound = msgspec.structs.replace(self.inbound.facts(), redelivered=True)
            self._readmit()
        elif self._settlement.give_back():
            self.unsettled = False
        else:
            error = RpcError(f"{why}, and {self.transport} cannot take the message back")
            self._dead(error, "released", 0)

    # -- what is decided

    def _age(self) -> float:
        """Seconds since the message came first: by the wall clock up to here, by trio's after."""
        now = trio.current_time()
        if self._age_from is None:
            first_at = self.inbound.first_at
            self._age_from = now - max(0.0, time.time() - first_at) if first_at else now
        return now - self._age_from

    def _again(self, delay: float, inbound: "Inbound") -> bool:
        """Try again in `delay` seconds as `inbound`; False if no more may wait for that."""
        settlement = self._settlement
        if delay > 0 and isinstance(settlement, Postponing) and settlement.postpone(inbound, delay):
            self.unsettled = False
            return True
        if not self._target.cell.mailbox.reserve():
            return False
        self.inbound = inbound
        self._intake.waiting[self] = None
        if delay > 0:
            self._intake.services.timers.call_at(trio.current_time() + delay, self._back)
        else:
            self._back()
        return True

    def _back(self) -> None:
        """The delay is over."""
        if self in self._intake.waiting:
            self.come_back("the actor has ended")

    def come_back(self, why: str) -> None:
        """Go back into the mailbox now, or to where it came from if the mailbox is closed."""
        del self._intake.waiting[self]
        mailbox = self._target.cell.mailbox
        mailbox.free()
        if mailbox.is_open:
            self._readmit()
        else:
            self.released(why)

    def _readmit(self) -> None:
        envelope = self.envelope()
        if envelope is not None:
            self._target.cell.mailbox.readmit(envelope)

    def _dropped(self, error: MailboxFull) -> None:
        """The mailbox dropped it, as its user chose, and has said so: it is not kept."""
        self._settlement.acknowledge()

    def _dead(self, error: BaseException, reason: str, incarnation: int) -> None:
        self.unsettled = False
        self._intake.dead(self.inbound, error, reason, self._target, self._settlement, incarnation)

    # -- as an origin

    @property
    def transport(self) -> str:
        return self.inbound.facts().transport

    @property
    def source(self) -> str:
        return self.inbound.facts().source

    @property
    def pattern(self) -> str:
        return self.inbound.facts().pattern

    @property
    def message_id(self) -> str:
        return self.inbound.facts().message_id

    @property
    def correlation_id(self) -> str | None:
        return self.inbound.facts().correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self.inbound.facts().headers

    @property
    def attempt(self) -> int:
        return self.inbound.facts().attempt

    @property
    def redelivered(self) -> bool:
        return self.inbound.facts().redelivered

    @property
    def order_key(self) -> Hashable | None:
        return self.inbound.order_key


class FacedDelivery(EventDelivery):
    """One for which another object, its `face`, stands in mailboxes and before handlers.

    For bridges that make a delivery only when an event does not just succeed.
    """

    __slots__ = ("face",)

    face: Any
    """Its `open` is lowered when this has ended."""

    def _dead(self, error: BaseException, reason: str, incarnation: int) -> None:
        self.face.open = False
        super()._dead(error, reason, incarnation)

    def envelope(self) -> Envelope | None:
        envelope = super().envelope()
        if envelope is not None:
            envelope.receipt = envelope.origin = self.face
        return envelope


class AgingDelivery(EventDelivery):
    """An event that is not run at all once it is older than its policy's `stale_after`.

    A lane looks at `open` when an event's turn comes, which is when its age is looked at.
    """

    __slots__ = ("_queued",)

    def __init__(
        self,
        intake: "Intake",
        target: Target,
        inbound: "Inbound",
        settlement: Settlement,
        policy: RetryPolicy,
    ) -> None:
        super().__init__(intake, target, inbound, settlement, policy)
        self._queued = True
        self._age()  # from here on by trio's clock

    @property
    def open(self) -> bool:
        if self._queued and self.unsettled:
            age = self._age()
            if age > self.policy.stale_after:
                self._dead(_too_old(age, self.policy.stale_after), "expired", 0)
            elif not self._is_held():
                # Its handler runs now; what was begun is finished, however long it takes.
                self._queued = False
        return self.unsettled

    def _is_held(self) -> bool:
        """Whether it waits on: a sick actor holds it, and a lane looks again later."""
        cell = self._target.cell
        return isinstance(cell, Cell) and cell.sickness.sick

    async def ready(self) -> None:
        self._queued = False  # a generator is at work

    def envelope(self) -> Envelope | None:
        self._queued = True
        return super().envelope()


def _too_old(age: float, limit: float) -> RpcError:
    return RpcError(f"not run: {age:.0f} s old when its turn came, stale after {limit:g} s")


class Replay(EventDelivery):
    """A dead letter on its way again: ends in the letter's own row, not in a new one."""

    __slots__ = ("_letter",)

    def __init__(
        self, intake: "Intake", target: Target, inbound: "Inbound", letter: DeadLetter
    ) -> None:
        super().__init__(intake, target, inbound, _NOTHING_TO_SETTLE, intake.policy_of(target))
        self._letter = letter

    def released(self, why: str) -> None:
        if self.unsettled and not self._target.cell.mailbox.is_open:
            # The row stays "replaying": the next process, or a later look, takes it up.
            self.unsettled = False
        else:
            super().released(why)

    def succeeded(self, value: Any) -> None:
        if self.unsettled:
            self.unsettled = False
            self._finish(replayed=True, note="handled")

    def _dropped(self, error: MailboxFull) -> None:
        self._dead(error, "dropped", 0)

    def _dead(self, error: BaseException, reason: str, incarnation: int) -> None:
        self.unsettled = False
        text, _ = describe_error(error)
        self._finish(replayed=False, note=f"{reason} after {self.attempt} attempts: {text}")

    def _finish(self, *, replayed: bool, note: str) -> None:
        self._intake.services.office.finish(self._letter.id, replayed=replayed, note=note)


class _NothingToSettle:
    """A replay is settled in its row; there is no broker behind it."""

    def acknowledge(self) -> None:
        """Its row says so."""

    def give_back(self) -> bool:
        return False


_NOTHING_TO_SETTLE = _NothingToSettle()


class Shared:
    """One message with several handlers: settled when all of them are."""

    def __init__(self, settlement: Settlement, handlers: int) -> None:
        self._settlement = settlement
        self._left = handlers

    def acknowledge(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._settlement.acknowledge()

    def bury(self, letter: DeadLetter, then: Callable[[], object]) -> None:
        if isinstance(self._settlement, Burying):
            self._settlement.bury(letter, then)
        else:
            then()

    def give_back(self) -> bool:
        # What one handler gives back would run all of them again: it is kept instead.
        return False
