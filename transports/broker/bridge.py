"""The trio half of every bridge to a broker: from received messages to mailboxes, and back.

Takes what a session received, finds the handler and gives it the message: a request with
a receipt of its own, an event through the system's intake. What comes of it goes back as
an answer or a settlement.

One task takes messages in the order in which they came; a full mailbox makes it wait, the
session's credit runs out, and the broker is slowed down where it can be. What is settled
by a session that has ended is settled nowhere: its broker delivers it again, and if it is
still in hand here then, it is not run twice.

Not owned here: connections (`connected.py`), how one broker is spoken to (its `Session`),
and what bodies mean (its dialect).
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

import attrs
import trio

from ...actors.envelope import Envelope, Settlement
from ...actors.errors import AsyncioThreadEnded, PayloadError
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ...supervisors.delivery.intake import Way
from ...supervisors.registry import Target
from ..codec import nest
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..codec.packet import Incoming, TypedPacket
from ..request import INTERNAL, deliver
from .connected import Connected
from .message import Outgoing, Received
from .options import BrokerOptions
from .request import BrokerRequest
from .session import BrokerAway

__all__ = ["BrokerBridge", "BrokerStatistics", "Read", "Whole"]

Read = Callable[[str, bytes], Incoming | None]
"""What a dialect makes of a channel and a body. Raises `CodecError`; None is to be ignored."""

Whole = Callable[[Any], Callable[[bytes], TypedPacket]]
"""A dialect's decoder of whole bodies by the type of their data."""

_ROUTES_KEPT: Final = 1024

_AHEAD: Final = 256
"""Items of streams that may wait to be sent before generators wait."""


@attrs.frozen
class BrokerStatistics:
    """A reading of one bridge; `refused` counts by reason, `connections` are those made."""

    connected: bool
    connections: int
    received: int
    in_flight: int
    duplicates: int
    refused: dict[str, int]


class _Quick:
    """How events on a channel are read in one pass, and where they go."""

    __slots__ = ("beginning", "decode", "give", "mailbox")

    def __init__(self, way: Way, decode: Callable[[bytes], TypedPacket], beginning: bytes) -> None:
        self.give, self.mailbox, self.decode = way.give, way.mailbox, decode
        self.beginning = beginning


