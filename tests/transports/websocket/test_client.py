"""The WebSocket client against services that refuse, fall silent or talk nonsense."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from understudy.actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from understudy.transports.client import connect

from ...brokers.certificates import Certificates
from ..serving import serving, until
from .talk import URL, Scene


@asynccontextmanager
async def answering(handle: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """A service made of `handle`, which is given every connection; yields its URL."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await handle(stream)
        finally:
            stream.socket.close()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, guarded, [listener])
            yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()
    finally:
        await listener.aclose()


def talking(
    talk: Callable[[WebSocketConnection], Awaitable[None]],
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """What answers a handshake and then talks, until the client closes."""

    async def handle(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            socket = await request.accept()
            with suppress(ConnectionClosed):
                await talk(socket)
            nursery.cancel_scope.cancel()

    return handle


async def failing(url: str, **options: Any) -> ConnectionLost:
    with trio.fail_after(10), pytest.raises(ConnectionLost) as caught:
        async with connect(url, **options) as client:
            await client.send("echo", 1)
    return caught.value


async def test_headers_origin_path_and_subprotocol_reach_the_service() -> None:
    seen: list[Any] = []

    def authorize(headers: Any, path: str) -> bool:
        seen.append((headers["x-token"], headers["origin"], path))
        return True

    options: dict[str, Any] = {"authorize": authorize, "origins": "https://a.example"}
    async with serving(URL + "/chat", Scene().desk(), **options) as desk:
        async with desk.client(headers={"X-Token": "t"}, origin="https://a.example") as client:
            assert await client.send("echo", 1) == 1

    assert seen == [("t", "https://a.example", "/chat")]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"origin": "https://evil.example"}, "refused the handshake (403, the origin)"),
        ({}, "refused the handshake (401, authorization)"),
    ],
    ids=["origin", "authorization"],
)
async def test_a_refusal_is_told_with_its_reason(options: dict[str, str], why: str) -> None:
    async with serving(URL, Scene().desk(), authorize=lambda headers, path: False) as desk:
        lost = await failing(desk.url, **options)

        assert str(lost).startswith(f"{desk.url}: the service {why}")
        assert not lost.sent


def test_headers_must_be_a_mapping() -> None:
    with pytest.raises(DeclarationError, match="'headers' must be a mapping, got list"):
        connect(URL, headers=[("a", "b")])


async def test_a_certificate_that_is_not_trusted_is_told(certificates: Certificates) -> None:
    tls = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}
    async with serving("wss://127.0.0.1:0", Scene().desk(), **tls) as desk:
        lost = await failing(desk.system.addresses()["shop/bridge"])

    assert "TLS failed" in str(lost)
    assert "certificate verify failed" in str(lost)


async def nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def hanging_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def no_websocket(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def garbage(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"\x00\x01\x02 nothing of HTTP\r\n\r\n")
    await stream.receive_some()


@pytest.mark.parametrize(
    ("handle", "why"),
    [
        (nothing, "no connection within 0.3 s"),
        (hanging_up, "the service ended the handshake"),
        (no_websocket, "the service refused the handshake (200)"),
        (garbage, "what the service answered is no handshake"),
    ],
    ids=["silent", "hangs up", "no websocket", "garbage"],
)
async def test_what_is_no_websocket_service_is_told(handle: Any, why: str) -> None:
    async with answering(handle) as url:
        lost = await failing(url, connect_timeout=0.3 if handle is nothing else 5.0)

    assert why in str(lost)
    assert not lost.sent


async def test_an_answer_that_is_no_packet_fails_the_calls_at_once() -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await socket.get_message()
        await socket.send_message("{")
        await socket.get_message()

    async with answering(talking(talk)) as url:
        lost = await failing(url)

    assert "the service answered what is no packet" in str(lost)


async def test_a_close_is_told_with_its_code_and_reason() -> None:
    async def talk(socket: WebSocketConnection) -> None:
        await socket.get_message()
        await socket.aclose(4001, "go elsewhere")

    async with answering(talking(talk)) as url:
        lost = await failing(url)

    assert "the service closed the connection (4001: go elsewhere)" in str(lost)
    assert lost.sent


async def test_an_answer_over_the_limit_ends_the_connection() -> None:
    async with serving(URL, Scene().desk()) as desk:
        async with desk.client(max_message=1000) as client:
            with pytest.raises(ConnectionLost, match=r"1009: Exceeded maximum message size"):
                await client.send("big", 2000)

            assert len(await client.send("big", 100)) == 100


async def test_a_service_that_falls_silent_is_found_out_and_its_calls_fail() -> None:
    async def mute(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            nursery.cancel_scope.cancel()  # nobody reads any more, and nothing is closed
        await trio.sleep_forever()

    async with answering(mute) as url:
        lost = await failing(url, ping_interval=0.1, ping_timeout=0.1)

    assert "the service answers no ping" in str(lost)


async def test_a_service_that_takes_nothing_is_given_up() -> None:
    async def mute(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            await request.accept()
            nursery.cancel_scope.cancel()
        await trio.sleep_forever()

    async with answering(mute) as url, connect(url, write_deadline=0.2) as client:
        with trio.fail_after(10), pytest.raises(ConnectionLost, match="the service takes nothing"):
            await client.emit("echo", "x" * 50_000_000)


async def test_a_call_that_is_given_up_leaves_the_connection_to_the_others() -> None:
    scene = Scene()
    async with serving(URL, scene.desk()) as desk, desk.client() as client:
        with pytest.raises(RequestTimeout):
            await client.send("wait", 1, timeout=0.05)
        assert await client.send("echo", 2) == 2
        assert desk.statistics().accepted == 1
        scene.gate.set()


async def test_calls_are_spread_over_several_connections() -> None:
    async with serving(URL, Scene().desk()) as desk:
        async with desk.client(connections=3) as client:
            sources = {(await client.send("who"))[0] for _ in range(9)}
            assert len(sources) == 3
        await until(lambda: desk.statistics().connections == 0)


async def test_a_closed_client_says_good_bye() -> None:
    codes: list[int] = []

    async def talk(socket: WebSocketConnection) -> None:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()
        assert closed.value.reason is not None
        codes.append(closed.value.reason.code)

    async with answering(talking(talk)) as url:
        async with connect(url):
            pass
        await until(lambda: codes)

    assert codes == [1000]
