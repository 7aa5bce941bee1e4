"""A network that is cut and stalls at will, and brokers of a few words."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

__all__ = ["Proxy", "proxy", "speaking"]


class Proxy:
    """Between clients and a broker: every connection through it can be cut and stalled."""

    def __init__(self, port: int) -> None:
        self.url = ""
        self._port = port
        self._open = trio.Event()
        self._answers = trio.Event()
        self.go_on()
        self._streams: set[trio.SocketStream] = set()
        self.is_down = False
        """Whether connections end as soon as they are made."""

    def cut(self) -> None:
        """End all connections, as a network does: with a reset, and what was on its way is lost."""
        for stream in self._streams:
            linger = b"\1\0\0\0\0\0\0\0"
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            stream.socket.close()
        self._streams.clear()

    def stall(self) -> None:
        """Nothing gets through, and nobody is told."""
        self._open = trio.Event()

    def stall_answers(self) -> None:
        """Nothing of the broker's gets through; it hears everything."""
        self._answers = trio.Event()

    def go_on(self) -> None:
        """All is well again."""
        self._open.set()
        self._answers.set()

    async def serve(self, client: trio.SocketStream) -> None:
        if self.is_down:
            await client.aclose()
            return
        try:
            broker = await trio.open_tcp_stream("127.0.0.1", self._port)
        except OSError:
            await client.aclose()
            return
        self._streams |= {client, broker}
        async with client, broker, trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._carry, client, broker, scope, False)
            nursery.start_soon(self._carry, broker, client, scope, True)
        self._streams -= {client, broker}

    async def _carry(
        self,
        one: trio.SocketStream,
        other: trio.SocketStream,
        until: trio.CancelScope,
        answers: bool,
    ) -> None:
        try:
            while data := await one.receive_some():
                await self._open.wait()
                if answers:
                    await self._answers.wait()
                await other.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        await self._open.wait()  # an end does not get through either
        until.cancel()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy of the broker on a port of this machine."""
    found = Proxy(port)
    async with trio.open_nursery() as nursery:
        found.url = await _listen(nursery, found.serve)
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[str]:
    """A listener that answers with these bytes, one after the other, and then says nothing.

    `%m` in an answer is the packet id of what it answers.
    """

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await answer_all(stream)

    async def answer_all(stream: trio.SocketStream) -> None:
        async with stream:
            for answer in answers:
                data = await stream.receive_some()
                await stream.send_all(answer.replace(b"%m", data[2:4]))
            while await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        yield await _listen(nursery, serve)
        nursery.cancel_scope.cancel()


async def _listen(nursery: trio.Nursery, serve: Any) -> str:
    listen = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
    listeners: Any = await nursery.start(listen)
    return f"mqtt://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