class BrokerBridge(Connected):
    """Serves the tree's patterns on one broker; a `Runnable` for its supervisor."""

    by_channel: ClassVar[bool] = True
    """Whether the channel alone tells an event's pattern, and not its body."""

    def __init__(
        self,
        where: str,
        options: BrokerOptions,
        wiring: Wiring,
        dialect: Dialect,
        read: Read,
        *,
        whole: Whole | None = None,
    ) -> None:
        super().__init__(where, options, wiring)
        self.dialect = dialect
        self._read = read
        self._whole = whole
        self._intake = wiring.services.intake
        self._office = wiring.services.office
        self._targets: dict[str, Target] = {}
        self._ways: dict[str, Way] = {}
        self._quick: dict[str, _Quick] = {}
        self._quick_of: dict[str, _Quick] = {}
        self._prefix = ""
        self._version = -1
        self._received = self._duplicates = self._in_flight = self._events = 0
        self._first_session = 1
        self._in_hand: dict[str, Received] = {}
        # Not a dict: to find the first of one from which much was deleted takes long.
        self._settled: OrderedDict[str, None] = OrderedDict()
        self._idle = True
        self._quiet = trio.Event()
        self._changed: trio.Event | None = None

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            connected=self._connected,
            connections=self._session_number,
            received=self._received,
            in_flight=self._in_flight,
            duplicates=self._duplicates,
            refused=dict(self.complaints.counts),
        )

    def is_ours(self, settlement: Settlement) -> bool:
        """Whether an event is settled here."""
        return isinstance(settlement, Received) and settlement.bridge is self

    def _begin_life(self, incarnation: Incarnation) -> None:
        self._prefix = f"{incarnation.path}:{incarnation.number}:"
        # What an earlier life has received is no concern of this one; its broker knows.
        self._first_session = self._session_number + 1
        self._in_flight = 0

    async def _finish_all(self) -> None:
        self._intake.hand_back(self.is_ours)
        while self._in_flight or len(self._inlet) or not self._idle:
            self._quiet = trio.Event()
            await self._quiet.wait()

    # -- in -------------------------------------------------------------------------

    async def _pump(self) -> None:
        inlet, take, most = self._inlet, self._take, self.options.in_flight
        while True:
            self._idle = True
            if not self._in_flight:
                self._quiet.set()
            burst = await inlet.burst()
            self._idle = False
            for received in burst:
                if self._in_flight >= most:
                    await self._fewer(most)
                waiting = take(received)
                if waiting is not None:
                    await waiting

    async def _fewer(self, most: int) -> None:
        """Wait until fewer than `most` messages are in flight."""
        while self._in_flight >= most:
            self._changed = trio.Event()
            await self._changed.wait()

    def _take(self, received: Received) -> Awaitable[None] | None:
        """Give a message to its mailbox; returns what has to be waited for, if anything has."""
        self._received += 1
        self._in_flight += 1
        received.bridge = self
        if not received.session:
            received.session = self._session_number
        if received.message_id and self._is_known(received):
            return None
        quick = self._quick.get(received.channel)
        if quick is not None and self._is_taken(received, quick):
            return None
        try:
            incoming = self._read(received.channel, received.body)
        except CodecError as error:
            self._unreadable(received, error)
            return None
        if incoming is None:
            self.complaints.say("messages that are none", f"a message on {received.channel}")
            self.done(received)
            return None
        received.reply = incoming.reply or received.reply
        received.id = incoming.id or received.id
        if received.id and received.reply:
            return self._request(received, incoming)
        return self._event(received, incoming)

    def _is_taken(self, received: Received, quick: "_Quick") -> bool:
        """Most events are like the one before: guess, and read them in one pass."""
        if received.reply or received.attempt > 1 or self._version != self.registry.version:
            return False
        body, mailbox = received.body, quick.mailbox
        if not body.startswith(quick.beginning):
            return False
        # `way.has_room()`, without the call.
        if len(mailbox.queue) >= mailbox.limit or self._office.full or not body.isascii():
            return False
        try:
            packet = quick.decode(body)
        except Exception:  # noqa: BLE001  # of any kind: the long way finds it again
            return False
        quick.give(packet.data, received, received)
        return True

    def name_facts(self, received: Received, incoming: Incoming | None = None) -> None:
        """Add what handlers and readers of dead letters may want to know of an event."""
        incoming = incoming or self._read(received.channel, received.body)
        channel = received.channel
        route = None if incoming is None else incoming.route
        received.named = True
        received.transport = self.name
        received.source = channel
        received.pattern = channel if route is None else route
        received.data = b"" if incoming is None else incoming.data
        received.redelivered = received.redelivered or received.attempt > 1
        received.first_at = received.first_at or time.time()
        if not received.message_id:
            self._events += 1
            received.message_id = f"{self._prefix}{self._events}"

    def _is_known(self, received: Received) -> bool:
        """Whether this delivery need not run: the message is in hand, or was settled already."""
        held = self._in_hand.get(received.message_id)
        # Identities come from strangers, who may give one to different messages.
        if held is not None and held.body == received.body:
            self._duplicates += 1
            if received.token is None:
                # Nothing redelivers it, so its sender did: it is flagged, and dropped on request.
                received.redelivered = True
                if self.options.drop_duplicates:
                    self._less()
                return self.options.drop_duplicates
            if self.is_copy(held, received):
                # Settled for itself: if its twin is not, the broker delivers that again.
                self._send(Outgoing("done", received))
                return True
            # Whoever ends it settles the newest delivery, the only one the broker listens to.
            if held.session >= self._first_session:
                self._in_flight -= 1  # it is counted already
            held.token, held.session = received.token, received.session
            return True
        if received.message_id in self._settled:
            received.redelivered = True
            self._duplicates += 1
            if self.options.drop_duplicates:
                self.done(received)
                return True
        self._in_hand[received.message_id] = received
        return False

    def is_copy(self, held: Received, received: Received) -> bool:
        """Whether the broker has two messages with this identity, and not one delivered twice."""
        return False

    def deliveries(self, received: Received) -> int:
        """How often the broker has delivered it, where its attempts say something else."""
        return received.attempt

    def unheard(self, received: Received) -> None:
        """Nobody can read it, or nobody handles the request: it will be answered or kept."""

    def _request(self, received: Received, incoming: Incoming) -> Awaitable[None] | None:
        target = self._target(incoming.route)
        if target is None:
            self._no_handler(received, incoming)
            return None
        request = BrokerRequest(
            self, received.id, target.handler, incoming.route or "", True, received
        )
        try:
            message = target.handler.payload.decode(incoming.data)
        except PayloadError as error:
            request.failed(error)
            return None
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return None
        envelope = Envelope(message, target.handler, request, request)
        mailbox = target.cell.mailbox
        if mailbox.put(envelope):
            return None
        return deliver(mailbox, envelope)

    def _target(self, route: str | None) -> Target | None:
        self._look()
        if route is None:
            return None
        target = self._targets.get(route)
        if target is None:
            # As in NestJS, a request to an event's pattern runs its (first) handler.
            target = self.registry.request(route) or next(iter(self.registry.event(route)), None)
            if target is not None and len(self._targets) < _ROUTES_KEPT:
                self._targets[route] = target
        return target

    def _event(self, received: Received, incoming: Incoming) -> Awaitable[None] | None:
        self.name_facts(received, incoming)
        channel, route = received.channel, received.pattern
        most = self.options.max_deliveries
        if received.attempt > most and self.deliveries(received) > most:
            self._too_often(received)
            return None
        if self._version != self.registry.version:
            self._look()
        way = self._ways.get(route) or self._way(route)
        if way is not None and way.offer(received, received):
            if self._whole is not None:
                self._remember(channel, route, way, received.body, self._whole)
            return None
        return self._intake.event(received, received)

    def _remember(self, channel: str, route: str, way: Way, body: bytes, whole: Whole) -> None:
        """Let the next event on a channel take the short way, if it is like this one."""
        quick = self._quick_of.get(route)
        if quick is None:
            if way.annotation is None or len(self._quick_of) >= _ROUTES_KEPT:
                return
            beginning = b"" if self.by_channel else nest.beginning(nest.pattern_json(route))
            quick = self._quick_of[route] = _Quick(way, whole(way.annotation), beginning)
        if body.startswith(quick.beginning):
            self._quick[channel] = quick

    def _too_often(self, received: Received) -> None:
        error = BrokerAway(
            f"delivered {received.attempt} times without an end; "
            "perhaps it kills the process that handles it"
        )
        self._intake.dead(received, error, "too many deliveries", None, received)

    def _way(self, pattern: str) -> Way | None:
        way = self._intake.way(pattern)
        if way is not None and way.batch > self.options.in_flight:
            text = f"{pattern} is handled {way.batch} at a time; in_flight={self.options.in_flight}"
            self.complaints.say("batches that can never fill", f"{text}: make that as many")
        if way is not None and len(self._ways) < _ROUTES_KEPT:
            self._ways[pattern] = way
        return way

    def _look(self) -> None:
        """Forget what was found when there were other routes."""
        if self._version != self.registry.version:
            self._version = self.registry.version
            self._targets.clear()
            self._ways.clear()
            self._quick.clear()
            self._quick_of.clear()

    def _unreadable(self, received: Received, error: CodecError) -> None:
        text = f"a message on {received.channel}: {error}"
        self.complaints.say("messages that cannot be read", text)
        if received.token is None:
            self.done(received)
            return
        self.unheard(received)
        self.name_facts(received, Incoming(None, received.body))
        self._intake.dead(received, error, "cannot be read", None, received)

    def _no_handler(self, received: Received, incoming: Incoming) -> None:
        route = (incoming.route or received.channel)[:100]
        self.complaints.say(
            "requests without a handler", f"somebody asked for {route}, which nobody handles"
        )
        self.unheard(received)
        pattern = self.dialect.pattern_json(incoming.route or "")
        self.answer(received, self.dialect.no_handler(received.id, pattern))

    # -- out ------------------------------------------------------------------------

    def item(self, received: Received, body: bytes) -> None:
        """Send one item of a stream."""
        self._write(Outgoing("item", received, body))

    async def room(self) -> None:
        """Wait while very many items wait to be sent."""
        if len(self._outlet) >= _AHEAD:
            await self._outlet.room(_AHEAD)
        else:
            await trio.lowlevel.checkpoint()

    def answer(self, received: Received, body: bytes) -> None:
        """Send the answer to a request: it is finished."""
        self.finish("answer", received, body)

    def unsendable(self, outgoing: Outgoing, most: int) -> None:
        """The broker takes no message as long as this one: its asker is told so at least.

        What was finished with it stays finished.
        """
        text = f"an answer of {len(outgoing.body)} bytes; {self.peer} takes {most} at most"
        self.complaints.say("answers that are too long", text)
        body = self.dialect.failure(outgoing.received.id, self.dialect.error_json(INTERNAL))
        self._write(Outgoing("item", outgoing.received, body))

    def done(self, received: Received) -> None:
        """A message is finished, without an answer."""
        self.finish("done", received)

    def back(self, received: Received, delay: float) -> bool:
        """Give a message back to the broker; False if the broker takes nothing back."""
        if received.token is None:
            return False
        self._in_hand.pop(received.message_id, None)
        self._send(Outgoing("back", received, b"", delay))
        return True

    def settle(self, received: Received) -> None:
        """`done`, for events; as a rule there is nobody to be told."""
        if (
            received.token is not None
            or self._in_hand
            or self._changed is not None
            or self._stopping
        ):
            self.finish("done", received)
        elif received.session >= self._first_session:
            self._in_flight -= 1

    def finish(self, verb: Any, received: Received, body: bytes = b"") -> None:
        """A message is finished: say so to the broker if it wants to know."""
        if self._in_hand and self._in_hand.pop(received.message_id, None) is not None:
            settled = self._settled
            settled[received.message_id] = None
            if len(settled) > self.options.remember:
                settled.popitem(last=False)
        if received.session < self._first_session:
            return
        if received.token is not None or body:
            self._write(Outgoing(verb, received, body))
        self._less()

    def _send(self, outgoing: Outgoing) -> None:
        if outgoing.received.session >= self._first_session:
            self._write(outgoing)
            self._less()

    def _write(self, outgoing: Outgoing) -> None:
        try:  # noqa: SIM105  # `suppress` is three calls, for each message
            self._outlet.send(outgoing)
        except AsyncioThreadEnded:
            pass  # without a loop the session ends, too, and this life with it

    def _less(self, count: int = 1) -> None:
        """So many less are in flight."""
        self._in_flight -= count
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        if not self._in_flight and self._stopping:
            self._quiet.set()
