"""The NATS bridge: one subscription for each pattern, answers to the inbox of each request.

Promise: at most once. NATS forgets a message once it has sent it, cannot be slowed down and
cuts off who is too slow; what finds no room here is dropped, counted and logged. An event
that was taken is retried and kept like any other. Events from a stream are delivered at
least once, see `jetstream.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...supervisors.child import Wiring
from ...supervisors.registry import Target
from ..broker.bridge import BrokerBridge
from ..broker.channels import Channels
from ..broker.connected import BridgeSession
from ..broker.message import Outgoing, Received
from ..broker.session import Session
from ..codec import nest, nest_channel, nestrs_wire
from ..options import shown
from .connection import Connection, Error, Servers, connect, end, guarded, meaning, watch
from .jetstream import Ledger, StreamReader
from .options import NatsOptions, check_subject
from .service import Endpoint, Service
from .stream import Found, Memory, declare
from .topology import Topology

__all__ = ["NatsBridge", "NatsSession"]

_CLOSING: Final = 0.8
"""Seconds for the end of a connection, after as long for the last acknowledgements."""


class NatsBridge(BrokerBridge):
    """Serves the tree's patterns as subjects; a `Runnable` for its supervisor."""

    options: NatsOptions

    def __init__(self, url: str, options: NatsOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        prefix = f"{options.prefix}." if options.prefix else ""
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else nest,
            partial(nestrs_wire.read_payload if nestrs else nest_channel.read, prefix),
            whole=None if nestrs else nest.typed_event_decoder,
        )
        self.url = url
        self.prefix = prefix
        self.servers = Servers.of(url, options.servers)
        self.service = Service(options.service, options.version, options.queue)
        self.memory = Memory()
        self.ledger = Ledger()
        self._inlet_of_ledger: object = None

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        if self._inlet_of_ledger is not inlet:
            # What an incarnation that has ended had in hand, nobody has.
            self._inlet_of_ledger, self.ledger = inlet, Ledger()
        return NatsSession(self, self.thread, number, inlet, outlet)

    @property
    def backlog(self) -> int:
        return self.options.backlog

    def channels(self) -> Topology:
        """What to subscribe to; raises `DeclarationError` for a pattern that is no subject."""
        routes = self.registry.routes()
        foreign = {route for route in routes if _is_mqtts(route)}
        for route in foreign:
            text = f"the pattern {route!r} is a wildcard of MQTT's kind; nothing comes for it here"
            self.complaints.say("patterns that cannot be subscribed to", text)
        routes = [check_subject(route, self.peer) for route in routes if route not in foreign]
        if not self.options.stream:
            if self.prefix and self.options.dialect == "nestrs":
                routes = [">"]  # as nestrs does: all under the prefix is answered, handled or not
            return Topology(self.prefix + route for route in routes)
        return self._with_stream(routes)

    def requests(self) -> list[str]:
        """The subjects of requests, as NATS's service protocol tells of them."""
        return [self.prefix + route for route in self.registry.routes() if self._is_asked(route)]

    def forget_settled(self) -> None:
        """The stream is another one: its messages' numbers are those of old ones."""
        self._settled.clear()
        self._in_hand.clear()

    def _with_stream(self, routes: list[str]) -> Topology:
        prefix, options = self.prefix, self.options
        asked = [prefix + route for route in routes if self._is_asked(route)]
        told = {route: targets for route in routes if (targets := self._told(route))}
        topology = Topology(
            asked,
            [prefix + route for route in told],
            [prefix + subject for subject in options.stream_subjects],
        )
        topology.check(asked, self.peer, options.stream)
        mailboxes = [target.cell.mailbox for targets in told.values() for target in targets]
        topology.room = sum({id(each): each.capacity for each in mailboxes}.values())
        return topology

    def _is_asked(self, route: str) -> bool:
        """Whether it is the pattern of a request."""
        target = self.registry.request(route)
        return target is not None and target.cell.behavior.requests.get(route) is target.handler

    def _told(self, route: str) -> list[Target]:
        """Whose events have this very pattern."""
        found = self.registry.event(route)
        return [each for each in found if each.handler in each.cell.behavior.events.get(route, ())]


