"""The TCP client: many calls in flight on each of a few connections.

A call is an id, a waiting task and nothing else; answers resume their callers as
they come. Calls made in one burst are written with one send. When a connection is
lost, its calls fail at once, since nobody knows whether they were handled; it is made
again in the background, and new calls wait for that within their timeouts.
"""

import errno
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from random import Random
from typing import Final

import trio
from trio.lowlevel import wait_readable

from ...actors.errors import ConnectionLost
from ...actors.pattern import Pattern
from ...actors.timers import Timers
from ...supervisors.strategy import Backoff
from ..calls import Call, StreamCall
from ..client import Client, Headers
from ..codec import nest, nestrs
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..codec.packet import Answer
from .options import TcpClientOptions

__all__ = ["TcpClient"]

_CHUNK: Final = 64 * 1024
_WRITE_LIMIT: Final = 1024 * 1024
"""Bytes that may wait to be written before further calls wait, too."""

_DIALECTS: Final[dict[str, Dialect]] = {"nest": nest, "nestrs": nestrs}


class TcpClient(Client):
    """A pool of connections to one address."""

    def __init__(self, host: str, port: int, options: TcpClientOptions) -> None:
        self._host, self._port, self._options = host, port, options
        self.where = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self.dialect = _DIALECTS[options.dialect]
        self.timers = Timers()
        # Ids only have to differ on one connection; where they start tells clients apart in logs.
        self._prefix = os.urandom(6).hex()
        self._calls = 0
        self._lines = [_Line(self, number) for number in range(options.connections)]
        self._next = 0

    async def open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.timers.run)
        for line in self._lines:
            await line.open(nursery)

    async def aclose(self) -> None:
        for line in self._lines:
            await line.aclose()

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        raw_id = self._new_id()
        body = self.dialect.request(self.dialect.pattern_json(pattern), data, raw_id)
        call = Call(self.where, pattern, trio.current_time() + timeout, timeout)
        line = self._line()
        if not line.ready or line.queued > _WRITE_LIMIT:
            await line.wait_ready(call)
        line.send(body, raw_id, call)
        self.timers.watch(call)
        try:
            await call.wait()
        finally:
            self.timers.waiting.pop(call, None)
            line.forget(raw_id)
        if call.error is not None:
            raise call.error
        return call.value

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        line = self._line()
        if not line.ready:
            limit = self._options.connect_timeout
            await line.wait_ready(Call(self.where, pattern, trio.current_time() + limit, limit))
        body = self.dialect.event(self.dialect.pattern_json(pattern, event=True), data)
        line.write(body)
        await line.written()

    async def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        raw_id = self._new_id()
        body = self.dialect.request(self.dialect.pattern_json(pattern), data, raw_id)
        limit = self._options.connect_timeout
        stream = StreamCall(self.where, pattern, trio.current_time() + limit, limit)
        line = self._line()
        if not line.ready:
            await line.wait_ready(stream)
        line.send(body, raw_id, stream)
        try:
            while True:
                while stream.items:
                    yield stream.items.popleft()
                if stream.error is not None:
                    raise stream.error
                if stream.done:
                    return
                await stream.wait()
        finally:
            line.forget(raw_id)

    def _line(self) -> "_Line":
        lines = self._lines
        if len(lines) == 1:
            return lines[0]
        self._next = (self._next + 1) % len(lines)
        line = lines[self._next]
        if line.ready:
            return line
        return next((other for other in lines if other.ready), line)

    def _new_id(self) -> bytes:
        self._calls += 1
        return b'"%b%x"' % (self._prefix.encode(), self._calls)


