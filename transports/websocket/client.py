"""The WebSocket client: many calls in flight on each of a few connections.

What calls are and how a lost connection is made again is `direct/`'s; here are the
handshake and the messages. Calls made in one burst are written with one send.
"""

import ssl
from typing import Final

import attrs
import trio

from ...actors.errors import ConnectionLost
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..direct.client import DirectClient
from ..direct.line import Line, readable
from .alive import until_dead
from .handshake import listed
from .library import (
    ConnectionClosed,
    ConnectionRejected,
    LocalProtocolError,
    WebSocketConnection,
)
from .options import WebSocketClientOptions
from .reader import connected
from .wire import Wire

__all__ = ["Place", "WebSocketClient"]

_REFUSALS: Final = {401: "authorization", 403: "the origin", 404: "the path"}


@attrs.frozen
class Place:
    """Where a service is; `resource` is the path with its query."""

    where: str
    host: str
    port: int
    resource: str
    tls: ssl.SSLContext | None

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class WebSocketClient(DirectClient):
    """A pool of connections to one address."""

    def __init__(self, place: Place, options: WebSocketClientOptions) -> None:
        super().__init__(place.where, options)
        self._lines = [
            _WebSocketLine(place, self.dialect, options) for _ in range(options.connections)
        ]


@attrs.frozen(eq=False)
class _Socket:
    """One connection, and the bytes under it."""

    messages: WebSocketConnection
    wire: Wire


class _WebSocketLine(Line[_Socket]):
    """One connection, across reconnects."""

    _broken = (ConnectionClosed, LocalProtocolError, trio.BrokenResourceError)

    def __init__(self, place: Place, dialect: Dialect, options: WebSocketClientOptions) -> None:
        super().__init__(place.where, dialect, options)
        self._place, self._settings = place, options
        extra = [(name.encode(), value.encode()) for name, value in options.headers.items()]
        if options.origin:
            extra.append((b"Origin", options.origin.encode()))
        self._handshake = {
            "subprotocols": listed(options.subprotocols),
            "extra_headers": extra,
            "max_message_size": options.max_message,
        }

    async def _connect(self) -> _Socket:
        limit = self._options.connect_timeout
        try:
            with trio.fail_after(limit):
                return await self._opened()
        except trio.TooSlowError:
            why = f"no connection within {limit:g} s"
        except ConnectionLost:
            raise
        except ConnectionRejected as rejected:
            status = rejected.status_code
            about = _REFUSALS.get(status)
            why = f"the service refused the handshake ({status}{f', {about}' if about else ''})"
        except OSError as error:
            why = readable(error)
        raise ConnectionLost(self._where, why, sent=False)

    async def _opened(self) -> _Socket:
        place = self._place
        stream = await trio.open_tcp_stream(place.host, place.port)
        wire = Wire(stream.socket, self._settings.write_deadline, place.tls, place.host)
        try:
            try:
                await wire.agree()
            except trio.BrokenResourceError as error:
                # What the TLS library said is the reason; trio's words are about streams.
                why = f"TLS failed: {error.__cause__ or error}"
                raise ConnectionLost(self._where, why, sent=False) from error
            messages = await self._nursery.start(
                connected, wire, place.host_header, place.resource, self._handshake
            )
        except BaseException:
            # Also when cancelled: a half-made TLS stream would be left to the collector.
            wire.close()
            raise
        return _Socket(messages, wire)

    async def _read(self, connection: _Socket) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, connection)
            why = await self._receive(connection)
            nursery.cancel_scope.cancel()
        return why

    async def _receive(self, connection: _Socket) -> str:
        receive, decode = connection.messages.get_message, self._dialect.decode_answer
        while True:
            try:
                message = await receive()
            except ConnectionClosed as closed:
                return self._why_closed(connection, closed)
            try:
                answer = decode(message.encode() if isinstance(message, str) else message)
            except CodecError as error:
                return f"the service answered what is no packet ({error})"
            self._hand_out(answer)

    def _why_closed(self, connection: _Socket, closed: ConnectionClosed) -> str:
        if connection.wire.stuck:
            return "the service takes nothing"
        reason = closed.reason
        if reason is None or reason.code == 1006:
            return self._why if self._why == _SILENT else "the service closed the connection"
        said = f": {reason.reason}" if reason.reason else ""
        return f"the service closed the connection ({reason.code}{said})"

    async def _watch(self, connection: _Socket) -> None:
        """Find out that the service is dead."""
        settings = self._settings
        if await until_dead(
            connection.messages, connection.wire, settings.ping_interval, settings.ping_timeout
        ):
            self._why = _SILENT
            connection.wire.close()

    async def _send(self, connection: _Socket, bodies: list[bytes]) -> None:
        connection.wire.cork()
        for body in bodies:
            await connection.messages.send_message(body.decode())
        await connection.wire.uncork()

    def _interrupt(self, connection: _Socket) -> None:
        connection.wire.close()

    async def _part(self, connection: _Socket) -> None:
        await connection.messages.aclose()

    def _close(self, connection: _Socket) -> None:
        connection.wire.close()


_SILENT: Final = "the service answers no ping"
