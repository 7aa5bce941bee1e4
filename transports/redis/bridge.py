"""The Redis bridge: a subscription for each pattern, answers on channels, and streams.

Promise of pub/sub: at most once. Redis forgets a message once it has sent it and cannot
be slowed down; who is too slow or away misses it, and every bridge that subscribes gets
it. An event that was taken is retried and kept like any other. For more see `streams.py`.
"""

import asyncio
import logging
import socket
from functools import partial
from typing import Any, Final

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.incarnation import Incarnation
from ...actors.wildcard import is_wildcard
from ...supervisors.child import Wiring
from ..broker.bridge import BrokerBridge
from ..broker.channels import Channels
from ..broker.connected import BridgeSession
from ..broker.message import Outgoing, Received
from ..broker.session import BrokerAway, Session
from ..codec import nest, nest_channel, nestrs_wire
from ..codec.errors import CodecError
from ..codec.packet import Incoming
from ..options import shown
from .connection import connect, meaning, ping, watch
from .ledger import Ledger, Place
from .link import Command, Link, ReplyError
from .options import RedisOptions, check_text, glob_of, streams_of
from .streams import Streams, channel_of

__all__ = ["REPLY", "RedisBridge", "RedisSession"]

REPLY: Final = ".reply"
"""What NestJS appends to a channel for the answers to what is sent on it."""

MOST: Final = 512 * 1024 * 1024
"""Bytes in one argument of a command, at most."""

_log = logging.getLogger("understudy.transports.redis")


class RedisBridge(BrokerBridge):
    """Serves the tree's patterns as channels, and streams; a `Runnable` for its supervisor."""

    by_channel = False
    options: RedisOptions

    def __init__(self, url: str, options: RedisOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        self.prefix = f"{options.prefix}." if options.prefix else ""
        self._read_channel = partial(nestrs_wire.read if nestrs else nest_channel.read, self.prefix)
        self._streams = frozenset(map(channel_of, streams_of(options.stream)))
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else nest,
            self._read_any,
            whole=None if nestrs else nest.typed_event_decoder,
        )
        self.url = url
        self.consumer = options.consumer or f"{socket.gethostname()}:{self.complaints.where}"
        self.ledger = Ledger()

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        return RedisSession(self, self.thread, number, inlet, outlet)

    @property
    def backlog(self) -> int:
        return self.options.backlog

    def channels(self) -> Channels:
        """What to subscribe to. Raises `DeclarationError` for a pattern that cannot be sent."""
        if not self.options.pubsub:
            return Channels(())
        routes = self.registry.routes()
        return Channels(self.prefix + check_text(route, self.peer) for route in routes)

    async def run(self, incarnation: Incarnation) -> None:
        # What an incarnation had in hand and did not hand over comes again from its stream.
        self.ledger = Ledger()
        if self.options.pubsub and self.registry.events and not self._streams:
            _log.info(
                "%s: events on Redis' channels are lost while nobody listens or somebody is too "
                "slow; a stream keeps them",
                incarnation.path,
            )
        await super().run(incarnation)

    def _read_any(self, channel: str, body: bytes) -> Incoming:
        if channel not in self._streams:
            return self._read_channel(channel, body)
        packet = nest.decode_message(body)
        route = nest.route(packet.pattern) if packet.pattern else None
        if route is None:
            raise CodecError("the entry has no field `packet` with a pattern in it")
        return Incoming(route, packet.data)


