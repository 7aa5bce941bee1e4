"""The Redis client: many calls in flight on one connection that publishes and subscribes.

A request nobody listens for fails at once, since PUBLISH counts who gets it (not in a
cluster, where each node counts its own). An event on a channel is confirmed by nobody.
With a stream events go there instead: each is confirmed, and one that may have been lost
with its connection is added again, under the same identity.
"""

import asyncio
import os
from collections import deque
from typing import Any, ClassVar

import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from ...actors.pattern import Pattern, route_of
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import BrokerAway, Session
from ..client import Headers
from ..codec import nest, nestrs_wire
from ..options import shown
from .bridge import MOST, REPLY
from .connection import connect, meaning, ping, watch
from .link import Command, Link, ReplyError
from .options import RedisClientOptions, check_text
from .streams import IDENTITY, PACKET

__all__ = ["RedisClient", "RedisStreamClient"]

_AWAY = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK")
"""Refusals of a server that is the wrong one, or not ready; another session may do better."""


class RedisClient(BrokerClient):
    """Calls services through Redis' channels."""

    has_headers: ClassVar[bool] = False
    confirms: ClassVar[bool] = False
    options: RedisClientOptions

    def __init__(self, url: str, options: RedisClientOptions) -> None:
        super().__init__(shown(url), options, nestrs_wire if options.dialect == "nestrs" else nest)
        self.url = url
        self.nestrs = options.dialect == "nestrs"
        self.replies = f"__nestrs.reply.{os.urandom(8).hex()}."
        self._prefix_dot = f"{options.prefix}." if options.prefix else ""

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        return RedisClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        return self._prefix_dot + check_text(route_of(pattern), self.where)

    def request(self, id: str, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("send", pattern, data, self.replies + id)
        return super().request(id, pattern, data)

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("emit", pattern, data)
        return super().event(pattern, data)


class RedisStreamClient(RedisClient):
    """The same for requests; events are added to a stream."""

    has_headers: ClassVar[bool] = True
    confirms: ClassVar[bool] = True

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        return nest.event(nest.pattern_json(pattern, event=True), data)

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        self._refuse(headers)
        return await super()._call(pattern, data, timeout, headers)

    def _stream(self, pattern: Pattern, data: bytes, headers: Headers) -> Any:
        self._refuse(headers)
        return super()._stream(pattern, data, headers)

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        if PACKET in headers:
            raise DeclarationError(f"{self.where}: the header {PACKET!r} is the message itself.")
        headers = {IDENTITY: os.urandom(16).hex(), **headers}
        for text in (*headers, *headers.values()):
            check_text(text, self.where)
        deadline = trio.current_time() + self.options.connect_timeout
        while True:
            try:
                await super()._emit(pattern, data, headers)
            except _NotTaken:
                raise
            except RequestTimeout as error:
                why = f"{pattern!r} was not confirmed within {error.timeout:g} s"
                raise ConnectionLost(self.where, why) from error
            except ConnectionLost:
                if self._closing or trio.current_time() >= deadline:
                    raise
            else:
                return

    def _refuse(self, headers: Headers) -> None:
        if headers:
            raise DeclarationError(
                f"{self.where}: only events have headers there, in the stream; requests go over "
                "channels, which have none. Put what they say into the data."
            )


class _NotTaken(ConnectionLost):
    """The server answered that it does not take the message."""


class RedisClientSession(Session[Reply, Sending]):
    """One connection of a Redis client."""

    def __init__(
        self,
        client: RedisClient,
        thread: AsyncioThread,
        inlet: Inlet[Reply],
        outlet: Outlet[Sending],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=client.options.connect_timeout)
        self._client = client
        self._link: Link | None = None
        self._heard: set[str] = set()
        self._refusal: BrokerAway | None = None
        self._waiting: deque[Reply] = deque()
        self._waits = asyncio.Event()
        options = client.options
        self._counts = not options.cluster
        trimmed = ("MAXLEN", "~", options.max_length) if options.max_length else ()
        self._add: Command = ("XADD", options.stream, *trimmed, "*", PACKET)

    async def connect(self) -> None:
        client, options = self._client, self._client.options
        self._link = link = await connect(
            client.url, options, "understudy-client", self.lose, self._pushed
        )
        if client.nestrs:
            link.subscribe("PSUBSCRIBE", [f"{client.replies}*"], self._refused)
        await ping(link, options.connect_timeout)
        if self._refusal is not None:
            raise self._refusal
        self.spawn(self._hand_the_rest(link))
        self.spawn(watch(link, options.heartbeat, master=bool(options.sentinel)))

    # -- in -------------------------------------------------------------------------

    def _pushed(self, message: list[Any]) -> None:
        if message[0] == b"message":
            self._hand(Reply("", message[2]))
        elif message[0] == b"pmessage":
            id = message[2].decode(errors="replace").removeprefix(self._client.replies)
            self._hand(Reply(id, message[3]))

    def _hand(self, reply: Reply) -> None:
        if self._waiting or not self.inlet.offer(reply):
            self._waiting.append(reply)
            self._waits.set()

    async def _hand_the_rest(self, link: Link) -> None:
        """Where there was no room: read nothing more until there is."""
        while True:
            await self._waits.wait()
            link.pause()
            while self._waiting:
                await self.inlet.put(self._waiting[0])
                self._waiting.popleft()
            self._waits.clear()
            link.resume()

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Sending]) -> None:
        link = self._link
        if link is None:
            raise BrokerAway("there is no connection")
        nest = not self._client.nestrs
        commands: list[tuple[Command, Any]] = []
        new: list[str] = []
        for sending in burst:
            if len(sending.body) > MOST:
                self._not_sent(sending, f"{len(sending.body)} bytes; Redis takes {MOST} at most")
                continue
            if sending.answered and nest and sending.route not in self._heard:
                self._heard.add(sending.route)
                new.append(sending.route + REPLY)
            if sending.id and not sending.answered:
                fields = [text for pair in sending.headers.items() for text in pair]
                commands.append(((*self._add, sending.body, *fields), self._added(sending)))
            else:
                then = self._counted(sending) if sending.answered else self._published
                commands.append((("PUBLISH", sending.route, sending.body), then))
        # In this order on one connection: an answer finds its channel subscribed to.
        link.subscribe("SUBSCRIBE", new, self._refused)
        link.send(commands)
        await link.drained()

    def _counted(self, sending: Sending) -> Any:
        def then(reply: Any) -> None:
            if isinstance(reply, ReplyError):
                self._not_sent(sending, f"the server refused it: {reply}")
            elif reply == 0 and self._counts:
                self._hand(Reply(sending.id, unheard=True))

        return then

    def _added(self, sending: Sending) -> Any:
        def then(reply: Any) -> None:
            if not isinstance(reply, ReplyError):
                self._hand(Reply(sending.id))
            elif str(reply).startswith(_AWAY):
                self.lose(meaning(reply))
            else:
                self._not_sent(sending, f"the server did not take it: {reply}")

        return then

    def _published(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self._troubled(f"an event was refused: {reply}")

    def _not_sent(self, sending: Sending, why: str) -> None:
        if sending.id:
            self._hand(Reply(sending.id, b"", _NotTaken(self._client.where, why, sent=False)))
        else:
            self._troubled(f"not sent to {sending.route}: {why}")

    def _refused(self, error: ReplyError) -> None:
        self._refusal = meaning(error)
        self.lose(self._refusal)

    # -- its end --------------------------------------------------------------------

    async def stop(self) -> None:
        """Nothing comes but answers."""

    async def close(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            if link.lost is None:  # until this is answered, what was sent may not have arrived
                await ping(link, 1.0)
        except BrokerAway:
            return
        finally:
            link.end(BrokerAway("closed"))

    def _troubled(self, text: str) -> None:
        self.thread.back(self._client.complaints.say, "troubles with the broker", text)
