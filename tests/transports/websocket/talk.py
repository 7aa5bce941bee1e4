"""WebSockets as others open them, and the service that they are opened to."""

import base64
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.frame_protocol import FrameProtocol

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import ChildSpec, child

__all__ = ["URL", "Desk", "Raw", "Scene", "Socket", "frame", "raw", "request", "socketed"]

URL: Final = "ws://127.0.0.1:0"
_LIMIT: Final = 10.0
"""Seconds that anything may take here."""


class Desk(Actor):
    def __init__(self, gate: trio.Event, seen: list[Any]) -> None:
        self.gate, self.seen = gate, seen

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern("wait")
    async def wait(self, data: Any) -> Any:
        self.seen.append(data)
        await self.gate.wait()
        return data

    @message_pattern("big")
    async def big(self, size: int) -> str:
        return "x" * size

    @message_pattern("flood")
    async def flood(self, size: int) -> AsyncIterator[str]:
        try:
            for number in range(2_000):
                self.seen.append(number)
                yield "x" * size
        finally:
            self.seen.append("ended")

    @message_pattern("drip")
    async def drip(self, data: Any) -> AsyncIterator[int]:
        try:
            self.seen.append("began")
            yield 1
            await trio.sleep_forever()
        finally:
            self.seen.append("ended")

    @message_pattern("who")
    async def who(self, data: Any, context: MessageContext) -> Any:
        return [context.source, dict(context.headers), context.message_id]

    @message_pattern("refuse")
    async def refuse(self, error: Any) -> None:
        raise RpcError(error)

    @event_pattern("told")
    async def told(self, data: Any, context: MessageContext) -> None:
        self.seen.append([data, dict(context.headers)])

    @event_pattern("hold")
    async def hold(self, data: Any) -> None:
        await self.gate.wait()
        self.seen.append(data)


class Scene:
    """What a test has in hand: the gate that holds `wait`, and what handlers have seen."""

    def __init__(self) -> None:
        self.gate, self.seen = trio.Event(), list[Any]()

    def desk(self, **options: Any) -> ChildSpec:
        return child(Desk, self.gate, self.seen, **{"concurrency": 64, **options})


def request(pattern: str, data: Any = "", id: str = "1") -> str:
    """A request in NestJS's packets."""
    return json.dumps({"pattern": pattern, "data": data, "id": id})


class Socket:
    """A client made of trio-websocket alone."""

    def __init__(self, inner: WebSocketConnection) -> None:
        self.inner = inner

    async def send(self, *messages: str | bytes) -> None:
        with trio.fail_after(_LIMIT):
            for message in messages:
                await self.inner.send_message(message)

    async def receive(self) -> Any:
        """The next message, read as JSON."""
        with trio.fail_after(_LIMIT):
            return json.loads(await self.inner.get_message())

    async def several(self, count: int) -> list[Any]:
        """The next messages, read as JSON."""
        return [await self.receive() for _ in range(count)]

    async def ask(self, pattern: str, data: Any = "", id: str = "1") -> Any:
        """The value of the answer to a request; nothing else may come before it."""
        await self.send(request(pattern, data, id))
        answer = await self.receive()
        assert (answer["id"], answer["isDisposed"]) == (id, True)
        return answer["response"]

    async def closed(self) -> tuple[int, str | None]:
        """How the service closes, without any further message."""
        with trio.fail_after(_LIMIT), pytest.raises(ConnectionClosed) as closed:
            await self.inner.get_message()
        reason = closed.value.reason
        assert reason is not None
        return reason.code, reason.reason


@asynccontextmanager
async def socketed(url: str, path: str = "/", **options: Any) -> AsyncIterator[Socket]:
    """A connection to a service; `options` are those of `wrap_client_stream`."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    stream = await trio.open_tcp_stream(host, port)
    try:
        async with trio.open_nursery() as nursery:
            inner = await wrap_client_stream(nursery, stream, f"{host}:{port}", path, **options)
            yield Socket(inner)
            with trio.move_on_after(_LIMIT):
                await inner.aclose()
            nursery.cancel_scope.cancel()
    finally:
        # Where the service closes first the library leaves this to the garbage collector.
        stream.socket.close()


class Raw:
    """A TCP connection, for bytes that no WebSocket library would send."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        with trio.fail_after(_LIMIT):
            await self.stream.send_all(data)

    async def upgrade(self, **headers: str) -> bytes:
        """Make a handshake; returns the head of the answer."""
        lines = {
            "Host": "service",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.send(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
        answer = b""
        with trio.fail_after(_LIMIT):
            while b"\r\n\r\n" not in answer:
                piece = await self.stream.receive_some()
                assert piece, f"closed after {answer!r}"
                answer += piece
        return answer

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        with trio.fail_after(_LIMIT):
            try:
                async for piece in self.stream:
                    data += piece
            except trio.BrokenResourceError:
                pass  # reset, since it was closed with bytes of ours unread
        return data

    def vanish(self) -> None:
        """Reset the connection, as a peer that crashes does."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Raw]:
    """A TCP connection to where a service listens."""
    parts = urlsplit(url)
    stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
    try:
        yield Raw(stream)
    finally:
        stream.socket.close()


def frame(text: str, *, finished: bool = True) -> bytes:
    """A masked text frame, as a client sends it."""
    return bytes(FrameProtocol(client=True, extensions=[]).send_data(text, fin=finished))
