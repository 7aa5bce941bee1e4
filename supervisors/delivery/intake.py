"""From a bridge to the handlers: who gets an event, and with which policy.

A bridge makes an `Inbound` of what it received and gives it to `Intake.event`
together with a `Settlement`. For each handler of the pattern an `EventDelivery`
(`event.py`) takes it from there; with several handlers the message is settled when
all of them are done. An event nobody handles, and one that does not fit, is a dead
letter at once. Replays of dead letters go the same way, to the handler meant.

How often an event is run, and until what age, the nearest policy says: the handler's,
its actor's or the system's.

Invariant: an event is settled exactly once, and never before it was handled, was made
durable as a dead letter, or was dropped by a mailbox whose user asked for that.

Requests take a shorter way: their bridge answers them itself.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from trio.lowlevel import reschedule

from ...actors.behavior import Handler
from ...actors.cell import CellServices
from ...actors.envelope import Burying, Envelope, Settlement
from ...actors.errors import NoHandler
from ...actors.retry import DEFAULT_POLICY, RetryPolicy, policy_for
from ..registry import Registry, Target
from .event import EventDelivery, FacedDelivery, Replay, Shared, kind_for
from .office import DeadLetterOffice, describe_error
from .record import DeadLetter

__all__ = ["Inbound", "Intake", "IntakeServices", "Way"]


class IntakeServices(CellServices, Protocol):
    """What intake, and bridges with it, need from the system."""

    registry: Registry
    office: DeadLetterOffice

    @property
    def intake(self) -> "Intake":
        """The intake itself, for bridges."""
        ...


_NO_HEADERS: Final[Mapping[str, str]] = {}


class Inbound(msgspec.Struct, kw_only=True, gc=False):
    """An event as it came in; as in `Origin`. `first_at` is in unix seconds, 0 for unknown.

    Those with the same `order_key` are handled in the order in which they came, whatever
    the handler's concurrency, unless it has a `key` of its own.

    A struct for the reasons given at `Envelope`: one is made for every event.
    """

    transport: str = ""
    source: str = ""
    pattern: str = ""
    data: bytes | msgspec.Raw = b""
    message_id: str = ""
    correlation_id: str | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    attempt: int = 1
    redelivered: bool = False
    first_at: float = 0.0
    order_key: Hashable | None = None

    def facts(self) -> "Inbound":
        """Itself, with everything filled in: what most handlers never ask for may come late."""
        return self


class Way:
    """How the events of one pattern come to their one handler, while the registry is the same.

    What can be known of them before they come is looked up once.
    """

    __slots__ = (
        "_decode",
        "_handler",
        "_intake",
        "_kind",
        "_office",
        "_policy",
        "_target",
        "mailbox",
    )

    def __init__(self, intake: "Intake", target: Target) -> None:
        self._intake = intake
        self._office = intake.services.office
        self._target = target
        self._handler = target.handler
        self.mailbox = target.cell.mailbox
        self._policy = intake.policy_of(target)
        self._kind = kind_for(self._policy)
        # Other kinds do more than decode.
        self._decode = target.handler.payload.typed_decode if self._kind is EventDelivery else None

    @property
    def annotation(self) -> Any:
        """The type of the handler's payload, if it can be read at once; None if it cannot."""
        return self._handler.payload.annotation if self._decode is not None else None

    @property
    def batch(self) -> int:
        """How many messages the handler takes at once; 0 if it takes one."""
        return self._handler.batch

    @property
    def handler(self) -> Handler:
        return self._handler

    def keep_order(self) -> None:
        """Events with an order key are about to come."""
        self._target.cell.keep_order()

    def faced(self, inbound: Inbound, settlement: Settlement, face: Any) -> FacedDelivery:
        """A delivery of an event that is in its mailbox, or in hand, as `face` already."""
        delivery = FacedDelivery(self._intake, self._target, inbound, settlement, self._policy)
        delivery.face = face
        return delivery

    def has_room(self) -> bool:
        """Whether nothing has to be waited for."""
        mailbox = self.mailbox
        return len(mailbox.queue) < mailbox.limit and not self._office.full

    def offer(self, inbound: Inbound, settlement: Settlement) -> bool:
        """`Intake.event`, if nothing has to be waited for; False if something has to be."""
        if not self.has_room():
            return False
        try:
            message = self._decode(inbound.facts().data)  # type: ignore[misc]  # None fails, too
        except Exception:  # noqa: BLE001  # the long way finds it again, and says what it is
            delivery = self._kind(self._intake, self._target, inbound, settlement, self._policy)
            envelope = delivery.envelope()
            if envelope is not None:
                self.mailbox.put(envelope)
        else:
            self.give(message, inbound, settlement)
        return True

    def give(self, message: Any, inbound: Inbound, settlement: Settlement) -> None:
        """Put an event whose payload has been read into the mailbox, which has room."""
        delivery = self._kind(self._intake, self._target, inbound, settlement, self._policy)
        # `mailbox.put(envelope)`, without the call.
        mailbox = self.mailbox
        mailbox.queue.append(Envelope(message, self._handler, delivery, delivery))
        if mailbox.parked:
            reschedule(mailbox.parked.pop())


