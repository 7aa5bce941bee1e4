"""The TCP bridge: accepts connections, reads packets, gives them to mailboxes.

Takes every frame of a read and dispatches them all before it reads on. A connection is
not read while one of its messages finds a mailbox full: the peer is slowed down by TCP
itself. The first byte tells the dialect.

Peers share one task and one processor, so none may keep it: a turn is one read and a
bounded number of packets, those who have more to read take turns, and time that was spent
on packets of no use is paid for with a longer time of not being read.
"""

import socket
import ssl
from typing import Final

import attrs
import trio
from trio.lowlevel import reschedule

from ...actors.envelope import Envelope
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ..codec import nest, nestrs
from ..codec.dialect import Frames
from ..complaints import Complaints
from ..direct.dispatch import Dispatcher
from ..direct.listening import accepted, address, listen
from .alive import keep_alive
from .connection import Connection, Flusher, TcpRequest
from .options import TcpOptions
from .poller import Poller
from .quota import Quota
from .sealed import SealedConnection
from .unread import Unread
from .watch import watch

__all__ = ["TcpBridge", "TcpStatistics"]

_BIG: Final = 64 * 1024
"""Bytes of one read, at most."""

_SMALL: Final = 512
_READS: Final = 16
"""Reads of one turn in which no packet ends."""

_FEW: Final = 96
"""Packets of a full read below which more is read at once."""

_TURN: Final = 128
"""Packets of one turn."""

_WASTE: Final = 0.000_5
_PRICE: Final = 20
"""Seconds spent on packets of no use that have to be paid for, and how many times over."""

_PAYING: Final = 64
"""Peers that are kept for what they owe, when there is nothing more to read of them."""


@attrs.frozen
class TcpStatistics:
    """A reading of one bridge; `refused` counts by reason."""

    connections: int
    accepted: int
    in_flight: int
    refused: dict[str, int]


