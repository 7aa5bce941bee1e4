"""The trio half of every client of a broker: calls that wait, across connections.

A call is an id, a waiting task and nothing else; answers resume their callers as they
come. When the connection is lost its calls fail at once, since nobody knows whether they
were handled; a new one is made in the background, and new calls wait for that within
their timeouts.

Not owned here: how one broker is spoken to (its `Session`).
"""

import os
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from random import Random
from typing import ClassVar, Final

import msgspec
import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread, asyncio_thread
from ...actors.errors import ConnectionLost, NoResponders
from ...actors.pattern import Pattern, route_of
from ...actors.scopes import background
from ...actors.timers import Timers
from ...supervisors.strategy import Backoff
from ..calls import Call, StreamCall
from ..client import Client, Headers
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..complaints import Complaints
from .message import NO_HEADERS
from .options import BrokerClientOptions
from .session import BrokerAway, BrokerRefused, Session

__all__ = ["BrokerClient", "ClientSession", "Reply", "Sending"]

_REPLIES: Final = 4096
"""Answers that may wait to be handed out."""

_WRITES: Final = 1024
"""Events that may wait to be sent before `emit` waits, where no broker confirms them."""


class Sending(msgspec.Struct, gc=False):
    """A message on its way out. `id` names whose it is; `answered` tells requests from events.

    An event with an id is to be confirmed, one without is not.
    """

    id: str
    route: str
    body: bytes
    answered: bool
    headers: Mapping[str, str] = NO_HEADERS


class Reply(msgspec.Struct, gc=False):
    """What came for the call with an id: a packet, a failure, or neither, which confirms it.

    Without an id the packet itself names its call. A message that nobody has heard is
    `unheard`.
    """

    id: str
    body: bytes = b""
    error: Exception | None = None
    unheard: bool = False


ClientSession = Session[Reply, Sending]


