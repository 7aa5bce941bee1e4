"""The RabbitMQ bridge: one queue for all patterns, as NestJS has it, acknowledged after handling.

Promise: at least once, if the queue is durable, its messages persistent and `no_ack` off.
What was delivered and not acknowledged comes again when the connection or the process
has ended. Only a quorum queue counts deliveries; a classic one flags what may have been
delivered before, first deliveries among it.

The broker's credit (prefetch) is `in_flight`, and never more than all mailboxes hold.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Any, Final

from pamqp import commands

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...supervisors.child import Wiring
from ..broker.bridge import BrokerBridge
from ..broker.channels import Channels
from ..broker.connected import BridgeSession
from ..broker.message import Outgoing, Received
from ..broker.session import BrokerAway, Session
from ..codec import nest_queue, nestrs_wire
from ..options import shown
from .channel import Channel, ChannelEnded
from .connection import Connection, connect, meaning
from .frames import Properties, nack, publish
from .options import RabbitOptions
from .settling import Unsettled
from .topology import Topology, bind, binding_keys, declare, exchange_of

__all__ = ["RabbitBridge", "RabbitSession"]

_DELIVERIES: Final = "x-delivery-count"


class RabbitBridge(BrokerBridge):
    """Serves the tree's patterns on a queue; a `Runnable` for its supervisor."""

    options: RabbitOptions

    def __init__(self, url: str, options: RabbitOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else nest_queue,
            partial(nestrs_wire.read, "") if nestrs else nest_queue.read,
        )
        self.url = url

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        return RabbitSession(self, self.thread, number, inlet, outlet)

    def channels(self) -> Topology:
        """The routes that an exchange has to bring, and the room in the mailboxes behind them."""
        registry, routes = self.registry, self.registry.routes()
        mailboxes: dict[int, int] = {}
        for route in routes:
            asked = registry.request(route)
            for target in [*registry.event(route), *([asked] if asked else [])]:
                mailboxes[id(target.cell)] = target.cell.mailbox.capacity
        return Topology(routes, sum(mailboxes.values()))

    def is_copy(self, held: Received, received: Received) -> bool:
        # On one connection a message is delivered once, so this one was published twice.
        return held.session == received.session

    def unheard(self, received: Received) -> None:
        # As in NestJS: refused for good, so that a dead-letter exchange gets it.
        received.token = -received.token if received.token else None

    def troubled(self, text: str) -> None:
        """Log what the broker is in trouble with."""
        self.complaints.say("troubles with the broker", text)

    def blocked(self, why: str) -> None:
        """The broker reads nothing more from us, or does again."""
        if why:
            self._state("waiting", f"the broker has blocked the connection: {why}")
        else:
            self._state("connected", "")


