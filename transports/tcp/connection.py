"""One accepted connection: its answers on the way out, and what keeps it open.

Answers of a burst are collected and written with one send by the `Flusher`, a
single task for all connections: with a task per connection the switches between
them would cost more than the answers (benchmarks/tcp.py).
"""

import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from typing import Any, Final

import trio
from msgspec import UNSET
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from ...actors.encoding import encode, encode_usual
from ..codec.dialect import Frames
from ..complaints import Complaints
from ..direct.dispatch import Route
from ..direct.peer import Peer, PeerRequest
from .options import TcpOptions
from .poller import Poller, Readiness
from .quota import Quota
from .unread import Unread

__all__ = ["Connection", "Flusher", "TcpRequest"]

_EARLY: Final = 32
"""Answers that are written before the burst is over, so that their peer gets to work."""

_LINGER: Final = 1.0
"""Seconds a peer has to hang up in its turn, or to take some of what it has not taken yet."""

_DISCARDED: Final = 64 * 1024

_REFUSED: Final = 0.001
"""Seconds that a peer owes for a connection that had to be closed for what it sent."""

_CHUNK: Final = 4 * 1024
"""Bytes of a connection's first read; the more its packets have, the more are read at once."""


class Flusher:
    """Writes what connections have collected, once per burst."""

    def __init__(self, quota: Quota) -> None:
        self._dirty: list[Connection] = []
        self._parked: trio.lowlevel.Task | None = None
        self._quota = quota

    def add(self, connection: "Connection") -> None:
        self._dirty.append(connection)
        if self._parked is not None:
            task, self._parked = self._parked, None
            reschedule(task)

    def wake(self) -> None:
        """Messages are finished, though there is nothing to write."""
        if self._parked is not None:
            task, self._parked = self._parked, None
            reschedule(task)

    async def run(self) -> None:
        while True:
            while self._dirty:
                dirty, self._dirty = self._dirty, []
                for connection in dirty:
                    connection.flush()
            if self._quota.waiting:
                self._quota.resume()
            if self._dirty:
                continue
            self._parked = current_task()
            await wait_task_rescheduled(self._leave)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED


class Connection(Peer):
    """The socket of one peer."""

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        name: str,
        flusher: Flusher,
        poller: Poller,
        quota: Quota,
        unread: Unread,
        nursery: trio.Nursery,
        options: TcpOptions,
        complaints: Complaints,
    ) -> None:
        super().__init__(peer, name, complaints)
        self.sock = sock
        self.recv: Callable[[int], bytes] = sock.recv
        self.chunk = _CHUNK
        self.frames: Frames | None = None
        # What is left of a chunk while something in it has to wait.
        self.bodies: list[bytes] = []
        self.unfinished_since: float | None = None  # trio time at which a frame began
        self.agreed = True  # on how to speak: there is a handshake where TLS is
        self.heard = False  # since the bridge has looked last
        self.silent_since = trio.current_time()
        self.latest: Route | None = None
        self.readable: Readiness | None = None
        self.dirty = False
        self.quota = quota
        self._unread = unread
        self._pushed = 0  # bytes that `_push` has still to write
        self._flusher = flusher
        self._poller = poller
        self._nursery = nursery
        self._write_deadline = options.write_deadline

    def began(self) -> None:
        self.in_flight += 1
        self.quota.in_flight += 1

    def answer(self, body: bytes) -> None:
        self.quota.in_flight -= 1
        super().answer(body)
        if self.quota.waiting:
            self._flusher.wake()

    def finished(self) -> None:
        self.quota.in_flight -= 1
        super().finished()
        if self.quota.waiting:
            self._flusher.wake()

    def write(self, body: bytes) -> None:
        """Queue the body of a packet; it is on its way when the burst is over."""
        if self.closed:
            return
        self.out.append(self.dialect.frame(body))
        if not self.dirty:
            self.mark()

    def mark(self) -> None:
        """Something is queued: have it written when the burst is over."""
        self.dirty = True
        self._flusher.add(self)

    def refuse(self, kind: str, why: str) -> None:
        self.complaints.say(kind, f"{self.peer}: {why}; the connection is closed")
        self.bodies.clear()
        self.wasted += _REFUSED
        self.over = True

    def flush(self) -> None:
        """Write what is queued, without waiting; a task of its own sends what is left."""
        self.dirty = False
        out = self.out
        if self.clogged:
            self._count()
            return
        if self.closed or not out:
            out.clear()
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self.clogged = True
            self._nursery.start_soon(self._push, data[sent:])
            self._pushed = len(data) - sent
            self._count()
        elif self.changed is not None:
            self.changed.set()

    async def hang_up(self) -> None:
        """Say that no more comes, and let the peer take what is on its way.

        Closing while unread data lies in the socket would reset the connection, and the
        answers that the peer has not read yet would be lost with it.
        """
        if self.closed:
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
            left = _untaken(self.sock)
            while True:
                with trio.move_on_after(_LINGER):
                    while True:
                        await trio.lowlevel.wait_readable(self.sock)
                        if not self.sock.recv(_DISCARDED):
                            return
                before, left = left, _untaken(self.sock)
                if left in (0, before):
                    return
        except (OSError, trio.ClosedResourceError):
            return  # it is gone, which is all that was waited for

    def close(self) -> None:
        """End the connection; what is in flight for it is answered to nobody."""
        if not self.closed:
            self.closed = True
            self.clogged = False
            self._unread.count(self, 0)
            self.leave()
            self.out.clear()
            if self.readable is not None:
                self.quota.forget(self.readable)
            self._poller.forget(self.sock)
            self.sock.close()
            if self.changed is not None:
                self.changed.set()

    def cut_off(self, why: str) -> None:
        """The peer takes too little of its answers."""
        self.complaints.say("peers that do not read", f"{self.peer} {why}; closed")
        self.close()

    def _count(self) -> None:
        self._unread.count(self, self._pushed + sum(map(len, self.out)))

    async def _push(self, data: bytes) -> None:
        """Write to a peer that is slow to take its answers."""
        try:
            rest = memoryview(data)
            while rest and not self.closed:
                with trio.move_on_after(self._write_deadline) as limit:
                    await trio.lowlevel.wait_writable(self.sock)
                if limit.cancelled_caught:
                    self.cut_off(f"took nothing for {self._write_deadline:g} s")
                    return
                rest = rest[self.sock.send(rest) :]
                self._pushed = len(rest)
        except (OSError, trio.ClosedResourceError):
            self.close()
        if self.closed:
            return
        self.clogged = False
        self._unread.count(self, 0)
        self.dirty = False
        if self.out:
            self.dirty = True
            self._flusher.add(self)
        if self.changed is not None:
            self.changed.set()


class TcpRequest(PeerRequest[Connection], gc=False):
    """A request that came over TCP."""

    async def ready(self) -> None:
        connection = self.connection
        if len(connection.out) >= _EARLY:
            # A generator that never waits must not fill the memory, nor keep the others out.
            connection.flush()
            await trio.lowlevel.checkpoint()
        if connection.clogged:
            await connection.fewer_than(1 << 62)
        if connection.closed:
            self._abandon()

    def succeeded(self, value: Any) -> None:
        if not self.open:
            return
        self.open = False
        connection = self.connection
        if value is UNSET or (value is None and self.handler.void):
            self._end_stream()
            connection.answer(connection.dialect.end(self.raw_id))
            return
        try:
            value_json = encode_usual(value)
        except Exception:  # noqa: BLE001  # `encode` finds it again, and may know better
            try:
                value_json = encode(value)
            except TypeError as error:
                self._unwritable(error)
                return
        # `answer`, without the calls in between: this is done for nearly every message.
        connection.in_flight -= 1
        connection.quota.in_flight -= 1
        out = connection.out
        out.append(connection.dialect.framed_value(self.raw_id, value_json))
        if not connection.dirty:
            connection.mark()
        elif len(out) == _EARLY:
            connection.flush()
        if connection.changed is not None:
            connection.changed.set()


def _untaken(sock: socket.socket) -> int:
    """Bytes on their way that the peer's system has not taken yet, where that can be known."""
    if sys.platform != "linux":
        return 0
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
