"""The byte stream under a WebSocket: writes are collected, deadlines kept, ends noticed.

trio-websocket writes every message with a send of its own, and waits for its peer without
limit. Through this stream the messages of a burst leave together, a peer that takes nothing
is given up, and whoever waits for a handshake is told when the bytes have ended.
"""

import socket
import ssl
from contextlib import suppress
from typing import Final

import trio

__all__ = ["Wire"]

_PIECE: Final = 64 * 1024
"""Bytes that a peer must take within the write deadline."""

_HELD: Final = 256 * 1024
"""Bytes that are held back at most while a burst is collected."""


class Wire(trio.abc.Stream):
    """One connection's bytes, encrypted or not; `name` is the service's, for its clients."""

    def __init__(
        self,
        sock: trio.socket.SocketType,
        write_deadline: float,
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
    ) -> None:
        self.ended = trio.Event()  # nothing more can be read
        self.heard = trio.current_time()
        self.receiving = False
        self.sending = False
        self.stuck = False  # the peer took nothing for as long as it may
        self._socket = socket.socket(fileno=sock.detach())
        self._socket.setblocking(False)
        plain = trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))
        self._tls: trio.SSLStream[trio.SocketStream] | None = None
        if tls is not None:
            self._tls = trio.SSLStream(
                plain,
                tls,
                server_hostname=name,
                server_side=name is None,
                https_compatible=True,  # who closes does not wait for the other
            )
        self._stream: trio.abc.Stream = self._tls or plain
        self._write_deadline = write_deadline
        self._lingering = False
        self._read: trio.Event | None = None
        self._lock = trio.Lock()
        self._corked = False
        self._held: list[bytes] = []
        self._size = 0

    async def agree(self) -> None:
        """Make the handshake of TLS, if there is one. Raises `BrokenResourceError`."""
        if self._tls is not None:
            await self._tls.do_handshake()

    def cork(self) -> None:
        """Collect what is sent from now on."""
        self._corked = True

    async def uncork(self) -> None:
        """Send what was collected; raises `BrokenResourceError` as every send does."""
        self._corked = False
        await self._flush()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._held.append(bytes(data))
        self._size += len(data)
        if not self._corked or self._size > _HELD:
            await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._lingering:
            # What still comes is thrown away, and only one may read.
            await self.ended.wait()
            return b""
        self.receiving = True
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except BaseException:
            self.ended.set()
            raise
        finally:
            self.receiving = False
            if self._read is not None:
                self._read.set()
        self.heard = trio.current_time()
        if not data:
            self.ended.set()
        return data

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """End the connection at once, without a good-bye in TLS: WebSocket has its own."""
        self.ended.set()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def linger(self) -> None:
        """Say that no more comes, and wait until the peer hangs up, too.

        Closing while unread data lies in the socket would reset the connection, and what
        the peer has not read yet would be lost with it.
        """
        self._lingering = True
        with suppress(OSError, trio.ClosedResourceError):
            self._socket.shutdown(socket.SHUT_WR)
            if self.receiving:
                self._read = trio.Event()
                await self._read.wait()
            while not self.ended.is_set():
                await trio.lowlevel.wait_readable(self._socket)
                if not self._socket.recv(_PIECE):
                    break
        self.ended.set()

    async def _flush(self) -> None:
        # One at a time, and in order: the next one waits here, not in the stream.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            self._held.clear()
            self._size = 0
            self.sending = True
            try:
                for start in range(0, len(data), _PIECE):
                    await self._send(data[start : start + _PIECE] if len(data) > _PIECE else data)
            finally:
                self.sending = False
        finally:
            self._lock.release()

    async def _send(self, piece: bytes) -> None:
        if self._tls is None:
            # Nearly always all of it goes at once, and nobody has to wait for anything.
            try:
                sent = self._socket.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise trio.BrokenResourceError from None
            if sent == len(piece):
                return
            piece = piece[sent:]
        with trio.move_on_after(self._write_deadline) as limit:
            try:
                await self._stream.send_all(piece)
            except trio.ClosedResourceError:
                raise trio.BrokenResourceError from None  # closed by us meanwhile: no more to say
        if limit.cancelled_caught:
            self.stuck = True
            self.close()
            raise trio.BrokenResourceError