class _Line:
    """One connection of the pool, across reconnects."""

    def __init__(self, client: TcpClient, number: int) -> None:
        self.ready = False
        self._client = client
        self._options = client._options
        self._number = number
        self._calls: dict[str, Call] = {}
        self._out: list[bytes] = []
        self.queued = 0
        self._sent = 0
        self._sock: socket.socket | None = None
        self._why = "not connected yet"
        self._closing = False
        self._changed = trio.Event()
        self._wake_writer = trio.Event()
        # Jitter only: nothing else here is random.
        self._random = Random()
        self._backoff = Backoff(minimum=0.1, maximum=max(0.1, self._options.reconnect_max))

    async def open(self, nursery: trio.Nursery) -> None:
        """Make the first connection, for `patience` seconds; raises `ConnectionLost`."""
        deadline = trio.current_time() + self._options.patience
        failures = 0
        while True:
            try:
                sock = await self._connect()
                break
            except ConnectionLost:
                failures += 1
                delay = self._backoff.delay(failures + 1, self._random)
                if trio.current_time() + delay > deadline:
                    raise
            await trio.sleep(delay)
        nursery.start_soon(self._keep, sock)

    async def aclose(self) -> None:
        self._closing = True
        if self.ready:
            await self.written()
        self._lost("the client was closed")

    async def wait_ready(self, call: Call) -> None:
        """Wait for the connection, and for room in it, at most until the call's deadline."""
        with trio.move_on_at(call.deadline):
            while (not self.ready or self.queued > _WRITE_LIMIT) and not self._closing:
                await self._change()
        if not self.ready or self.queued > _WRITE_LIMIT:
            why = "the service takes nothing" if self.ready else self._why
            why += f"; gave up on {call.pattern!r} after {call.timeout:g} s"
            raise ConnectionLost(self._client.where, why, sent=False)

    def send(self, body: bytes, raw_id: bytes, call: Call) -> None:
        self._calls[raw_id[1:-1].decode()] = call
        self.write(body)

    def forget(self, raw_id: bytes) -> None:
        self._calls.pop(raw_id[1:-1].decode(), None)

    def write(self, body: bytes) -> None:
        framed = self._client.dialect.frame(body)
        self._out.append(framed)
        self.queued += len(framed)
        self._wake_writer.set()

    async def written(self) -> None:
        """Wait until what is queued is on its way; raises `ConnectionLost` if it will not be."""
        # Not until nothing is queued: others may go on queueing for ever.
        sock, end = self._sock, self._sent + self.queued
        while self._sent < end:
            if self._sock is not sock:
                raise ConnectionLost(self._client.where, self._why)
            await self._change()

    async def _keep(self, sock: socket.socket) -> None:
        """Use a connection while it lasts, then make it again, until the client closes."""
        failures = 0
        while True:
            began = trio.current_time()
            await self._use(sock)
            # One that ends at once is a failure, too: a full service must not be hammered.
            if trio.current_time() - began > self._backoff.quiet:
                failures = 0
            while True:
                if self._closing:
                    return
                failures += 1
                # The first failure in a row is tried again at once, as in `Backoff`.
                await trio.sleep(self._backoff.delay(failures, self._random))
                try:
                    sock = await self._connect()
                except ConnectionLost as error:
                    self._why = error.why
                    continue
                break

    async def _connect(self) -> socket.socket:
        client, limit = self._client, self._options.connect_timeout
        try:
            with trio.fail_after(limit):
                stream = await trio.open_tcp_stream(client._host, client._port)
        except trio.TooSlowError:
            why = f"no connection within {limit:g} s"
        except OSError as error:
            why = _readable(error)
        else:
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            return sock
        raise ConnectionLost(client.where, why, sent=False)

    async def _use(self, sock: socket.socket) -> None:
        self._sock = sock
        self._out.clear()
        self.queued = 0
        self.ready = True
        self._tell()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, sock)
                why = await self._read(sock)
                nursery.cancel_scope.cancel()
        except BaseException:
            self._lost("the client was closed")
            raise
        self._lost("the client was closed" if self._closing else why)

    async def _read(self, sock: socket.socket) -> str:
        """Hand out answers until the connection ends; returns why it did."""
        dialect = self._client.dialect
        frames = dialect.frames(self._options.frame_limit)
        while True:
            try:
                await wait_readable(sock)
                data = sock.recv(_CHUNK)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                return _readable(error)
            if not data:
                return "the service closed the connection"
            for body in frames.feed(data):
                try:
                    answer = dialect.decode_answer(body)
                except CodecError as error:
                    return f"the service answered what is no packet ({error})"
                self._hand_out(answer)
            if frames.error is not None:
                return f"the service sent a broken frame ({frames.error})"

    def _hand_out(self, answer: Answer) -> None:
        if answer.id is None:
            return
        call = self._calls.get(answer.id)
        if call is not None and call.take(answer):
            del self._calls[answer.id]

    async def _write(self, sock: socket.socket) -> None:
        try:
            while True:
                while self._out:
                    data = b"".join(self._out)
                    self._out.clear()
                    await _send_all(sock, data)
                    self.queued -= len(data)
                    self._sent += len(data)
                    self._tell()
                self._wake_writer = trio.Event()
                await self._wake_writer.wait()
        except (OSError, trio.ClosedResourceError):
            # The reader ends the connection, and finds out why.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _lost(self, why: str) -> None:
        self.ready = False
        self._why = why
        sock, self._sock = self._sock, None
        if sock is not None:
            trio.lowlevel.notify_closing(sock)
            sock.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(ConnectionLost(self._client.where, why))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()


async def _send_all(sock: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


def _readable(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "connection refused: nothing listens there"
    if isinstance(error, BaseExceptionGroup):
        return _readable(error.exceptions[0])
    if isinstance(error, OSError) and error.__cause__ is not None and error.errno is None:
        return _readable(error.__cause__)
    text = str(error)
    return text or type(error).__name__