class Intake:
    """Brings events in and sees them settled; one for all bridges of a system."""

    def __init__(self, services: IntakeServices, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.services = services
        self.policy = policy
        # A dict, not a set: the order in which they are given back is repeatable.
        self.waiting: dict[EventDelivery, None] = {}

    def way(self, pattern: str) -> Way | None:
        """The short way for events of a pattern; None if it has not just one handler."""
        targets = self.services.registry.event(pattern)
        return Way(self, targets[0]) if len(targets) == 1 else None

    async def event(self, inbound: Inbound, settlement: Settlement) -> None:
        """Give an event to its handlers, waiting for room; it is settled later, once.

        An event nobody handles, or that does not fit, becomes a dead letter at once.
        """
        await self.services.office.room()
        registry = self.services.registry
        targets = registry.event(inbound.pattern)
        if not targets:
            # As in NestJS, an event to a request pattern runs its handler; its answer is dropped.
            target = registry.request(inbound.pattern)
            if target is None:
                error = NoHandler(inbound.pattern, f"{inbound.transport} {inbound.source}")
                self.dead(inbound, error, "no handler", None, settlement)
                return
            targets = [target]
        if len(targets) > 1:
            targets = list(targets)  # another actor may come while we wait for room
            settlement = Shared(settlement, len(targets))
        for target in targets:
            await self._delivery(target, inbound, settlement).begin()

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
            await Replay(self, target, inbound, letter).begin()

    def hand_back(self, which: Callable[[Settlement], bool]) -> None:
        """Give back to its broker what waits for another attempt and is settled by one of `which`.

        For a bridge that stops: the broker can wait for longer.
        """
        for delivery in list(self.waiting):
            delivery.hand_back(which)

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
        settlement: Settlement,
        incarnation: int = 0,
    ) -> None:
        """Make a dead letter of an event, which is settled when that is durable."""
        text, trace = describe_error(error)
        inbound = inbound.facts()
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
            body=bytes(inbound.data),
            attempts=inbound.attempt,
            reason=reason,
            error=text,
            traceback=trace,
            first_at=inbound.first_at or time.time(),
        )
        then = settlement.acknowledge
        if isinstance(settlement, Burying):
            then = partial(settlement.bury, letter, then)
        office.take(letter, then)

    def policy_of(self, target: Target) -> RetryPolicy:
        """The policy for the events of one handler."""
        return policy_for(target.handler.retry, target.cell.options.retry, self.policy)

    def _delivery(self, target: Target, inbound: Inbound, settlement: Settlement) -> EventDelivery:
        policy = self.policy_of(target)
        return kind_for(policy)(self, target, inbound, settlement, policy)

    def _target_of(self, letter: DeadLetter) -> Target | None:
        registry = self.services.registry
        targets = list(registry.event(letter.pattern))
        request = registry.request(letter.pattern)
        if request is not None:
            targets.append(request)
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
