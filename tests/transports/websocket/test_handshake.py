"""Who may connect: origins, paths, authorization, subprotocols, and what is no handshake."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionRejected

from understudy.transports.websocket.handshake import Handshake, chosen, headers_of, refusal

from ..serving import serving, until
from .talk import URL, Scene, raw, socketed

STRANGER = "https://evil.example"
ALLOWED = ("https://shop.example", "http://localhost:8000")


@pytest.mark.parametrize(
    ("origin", "host", "local", "good"),
    [
        (None, "shop.example", False, True),
        ("https://shop.example", "other.example", False, True),
        ("HTTPS://Shop.Example", "other.example", False, True),
        ("http://shop.example", "other.example", False, False),
        ("https://shop.example:8443", "other.example", False, False),
        ("https://shop.example.evil.example", "other.example", False, False),
        (STRANGER, "127.0.0.1:3001", False, False),
        ("null", "127.0.0.1:3001", True, False),
        ("", "127.0.0.1:3001", True, False),
        ("http://[", "127.0.0.1:3001", True, False),
        ("http://127.0.0.1:3001", "127.0.0.1:3001", True, True),
        ("http://127.0.0.1:9", "127.0.0.1:3001", True, False),
        ("http://[::1]:3001", "[::1]:3001", True, True),
        ("http://localhost:3001", "localhost:3001", True, True),
        ("http://here.example", "here.example", False, True),
        ("http://here.example", "here.example:80", False, True),
        ("https://here.example", "here.example:443", False, True),
        ("ftp://here.example", "here.example", False, False),
        # A stranger's name that has been given the address 127.0.0.1.
        ("http://rebound.example:3001", "rebound.example:3001", True, False),
    ],
)
def test_a_page_may_connect_from_its_own_host_and_from_listed_origins(
    origin: str | None, host: str, local: bool, good: bool
) -> None:
    headers = {} if origin is None else {"origin": origin}
    found = refusal(Handshake(host, "/", headers), path="", origins=ALLOWED, local=local)

    assert (found is None) is good
    if found is not None:
        assert (found.status, found.kind) == (403, "origins that may not connect")


@pytest.mark.parametrize(
    ("served", "asked", "good"),
    [("", "/any", True), ("/chat", "/chat", True), ("/chat", "/chat?room=1", True)]
    + [("/chat", "/", False), ("/chat", "/chat/x", False), ("/chat", "/Chat", False)],
)
def test_a_path_is_the_only_one_that_is_served(served: str, asked: str, good: bool) -> None:
    found = refusal(Handshake("host", asked, {}), path=served, origins=(), local=True)

    assert (found is None) is good
    if found is not None:
        assert found.status == 404


def test_the_first_of_our_subprotocols_that_is_offered_is_chosen() -> None:
    assert chosen(["b", "a"], ["a", "b"]) == "a"
    assert chosen(["c"], ["a", "b"]) is None
    assert chosen([], ["a"]) is chosen(["a"], []) is None


def test_headers_that_come_twice_are_joined_and_not_lost() -> None:
    assert headers_of([(b"X-A", b"1"), (b"x-a", b"2"), (b"b", b"\xe9")]) == {
        "x-a": "1, 2",
        "b": "é",
    }


async def status_of(url: str, path: str = "/", **headers: str) -> int:
    """What a handshake is answered with."""
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        async with socketed(url, path, extra_headers=extra) as socket:
            assert await socket.ask("echo", 1) == 1
        return 101
    except* ConnectionRejected as group:
        (rejected,) = group.exceptions
        while isinstance(rejected, BaseExceptionGroup):
            (rejected,) = rejected.exceptions
    assert isinstance(rejected, ConnectionRejected)
    return rejected.status_code


async def test_a_strange_origin_is_refused_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(URL, Scene().desk(), origins="https://a.example, http://b.example") as desk:
        own = desk.url.replace("ws://", "http://")

        assert await status_of(desk.url, Origin=STRANGER) == 403
        assert await status_of(desk.url, Origin="http://b.example") == 101
        assert await status_of(desk.url, Origin=own) == 101
        assert await status_of(desk.url) == 101

        assert desk.statistics().refused == {"origins that may not connect": 1}
    assert "a page of https://evil.example may not connect; origins='...' names" in caplog.text


async def test_a_path_in_the_url_is_the_only_one() -> None:
    async with serving(URL + "/chat", Scene().desk()) as desk:
        assert desk.url.endswith("/chat")
        assert await status_of(desk.url, "/") == 404
        assert await status_of(desk.url, "/chat") == 101
        async with desk.client() as client:
            assert await client.send("echo", 1) == 1


async def test_authorize_decides_and_what_it_knows_is_in_the_messages_headers() -> None:
    def authorize(headers: Mapping[str, str], path: str) -> bool | Mapping[str, str]:
        if headers.get("authorization") != "Bearer good":
            return False
        return {"user": path.rpartition("=")[2]}

    scene = Scene()
    async with serving(URL, scene.desk(), authorize=authorize) as desk:
        assert await status_of(desk.url) == 401
        assert await status_of(desk.url, Authorization="Bearer bad") == 401

        headers = [(b"Authorization", b"Bearer good")]
        async with socketed(desk.url, "/?user=ada", extra_headers=headers) as socket:
            source, known, message_id = await socket.ask("who", id="7")
            await socket.send('{"pattern":"told","data":1}')
            await until(lambda: scene.seen)

        assert known == {"user": "ada"}
        assert (source in message_id, message_id[-4:]) == (True, ':"7"')
        assert scene.seen == [[1, {"user": "ada"}]]
        assert desk.statistics().refused == {"peers without authorization": 2}


async def test_authorize_may_wait_and_is_given_as_long_as_a_handshake() -> None:
    gate = trio.Event()

    async def authorize(headers: Mapping[str, str], path: str) -> bool:
        if path == "/slow":
            await trio.sleep_forever()
        await gate.wait()
        return True

    options = {"authorize": authorize, "handshake_deadline": 0.3}
    async with serving(URL, Scene().desk(), **options) as desk:
        async with raw(desk.url) as slow:
            await slow.send(HANDSHAKE.replace(b"GET /", b"GET /slow"))
            assert await slow.rest() == b""
        gate.set()
        assert await status_of(desk.url) == 101


def raising(headers: Mapping[str, str], path: str) -> bool:
    raise KeyError("a secret")


@pytest.mark.parametrize(
    ("authorize", "why"),
    [
        (raising, "authorize raised KeyError"),
        (lambda headers, path: None, "authorize returned NoneType, not True, False or a mapping"),
    ],
    ids=["raises", "returns nothing"],
)
async def test_an_authorize_that_fails_lets_nobody_in_and_is_said(
    authorize: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(URL, Scene().desk(), authorize=authorize) as desk:
        assert await status_of(desk.url) == 500

        assert desk.statistics().refused == {"authorizations that failed": 1}
    assert why in caplog.text
    assert "a secret" not in caplog.text


async def test_a_subprotocol_is_agreed_on() -> None:
    async with serving(URL, Scene().desk(), subprotocols="v2, v1") as desk:
        async with socketed(desk.url, subprotocols=["v1", "v2"]) as socket:
            assert socket.inner.subprotocol == "v2"
        async with socketed(desk.url) as socket:
            assert socket.inner.subprotocol is None


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"\x16\x03\x01\x02\x00",
        b"10#{}\r\n\r\n",
        HANDSHAKE.replace(b"Host: x", b"Host: \xff"),
        HANDSHAKE.replace(b"13", b"12"),
    ],
    ids=["no upgrade", "post", "huge header", "tls", "tcp packet", "bad host", "old version"],
)
async def test_what_is_no_handshake_is_closed_at_once(sent: bytes) -> None:
    async with serving(URL, Scene().desk()) as desk:
        async with raw(desk.url) as peer:
            await peer.send(sent + b"\r\n\r\n")
            answer = await peer.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        await until(lambda: sum(desk.statistics().refused.values()) == 1)

        assert await status_of(desk.url) == 101


@pytest.mark.parametrize("sent", [b"", HANDSHAKE[:40]], ids=["nothing", "half of it"])
async def test_a_handshake_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    options: dict[str, Any] = {"handshake_deadline": 0.1}
    async with serving(URL, Scene().desk(), **options) as desk, raw(desk.url) as peer:
        await peer.send(sent)
        assert await peer.rest() == b""

        assert desk.statistics().refused == {"handshakes that failed": 1}
