"""One connection of a client's pool, across reconnects.

Owns its calls, what waits to be written, and the making of the connection anew. What a
connection is, and how bodies are read from it and written to it, is the transport's.

Calls made in one burst are written together. When the connection is lost its calls fail at
once, since nobody knows whether they were handled; new ones wait for the next connection
within their timeouts.
"""

import errno
from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Generic, TypeVar

import trio

from ...actors.errors import ConnectionLost
from ..calls import Call
from ..codec.dialect import Dialect
from ..codec.packet import Answer
from .options import DirectClientOptions
from .reach import Reach

__all__ = ["WRITE_LIMIT", "Line", "readable"]

WRITE_LIMIT: Final = 1024 * 1024
"""Bytes that may wait to be written before further calls wait, too."""

C = TypeVar("C")


class Line(ABC, Generic[C]):
    """One connection of the kind `C`, or none for now."""

    def __init__(self, where: str, dialect: Dialect, options: DirectClientOptions) -> None:
        self.ready = False
        self.queued = 0
        self._where, self._dialect, self._options = where, dialect, options
        self._calls: dict[str, Call] = {}
        self._out: list[bytes] = []
        self._unwritten: deque[tuple[int, Call]] = deque()
        self._doubted_until = 0.0
        self._sent = 0
        self._connection: C | None = None
        self._why = "not connected yet"
        self._closing = False
        self._changed = trio.Event()
        self._wake_writer = trio.Event()
        self._nursery: trio.Nursery
        self._reach: Reach

    # -- what a transport adds

    @abstractmethod
    async def _connect(self) -> C:
        """Make a connection within `connect_timeout`; raises `ConnectionLost`."""

    @abstractmethod
    async def _read(self, connection: C) -> str:
        """Hand out answers until the connection ends; returns why it did."""

    @abstractmethod
    async def _send(self, connection: C, bodies: list[bytes]) -> None:
        """Write these; what it raises of `_broken` ends the connection."""

    @abstractmethod
    def _interrupt(self, connection: C) -> None:
        """Writing has failed: make the reader find out why."""

    @abstractmethod
    def _close(self, connection: C) -> None:
        """End the connection, at once."""

    async def _part(self, connection: C) -> None:
        """Say good-bye, where there is a way to."""

    _broken: tuple[type[Exception], ...] = (OSError, trio.ClosedResourceError)

    # -- what the client asks for

    @property
    def healthy(self) -> bool:
        """Whether a call made now may be expected to be answered."""
        if not self.ready or self.queued > WRITE_LIMIT:
            return False
        return not self._doubted_until or trio.current_time() >= self._doubted_until

    async def open(self, nursery: trio.Nursery, reach: Reach) -> None:
        """Make the first connection, for `patience` seconds; raises `ConnectionLost`."""
        self._nursery, self._reach = nursery, reach
        deadline = trio.current_time() + self._options.patience
        while True:
            try:
                connection = await reach.attempt(self._connect)
                break
            except ConnectionLost:
                if reach.not_before > deadline:
                    raise
        self._begin(connection)
        nursery.start_soon(self._keep, connection)

    async def aclose(self) -> None:
        self._closing = True
        try:
            if self.ready:
                with trio.move_on_after(self._options.write_deadline):
                    await self._written()
            if self._connection is not None:
                await self._part(self._connection)
        finally:
            self._lost("the client was closed")

    async def wait_ready(self, call: Call) -> None:
        """Wait for the connection, and for room in it, at most until the call's deadline."""
        with trio.move_on_at(call.deadline):
            while (not self.ready or self.queued > WRITE_LIMIT) and not self._closing:
                await self._change()
        if not self.ready or self.queued > WRITE_LIMIT:
            why = "the service takes nothing" if self.ready else self._why
            why += f"; gave up on {call.pattern!r} after {call.timeout:g} s"
            raise ConnectionLost(self._where, why, sent=False)

    def send(self, body: bytes, raw_id: bytes, call: Call) -> None:
        """Write a request; its answers go to the call."""
        self._calls[raw_id[1:-1].decode()] = call
        self.write(body)

    def forget(self, raw_id: bytes) -> None:
        """Nobody waits for this call any more."""
        self._calls.pop(raw_id[1:-1].decode(), None)

    def write(self, body: bytes, call: Call | None = None) -> None:
        """Queue a packet; it is written with all others of the burst, and `call` confirmed."""
        self._out.append(body)
        self.queued += len(body)
        if call is not None:
            self._unwritten.append((self._sent + self.queued, call))
        self._wake_writer.set()

    def doubt(self) -> None:
        """A call was not answered in time: prefer other connections, until this one answers."""
        self._doubted_until = trio.current_time() + self._options.reconnect_max

    # -- the life of a connection

    async def _keep(self, connection: C) -> None:
        """Use a connection while it lasts, then make it again, until the client closes."""
        failures = 0
        while True:
            began = trio.current_time()
            await self._use(connection)
            # One that ends at once is a failure, too: a full service must not be hammered.
            backoff = self._reach.backoff
            failures = 1 if trio.current_time() - began > backoff.quiet else failures + 1
            # The first failure in a row is tried again at once, as in `Backoff`.
            await trio.sleep(backoff.delay(failures, self._reach.random))
            while not self._closing:
                try:
                    connection = await self._reach.attempt(self._connect)
                except ConnectionLost as error:
                    self._why = error.why
                    continue
                self._begin(connection)
                break
            if self._closing:
                return

    def _begin(self, connection: C) -> None:
        self._connection = connection
        self._out.clear()
        self.queued = 0
        self._doubted_until = 0.0
        self.ready = True
        self._tell()

    async def _use(self, connection: C) -> None:
        if self._connection is not connection:
            return  # the client was closed before this task had its first turn
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, connection)
                why = await self._read(connection)
                nursery.cancel_scope.cancel()
        except BaseException:
            self._lost("the client was closed")
            raise
        self._lost("the client was closed" if self._closing else why)

    async def _write(self, connection: C) -> None:
        try:
            while True:
                while self._out:
                    bodies, self._out = self._out, []
                    size = sum(map(len, bodies))
                    await self._send(connection, bodies)
                    self.queued -= size
                    self._sent += size
                    unwritten = self._unwritten
                    while unwritten and unwritten[0][0] <= self._sent:
                        unwritten.popleft()[1].confirm()
                    self._tell()
                self._wake_writer = trio.Event()
                await self._wake_writer.wait()
        except self._broken:
            # The reader ends the connection, and finds out why.
            self._interrupt(connection)

    async def _written(self) -> None:
        """Wait until what is queued is on its way, or never will be."""
        # Not until nothing is queued: others may go on queueing for ever.
        connection, end = self._connection, self._sent + self.queued
        while self._sent < end and self._connection is connection:
            await self._change()

    def _hand_out(self, answer: Answer) -> None:
        self._doubted_until = 0.0
        if answer.id is None:
            return
        call = self._calls.get(answer.id)
        if call is not None and call.take(answer):
            del self._calls[answer.id]

    def _lost(self, why: str) -> None:
        self.ready = False
        self._why = why
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)
        calls, self._calls = [*self._calls.values(), *(c for _, c in self._unwritten)], {}
        self._unwritten.clear()
        for call in calls:
            call.fail(ConnectionLost(self._where, why))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()


def readable(error: BaseException) -> str:
    """Why a connection could not be made or was lost, in a few words."""
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "connection refused: nothing listens there"
    if isinstance(error, BaseExceptionGroup):
        return readable(error.exceptions[0])
    if isinstance(error, OSError) and error.__cause__ is not None and error.errno is None:
        return readable(error.__cause__)
    text = str(error)
    return text or type(error).__name__
