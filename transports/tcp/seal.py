"""TLS without sockets: bytes from the network in, what they say out, and the other way round.

A socket that Python's `ssl` has wrapped reads each record with two system calls; here one
read takes all that has come, and whoever reads until it would block need not know that TLS
may hold something back. Source: `ssl.MemoryBIO` and `ssl.SSLObject` of the standard library.
"""

import ssl
from contextlib import suppress
from typing import Final

__all__ = ["Seal"]

_RECORD: Final = 16 * 1024
"""The most that one record of TLS holds."""


class Seal:
    """One connection's TLS; `name` is the service's, for its clients."""

    def __init__(self, context: ssl.SSLContext, name: str | None = None) -> None:
        self.agreed = False  # the handshake is done
        self.ended = False  # the other side has said good-bye
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=name is None, server_hostname=name
        )

    def begin(self) -> None:
        """Have a client's first bytes `waiting`."""
        self._shake_hands()

    def opened(self, data: bytes) -> bytes:
        """All that these bytes say, which may be nothing yet. Raises `ssl.SSLError`.

        What there is to be said to them, in a handshake above all, is then `waiting`.
        """
        self._incoming.write(data)
        if not (self.agreed or self._shake_hands()):
            return b""
        read = self._tls.read
        found: list[bytes] = []
        try:
            while piece := read(_RECORD):
                found.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return found[0] if len(found) == 1 else b"".join(found)

    def sealed(self, data: bytes) -> bytes:
        """These bytes for the network, after whatever was `waiting`. Raises `ssl.SSLError`."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        return self._outgoing.read()

    @property
    def talks(self) -> bool:
        """Whether TLS itself has something to say."""
        return self._outgoing.pending > 0

    def waiting(self) -> bytes:
        """What TLS itself has to say."""
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """The last bytes: that no more will come, or why."""
        # The other side's is not waited for, and there may be nothing to part from.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._outgoing.read()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.agreed = True
        return True
