"""The MQTT bridge: a subscription for each pattern, answers on topics, acknowledged after handling.

Promise: at QoS 1 at least once from the broker to the handler, if the broker keeps the session
(`client_id`) and does not forget it itself; at QoS 0 at most once. MQTT cannot give a message
back: retries are made here, and what is not finished at the end comes again when the session
is resumed, flagged as redelivered. Acknowledgements go out in the order of receipt, so a
message that takes long holds up those of later ones, and with them the broker's credit.

The credit (MQTT 5: receive maximum) is `in_flight`, and never more than the mailboxes hold. In
MQTT 3.1.1 the broker's own setting bounds it, and at QoS 0 nothing does: what finds no room
in the backlog is dropped, counted and logged.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ..broker.bridge import BrokerBridge
from ..broker.channels import Channels
from ..broker.connected import BridgeSession
from ..broker.message import Outgoing, Received
from ..broker.session import BrokerAway, Session
from ..codec import nest, nest_channel, nestrs_wire
from ..codec.packet import Incoming, TypedPacket
from ..options import shown
from .connection import Connection, connect
from .held import Held
from .ledger import Ledger
from .options import MqttOptions, is_topic
from .packets import Publish, read
from .reasons import Closed, TakenOver
from .topics import Topics

__all__ = ["IDENTITY", "REPLY", "MqttBridge", "MqttSession"]

REPLY: Final = "/reply"
"""What NestJS appends to a topic for the answers to what is sent there."""

IDENTITY: Final = "message_id"
"""The user property with the identity that our clients give to events."""

_AGAIN: Final = 1.0
"""Seconds after which a message that nobody could take is tried again here."""
_CUTS: Final = 3
_CUTS_WITHIN: Final = 60.0
"""So many connections closed without a word in so many seconds: somebody takes them over."""

_log = logging.getLogger("understudy.transports.mqtt")


class MqttBridge(BrokerBridge):
    """Serves the tree's patterns as topics; a `Runnable` for its supervisor."""

    options: MqttOptions

    def __init__(self, url: str, options: MqttOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else nest,
            self._read_nestrs if nestrs else self._read_nest,
            whole=None if nestrs else _event_decoder,
        )
        self.url = url
        self.client_id = options.client_id or f"understudy{os.urandom(6).hex()}"
        self.ledger = Ledger()
        self.held: Held[Received]
        self.cuts: deque[float] = deque(maxlen=_CUTS)
        self._inlet_of_ledger: object = None
        self._topics = Topics((), options, self.peer)

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        if self._inlet_of_ledger is not inlet:
            # What an incarnation that has ended had in hand, nobody has.
            self._inlet_of_ledger, self.ledger = inlet, Ledger()
            self.held = Held(inlet, 2 * self.options.backlog)
        return MqttSession(self, self.thread, number, inlet, outlet)

    async def run(self, incarnation: Incarnation) -> None:
        if self.options.qos == 2:
            _log.warning(
                "%s: subscribed to at QoS 1, at least once: an acknowledgement at QoS 2 comes "
                "before the handler has returned, and brokers lose messages with it",
                incarnation.path,
            )
        await super().run(incarnation)

    def channels(self) -> Topics:
        """What to subscribe to; raises `DeclarationError` for a pattern that is no topic."""
        registry, routes = self.registry, self.registry.routes()
        mailboxes: dict[int, int] = {}
        for route in routes:
            asked = registry.request(route)
            for target in [*registry.event(route), *([asked] if asked else [])]:
                mailboxes[id(target.cell)] = target.cell.mailbox.capacity
        self._topics = Topics(routes, self.options, self.peer, sum(mailboxes.values()))
        for route in self._topics.foreign:
            text = f"the pattern {route!r} is a wildcard of NATS's kind; nothing comes for it here"
            self.complaints.say("patterns that cannot be subscribed to", text)
        return self._topics

    def is_copy(self, held: Received, received: Received) -> bool:
        # Whoever ends the message settles both: the broker waits for each of them.
        received.token = (*(held.token or ()), *received.token)
        return False

    def back(self, received: Received, delay: float) -> bool:
        if self._stopping and not self.options.durable:
            return False  # nobody would deliver it again
        return super().back(received, max(delay, _AGAIN))

    def _read_nest(self, channel: str, body: bytes) -> Incoming:
        found = nest_channel.read("", self._topics.route(channel), body)
        if found.id:
            found.reply = channel + REPLY
        return found

    def _read_nestrs(self, channel: str, body: bytes) -> Incoming:
        found = nestrs_wire.read("", channel, body)
        if found.reply and (found.reply.startswith("$") or not is_topic(found.reply)):
            # A broker would close the connection of who publishes there.
            self.complaints.say(
                "answers that are wanted nowhere", f"on the topic {found.reply[:100]!r}"
            )
            found.reply, found.id = "", b""
        return found


