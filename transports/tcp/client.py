"""The TCP client: many calls in flight on each of a few connections.

What calls are and how a lost connection is made again is `direct/`'s; here are the
sockets, and the frames on them. Calls made in one burst are written with one send.
"""

import errno
import socket
import ssl
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
from .alive import keep_alive
from .options import TcpClientOptions
from .seal import Seal

__all__ = ["TcpClient"]

_CHUNK: Final = 64 * 1024


class TcpClient(DirectClient):
    """A pool of connections to one address."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, options: TcpClientOptions
    ) -> None:
        super().__init__(address("tcps" if tls else "tcp", host, port), options)
        self._lines = [
            _TcpLine(self.where, host, port, tls, self.dialect, options)
            for _ in range(options.connections)
        ]


class _TcpLine(Line[socket.socket]):
    """One socket, across reconnects."""

    def __init__(
        self,
        where: str,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        dialect: Dialect,
        options: TcpClientOptions,
    ) -> None:
        super().__init__(where, dialect, options)
        self._host, self._port, self._tls = host, port, tls
        self._frame_limit, self._keepalive = options.frame_limit, options.keepalive
        self._seal: Seal | None = None
        self._stuck = False

    async def _connect(self) -> socket.socket:
        limit = self._options.connect_timeout
        try:
            with trio.fail_after(limit):
                return await self._opened()
        except trio.TooSlowError:
            why = f"no connection within {limit:g} s"
        except ConnectionLost:
            raise
        except ssl.SSLError as error:
            why = f"TLS failed: {_said(error)}"
        except OSError as error:
            why = readable(error)
        raise ConnectionLost(self._where, why, sent=False)

    async def _opened(self) -> socket.socket:
        stream = await trio.open_tcp_stream(self._host, self._port)
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            sock.setblocking(False)
            keep_alive(sock, self._keepalive)
            self._stuck = False
            if self._tls is not None:
                self._seal = Seal(self._tls, self._host)
                await self._agree(sock, self._seal)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _agree(self, sock: socket.socket, seal: Seal) -> None:
        """Make TLS's handshake."""
        seal.begin()
        while True:
            await self._push(sock, seal.waiting())
            if seal.agreed:
                return
            await wait_readable(sock)
            data = sock.recv(_CHUNK)
            if not data:
                why = "the service hung up in TLS's handshake; does it speak TLS?"
                raise ConnectionLost(self._where, why, sent=False)
            try:
                seal.opened(data)
            except ssl.SSLError:
                with suppress(OSError):
                    sock.send(seal.waiting())  # so that the service knows why
                raise

    async def _read(self, connection: socket.socket) -> str:
        dialect, seal = self._dialect, self._seal
        frames = dialect.frames(self._frame_limit)
        while True:
            try:
                await wait_readable(connection)
                data = connection.recv(_CHUNK)
                ended = not data
                if seal is not None and data:
                    data, ended = seal.opened(data), seal.ended
            except BlockingIOError:
                continue
            except ssl.SSLError as error:
                return f"TLS failed: {_said(error)}"
            except (OSError, trio.ClosedResourceError) as error:
                return readable(error)
            for body in frames.feed(data):
                try:
                    answer = dialect.decode_answer(body)
                except CodecError as error:
                    return f"the service answered what is no packet ({error})"
                self._hand_out(answer)
            if frames.error is not None:
                return f"the service sent a broken frame ({frames.error})"
            if self._stuck:
                return f"the service took nothing for {self._options.write_deadline:g} s"
            if ended:
                return "the service closed the connection"

    async def _send(self, connection: socket.socket, bodies: list[bytes]) -> None:
        frame = self._dialect.frame
        data = b"".join([frame(body) for body in bodies])
        await self._push(connection, data if self._seal is None else self._seal.sealed(data))

    async def _push(self, connection: socket.socket, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[connection.send(rest) :]
            except BlockingIOError:
                with trio.move_on_after(self._options.write_deadline) as limit:
                    await trio.lowlevel.wait_writable(connection)
                if limit.cancelled_caught:
                    self._stuck = True
                    raise TimeoutError(errno.ETIMEDOUT, "the service takes nothing") from None

    async def _part(self, connection: socket.socket) -> None:
        if self._seal is not None:
            with suppress(OSError):
                connection.send(self._seal.farewell())

    def _interrupt(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _close(self, connection: socket.socket) -> None:
        trio.lowlevel.notify_closing(connection)
        connection.close()


def _said(error: ssl.SSLError) -> str:
    """What OpenSSL has against it, without its own bookkeeping."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate does not hold ({error.verify_message})"
    return (error.reason or error.strerror or str(error)).replace("_", " ").lower()
