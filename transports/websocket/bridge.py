"""The WebSocket bridge: accepts connections, reads messages, gives them to mailboxes.

trio-websocket speaks the protocol, in a task of its own for each connection; what peers
make it raise ends their connection and is said, and never reaches this bridge. A
connection is not read while one of its messages finds a mailbox full, and trio-websocket
then reads no further either: the peer is slowed down by TCP itself.
"""

import inspect
import ssl
import traceback
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

import attrs
import trio

from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ..codec import nest, nestrs
from ..codec.dialect import Dialect
from ..complaints import Complaints
from ..direct.dispatch import Dispatcher
from ..direct.listening import accepted, address, listen
from .alive import until_dead
from .connection import NORMAL, TRY_AGAIN, Connection, GatewayRequest, WebSocketRequest
from .gateway import GatewayDialect
from .handshake import Handshake, Refusal, chosen, headers_of, listed, refusal
from .library import ConnectionClosed, host_of
from .options import WebSocketOptions
from .reader import proposed
from .wire import Wire

__all__ = ["WebSocketBridge", "WebSocketStatistics"]

_TURNED_AWAY: Final = 64
"""Connections over the limit that are told so at the same time; further ones are cut off."""

_FAULTS: Final = {1002: "protocol errors", 1007: "protocol errors", 1009: "messages over the limit"}


@attrs.frozen
class WebSocketStatistics:
    """A reading of one bridge; `refused` counts by reason."""

    connections: int
    accepted: int
    in_flight: int
    refused: dict[str, int]


