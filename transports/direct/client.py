"""A client that is connected to its service directly: many calls in flight on a few lines.

A call is an id, a waiting task and nothing else; answers resume their callers as
they come.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import trio

from ...actors.errors import ConnectionLost, RequestTimeout
from ...actors.pattern import Pattern
from ...actors.timers import Timers
from ..calls import Call, StreamCall
from ..client import Client, Headers
from ..codec import nest, nestrs
from ..codec.dialect import Dialect
from .line import WRITE_LIMIT, Line
from .options import DirectClientOptions
from .reach import Reach

__all__ = ["DIALECTS", "DirectClient"]

DIALECTS: Final[dict[str, Dialect]] = {"nest": nest, "nestrs": nestrs}


class DirectClient(Client):
    """A pool of connections to one address, which a transport makes its lines of."""

    def __init__(self, where: str, options: DirectClientOptions) -> None:
        self.where = where
        self.dialect = DIALECTS[options.dialect]
        self._options = options
        self._timers = Timers()
        # Ids only have to differ on one connection; where they start tells clients apart in logs.
        self._prefix = os.urandom(6).hex()
        self._calls = 0
        self._lines: Sequence[Line[Any]] = ()
        self._next = 0

    async def open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._timers.run)
        reach = Reach(self._options.reconnect_max)
        for line in self._lines:
            await line.open(nursery, reach)

    async def aclose(self) -> None:
        for line in self._lines:
            await line.aclose()

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        raw_id = self._new_id()
        body = self.dialect.request(self.dialect.pattern_json(pattern), data, raw_id)
        call = Call(self.where, pattern, trio.current_time() + timeout, timeout)
        line = self._line()
        if not line.ready or line.queued > WRITE_LIMIT:
            await line.wait_ready(call)
        line.send(body, raw_id, call)
        self._timers.watch(call)
        try:
            await call.wait()
        finally:
            self._timers.waiting.pop(call, None)
            line.forget(raw_id)
        if call.error is not None:
            if isinstance(call.error, RequestTimeout):
                line.doubt()
            raise call.error
        return call.value

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        line, now = self._line(), trio.current_time()
        if not line.ready or line.queued > WRITE_LIMIT:
            limit = self._options.connect_timeout
            await line.wait_ready(Call(self.where, pattern, now + limit, limit))
            now = trio.current_time()
        limit = self._options.write_deadline
        call = _Emit(self.where, pattern, now + limit, limit)
        line.write(self.dialect.event(self.dialect.pattern_json(pattern, event=True), data), call)
        self._timers.watch(call)
        try:
            await call.wait()
        finally:
            self._timers.waiting.pop(call, None)
        if call.error is not None:
            raise call.error

    async def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        raw_id = self._new_id()
        body = self.dialect.request(self.dialect.pattern_json(pattern), data, raw_id)
        limit = self._options.connect_timeout
        stream = StreamCall(self.where, pattern, trio.current_time() + limit, limit)
        line = self._line()
        if not line.ready or line.queued > WRITE_LIMIT:
            await line.wait_ready(stream)
        line.send(body, raw_id, stream)
        try:
            async for item in stream:
                yield item
        finally:
            line.forget(raw_id)

    def _line(self) -> Line[Any]:
        lines = self._lines
        if len(lines) == 1:
            return lines[0]
        self._next = (self._next + 1) % len(lines)
        line = lines[self._next]
        if line.healthy:
            return line
        for good in ("healthy", "ready"):
            found = next((other for other in lines if getattr(other, good)), None)
            if found is not None:
                return found
        return line

    def _new_id(self) -> bytes:
        self._calls += 1
        return b'"%b%x"' % (self._prefix.encode(), self._calls)


class _Emit(Call):
    """An event, confirmed when it is written."""

    __slots__ = ()

    def expire(self) -> None:
        why = f"the service takes nothing; gave up on {self.pattern!r} after {self.timeout:g} s"
        self.fail(ConnectionLost(self.where, why))