class TcpBridge:
    """Listens on one address; a `Runnable` for its supervisor."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        options: TcpOptions,
        wiring: Wiring,
    ) -> None:
        self._host, self._port, self._tls, self._options = host, port, tls, options
        self._scheme = "tcps" if tls else "tcp"
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._draining = False
        self._complaints = Complaints("understudy.transports.tcp", wiring.path)
        self._dispatcher = Dispatcher[Connection](
            self._scheme, wiring, self._complaints, TcpRequest
        )
        self._quota = Quota(options.in_flight_total)
        self._unread = Unread(options.write_limit)
        self._payments: set[trio.CancelScope] = set()
        self._paying = trio.Lock()
        self._flusher: Flusher
        self._poller: Poller
        self._nursery: trio.Nursery

    def open(self) -> None:
        """Nothing of a bridge outlives its incarnation."""

    def close(self, why: str) -> None:
        """Nothing of a bridge outlives its incarnation."""

    async def run(self, incarnation: Incarnation) -> None:
        """Listen until the stop is asked for, then answer what was read."""
        listeners = await listen(self._scheme, self._host, self._port, self._options.backlog)
        self._draining = False
        # The last incarnation's messages may still be at work: they count there.
        self._quota, self._paying = Quota(self._options.in_flight_total), trio.Lock()
        self._flusher, self._poller = Flusher(self._quota), Poller()
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._flusher.run)
                self._nursery.start_soon(self._poller.run)
                self._nursery.start_soon(watch, self._connections, self._options)
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener.socket)
                    host, port = listeners[0].socket.getsockname()[:2]
                    # With port 0 too, a restart listens where clients know it.
                    self._port = port
                    incarnation.announce(self, address(self._scheme, host, port))
                    await incarnation.stop_asked()
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.socket.close()
                await self._drain()
                self._nursery.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()
            for connection in list(self._connections):
                connection.close()
            self._connections.clear()
            self._poller.close()
            self._complaints.close()

    def statistics(self) -> TcpStatistics:
        return TcpStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            in_flight=self._quota.in_flight,
            refused=dict(self._complaints.counts),
        )

    async def _drain(self) -> None:
        """Read nothing more; let what was read be answered."""
        self._draining = True
        for payment in self._payments:
            payment.cancel()
        for connection in list(self._connections):
            if connection.readable is not None:
                connection.readable.interrupt()
        while self._connections:
            await next(iter(self._connections)).quiet()
            await trio.lowlevel.checkpoint()

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        options = self._options
        while True:
            taken, peer = await accepted(listener, self._complaints)
            sock = socket.socket(fileno=taken.detach())
            sock.setblocking(False)
            if len(self._connections) >= options.max_connections:
                text = f"more than {options.max_connections} connections; one was refused"
                self._complaints.say("connections over the limit", text)
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock, options.keepalive)
            self._accepted += 1
            connection = self._connection(sock, peer)
            self._connections.add(connection)
            self._nursery.start_soon(self._serve, connection)

    def _connection(self, sock: socket.socket, peer: str) -> Connection:
        name = f"{self._scheme}-{self._accepted}-{peer}"
        parts = self._flusher, self._poller, self._quota, self._unread, self._nursery
        if self._tls is None:
            return Connection(sock, peer, name, *parts, self._options, self._complaints)
        return SealedConnection(
            self._tls, sock, peer, name, *parts, self._options, self._complaints
        )

    async def _serve(self, connection: Connection) -> None:
        readable = self._poller.watch(connection.sock, lambda: self._take(connection))
        connection.readable = readable
        try:
            while not (connection.over or self._draining):
                await readable.wait()
                await self._dispatch_rest(connection)
            # Also after an error in the stream: the good frames before it are answered.
            await connection.quiet()
            if connection.wasted > _WASTE and len(self._payments) < _PAYING:
                await self._pay(connection)
            if not connection.peer_ended:
                await connection.hang_up()
        except trio.ClosedResourceError:
            pass  # it was closed meanwhile: the peer is gone, or took nothing
        finally:
            self._connections.discard(connection)
            connection.close()

    def _take(self, connection: Connection) -> bool:
        """Read what there is and dispatch it; False if that needs waiting, or it is over.

        Runs in the poller's task, for all connections: it must neither block nor raise,
        and it takes one turn at most.
        """
        quota, readable = self._quota, connection.readable
        if self._draining or connection.over or readable is None:
            return False
        if quota.in_flight >= quota.limit:
            quota.wait(readable)
            return True
        for _ in range(_READS):
            size, frames = connection.chunk, connection.frames
            if frames is not None and frames.error is not None:
                connection.refuse("broken frames", frames.error)
                return False
            try:
                data = connection.recv(size)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            if not data:
                if not connection.over:
                    connection.peer_ended = connection.over = True
                    connection.leave()
                return False
            connection.heard = True
            frames = frames or self._begin(connection, data)
            if frames is None:
                return False
            bodies = frames.feed(data)
            if not frames.partial:
                connection.unfinished_since = None
            elif bodies or connection.unfinished_since is None:
                connection.unfinished_since = trio.current_time()
            count = len(bodies)
            if count:
                if count > _TURN:
                    connection.chunk = max(size // 2, _SMALL)
                    connection.bodies = bodies
                    return False
                if not self._dispatch(connection, bodies):
                    return False
                if (
                    connection.in_flight >= self._options.in_flight
                    or connection.clogged
                    or connection.wasted > _WASTE
                ):
                    return False
            if len(data) >= size:
                if count < _FEW:
                    connection.chunk = min(size * 2, _BIG)
            elif frames.error is None and not readable.ended:
                return True
            if count:
                return False  # it has had its turn
        return False

    def _begin(self, connection: Connection, data: bytes) -> Frames | None:
        """Tell the dialect by the first byte; None if it is neither."""
        if data[:1].isdigit() or data[:1] == b" ":
            connection.dialect = nest
        elif data[:1] == b"{":
            connection.dialect = nestrs
        else:
            connection.refuse(
                "strange protocols",
                "the first byte is neither a frame length (NestJS) nor '{' (nestrs)"
                + (", but one of TLS, which is for tcps://" if data[:1] == b"\x16" else ""),
            )
            return None
        connection.frames = connection.dialect.frames(self._options.frame_limit)
        return connection.frames

    def _dispatch(self, connection: Connection, bodies: list[bytes]) -> bool:
        """Give packets to mailboxes up to the first that has to wait; False if one has."""
        if self._dispatcher.refresh():
            for each in self._connections:
                each.latest = None
        frames = connection.frames
        latest = connection.latest if frames is not None and frames.ascii else None
        take = self._dispatcher.take
        rest = iter(bodies)
        given = 0
        try:
            for body in rest:
                # Most requests are like the one before: guess, and read them in one pass.
                if latest is not None and body.startswith(latest.beginning):
                    try:
                        packet = latest.decode(body)
                    except Exception:  # noqa: BLE001  # of any kind: the long way finds it again
                        pass
                    else:
                        given += 1
                        handler = latest.handler
                        request = TcpRequest(connection, bytes(packet.id), handler, latest.name)
                        envelope = Envelope(packet.data, handler, request, request)
                        # `mailbox.put(envelope)`, without the call.
                        mailbox = latest.mailbox
                        queue = mailbox.queue
                        if len(queue) < mailbox.limit:
                            queue.append(envelope)
                            if mailbox.parked:
                                reschedule(mailbox.parked.pop())
                            continue
                        if mailbox.put(envelope):
                            continue
                        connection.waiting = (mailbox, envelope)
                        connection.bodies[:0] = rest
                        return False
                taken = take(connection, body)
                if taken is False:
                    connection.bodies[:0] = rest
                    return False
                if taken is not True:
                    connection.latest = taken
                if frames is not None and frames.ascii:
                    latest = connection.latest
            return True
        finally:
            # None of them can have been answered yet: they are only in mailboxes.
            connection.in_flight += given
            connection.quota.in_flight += given

    async def _dispatch_rest(self, connection: Connection) -> None:
        """Wait for what `_take` may not wait for, until the read is done with."""
        while True:
            await self._dispatcher.wait(connection)
            if connection.wasted > _WASTE and not connection.over:
                text = f"{connection.peer} sends packets of no use; it is read slowly"
                self._complaints.say("peers that waste time", text)
                await self._pay(connection)
            bodies = connection.bodies
            if connection.over or not bodies:
                break
            connection.bodies = bodies[_TURN:]
            if self._dispatch(connection, bodies[:_TURN]) and connection.bodies:
                await self._poller.turn()
        await connection.fewer_than(self._options.in_flight)
        if connection.unfinished_since is not None:
            # Time in which it was not read is not the peer's.
            connection.unfinished_since = trio.current_time()

    async def _pay(self, connection: Connection) -> None:
        """Wait for the time that was wasted, one connection after another."""
        with trio.CancelScope() as payment:
            self._payments.add(payment)
            try:
                async with self._paying:
                    if not self._draining:
                        await trio.sleep(connection.wasted * _PRICE)
            finally:
                self._payments.discard(payment)
        connection.wasted = 0.0