class WebSocketBridge:
    """Listens on one address; a `Runnable` for its supervisor."""

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        tls: ssl.SSLContext | None,
        options: WebSocketOptions,
        wiring: Wiring,
    ) -> None:
        self._host, self._port, self._path = host, port, path
        self._tls, self._options = tls, options
        self._scheme = "wss" if tls else "ws"
        self._origins, self._subprotocols = listed(options.origins), listed(options.subprotocols)
        self._connections: set[Connection] = set()
        self._handshakes: set[trio.CancelScope] = set()
        self._open = 0  # sockets, those in a handshake too
        self._accepted = 0
        self._draining = False
        self._local = True
        gateway = options.dialect == "gateway"
        self._dialect: Dialect = nestrs if options.dialect == "nestrs" else nest
        if gateway:
            self._dialect = GatewayDialect(wiring.services.registry)
        self._complaints = Complaints("understudy.transports.websocket", wiring.path)
        kind = GatewayRequest if gateway else WebSocketRequest
        self._dispatcher = Dispatcher[Connection](self._scheme, wiring, self._complaints, kind)
        self._nursery: trio.Nursery

    def open(self) -> None:
        """Nothing of a bridge outlives its incarnation."""

    def close(self, why: str) -> None:
        """Nothing of a bridge outlives its incarnation."""

    async def run(self, incarnation: Incarnation) -> None:
        """Listen until the stop is asked for, then answer what was read."""
        listeners = await listen(self._scheme, self._host, self._port, self._options.backlog)
        self._draining = False
        try:
            async with trio.open_nursery() as self._nursery:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener.socket)
                    host, port = listeners[0].socket.getsockname()[:2]
                    self._local = ip_address(host).is_loopback
                    # With port 0 too, a restart listens where clients know it.
                    self._port = port
                    incarnation.announce(self, address(self._scheme, host, port) + self._path)
                    await incarnation.stop_asked()
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.socket.close()
                self._drain()
        finally:
            for listener in listeners:
                listener.socket.close()
            for connection in list(self._connections):
                connection.close()
            self._complaints.close()

    def statistics(self) -> WebSocketStatistics:
        return WebSocketStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            in_flight=sum(connection.in_flight for connection in self._connections),
            refused=dict(self._complaints.counts),
        )

    def _drain(self) -> None:
        """Read nothing more; every connection closes itself when what was read is answered."""
        self._draining = True
        for handshake in self._handshakes:
            handshake.cancel()
        for connection in self._connections:
            connection.reading.cancel()

    # -- connections

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        limit = self._options.max_connections
        while True:
            sock, peer = await accepted(listener, self._complaints)
            if self._open >= limit:
                text = f"more than {limit} connections; one was refused"
                self._complaints.say("connections over the limit", text)
                if self._open >= limit + _TURNED_AWAY:
                    sock.close()
                    continue
            self._nursery.start_soon(self._serve, sock, peer, self._open >= limit)
            self._open += 1

    async def _serve(self, sock: trio.socket.SocketType, peer: str, over: bool) -> None:
        wire = Wire(sock, self._options.write_deadline, self._tls)
        try:
            async with trio.open_nursery() as nursery:
                connection = None
                with trio.move_on_after(self._options.handshake_deadline) as deadline:
                    self._handshakes.add(deadline)
                    try:
                        connection = await self._handshake(nursery, wire, peer, over)
                    finally:
                        self._handshakes.discard(deadline)
                if deadline.cancelled_caught and not self._draining:
                    text = f"{peer}: the handshake was not done in time; closed"
                    self._complaints.say("handshakes that failed", text)
                elif connection is not None:
                    await self._talk(nursery, connection)
                nursery.cancel_scope.cancel()
        finally:
            self._open -= 1
            wire.close()

    async def _handshake(
        self, nursery: trio.Nursery, wire: Wire, peer: str, over: bool
    ) -> Connection | None:
        options = self._options
        proposal = await nursery.start(proposed, wire, peer, options.max_message, self._complaints)
        if proposal is None:
            return None
        request = proposal.request
        headers = headers_of(request.headers)
        handshake = Handshake(host_of(request), request.path, headers)
        found = refusal(
            handshake, path=self._path, origins=self._origins, local=self._local
        ) or await self._authorized(handshake)
        if isinstance(found, Refusal):
            self._complaints.say(found.kind, f"{peer}: {found.why}")
            await proposal.reject(found.status)
            return None
        socket = await proposal.accept(chosen(request.proposed_subprotocols, self._subprotocols))
        if socket is None:
            return None
        if over:
            # Only now, since a browser's page is told nothing about a refused handshake.
            with trio.move_on_after(1):
                await socket.aclose(TRY_AGAIN, "too many connections")
            return None
        self._accepted += 1
        return Connection(
            socket,
            wire,
            peer,
            f"{self._scheme}-{self._accepted}-{peer}",
            self._dialect,
            found,
            options.write_limit,
            self._complaints,
        )

    async def _authorized(self, handshake: Handshake) -> Mapping[str, str] | Refusal:
        """The headers that the peer's messages have, or why it may not come in."""
        authorize = self._options.authorize
        if authorize is None:
            return {}
        try:
            admitted = authorize(handshake.headers, handshake.path)
            if inspect.isawaitable(admitted):
                admitted = await admitted
        except Exception as error:  # noqa: BLE001  # the program's own; nobody comes in by it
            # Its text may hold what the peer has sent, a password even.
            place = traceback.extract_tb(error.__traceback__)[-1]
            why = f"authorize raised {type(error).__name__} ({place.filename}:{place.lineno})"
            return Refusal(500, "authorizations that failed", why)
        if isinstance(admitted, Mapping):
            return dict(admitted)
        if admitted is True:
            return {}
        if admitted is False:
            return Refusal(401, "peers without authorization", "authorize did not let it in")
        why = f"authorize returned {type(admitted).__name__}, not True, False or a mapping"
        return Refusal(500, "authorizations that failed", why)

    async def _talk(self, nursery: trio.Nursery, connection: Connection) -> None:
        clients = self._options.clients
        self._connections.add(connection)
        if clients is not None:
            clients.join(connection)
        try:
            nursery.start_soon(connection.write_out)
            nursery.start_soon(self._watch_pings, connection)
            nursery.start_soon(_watch_end, connection)
            if self._options.idle:
                nursery.start_soon(self._watch_idle, connection)
            while not (connection.over or self._draining):
                with trio.CancelScope() as connection.reading:
                    await self._read(connection)
                await self._dispatcher.wait(connection)
                await connection.fewer_than(self._options.in_flight)
            # Also after a message that is none: the good ones before it are answered.
            await connection.quiet()
            if clients is not None:
                clients.part(connection)
            if not connection.closed:
                await connection.hang_up()
        finally:
            if clients is not None:
                clients.part(connection)
            self._connections.discard(connection)
            connection.close()

    async def _read(self, connection: Connection) -> None:
        """Give messages to mailboxes up to the first that has to wait, or the end."""
        receive, take = connection.socket.get_message, self._dispatcher.take
        in_flight = self._options.in_flight
        while not (connection.over or self._draining):
            try:
                message = await receive()
            except ConnectionClosed as closed:
                self._ended(connection, closed)
                return
            connection.active = trio.current_time()
            self._dispatcher.refresh()
            body = message.encode() if isinstance(message, str) else message
            if take(connection, body) is False:
                return
            if connection.in_flight >= in_flight or connection.clogged:
                return

    def _ended(self, connection: Connection, closed: ConnectionClosed) -> None:
        """The peer has closed, has broken the protocol, or is gone."""
        connection.peer_ended = True
        reason = closed.reason
        kind = _FAULTS.get(reason.code) if reason is not None else None
        if kind is not None and reason is not None:
            self._complaints.say(kind, f"{connection.peer}: {reason.reason}; closed")
            connection.end(reason.code, "")
        else:
            connection.close()

    async def _watch_pings(self, connection: Connection) -> None:
        """Find out that the peer is dead."""
        options = self._options
        if await until_dead(
            connection.socket, connection.wire, options.ping_interval, options.ping_timeout
        ):
            text = f"{connection.peer} answers no ping; closed"
            self._complaints.say("peers that are dead", text)
            connection.close()

    async def _watch_idle(self, connection: Connection) -> None:
        """Find out that the peer has nothing to say."""
        while True:
            left = connection.active + self._options.idle - trio.current_time()
            if left <= 0 and not connection.in_flight:
                connection.end(NORMAL, "idle")
                return
            await trio.sleep(max(left, self._options.idle / 4))


async def _watch_end(connection: Connection) -> None:
    """End what streams to a peer that has gone, though nothing of it is read just now."""
    await connection.wire.ended.wait()
    connection.peer_ended = True
    connection.leave()
