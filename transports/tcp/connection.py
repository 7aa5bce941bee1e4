"""One accepted connection: its answers on the way out, and what keeps it open.

Answers of a burst are collected and written with one send by the `Flusher`, a
single task for all connections: with a task per connection the switches between
them would cost more than the answers (benchmarks/tcp.py).
"""

import socket
from typing import Any, Final

import trio
from msgspec import UNSET
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from ...actors.encoding import encode, encode_usual
from ..codec.dialect import Frames
from ..complaints import Complaints
from ..direct.dispatch import Route
from ..direct.peer import Peer, PeerRequest
from .poller import Poller, Readiness

__all__ = ["Connection", "Flusher", "TcpRequest"]

_EARLY: Final = 32
"""Answers that are written before the burst is over, so that their peer gets to work."""

_LINGER: Final = 1.0
"""Seconds a peer has to hang up in its turn."""

_DISCARDED: Final = 64 * 1024


class Flusher:
    """Writes what connections have collected, once per burst."""

    def __init__(self) -> None:
        self._dirty: list[Connection] = []
        self._parked: trio.lowlevel.Task | None = None

    def add(self, connection: "Connection") -> None:
        self._dirty.append(connection)
        if self._parked is not None:
            task, self._parked = self._parked, None
            reschedule(task)

    async def run(self) -> None:
        while True:
            while self._dirty:
                dirty, self._dirty = self._dirty, []
                for connection in dirty:
                    connection.flush()
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
        nursery: trio.Nursery,
        write_deadline: float,
        complaints: Complaints,
    ) -> None:
        super().__init__(peer, name, complaints)
        self.sock = sock
        self.frames: Frames | None = None
        # What is left of a chunk while something in it has to wait.
        self.bodies: list[bytes] = []
        self.unfinished_since: float | None = None  # trio time at which a frame began
        self.latest: Route | None = None
        self.readable: Readiness | None = None
        self.dirty = False
        self._flusher = flusher
        self._poller = poller
        self._nursery = nursery
        self._write_deadline = write_deadline

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
        self.over = True

    def flush(self) -> None:
        """Write what is queued, without waiting; a task of its own sends what is left."""
        if self.clogged:
            return
        self.dirty = False
        out = self.out
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
            with trio.move_on_after(_LINGER):
                while True:
                    await trio.lowlevel.wait_readable(self.sock)
                    if not self.sock.recv(_DISCARDED):
                        return
        except (OSError, trio.ClosedResourceError):
            return  # it is gone, which is all that was waited for

    def close(self) -> None:
        """End the connection; what is in flight for it is answered to nobody."""
        if not self.closed:
            self.closed = True
            self.leave()
            self.out.clear()
            self._poller.forget(self.sock)
            self.sock.close()
            if self.changed is not None:
                self.changed.set()

    async def _push(self, data: bytes) -> None:
        """Write to a peer that is slow to take its answers."""
        try:
            rest = memoryview(data)
            while rest:
                with trio.move_on_after(self._write_deadline) as limit:
                    await trio.lowlevel.wait_writable(self.sock)
                if limit.cancelled_caught:
                    text = f"{self.peer} took nothing for {self._write_deadline:g} s; closed"
                    self.complaints.say("peers that do not read", text)
                    self.close()
                    return
                rest = rest[self.sock.send(rest) :]
        except (OSError, trio.ClosedResourceError):
            self.close()
            return
        self.clogged = False
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
        out = connection.out
        out.append(connection.dialect.framed_value(self.raw_id, value_json))
        if not connection.dirty:
            connection.mark()
        elif len(out) == _EARLY:
            connection.flush()
        if connection.changed is not None:
            connection.changed.set()
