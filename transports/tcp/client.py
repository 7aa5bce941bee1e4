"""The TCP client: many calls in flight on each of a few connections.

What calls are and how a lost connection is made again is `direct/`'s; here are the
sockets, and the frames on them. Calls made in one burst are written with one send.
"""

import socket
from contextlib import suppress
from typing import Final

import trio
from trio.lowlevel import wait_readable

from ...actors.errors import ConnectionLost
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..direct.client import DirectClient
from ..direct.line import Line, readable
from ..direct.listening import address
from .options import TcpClientOptions

__all__ = ["TcpClient"]

_CHUNK: Final = 64 * 1024


class TcpClient(DirectClient):
    """A pool of connections to one address."""

    def __init__(self, host: str, port: int, options: TcpClientOptions) -> None:
        super().__init__(address("tcp", host, port), options)
        self._lines = [
            _TcpLine(self.where, host, port, self.dialect, options)
            for _ in range(options.connections)
        ]


class _TcpLine(Line[socket.socket]):
    """One socket, across reconnects."""

    def __init__(
        self, where: str, host: str, port: int, dialect: Dialect, options: TcpClientOptions
    ) -> None:
        super().__init__(where, dialect, options)
        self._host, self._port = host, port
        self._frame_limit = options.frame_limit

    async def _connect(self) -> socket.socket:
        limit = self._options.connect_timeout
        try:
            with trio.fail_after(limit):
                stream = await trio.open_tcp_stream(self._host, self._port)
        except trio.TooSlowError:
            why = f"no connection within {limit:g} s"
        except OSError as error:
            why = readable(error)
        else:
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)
            return sock
        raise ConnectionLost(self._where, why, sent=False)

    async def _read(self, connection: socket.socket) -> str:
        dialect = self._dialect
        frames = dialect.frames(self._frame_limit)
        while True:
            try:
                await wait_readable(connection)
                data = connection.recv(_CHUNK)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                return readable(error)
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

    async def _send(self, connection: socket.socket, bodies: list[bytes]) -> None:
        frame = self._dialect.frame
        rest = memoryview(b"".join([frame(body) for body in bodies]))
        while rest:
            try:
                rest = rest[connection.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(connection)

    def _interrupt(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _close(self, connection: socket.socket) -> None:
        trio.lowlevel.notify_closing(connection)
        connection.close()