class _Nothing:
    """No JSON is one."""


def _event_decoder(annotation: Any) -> Callable[[bytes], TypedPacket]:
    """As `nest.typed_event_decoder`; here nothing but its id tells a request from an event."""
    fields: list[Any] = [("data", annotation), ("id", _Nothing | UnsetType, UNSET)]
    kind = msgspec.defstruct("TypedEvent", fields, gc=False)
    decoder = msgspec.json.Decoder(kind, dec_hook=_is_request)
    return cast(Callable[[bytes], TypedPacket], decoder.decode)


def _is_request(kind: type, value: object) -> None:
    raise ValueError("a request")


class MqttSession(Session[Received, Outgoing]):
    """One connection of an MQTT bridge."""

    def __init__(
        self,
        bridge: MqttBridge,
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._number = number
        self._ledger = bridge.ledger
        self._topics = bridge.channels()
        self._five = bridge.options.five
        self._connection: Connection | None = None
        self._subscribed: dict[str, str] = {}
        self._stopped = False
        self._held = bridge.held

    async def connect(self) -> None:
        bridge, options = self._bridge, self._bridge.options
        self._connection = await connect(
            bridge.url,
            options,
            bridge.client_id,
            credit=min(options.in_flight, self._topics.room or options.in_flight),
            taken=self._taken,
            greeted=self._greeted,
            lost=self._lose,
        )
        self.spawn(self._held.feed(self._is_behind))
        self._acknowledge()  # what has come again already, and was finished long ago
        await self.follow(self._topics)

    def _greeted(self, present: bool) -> None:
        if self._number > 1 and self._bridge.options.durable and not present:
            self._say("troubles with the broker", "the broker has forgotten our session")
        self._ledger.resume(present=present)

    def _lose(self, error: BaseException) -> None:
        if isinstance(error, Closed) and self._bridge.options.client_id:
            # Neither MQTT 3.1.1 nor mosquitto says that somebody has taken a connection over.
            now, cuts = asyncio.get_running_loop().time(), self._bridge.cuts
            cuts.append(now)
            if len(cuts) == _CUTS and now - cuts[0] < _CUTS_WITHIN:
                error = TakenOver(self._bridge.client_id, f"{error}, again and again: perhaps ")
        self.lose(error)

    # -- in -------------------------------------------------------------------------

    def _taken(self, command: int, packet: bytearray) -> None:
        """A message: one call, for speed."""
        if self._stopped:
            return  # the broker still has it, or never will
        publish = read(command, packet, five=self._five)
        received = Received(publish.topic, publish.body, session=self._number)
        if publish.again:
            received.redelivered = True
        if publish.headers or publish.retained or publish.content_type:
            _add_headers(received, publish)
        if publish.qos and not self._ledger.add(publish.mid, publish.qos, received):
            self._acknowledge()
        elif self._topics.is_wild and not self._is_ours(publish):
            self._finish(received)
        elif publish.qos or len(self._held) < self._bridge.options.backlog:
            self._held.give(received)
        else:
            self._dropped(received)

    def _is_ours(self, publish: Publish) -> bool:
        """Whether a wildcard brought what is to be run here, by this very subscription."""
        topics, topic, by = self._topics, publish.topic, publish.subscriptions
        # What a kept session has waiting may have come by subscriptions that are no more.
        if by and not self._bridge.options.durable:
            owner = topics.identifiers.get(topics.owner(topic))
            if owner is not None and owner not in by:
                return False
        # Without a pattern it is somebody's answer.
        return not topic.endswith(REPLY) or b'"pattern"' in publish.body

    def _finish(self, received: Received) -> None:
        if received.token is not None:
            self._ledger.settle(received.token)
            self._acknowledge()

    def _dropped(self, received: Received) -> None:
        backlog = self._bridge.options.backlog
        text = f"a message on {received.channel} was dropped: {backlog} wait already"
        self._say("messages that were dropped", text)

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Outgoing]) -> None:
        # What is in the ledger is not lost with the session, whatever becomes of the rest.
        ledger = self._ledger
        for outgoing in burst:
            token = outgoing.received.token
            if token is None or outgoing.verb == "item":
                continue
            if outgoing.verb != "back":
                ledger.settle(token)
            else:
                self._later(_redelivered(outgoing.received), outgoing.delay)
        connection = self._connection
        if connection is None:
            raise BrokerAway("there is no connection")
        for outgoing in burst:
            if outgoing.body and outgoing.received.reply:
                self._answer(connection, outgoing)
        self._acknowledge()
        connection.flush()
        await connection.drain()

    def _answer(self, connection: Connection, outgoing: Outgoing) -> None:
        topic, body = outgoing.received.reply, outgoing.body
        if len(body) > connection.most:
            self.thread.back(self._bridge.unsendable, outgoing, connection.most)
        elif not is_topic(topic):
            self._say("answers that are wanted nowhere", f"on the topic {topic[:100]!r}")
        elif not connection.publish(topic, body, self._bridge.options.reply_qos):
            self._say("answers that were dropped", "the broker does not confirm any")

    def _acknowledge(self) -> None:
        connection = self._connection
        if connection is not None and connection.ended is None:
            for entry in self._ledger.take_due():
                connection.acknowledge(entry.mid, entry.qos)

    def _later(self, received: Received, delay: float) -> None:
        """MQTT takes nothing back: what nobody could take just now is delivered again here."""
        asyncio.get_running_loop().call_later(delay, self._try_again, received)

    def _try_again(self, received: Received) -> None:
        # The inlet outlives this session; once it is closed, the broker has the message.
        if not (self._stopped or self.inlet.closed or self.inlet.offer(received)):
            self._later(received, _AGAIN)

    # -- its life -------------------------------------------------------------------

    async def follow(self, channels: Channels) -> None:
        assert isinstance(channels, Topics)
        connection, options = self._connection, self._bridge.options
        assert connection is not None
        self._topics = channels
        wanted, before = channels.filters, self._subscribed
        self._subscribed = dict(wanted)
        new = [each for topic, each in wanted.items() if before.get(topic) != each]
        gone = [each for topic, each in before.items() if wanted.get(topic) != each]
        told_apart = {wanted[topic]: n for topic, n in channels.identifiers.items()}
        if connection.identifies:
            for each in new:
                if each in told_apart:
                    await connection.subscribe([each], options.subscribed_qos, told_apart[each])
            new = [each for each in new if each not in told_apart]
        await connection.subscribe(new, options.subscribed_qos)
        await connection.unsubscribe(gone)

    def _is_behind(self, behind: bool) -> None:
        if self._connection is not None:
            self._connection.read(not behind)

    async def stop(self) -> None:
        if not self._bridge.options.durable and self._connection is not None:
            await self._connection.unsubscribe(list(self._subscribed.values()))
        # A session that is kept goes on subscribing: the broker has what is not taken now.
        self._stopped = True

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    def _say(self, kind: str, text: str) -> None:
        self.thread.back(self._bridge.complaints.say, kind, text)


def _add_headers(received: Received, publish: Publish) -> None:
    headers = dict(publish.headers)
    received.message_id = headers.pop(IDENTITY, "")
    if publish.content_type:
        headers["content_type"] = publish.content_type
    if publish.retained:
        headers["retain"] = "true"
    received.headers = headers


def _redelivered(received: Received) -> Received:
    return Received(
        received.channel,
        received.body,
        token=received.token,
        session=received.session,
        redelivered=True,
        headers=received.headers,
        message_id=received.message_id,
    )