class BrokerClient(Client):
    """Calls services through one broker."""

    has_headers: ClassVar[bool] = True
    confirms: ClassVar[bool] = True
    """Whether the broker confirms events."""

    def __init__(self, where: str, options: BrokerClientOptions, dialect: Dialect) -> None:
        self.where = where
        self.options = options
        self.dialect = dialect
        name = where.partition(":")[0]
        self.complaints = Complaints(f"understudy.transports.{name}", where)
        self.thread: AsyncioThread
        self._timers = Timers()
        self._prefix = os.urandom(6).hex()
        self._count = 0
        self._calls: dict[str, Call] = {}
        self._outlet: Outlet[Sending] | None = None
        self._connected = self._closing = self._refused = self._opened = False
        self._failures = 0
        self._why = "not connected yet"
        self._changed = trio.Event()
        self._random = Random()  # jitter only: nothing else here is random

    @abstractmethod
    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        """A session that has not connected yet."""

    def route(self, pattern: Pattern) -> str:
        """Where a pattern's messages go; raises `DeclarationError` for an impossible one."""
        return route_of(pattern)

    def request(self, id: str, pattern: Pattern, data: bytes) -> bytes:
        """The body of a request."""
        return self.dialect.request(self.dialect.pattern_json(pattern), data, b'"%b"' % id.encode())

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        """The body of an event."""
        return self.dialect.event(self.dialect.pattern_json(pattern, event=True), data)

    # -- its life -------------------------------------------------------------------

    async def open(self, nursery: trio.Nursery) -> None:
        self.thread = asyncio_thread("brokers")
        deadline = trio.current_time() + self.options.patience
        nursery.start_soon(self._timers.run)
        nursery.start_soon(self._stay_connected)
        while not self._opened:
            await self._change()
            over = trio.current_time() >= deadline or self._refused
            if self._failures and over and not self._opened:
                raise ConnectionLost(self.where, self._why, sent=False)

    async def aclose(self) -> None:
        self._closing = True
        if self._outlet is not None:
            self._outlet.close()
            while self._connected:
                await self._change()
        self._lost("the client was closed")

    async def _stay_connected(self) -> None:
        backoff = Backoff(minimum=0.1, maximum=max(0.1, self.options.reconnect_max))
        while not self._closing:
            began = trio.current_time()
            try:
                await self._live()
                return
            except BrokerAway as error:
                self._refused = isinstance(error, BrokerRefused)
                if trio.current_time() - began > backoff.quiet:
                    self._failures = 0
                self._failures += 1
                self._lost(error.why)
            if self._closing or (self._refused and not self._opened):
                return  # closed, or never to be opened
            await trio.sleep(backoff.delay(self._failures, self._random))

    async def _live(self) -> None:
        """One session, from its beginning to its end."""
        inlet: Inlet[Reply] = Inlet(self.thread, _REPLIES)
        outlet: Outlet[Sending] = Outlet(self.thread)
        session = self.session(inlet, outlet)

        def begun() -> None:
            self._outlet, self._connected, self._opened = outlet, True, True
            self._tell()

        try:
            async with background() as nursery:
                nursery.start_soon(self._hand_out_all, inlet)
                await self.thread.call(session.run, begun)
        except BrokerAway as error:
            self._lost(error.why)
            raise
        finally:
            inlet.close()
            self._lost("the client was closed")

    async def _hand_out_all(self, inlet: Inlet[Reply]) -> None:
        while True:
            for reply in await inlet.burst():
                self._hand_out(reply)

    def _hand_out(self, reply: Reply) -> None:
        id = reply.id
        try:
            answer = self.dialect.decode_answer(reply.body) if reply.body else None
        except CodecError as error:
            answer = None
            why = f"the service answered what is no packet ({error})"
            reply.error = ConnectionLost(self.where, why)
        if not id and answer is not None:
            id = answer.id or ""
        call = self._calls.get(id)
        if call is None:
            return
        if reply.unheard:
            call.fail(NoResponders(self.where, call.pattern))
        elif reply.error is not None:
            call.fail(reply.error)
        elif answer is None:
            call.confirm()
        elif not call.take(answer):
            return
        self._calls.pop(id, None)

    # -- calls ----------------------------------------------------------------------

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        call = Call(self.where, pattern, trio.current_time() + timeout, timeout)
        await self._sent_and_waited(call, data, headers, answered=True)
        return call.value

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        limit = self.options.connect_timeout
        call = Call(self.where, pattern, trio.current_time() + limit, limit)
        if self.confirms:
            await self._sent_and_waited(call, data, headers, answered=False)
            return
        route, body = self.route(pattern), self.event(pattern, data)
        outlet = await self._ready(call)
        outlet.send(Sending("", route, body, False, headers))
        await outlet.room(_WRITES)

    async def _sent_and_waited(
        self, call: Call, data: bytes, headers: Headers, *, answered: bool
    ) -> None:
        id = await self._send(call, data, headers, answered=answered)
        self._timers.watch(call)
        try:
            await call.wait()
        finally:
            self._timers.waiting.pop(call, None)
            self._calls.pop(id, None)
        if call.error is not None:
            raise call.error

    async def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        limit = self.options.connect_timeout
        stream = StreamCall(self.where, pattern, trio.current_time() + limit, limit)
        id = await self._send(stream, data, headers, answered=True)
        try:
            async for item in stream:
                yield item
        finally:
            self._calls.pop(id, None)

    async def _send(self, call: Call, data: bytes, headers: Headers, *, answered: bool) -> str:
        """Send what a call asks for, and expect something for the id that is returned."""
        pattern = call.pattern
        route = self.route(pattern)
        self._count += 1
        id = f"{self._prefix}{self._count:x}"
        body = self.request(id, pattern, data) if answered else self.event(pattern, data)
        outlet = await self._ready(call)
        self._calls[id] = call
        outlet.send(Sending(id, route, body, answered, headers))
        return id

    async def _ready(self, call: Call) -> Outlet[Sending]:
        """The way to the broker, waiting for a connection until the call's deadline."""
        if self._outlet is not None:
            return self._outlet
        with trio.move_on_at(call.deadline):
            while self._outlet is None and not self._closing:
                await self._change()
        if self._outlet is None:
            why = f"{self._why}; gave up on {call.pattern!r} after {call.timeout:g} s"
            raise ConnectionLost(self.where, why, sent=False)
        return self._outlet

    def _lost(self, why: str) -> None:
        self._outlet, self._connected = None, False
        self._why = why
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(ConnectionLost(self.where, why))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