class RedisSession(Session[Received, Outgoing]):
    """One connection of a Redis bridge, and a second one if streams are read."""

    def __init__(
        self,
        bridge: RedisBridge,
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._ledger = bridge.ledger
        self._number = number
        self._nest = bridge.options.dialect == "nest"
        self._channels = bridge.channels()
        self._names: dict[bytes, str] = {}
        self._globs: dict[str, bytes] = {}
        self._all = b""
        self._refusal: BrokerAway | None = None
        self._link: Link | None = None
        self._reading: Link | None = None
        self._streams: Streams | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        bridge, options = self._bridge, self._bridge.options
        self._link = link = await self._connected(self._pushed)
        if bridge.prefix and not self._nest and options.pubsub:
            # As nestrs does: whatever comes under the prefix is answered, handled or not.
            self._all = glob_of(bridge.prefix + ">").encode()
            link.subscribe("PSUBSCRIBE", [self._all.decode()], self._refused)
        else:
            await self.follow(self._channels)
        await ping(link, options.connect_timeout)
        if self._refusal is not None:
            raise self._refusal
        if options.stream:
            await self._read_streams(link)
        self.spawn(watch(link, options.heartbeat, master=bool(options.sentinel)))

    async def _connected(self, pushed: Any) -> Link:
        bridge = self._bridge
        return await connect(bridge.url, bridge.options, bridge.consumer, self.lose, pushed)

    async def _read_streams(self, link: Link) -> None:
        bridge, options = self._bridge, self._bridge.options
        self._reading = reading = await self._connected(_nothing)
        self._streams = streams = Streams(
            link,
            reading,
            options,
            bridge.consumer,
            self._ledger,
            self.inlet,
            self._number,
            self._say,
        )
        await streams.begin()
        self._reader = self.spawn(streams.read())
        self.spawn(streams.keep())

    # -- in -------------------------------------------------------------------------

    def _pushed(self, message: list[Any]) -> None:
        if message[0] == b"message":
            _, name, body = message
            channel = self._names.get(name)
            if channel is None:
                return  # no longer wanted
        elif message[0] == b"pmessage":
            found = self._of_wildcard(*message[1:])
            if found is None:
                return
            channel, body = found, message[3]
        else:
            return
        reply = channel + REPLY if self._nest else ""
        received = Received(channel, body, reply, session=self._number)
        if not self.inlet.offer(received):
            text = f"a message on {channel} was dropped: {self._bridge.backlog} wait already"
            self._say("messages that were dropped", text)

    def _of_wildcard(self, glob: bytes, name: bytes, body: bytes) -> str | None:
        """The channel, if a message that a glob matched is one for the wildcard behind it."""
        try:
            channel = name.decode()
        except UnicodeDecodeError:
            self._say("messages that cannot be read", f"the channel {name!r} is not UTF-8")
            return None
        if glob == self._all:
            return channel
        if self._globs.get(self._channels.owner(channel)) != glob:
            return None
        if self._nest and channel.endswith(REPLY) and b'"pattern"' not in body:
            return None  # somebody's answer
        return channel

    async def follow(self, channels: Channels) -> None:
        link = self._link
        if link is None or self._all:
            return
        self._channels = channels
        wanted, globs = set(channels.subscribed), {}
        for route in channels.subscribed:
            if is_wildcard(route):
                globs[route] = glob_of(route).encode()
        names = {route.encode(): route for route in wanted - set(globs)}
        before, self._names = self._names, names
        globs_before, self._globs = set(self._globs.values()), globs
        new = [route for name, route in names.items() if name not in before]
        gone = [route for name, route in before.items() if name not in names]
        new_globs = [glob.decode() for glob in set(globs.values()) - globs_before]
        gone_globs = [glob.decode() for glob in globs_before - set(globs.values())]
        link.subscribe("SUBSCRIBE", new, self._refused)
        link.subscribe("PSUBSCRIBE", new_globs, self._refused)
        link.subscribe("UNSUBSCRIBE", gone, self._refused)
        link.subscribe("PUNSUBSCRIBE", gone_globs, self._refused)

    def _refused(self, error: ReplyError) -> None:
        self._refusal = meaning(error)
        self.lose(self._refusal)

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Outgoing]) -> None:
        commands: list[tuple[Command, Any]] = []
        handled: list[Place] = []
        given_back: list[tuple[list[Place], float]] = []
        for outgoing in burst:
            received, body = outgoing.received, outgoing.body
            if received.token is None:
                if body and received.reply:
                    if len(body) > MOST:
                        self.thread.back(self._bridge.unsendable, outgoing, MOST)
                    else:
                        commands.append((("PUBLISH", received.reply, body), self._published))
            elif outgoing.verb == "back":
                given_back.append((self._ledger.release(received.token), outgoing.delay))
            elif outgoing.verb != "item":
                handled.extend(self._ledger.settle(received.token))
        # Nothing above may fail or wait: what is in the ledger is not lost with the session.
        link, streams = self._link, self._streams
        if link is None:
            raise BrokerAway("there is no connection")
        if commands:
            link.send(commands)
        if streams is not None and (handled or given_back):
            streams.settled()
            streams.acknowledge(handled)
            for places, delay in given_back:
                streams.give_back(places, delay)
        await link.drained()

    def _published(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self._say("answers that were refused", f"an answer could not be published: {reply}")

    # -- its end --------------------------------------------------------------------

    async def stop(self) -> None:
        link = self._link
        if link is None:
            return
        link.subscribe("UNSUBSCRIBE", list(self._names.values()), self._refused)
        globs = {glob.decode() for glob in (*self._globs.values(), self._all) if glob}
        link.subscribe("PUNSUBSCRIBE", globs, self._refused)
        await ping(link, self._bridge.options.heartbeat)
        if self._streams is not None and self._reader is not None:
            await self._streams.stop()
            await asyncio.wait([self._reader])

    async def close(self) -> None:
        link, reading = self._link, self._reading
        if reading is not None:
            reading.end(BrokerAway("closed"))
        if link is None:
            return
        try:
            if link.lost is None:  # until this is answered, what was sent may not have arrived
                await ping(link, 1.0)
        except BrokerAway:
            return
        finally:
            link.end(BrokerAway("closed"))

    def _say(self, kind: str, text: str) -> None:
        self.thread.back(self._bridge.complaints.say, kind, text)


def _nothing(_: Any) -> None:
    """Nothing is subscribed to there."""
