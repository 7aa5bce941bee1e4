"""Raw TCP, for bytes that no client and no service of ours would send."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

from understudy.transports.codec import nest

__all__ = ["PROBE", "Wire", "answering", "request", "wired"]

_LIMIT: Final = 5.0
"""Seconds that anything may take here."""

PROBE: Final = nest.frame(b'{"pattern":"echo","data":"probe","id":"probe"}')
_PROBED: Final = nest.frame(b'{"response":"probe","isDisposed":true,"id":"probe"}')


class Wire:
    """One raw connection."""

    def __init__(self, stream: trio.SocketStream, over: trio.abc.Stream | None = None) -> None:
        self.stream = stream
        self.over = over or stream  # TLS, or nothing
        self._frames = nest.frames()
        self._read: list[bytes] = []

    async def send(self, *pieces: bytes) -> None:
        with trio.fail_after(_LIMIT):
            for piece in pieces:
                await self.over.send_all(piece)

    async def bodies(self, count: int, within: float = _LIMIT) -> list[bytes]:
        """The bodies of the next `count` frames."""
        with trio.fail_after(within):
            while len(self._read) < count:
                data = bytes(await self.over.receive_some())
                assert data, f"closed after {self._read} where {count} frames were expected"
                self._read += self._frames.feed(data)
        found, self._read = self._read[:count], self._read[count:]
        return found

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        data = b""
        with trio.fail_after(_LIMIT):
            while len(data) < size:
                piece = await self.over.receive_some(size - len(data))
                assert piece, f"closed after {data!r} where {size} bytes were expected"
                data += piece
        return data

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        with trio.fail_after(_LIMIT):
            try:
                async for piece in self.over:
                    data += piece
            except trio.BrokenResourceError:
                pass  # reset, since it was closed with bytes of ours unread
        return data

    async def probe(self) -> bytes:
        """Ask for an echo; returns what came before its answer."""
        await self.send(PROBE)
        data = b""
        while not data.endswith(_PROBED):
            data += await self.exactly(1)
        return data.removesuffix(_PROBED)

    def vanish(self) -> None:
        """Reset the connection, as a peer that crashes does."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Wire]:
    """A raw connection to a service."""
    parts = urlsplit(url)
    stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
    try:
        yield Wire(stream)
    finally:
        stream.socket.close()


@asynccontextmanager
async def answering(serve: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[str]:
    """A service made of `serve`, which is given every connection; yields its URL."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await serve(Wire(stream))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handle, [listener])
            yield f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()
    finally:
        await listener.aclose()


def request(pattern: str, data: str = '""', id: str = "1") -> bytes:
    """A framed request."""
    return nest.frame(f'{{"pattern":"{pattern}","data":{data},"id":"{id}"}}'.encode())