class RabbitSession(Session[Received, Outgoing]):
    """One connection of a RabbitMQ bridge."""

    def __init__(
        self,
        bridge: RabbitBridge,
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._number = number
        self._wanted = bridge.channels()
        self._connection: Connection | None = None
        self._channel: Channel
        self._queue = ""
        self._bound: set[str] = set()
        self._consumers: list[str] = []
        self._credit = 0
        self._unsettled = Unsettled()
        self._delivered = 0
        # What found no room in the inlet, which may still hold what an older session brought.
        self._held: deque[tuple[int, Received]] = deque()
        self._held_some = asyncio.Event()

    async def connect(self) -> None:
        bridge, options = self._bridge, self._bridge.options
        self._connection = connection = await connect(
            bridge.url,
            options,
            bridge.complaints.where,
            lost=self.lose,
            blocked=lambda why: self.thread.back(bridge.blocked, why),
        )
        try:
            self._channel = channel = await connection.channel()
            self._queue = await declare(channel, options, serving=True)
            channel.on_deliver = self._delivery
            channel.on_cancel = self._cancelled
            channel.on_end = lambda error: self.lose(meaning(error))
            self.spawn(self._feed())
            await self.follow(self._wanted)
            self.spawn(self._watch(await connection.channel()))
        except ChannelEnded as error:
            raise meaning(error, f"the queue {self._queue!r}") from error

    # -- in -------------------------------------------------------------------------

    def _delivery(
        self,
        consumer: str,
        tag: int,
        redelivered: bool,
        key: str,
        properties: Properties,
        body: bytes,
    ) -> None:
        self._delivered += 1
        self._unsettled.add(tag)
        received = Received(
            channel=key,
            body=body,
            reply=properties.reply_to,
            token=None if self._bridge.options.no_ack else tag,
            session=self._number,
            redelivered=redelivered,
        )
        if properties.message_id:
            received.message_id = properties.message_id
        if properties.correlation_id:
            received.correlation_id = properties.correlation_id
        if properties.at:
            received.first_at = properties.at
        if properties.headers or properties.priority is not None or properties.ttl:
            _add_headers(received, properties)
        if self._held or not self.inlet.offer(received):
            self._held.append((tag, received))
            self._held_some.set()
        elif received.token is None:
            self._taken(tag)

    async def _feed(self) -> None:
        """Hand on, in order, what found no room at first."""
        while True:
            await self._held_some.wait()
            while self._held:
                tag, received = self._held[0]
                await self.inlet.put(received)
                self._held.popleft()
                if received.token is None:
                    self._taken(tag)
            self._held_some.clear()

    def _taken(self, tag: int) -> None:
        """With `no_ack`: what the bridge has is acknowledged, so that the broker is slowed down."""
        connection = self._connection
        assert connection is not None
        connection.write(self._unsettled.acks(self._channel.number, [tag]))

    def _cancelled(self, consumer: str) -> None:
        text = (
            f"the broker ended the delivery from {self._queue!r}: the queue was deleted, or moved"
        )
        self.lose(BrokerAway(text))

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Outgoing]) -> None:
        connection, channel = self._connection, self._channel.number
        assert connection is not None
        limit, frame_max = self._bridge.options.message_limit, connection.frame_max
        parts: list[bytes] = []
        settled: list[int] = []
        for outgoing in burst:
            received = outgoing.received
            if outgoing.body and received.reply:
                if len(outgoing.body) > limit:
                    self.thread.back(self._bridge.unsendable, outgoing, limit)
                else:
                    parts.append(_answer(channel, received, outgoing.body, frame_max))
            tag = received.token
            if tag is None or outgoing.verb == "item" or received.session != self._number:
                continue
            if tag > 0 and outgoing.verb != "back":
                settled.append(tag)
            elif self._unsettled.drop(abs(tag)):
                parts.append(nack(channel, abs(tag), requeue=tag > 0))
        if settled:
            parts.append(self._unsettled.acks(channel, settled))
        connection.write(b"".join(parts))
        await connection.drain()

    # -- its life -------------------------------------------------------------------

    async def follow(self, channels: Channels) -> None:
        assert isinstance(channels, Topology)
        exchange = exchange_of(self._bridge.options)
        if self._bridge.options.wildcards:
            wanted = {key for route in channels.routes for key in binding_keys(route)}
            for key in sorted(wanted - self._bound):
                await bind(self._channel, self._queue, exchange, key)
            for key in sorted(self._bound - wanted):
                await bind(self._channel, self._queue, exchange, key, undo=True)
            self._bound = wanted
        await self._consume(max(1, min(self._bridge.options.in_flight, channels.room)))

    async def _consume(self, credit: int) -> None:
        """Consume with this much credit in all. What was given once is not taken back."""
        more = min(credit - self._credit, 65535)
        if more <= 0:
            return
        channel = self._channel
        try:
            async with asyncio.timeout(self._bridge.options.connect_timeout / 2):
                await channel.call(commands.Basic.Qos(prefetch_count=more))
                answer = await channel.call(commands.Basic.Consume(queue=self._queue))
        except TimeoutError as error:
            text = f"the broker does not begin to deliver from {self._queue!r}: has it no leader?"
            raise BrokerAway(text) from error
        self._consumers.append(answer.consumer_tag)
        self._credit += more

    async def _watch(self, channel: Channel) -> None:
        """See again and again whether the queue is there, and still sends what it has."""
        every = self._bridge.options.heartbeat
        connection, stalled, seen = self._connection, 0, -1
        assert connection is not None
        while True:
            await asyncio.sleep(every)
            if connection.blocked:
                continue
            try:
                found = await asyncio.wait_for(self._look(channel), every * 2)
            except TimeoutError as error:
                raise BrokerAway(f"the broker says nothing of {self._queue!r}") from error
            except ChannelEnded as error:
                raise meaning(error, f"the queue {self._queue!r}") from error
            waits = found.message_count and len(self._unsettled) < self._credit
            stalled = stalled + 1 if waits and seen == self._delivered and self._consumers else 0
            seen = self._delivered
            if stalled > 1 or (self._consumers and not found.consumer_count):
                raise BrokerAway(f"{self._queue!r} has messages, but sends none")

    async def _look(self, channel: Channel) -> Any:
        return await channel.call(commands.Queue.Declare(queue=self._queue, passive=True))

    async def stop(self) -> None:
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            await self._channel.call(commands.Basic.Cancel(consumer_tag=consumer))

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def _answer(channel: int, received: Received, body: bytes, frame_max: int) -> bytes:
    properties = Properties(correlation_id=received.correlation_id or "")
    return publish(channel, "", received.reply, properties, body, frame_max)


def _add_headers(received: Received, properties: Properties) -> None:
    headers = dict(properties.headers)
    if properties.priority is not None:
        headers["priority"] = str(properties.priority)
    if properties.ttl:
        headers["ttl"] = str(int(properties.ttl) / 1000) if properties.ttl.isdigit() else ""
    received.headers = headers
    count = headers.get(_DELIVERIES, "")
    if count.isdigit():
        received.attempt = int(count) + 1