class NatsSession(Session[Received, Outgoing]):
    """One connection of a NATS bridge."""

    def __init__(
        self,
        bridge: NatsBridge,
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._number = number
        self._connection: Connection | None = None
        self._channels = bridge.channels()
        self._plain = False
        self._subscriptions: dict[str, Any] = {}
        self._reader: StreamReader | None = None
        self._timed: Received | None = None
        self._timed_for: Endpoint | None = None

    async def connect(self) -> None:
        bridge = self._bridge
        self._connection = connection = await connect(
            bridge.url,
            bridge.options,
            bridge.servers,
            bridge.complaints.where,
            self.lose,
            self._troubled,
        )
        if bridge.options.stream:
            await self._read_stream(connection)
        await self.follow(self._channels)
        if bridge.service.name:
            await bridge.service.answer_on(connection, self.lose)
        await connection.flush()
        self.spawn(watch(connection, bridge.options.heartbeat))
        if self._reader is not None:
            for work in (self._reader.pull, self._reader.keep, self._reader.look):
                self.spawn(self._meant(work))

    # -- in ---------------------------------------------------------------------------

    def _taker(self, endpoint: Endpoint) -> Callable[[Any], Awaitable[None]]:
        """What nats-py calls with each message of a subscription: one call, for speed."""
        offer, number = self.inlet.offer, self._number

        async def take(message: Any) -> None:
            try:
                received = Received(message.subject, message.data, message.reply, None, number)
                headers = message.headers
                usual = self._plain and not headers
                if not usual and not self._is_ours(received, endpoint, headers):
                    return
                if not offer(received):
                    self._troubled(f"too slow: a message on {received.channel} was dropped")
            except Exception as error:  # noqa: BLE001  # nats-py would only log it
                self.lose(error)

        return take

    def _is_ours(
        self, received: Received, endpoint: Endpoint, headers: Mapping[str, str] | None
    ) -> bool:
        """Look at what few messages need to be looked at for; False if it is not to be run."""
        channels, subject = self._channels, endpoint.subject
        if subject in channels.overlapping and channels.owner(received.channel) != subject:
            return False
        if headers:
            if self._reader is not None and "Nats-Expected-Stream" in headers:
                # Sent until a stream confirms it, which will not happen on this subject.
                text = f"an event for a stream came on {received.channel}: not run"
                self._troubled(text)
                return False
            received.headers = headers
            received.message_id = headers.get("Nats-Msg-Id", "")
        if self._bridge.service.name and not (self._timed_for and self._timed_for.is_measuring()):
            self._timed, self._timed_for = received, endpoint
            endpoint.begins()
        return True

    async def _read_stream(self, connection: Connection) -> None:
        bridge = self._bridge
        memory, ledger = bridge.memory, bridge.ledger
        found = await self._declared(connection, self._channels)
        if not memory.is_same_stream(found.stream_made):
            if memory.stream is not None:
                self.thread.back(bridge.forget_settled)
            memory.floor = 0
            ledger.begin_anew()
        elif not memory.is_same_consumer(found.consumer_made):
            ledger.begin_anew()
        memory.stream, memory.consumer = found.stream_made, found.consumer_made
        self._reader = StreamReader(
            connection,
            bridge.options,
            found,
            ledger,
            memory,
            self.inlet,
            self._number,
            self._channels,
        )
        try:
            await self._reader.begin(partial(guarded, self.lose))
        except (Error, OSError) as error:
            raise meaning(error) from error

    async def _declared(self, connection: Connection, channels: Topology) -> Found:
        bridge = self._bridge
        found = await declare(connection, bridge.options, channels, bridge.memory)
        for text in found.troubles:
            self._troubled(text)
        return found

    # -- out --------------------------------------------------------------------------

    async def write(self, burst: list[Outgoing]) -> None:
        connection = self._connection
        assert connection is not None
        try:
            for outgoing in burst:
                if outgoing.body and outgoing.received.reply:
                    if len(outgoing.body) > connection.max_payload:
                        self.thread.back(self._bridge.unsendable, outgoing, connection.max_payload)
                        continue
                    await connection.publish(outgoing.received.reply, outgoing.body)
            if self._reader is not None:
                await self._reader.settle(burst)
        except (Error, OSError) as error:
            raise meaning(error) from error
        if self._bridge.service.name:
            self._account(burst)

    def _account(self, burst: list[Outgoing]) -> None:
        """Keep the numbers that the service tells of itself."""
        service, timed = self._bridge.service, self._timed
        for outgoing in burst:
            if outgoing.verb != "item" and outgoing.received is timed and self._timed_for:
                self._timed_for.ended()
                self._timed = self._timed_for = None
            if outgoing.verb == "answer" and service.is_failure(outgoing.body):
                service.failed(self._channels.owner(outgoing.received.channel))

    # -- its life ---------------------------------------------------------------------

    async def follow(self, channels: Channels) -> None:
        assert isinstance(channels, Topology)
        bridge, connection = self._bridge, self._connection
        assert connection is not None
        changed = channels.events != self._channels.events
        self._channels = channels
        self._plain = not channels.overlapping and not bridge.service.name
        bridge.service.serves(bridge.requests())
        if self._reader is not None:
            found = await self._declared(connection, channels) if changed else self._reader.found
            self._reader.follow(channels, found)
        for subject in set(self._subscriptions) - set(channels.subscribed):
            await self._subscriptions.pop(subject).drain()
        for subject in channels.subscribed:
            if subject not in self._subscriptions:
                endpoint, queue = bridge.service.at(subject), bridge.options.queue
                take = self._taker(endpoint)
                subscription = await connection.subscribe(subject, queue=queue, cb=take)
                endpoint.follows(subscription)
                self._subscriptions[subject] = subscription

    async def stop(self) -> None:
        await asyncio.gather(*(each.drain() for each in self._subscriptions.values()))
        if self._reader is not None:
            await self._reader.stop()

    async def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if self._reader is not None and not connection.is_closed:
                await self._reader.finish()
        except (Error, OSError, TimeoutError) as error:
            self._troubled(f"the last acknowledgements may be lost: {meaning(error).why}")
        finally:
            await end(connection, _CLOSING)

    async def _meant(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (Error, OSError) as error:
            raise meaning(error) from error

    def _troubled(self, text: str) -> None:
        self.thread.back(self._bridge.complaints.say, "troubles with the broker", text)


def _is_mqtts(route: str) -> bool:
    return "/" in route and any(part in ("+", "#") for part in route.split("/"))
