"""The TCP bridge: accepts connections, reads packets, gives them to mailboxes.

Reads big chunks, takes every frame in them and dispatches them all before it reads
on. A connection is not read while one of its messages finds a mailbox full: the
peer is slowed down by TCP itself. The first byte tells the dialect.
"""

import socket
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
from .connection import Connection, Flusher, TcpRequest
from .options import TcpOptions
from .poller import Poller

__all__ = ["TcpBridge", "TcpStatistics"]

_CHUNK: Final = 64 * 1024


@attrs.frozen
class TcpStatistics:
    """A reading of one bridge; `refused` counts by reason."""

    connections: int
    accepted: int
    in_flight: int
    refused: dict[str, int]


class TcpBridge:
    """Listens on one address; a `Runnable` for its supervisor."""

    def __init__(self, host: str, port: int, options: TcpOptions, wiring: Wiring) -> None:
        self._host, self._port, self._options = host, port, options
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._draining = False
        self._complaints = Complaints("understudy.transports.tcp", wiring.path)
        self._dispatcher = Dispatcher[Connection]("tcp", wiring, self._complaints, TcpRequest)
        self._flusher: Flusher
        self._poller: Poller
        self._nursery: trio.Nursery

    def open(self) -> None:
        """Nothing of a bridge outlives its incarnation."""

    def close(self, why: str) -> None:
        """Nothing of a bridge outlives its incarnation."""

    async def run(self, incarnation: Incarnation) -> None:
        """Listen until the stop is asked for, then answer what was read."""
        listeners = await listen("tcp", self._host, self._port, self._options.backlog)
        self._draining = False
        self._flusher, self._poller = Flusher(), Poller()
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._flusher.run)
                self._nursery.start_soon(self._poller.run)
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener.socket)
                    host, port = listeners[0].socket.getsockname()[:2]
                    # With port 0 too, a restart listens where clients know it.
                    self._port = port
                    incarnation.announce(self, address("tcp", host, port))
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
            self._poller.close()
            self._complaints.close()

    def statistics(self) -> TcpStatistics:
        return TcpStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            in_flight=sum(connection.in_flight for connection in self._connections),
            refused=dict(self._complaints.counts),
        )

    async def _drain(self) -> None:
        """Read nothing more; let what was read be answered."""
        self._draining = True
        for connection in list(self._connections):
            if connection.readable is not None:
                connection.readable.found()  # its reader finds out that nothing is read any more
        while self._connections:
            await next(iter(self._connections)).quiet()
            await trio.lowlevel.checkpoint()

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        while True:
            taken, peer = await accepted(listener, self._complaints)
            sock = socket.socket(fileno=taken.detach())
            sock.setblocking(False)
            if len(self._connections) >= self._options.max_connections:
                text = f"more than {self._options.max_connections} connections; one was refused"
                self._complaints.say("connections over the limit", text)
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted += 1
            connection = Connection(
                sock,
                peer,
                f"tcp-{self._accepted}-{peer}",
                self._flusher,
                self._poller,
                self._nursery,
                self._options.write_deadline,
                self._complaints,
            )
            self._nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        self._connections.add(connection)
        readable = self._poller.watch(connection.sock, lambda: self._take(connection))
        connection.readable = readable
        try:
            while not connection.over:
                if connection.unfinished_since is not None:
                    limit = connection.unfinished_since + self._options.frame_deadline
                    with trio.move_on_at(limit) as deadline:
                        await readable.wait()
                    if deadline.cancelled_caught:
                        connection.refuse("unfinished frames", "a frame stopped half-way")
                else:
                    await readable.wait()
                await self._dispatch_rest(connection)
            # Also after an error in the stream: the good frames before it are answered.
            await connection.quiet()
            if not connection.peer_ended:
                await connection.hang_up()
        except trio.ClosedResourceError:
            pass  # it was closed meanwhile: the peer is gone, or took nothing
        finally:
            self._connections.discard(connection)
            connection.close()

    def _take(self, connection: Connection) -> bool:
        """Read what there is and dispatch it; False if that needs waiting, or it is over.

        Runs in the poller's task, for all connections: it must neither block nor raise.
        """
        options = self._options
        while not self._draining:
            frames = connection.frames
            if frames is not None and frames.error is not None:
                connection.refuse("broken frames", frames.error)
                return False
            try:
                data = connection.sock.recv(_CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                data = b""
            if not data:
                connection.peer_ended = True
                connection.leave()
                break
            frames = frames or self._begin(connection, data)
            if frames is None:
                break
            bodies = frames.feed(data)
            if not frames.partial:
                connection.unfinished_since = None
            elif bodies or connection.unfinished_since is None:
                connection.unfinished_since = trio.current_time()
            if not self._dispatch(connection, bodies):
                return False
            if connection.in_flight >= options.in_flight or connection.clogged or frames.partial:
                return False
            readable = connection.readable
            if len(data) < _CHUNK and frames.error is None and readable and not readable.ended:
                return True
        connection.over = True
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
                "the first byte is neither a frame length (NestJS) nor '{' (nestrs)",
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
        for body in rest:
            # Most requests are like the one before: guess, and read them in one pass.
            if latest is not None and body.startswith(latest.beginning):
                try:
                    packet = latest.decode(body)
                except Exception:  # noqa: BLE001  # of any kind: the long way finds it again
                    pass
                else:
                    connection.in_flight += 1
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
                    connection.bodies.extend(rest)
                    return False
            taken = take(connection, body)
            if taken is False:
                connection.bodies.extend(rest)
                return False
            if taken is not True:
                connection.latest = taken
            if frames is not None and frames.ascii:
                latest = connection.latest
        return True

    async def _dispatch_rest(self, connection: Connection) -> None:
        """Wait for what `_dispatch` may not wait for, until the chunk is done with."""
        while True:
            await self._dispatcher.wait(connection)
            bodies = list(connection.bodies)
            connection.bodies.clear()
            if connection.over or self._dispatch(connection, bodies):
                break
        await connection.fewer_than(self._options.in_flight)
