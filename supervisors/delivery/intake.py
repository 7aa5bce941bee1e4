"""From a bridge to mailboxes: what happens to an event until it is settled.

A bridge makes an `Inbound` of what it received and gives it to `Intake.event`
together with a `Settlement`. From then on, for each handler of the pattern, an
`EventDelivery` is told how its run ended and decides by the policy: acknowledge,
try again after a while, or make a dead letter of it and acknowledge when that is
durable. With several handlers the message is settled when all of them are done.

Requests take a shorter way (their bridge answers them itself); what they share
with events is here: `Inbound`, and `release` for what a transport cannot take back.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import trio

from ...actors.cell import CellServices
from ...actors.envelope import Envelope, Settlement
from ...actors.errors import NoHandler, PayloadError, Retry, RpcError
from ..registry import Registry, Target
from .office import DeadLetterOffice, describe_error
from .policy import DEFAULT_POLICY, RetryPolicy
from .record import DeadLetter

__all__ = ["EventDelivery", "Inbound", "Intake", "IntakeServices"]


class IntakeServices(CellServices, Protocol):
    """What intake, and bridges with it, need from the system."""

    registry: Registry
    office: DeadLetterOffice

    @property
    def intake(self) -> "Intake":
        """The intake itself, for bridges."""
        ...


@attrs.frozen(kw_only=True)
class Inbound:
    """An event as it came in. `first_at` is in unix seconds; the rest as in `Origin`."""

    transport: str
    source: str
    pattern: str
    data: bytes
    message_id: str
    correlation_id: str | None = None
    headers: Mapping[str, str] = {}
    attempt: int = 1
    redelivered: bool = False
    first_at: float = attrs.field(factory=time.time)


class Intake:
    """Brings events in and sees them settled; one for all bridges of a system."""

    def __init__(self, services: IntakeServices, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.services = services
        self.policy = policy
        # A dict, not a set: the order in which they are given back is repeatable.
        self.waiting: dict[EventDelivery, None] = {}

    async def event(self, inbound: Inbound, settlement: Settlement) -> None:
        """Give an event to its handlers, waiting for room; it is settled later, once.

        An event nobody handles, or that does not fit, becomes a dead letter at once.
        """
        await self.services.office.room()
        registry = self.services.registry
        targets = registry.events.get(inbound.pattern)
        if targets is None:
            # As in NestJS, an event to a request pattern runs its handler; its answer is dropped.
            target = registry.requests.get(inbound.pattern)
            if target is None:
                error = NoHandler(inbound.pattern, f"{inbound.transport} {inbound.source}")
                self.dead(inbound, error, "no handler", None, settlement.acknowledge)
                return
            targets = [target]
        if len(targets) > 1:
            settlement = _Shared(settlement, len(targets))
        for target in targets:
            await EventDelivery(self, target, inbound, settlement).begin()

    async def replay(self, letter: DeadLetter) -> None:
        """Deliver a dead letter again, to the handler it was meant for."""
        target = self._target_of(letter)
        if letter.body is None:
            self._cannot_replay(letter, "its payload could not be kept, so there is none")
        elif target is None:
            self._cannot_replay(letter, f"nobody handles {letter.pattern!r} now")
        else:
            inbound = Inbound(
                transport=letter.transport,
                source=letter.source,
                pattern=letter.pattern,
                data=letter.body,
                message_id=letter.message_id,
                correlation_id=letter.correlation_id,
                headers=letter.headers,
                attempt=1,
                redelivered=True,
                first_at=letter.first_at,
            )
            await _Replay(self, target, inbound, letter).begin()

    def release_waiting(self, why: str) -> None:
        """Settle what waits for another attempt that will not come: the tree has ended."""
        for delivery in list(self.waiting):
            delivery.come_back(why)

    def dead(
        self,
        inbound: Inbound,
        error: BaseException,
        reason: str,
        target: Target | None,
        then: Callable[[], object],
        incarnation: int = 0,
    ) -> None:
        """Make a dead letter of an event; `then` is called when it is durable."""
        text, trace = describe_error(error)
        office = self.services.office
        letter = DeadLetter(
            id=office.new_id(),
            at=time.time(),
            kind="event",
            pattern=inbound.pattern,
            handler=target.handler.name if target else "",
            actor=target.cell.path if target else "",
            incarnation=incarnation,
            transport=inbound.transport,
            source=inbound.source,
            message_id=inbound.message_id,
            correlation_id=inbound.correlation_id,
            headers=inbound.headers,
            body=inbound.data,
            attempts=inbound.attempt,
            reason=reason,
            error=text,
            traceback=trace,
            first_at=inbound.first_at,
        )
        office.take(letter, then)

    def _target_of(self, letter: DeadLetter) -> Target | None:
        registry = self.services.registry
        targets = list(registry.events.get(letter.pattern, ()))
        if letter.pattern in registry.requests:
            targets.append(registry.requests[letter.pattern])
        if letter.kind == "tell":
            # Its pattern may be the name of a type, and another actor's route by chance.
            targets = [target for target in targets if target.cell.path == letter.actor]
        for target in targets:
            if target.cell.path == letter.actor and target.handler.name == letter.handler:
                return target
        if targets:
            return targets[0]  # the handler was renamed or moved since
        cell = registry.cells.get(letter.actor)
        handler = cell.behavior.handler_named(letter.handler, letter.pattern) if cell else None
        return Target(cell, handler) if cell and handler else None

    def _cannot_replay(self, letter: DeadLetter, why: str) -> None:
        self.services.office.finish(letter.id, replayed=False, note=f"it cannot be replayed: {why}")


class EventDelivery:
    """One event on its way to one handler: its receipt, and the origin of all it causes."""

    __slots__ = ("_age_from", "_intake", "_settlement", "_target", "inbound", "open")

    def __init__(
        self, intake: Intake, target: Target, inbound: Inbound, settlement: Settlement
    ) -> None:
        self._intake = intake
        self._target = target
        self._settlement = settlement
        self.inbound = inbound
        self.open = True
        self._age_from: float | None = None

    async def begin(self) -> None:
        """Put it into the mailbox, waiting for room; what does not fit is dead at once."""
        envelope = self._envelope()
        if envelope is not None and not await self._target.cell.mailbox.put_wait(envelope):
            self.released("the actor has ended")

    def _envelope(self) -> Envelope | None:
        handler = self._target.handler
        try:
            # Decoded anew for each attempt: a handler may have changed what it got.
            message = handler.payload.decode(self.inbound.data)
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
        if self.open:
            self.open = False
            self._acknowledge()

    def failed(self, error: Exception) -> None:
        if not self.open:
            return
        if isinstance(error, Retry):
            delay = self._intake.policy.after_retry(self._age(), error.after)
            if delay is None:
                self._dead(error, "expired", 0)
            elif not self._again(delay, attrs.evolve(self.inbound, redelivered=True)):
                self._dead(error, "too many wait", 0)
        else:
            self._dead(error, "rejected", 0)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        if not self.open:
            return
        random = self._intake.services.random
        delay = self._intake.policy.after_crash(self.inbound.attempt, random)
        if delay is not None:
            attempt = self.inbound.attempt + 1
            if self._again(delay, attrs.evolve(self.inbound, attempt=attempt, redelivered=True)):
                return
        self._dead(error, "crashed", incarnation)

    def released(self, why: str) -> None:
        if not self.open:
            return
        if self._target.cell.mailbox.is_open:
            # Cancelled with an incarnation, not by its own fault: it waits for the next.
            self.inbound = attrs.evolve(self.inbound, redelivered=True)
            self._readmit()
        elif self._settlement.give_back():
            self.open = False
        else:
            error = RpcError(f"{why}, and {self.transport} cannot take the message back")
            self._dead(error, "released", 0)

    # -- what is decided

    def _age(self) -> float:
        """Seconds since the message came first: by the wall clock up to here, by trio's after."""
        now = trio.current_time()
        if self._age_from is None:
            self._age_from = now - max(0.0, time.time() - self.inbound.first_at)
        return now - self._age_from

    def _again(self, delay: float, inbound: Inbound) -> bool:
        """Try again in `delay` seconds as `inbound`; False if no more may wait for that."""
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
        envelope = self._envelope()
        if envelope is not None:
            self._target.cell.mailbox.readmit(envelope)

    def _acknowledge(self) -> None:
        self._settlement.acknowledge()

    def _dead(self, error: BaseException, reason: str, incarnation: int) -> None:
        self.open = False
        self._intake.dead(
            self.inbound, error, reason, self._target, self._settlement.acknowledge, incarnation
        )

    # -- as an origin

    @property
    def transport(self) -> str:
        return self.inbound.transport

    @property
    def source(self) -> str:
        return self.inbound.source

    @property
    def pattern(self) -> str:
        return self.inbound.pattern

    @property
    def message_id(self) -> str:
        return self.inbound.message_id

    @property
    def correlation_id(self) -> str | None:
        return self.inbound.correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self.inbound.headers

    @property
    def attempt(self) -> int:
        return self.inbound.attempt

    @property
    def redelivered(self) -> bool:
        return self.inbound.redelivered


class _Replay(EventDelivery):
    """A dead letter on its way again: ends in the letter's own row, not in a new one."""

    __slots__ = ("_letter",)

    def __init__(
        self, intake: Intake, target: Target, inbound: Inbound, letter: DeadLetter
    ) -> None:
        super().__init__(intake, target, inbound, _NOTHING_TO_SETTLE)
        self._letter = letter

    def released(self, why: str) -> None:
        if self.open and not self._target.cell.mailbox.is_open:
            # The row stays "replaying": the next process, or a later look, takes it up.
            self.open = False
        else:
            super().released(why)

    def _acknowledge(self) -> None:
        self._finish(replayed=True, note="handled")

    def _dead(self, error: BaseException, reason: str, incarnation: int) -> None:
        self.open = False
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


class _Shared:
    """One message with several handlers: settled when all of them are."""

    def __init__(self, settlement: Settlement, handlers: int) -> None:
        self._settlement = settlement
        self._left = handlers

    def acknowledge(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._settlement.acknowledge()

    def give_back(self) -> bool:
        # What one handler gives back would run all of them again: it is kept instead.
        return False
