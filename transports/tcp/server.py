"""The TCP bridge: accepts connections, reads packets, gives them to mailboxes.

Reads big chunks, takes every frame in them and dispatches them all before it reads
on. A connection is not read while one of its messages finds a mailbox full: the
peer is slowed down by TCP itself. The first byte tells the dialect.
"""

import errno
import socket
import time
from typing import Final, NoReturn

import attrs
import trio
from trio.lowlevel import reschedule

from ...actors.envelope import Envelope
from ...actors.errors import PayloadError
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ...supervisors.delivery.intake import Inbound
from ..codec import nest, nestrs
from ..codec.dialect import Dialect, Frames
from ..codec.errors import CodecError
from ..codec.packet import Packet
from ..complaints import Complaints
from ..request import deliver
from .connection import Connection, Flusher, Route, TcpRequest
from .options import TcpOptions
from .poller import Poller

__all__ = ["TcpBridge", "TcpStatistics"]

_CHUNK: Final = 64 * 1024
_ROUTES_KEPT: Final = 1024
_OUT_OF_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


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
        self._services = wiring.services
        self._registry = wiring.services.registry
        self._intake = wiring.services.intake
        self._connections: set[Connection] = set()
        self._routes: dict[bytes, Route] = {}
        self._version = -1
        self._accepted = 0
        self._events = 0
        self._draining = False
        self._complaints = Complaints("understudy.transports.tcp", wiring.path)
        self._flusher: Flusher
        self._poller: Poller
        self._nursery: trio.Nursery

    def open(self) -> None:
        """Nothing of a bridge outlives its incarnation."""

    def close(self, why: str) -> None:
        """Nothing of a bridge outlives its incarnation."""

    async def run(self, incarnation: Incarnation) -> None:
        """Listen until the stop is asked for, then answer what was read."""
        listeners = await self._listen()
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
                    incarnation.announce(self, _url(host, port))
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

    async def _listen(self) -> list[trio.SocketListener]:
        try:
            listeners = await trio.open_tcp_listeners(
                self._port, host=self._host, backlog=self._options.backlog
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"{_url(self._host, self._port)}: cannot listen there: {error.strerror}. "
                "Serve another address or port, or stop what uses this one",
            ) from error
        if self._port == 0:
            # A name with several addresses has a free port of its own on each: one is told.
            for other in listeners[1:]:
                other.socket.close()
            listeners = listeners[:1]
        return listeners

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
            try:
                accepted, address = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                text = f"cannot accept connections for now: {error.strerror}"
                self._complaints.say("accepts that failed", text)
                await trio.sleep(0.1)
                continue
            sock = socket.socket(fileno=accepted.detach())
            sock.setblocking(False)
            if len(self._connections) >= self._options.max_connections:
                text = f"more than {self._options.max_connections} connections; one was refused"
                self._complaints.say("connections over the limit", text)
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted += 1
            peer = f"{address[0]}:{address[1]}"
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
                        self._refuse(connection, "unfinished frames", "a frame stopped half-way")
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
                self._refuse(connection, "broken frames", frames.error)
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
            self._refuse(
                connection,
                "strange protocols",
                "the first byte is neither a frame length (NestJS) nor '{' (nestrs)",
            )
            return None
        connection.frames = connection.dialect.frames(self._options.frame_limit)
        return connection.frames

    def _dispatch(self, connection: Connection, bodies: list[bytes]) -> bool:
        """Give packets to mailboxes up to the first that has to wait; False if one has."""
        if self._version != self._registry.version:
            self._version = self._registry.version
            self._routes.clear()
            for each in self._connections:
                each.latest = None
        frames = connection.frames
        latest = connection.latest if frames is not None and frames.ascii else None
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
            if not self._dispatch_unlike(connection, body):
                connection.bodies.extend(rest)
                return False
            if frames is not None and frames.ascii:
                latest = connection.latest
        return True

    def _dispatch_unlike(self, connection: Connection, body: bytes) -> bool:
        """Give one packet, whatever it is, to its mailbox; False if that has to wait."""
        dialect = connection.dialect
        try:
            packet = dialect.decode_packet(body)
        except CodecError as error:
            answer = dialect.invalid_request()
            if answer is None:
                self._refuse(connection, "packets that are none", str(error))
                return False
            connection.write(answer)
            return True
        if packet is None:
            return True
        connection.in_flight += 1
        if not packet.id:
            connection.event = packet  # it may have to wait for the dead-letter store
            return False
        pattern = bytes(packet.pattern)
        route = self._routes.get(pattern) or self._find(dialect, pattern)
        if route is None:
            self._no_handler(connection, packet)
            return True
        request = TcpRequest(connection, bytes(packet.id), route.handler, route.name)
        try:
            message = route.handler.payload.decode(packet.data)
        except PayloadError as error:
            request.failed(error)
            return True
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return True
        if route.beginning:
            connection.latest = route
        envelope = Envelope(message, route.handler, request, request)
        if route.mailbox.put(envelope):
            return True
        connection.waiting = (route.mailbox, envelope)
        return False

    async def _dispatch_rest(self, connection: Connection) -> None:
        """Wait for what `_dispatch` may not wait for, until the chunk is done with."""
        while True:
            if connection.waiting is not None:
                (mailbox, envelope), connection.waiting = connection.waiting, None
                await deliver(mailbox, envelope)
            elif connection.event is not None:
                packet, connection.event = connection.event, None
                await self._event(connection, packet)
            bodies = list(connection.bodies)
            connection.bodies.clear()
            if connection.over or self._dispatch(connection, bodies):
                break
        await connection.fewer_than(self._options.in_flight)

    def _find(self, dialect: Dialect, pattern: bytes) -> Route | None:
        name = dialect.route(pattern)
        if name is None:
            return None
        target = self._registry.request(name)
        if target is None:
            # As in NestJS, a request to an event's pattern runs its (first) handler.
            targets = self._registry.event(name)
            if not targets:
                return None
            target = targets[0]
        handler = target.handler
        beginning = dialect.beginning(pattern) if handler.payload.fast else None
        decode = dialect.typed_decoder(handler.payload.annotation) if beginning else None
        mailbox = target.cell.mailbox
        route = Route(handler, mailbox, name, beginning or b"", decode or _refuse)
        if len(self._routes) < _ROUTES_KEPT:
            self._routes[pattern] = route
        return route

    async def _event(self, connection: Connection, packet: Packet) -> None:
        pattern = bytes(packet.pattern)
        route = connection.dialect.route(pattern)
        self._events += 1
        inbound = Inbound(
            transport="tcp",
            source=connection.peer,
            pattern=route if route is not None else pattern[:256].decode(errors="replace"),
            data=bytes(packet.data),
            message_id=f"{connection.name}:event-{self._events}",
            first_at=time.time(),
        )
        await self._intake.event(inbound, _EventSettlement(connection))

    def _no_handler(self, connection: Connection, packet: Packet) -> None:
        pattern = bytes(packet.pattern)
        shown = pattern[:100].decode(errors="replace")
        text = f"{connection.peer} asked for {shown}, which nobody handles"
        self._complaints.say("requests without a handler", text)
        connection.answer(connection.dialect.no_handler(bytes(packet.id), pattern))

    def _refuse(self, connection: Connection, kind: str, why: str) -> None:
        self._complaints.say(kind, f"{connection.peer}: {why}; the connection is closed")
        connection.bodies.clear()
        connection.over = True


def _url(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _refuse(_: bytes) -> NoReturn:
    """Stands where a route has no typed decoder; never called, for it has no beginning."""
    raise ValueError


class _EventSettlement:
    """TCP has no acknowledgement; a settled event is one less in flight."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def acknowledge(self) -> None:
        self._connection.finished()

    def give_back(self) -> bool:
        return False
