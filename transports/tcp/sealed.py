"""An accepted connection with TLS: the same as one without, but for its bytes.

What is read is opened before anybody looks at it, and what a burst has collected is sealed
before it is written; nothing else knows of it, and connections without TLS pay nothing.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any

import trio

from .connection import Connection
from .seal import Seal

__all__ = ["SealedConnection"]


class SealedConnection(Connection):
    """The socket of one peer, and TLS on it."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, *rest: Any) -> None:
        super().__init__(sock, *rest)
        self._seal = Seal(context)
        self.recv = self._receive
        self.agreed = False
        self.unfinished_since = trio.current_time()

    def flush(self) -> None:
        if not (self.clogged or self.closed):
            try:
                sealed = self._seal.sealed(b"".join(self.out))
            except ssl.SSLError:
                self.close()
                return
            self.out.clear()
            if sealed:
                self.out.append(sealed)
        super().flush()

    async def hang_up(self) -> None:
        self._say_goodbye()
        await super().hang_up()

    def close(self) -> None:
        self._say_goodbye()
        super().close()

    def _receive(self, size: int) -> bytes:
        """As `recv`: what has come in about `size` bytes, b"" at the end, or `BlockingIOError`.

        It comes back short only when there is no more to read.
        """
        seal, found, length = self._seal, list[bytes](), 0
        while length < size and not seal.ended:
            try:
                data = self.sock.recv(size)
                if not data:
                    break
                opened = seal.opened(data)
            except BlockingIOError:
                if found:
                    break
                self._agree()
                raise
            except ssl.SSLError as error:
                self.refuse("TLS that failed", f"TLS failed ({error.reason or error})")
                return b""
            if opened:
                found.append(opened)
                length += len(opened)
                if len(data) < size:
                    break
        self._agree()
        if seal.ended and self.readable is not None:
            self.readable.ended = True  # the end of TLS makes no edge of its own
        return b"".join(found)

    def _agree(self) -> None:
        """Send what TLS has to say, and note that the handshake is done."""
        if not self.agreed and self._seal.agreed:
            self.agreed = True
            self.unfinished_since = None
        if self._seal.talks and not self.dirty:
            self.mark()

    def _say_goodbye(self) -> None:
        """Nothing may be clogged: it would stand in the midst of a record."""
        if not (self.closed or self.clogged):
            with suppress(OSError):
                self.sock.send(self._seal.farewell())
