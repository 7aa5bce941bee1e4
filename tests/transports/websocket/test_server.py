"""The WebSocket bridge against peers that are slow, strange, hostile or gone."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from understudy.actors.errors import DeclarationError, StartFailed
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ...brokers.certificates import Certificates
from ..serving import Service, hosting, serving, until
from .talk import URL, Scene, frame, raw, request, socketed


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
async def desk(scene: Scene) -> AsyncIterator[Service]:
    async with serving(URL, scene.desk()) as service:
        yield service
        scene.gate.set()


# -- messages -----------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
async def test_a_packet_of_nestjs_is_one_message(desk: Service, binary: bool) -> None:
    body = '{"pattern":"echo","data":"é😀","id":"7"}'
    async with socketed(desk.url) as socket:
        await socket.send(body.encode() if binary else body)

        assert await socket.inner.get_message() == ('{"response":"é😀","isDisposed":true,"id":"7"}')


async def test_a_line_of_nestrs_is_one_message(scene: Scene) -> None:
    async with serving(URL, scene.desk(), dialect="nestrs") as desk:
        async with socketed(desk.url) as socket:
            await socket.send('{"id":"7","kind":"send","pattern":"echo","payload":[1]}')
            assert await socket.inner.get_message() == '{"id":"7","ok":true,"payload":[1]}'

            await socket.send('{"kind":"nonsense"}')
            invalid = '{"id":"0","ok":false,"error":{"message":"invalid request"}}'
            assert await socket.inner.get_message() == invalid
        async with desk.client(dialect="nestrs") as client:
            assert await client.send("echo", {"a": 1}) == {"a": 1}


async def test_a_message_may_come_in_many_frames(desk: Service) -> None:
    body = request("echo", "é😀")
    async with raw(desk.url) as peer:
        await peer.upgrade()
        await peer.send(b"".join(_frames(body)))

        answer = json.dumps({"response": "é😀", "isDisposed": True, "id": "1"}, ensure_ascii=False)
        wanted = answer.replace(" ", "").encode()
        with trio.fail_after(5):
            data = b""
            while wanted not in data:
                data += await peer.stream.receive_some()


def _frames(body: str) -> list[bytes]:
    from wsproto.frame_protocol import FrameProtocol

    protocol = FrameProtocol(client=True, extensions=[])
    last = len(body) - 1
    return [bytes(protocol.send_data(char, fin=at == last)) for at, char in enumerate(body)]


@pytest.mark.parametrize("message", ["[1]", "null", "1", '{"data":1}', '"text"'])
async def test_json_that_is_no_packet_is_ignored(desk: Service, message: str) -> None:
    async with socketed(desk.url) as socket:
        await socket.send(message)

        assert await socket.ask("echo", 1) == 1


@pytest.mark.parametrize("message", ["{", "", b"\xff\xfe", "x" * 100], ids=repr)
async def test_what_is_no_json_closes_after_the_good_messages_before_it_are_answered(
    desk: Service, scene: Scene, message: str | bytes
) -> None:
    async with socketed(desk.url) as good, socketed(desk.url) as bad:
        await bad.send(request("wait", 1), message)
        await until(lambda: desk.statistics().refused == {"packets that are none": 1})
        scene.gate.set()

        assert (await bad.receive())["response"] == 1
        assert await bad.closed() == (1007, "packets that are none")
        assert await good.ask("echo", 1) == 1


async def test_a_message_of_the_limit_is_taken_and_one_over_it_closes(scene: Scene) -> None:
    body = request("echo", "x" * 1000)
    async with serving(URL, scene.desk(), max_message=len(body)) as desk:
        async with socketed(desk.url) as good, socketed(desk.url) as bad:
            await bad.send(body)
            assert (await bad.receive())["response"] == "x" * 1000
            await bad.send(body + " ")

            assert (await bad.closed())[0] == 1009
            assert await good.ask("echo", 1) == 1
        assert desk.statistics().refused == {"messages over the limit": 1}


async def test_a_message_without_end_is_cut_off_and_its_sender_is_told(scene: Scene) -> None:
    more = b"\x00" + frame("x" * 10_000, finished=False)[1:]
    async with serving(URL, scene.desk(), max_message=100_000) as desk, raw(desk.url) as peer:
        await peer.upgrade()
        # Far more than fits into the buffers of both: it is read, though nobody wants it.
        await peer.send(frame("x", finished=False) + more * 1500)
        assert b"\x03\xf1" in await peer.rest()  # 1009

        assert desk.statistics().refused == {"messages over the limit": 1}


# -- peers --------------------------------------------------------------------


async def test_a_peer_that_takes_no_answers_is_cut_off(scene: Scene) -> None:
    async with serving(URL, scene.desk(), write_deadline=0.2) as desk, raw(desk.url) as peer:
        await peer.upgrade()
        await peer.send(frame(request("big", 2_000_000)) * 10)
        await until(lambda: desk.statistics().accepted and not desk.statistics().connections)

        assert desk.statistics().refused == {"peers that do not read": 1}
        async with desk.client() as client:
            assert await client.send("echo", 1) == 1


async def test_a_peer_that_reads_slowly_gets_everything(desk: Service) -> None:
    async with socketed(desk.url) as socket:
        await socket.send(*[request("big", 500_000)] * 20)
        await wait_all_tasks_blocked(0.02)

        sizes = [len(answer["response"]) for answer in await socket.several(20)]
        assert sizes == [500_000] * 20


async def test_a_stream_waits_for_a_peer_that_does_not_read(desk: Service, scene: Scene) -> None:
    async with raw(desk.url) as peer:
        await peer.upgrade()
        await peer.send(frame(request("flood", 20_000)))
        await until(lambda: len(scene.seen) > 10)
        await wait_all_tasks_blocked(0.05)
        assert len(scene.seen) < 2_000

        peer.vanish()
        await until(lambda: scene.seen[-1] == "ended")
    assert len(scene.seen) < 2_000


async def test_a_stream_ends_when_its_peer_leaves_though_no_more_is_read(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight=1) as desk, raw(desk.url) as peer:
        await peer.upgrade()
        await peer.send(frame(request("drip")) + frame(request("echo", 2)))
        await until(lambda: scene.seen == ["began"])

        peer.vanish()
        await until(lambda: scene.seen == ["began", "ended"])


async def test_a_peer_that_vanishes_midrequest_harms_nobody(desk: Service, scene: Scene) -> None:
    async with raw(desk.url) as peer, desk.client() as client:
        await peer.upgrade()
        await peer.send(frame(request("wait", 1)) * 3)
        await until(lambda: len(scene.seen) == 3)
        peer.vanish()
        scene.gate.set()
        await until(lambda: desk.statistics().connections == 1)

        assert await client.send("echo", "still here") == "still here"
        assert desk.statistics().in_flight == 0


async def test_events_sent_before_a_close_are_all_taken(desk: Service, scene: Scene) -> None:
    async with socketed(desk.url) as socket:
        for number in range(100):
            await socket.send(json.dumps({"pattern": "told", "data": number}))

    await until(lambda: len(scene.seen) == 100)
    assert [data for data, _ in scene.seen] == list(range(100))


async def test_a_dead_peer_is_found_and_let_go(scene: Scene) -> None:
    options = {"ping_interval": 0.1, "ping_timeout": 0.1}
    async with serving(URL, scene.desk(), **options) as desk, raw(desk.url) as peer:
        await peer.upgrade()

        assert await peer.rest() == b"\x89\x01?"  # one ping, no answer
        assert desk.statistics().refused == {"peers that are dead": 1}


async def test_a_peer_that_answers_pings_or_is_not_read_for_long_is_alive(scene: Scene) -> None:
    options = {"ping_interval": 0.05, "ping_timeout": 0.2, "in_flight": 1}
    async with serving(URL, scene.desk(), **options) as desk:
        async with socketed(desk.url) as quiet, socketed(desk.url) as held:
            # More than is read ahead, so that no pong can be seen behind it.
            await held.send(request("wait", 0), *[request("wait", 1)] * 40)
            await trio.sleep(0.8)
            assert desk.statistics().connections == 2

            scene.gate.set()
            assert [answer["response"] for answer in await held.several(41)] == [0] + [1] * 40
            assert await quiet.ask("echo", 1) == 1
        assert desk.statistics().refused == {}


async def test_a_peer_that_takes_its_time_over_a_big_answer_is_alive(scene: Scene) -> None:
    options = {"ping_interval": 0.05, "ping_timeout": 0.1}
    async with serving(URL, scene.desk(), **options) as desk, raw(desk.url) as peer:
        await peer.upgrade()
        await peer.send(frame(request("big", 9_000_000)) * 2)
        await trio.sleep(0.6)

        data, wanted = b"", 2 * (9_000_000 + 10 + len('{"response":"","isDisposed":true,"id":"1"}'))
        with trio.fail_after(20):
            while len(data.replace(b"\x89\x01?", b"")) < wanted:
                if len(data) < wanted // 2:  # later it may have all that it will ever read
                    assert desk.statistics().refused == {}
                data += await peer.stream.receive_some(1 << 20)
        answer = b'{"response":"' + b"x" * 9_000_000 + b'","isDisposed":true,"id":"1"}'
        assert data.count(answer) == 2


async def test_a_peer_that_has_nothing_to_say_is_let_go(scene: Scene) -> None:
    async with serving(URL, scene.desk(), idle=0.2) as desk:
        async with socketed(desk.url) as busy, socketed(desk.url) as silent:
            await busy.send(request("wait", 1))
            assert await silent.closed() == (1000, "idle")

            scene.gate.set()
            assert (await busy.receive())["response"] == 1
            assert await busy.closed() == (1000, "idle")


async def test_a_peer_that_is_held_up_is_not_idle(scene: Scene) -> None:
    async with serving(URL, scene.desk(mailbox=1, concurrency=1), idle=0.1) as desk:
        async with socketed(desk.url) as socket:
            await socket.send(*[request("wait", 1)] * 5)
            await trio.sleep(0.3)
            scene.gate.set()

            assert [answer["response"] for answer in await socket.several(5)] == [1] * 5


async def test_more_connections_than_allowed_are_told_to_try_again(scene: Scene) -> None:
    async with serving(URL, scene.desk(), max_connections=2) as desk:
        async with socketed(desk.url) as first, socketed(desk.url) as second:
            async with socketed(desk.url) as third:
                assert await third.closed() == (1013, "too many connections")
            assert await first.ask("echo", 1) == await second.ask("echo", 1) == 1

        await until(lambda: desk.statistics().connections == 0)
        async with socketed(desk.url) as later:
            assert await later.ask("echo", 1) == 1
        assert desk.statistics().refused == {"connections over the limit": 1}


async def test_no_more_than_some_over_the_limit_are_told_the_others_are_cut_off(
    scene: Scene,
) -> None:
    async with serving(URL, scene.desk(), max_connections=1) as desk, socketed(desk.url) as first:
        async with AsyncExitStack() as stack:
            # None of these has made its handshake yet, so none goes by itself.
            for _ in range(64):
                await stack.enter_async_context(raw(desk.url))
            last = await stack.enter_async_context(raw(desk.url))
            assert await last.rest() == b""
            assert await first.ask("echo", 1) == 1

        assert desk.statistics().refused["connections over the limit"] == 65


async def test_many_connections_that_come_and_go_leave_nothing_behind(desk: Service) -> None:
    for _ in range(5):
        async with AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(socketed(desk.url)) for _ in range(10)]
            assert [await socket.ask("echo", 1) for socket in sockets] == [1] * 10

    await until(lambda: desk.statistics().connections == 0)
    assert (desk.statistics().accepted, desk.statistics().in_flight) == (50, 0)


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(["{", "[1]", '{"pattern":1}', "\x00", request("echo")[:20]]).map(frame),
    st.text(max_size=50).map(frame),
    st.text(max_size=20).map(lambda text: frame(text, finished=False)),
    st.sampled_from(
        [
            b"\x88\x80\0\0\0\0",  # close
            b"\x89\x80\0\0\0\0",  # ping
            b"\x8a\x80\0\0\0\0",  # pong
            b"\x88\x81\0\0\0\0\x01",  # close with half a code
            b"\x81\xff" + b"\xff" * 8 + bytes(4),  # an absurd length
            b"\x81\x01x",  # no mask
            b"\xf1\x80\0\0\0\0",  # reserved bits
            b"\x81\x82\0\0\0\0\xff\xfe",  # text that is not UTF-8
            b"\x82\x82\0\0\0\0\xff\xfe",  # bytes that are not UTF-8
            frame(request("wait", 1)),
            frame('{"pattern":"told","data":1}'),
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(PIECES, max_size=8))
async def test_no_bytes_can_harm_the_service_or_another_connection(
    upgraded: bool, pieces: list[bytes]
) -> None:
    scene = Scene()
    async with serving(URL, scene.desk()) as desk, socketed(desk.url) as good:
        async with raw(desk.url) as bad:
            with suppress(trio.BrokenResourceError):  # closed before it had all of them
                if upgraded:
                    await bad.upgrade()
                for piece in pieces:
                    await bad.send(piece)
            assert await good.ask("echo", 1) == 1
        scene.gate.set()
        assert await good.ask("echo", 2) == 2
        await until(lambda: desk.statistics().connections == 1)


# -- start and stop -----------------------------------------------------------


async def test_a_port_in_use_fails_the_start_and_is_named(desk: Service, scene: Scene) -> None:
    with pytest.raises(StartFailed) as caught:
        async with serving(desk.url, scene.desk()):
            pass

    assert f"{desk.url}: " in str(caught.value.__cause__)
    assert "address already in use" in str(caught.value.__cause__).lower()


async def test_a_stop_answers_what_was_read_and_says_that_it_goes_away(scene: Scene) -> None:
    async with hosting(URL, scene.desk()) as desk:
        async with socketed(desk.url) as busy, socketed(desk.url) as idle:
            await busy.send(request("wait", "x" * 1_000_000, "big"), request("wait", 2, "small"))
            await until(lambda: len(scene.seen) == 2)
            desk.system.stop()
            assert (await idle.closed())[0] == 1001
            with suppress(ConnectionClosed):
                await busy.send(request("echo", 3))
            scene.gate.set()

            answers = {answer["id"]: answer["response"] for answer in await busy.several(2)}
            assert answers == {"big": "x" * 1_000_000, "small": 2}
            assert (await busy.closed())[0] == 1001


async def test_a_stop_does_not_wait_for_handshakes(scene: Scene) -> None:
    async with hosting(URL, scene.desk()) as desk, raw(desk.url) as peer:
        await wait_all_tasks_blocked(0.01)
        desk.system.stop()
        with trio.fail_after(5):
            await desk.system.stopped()

        assert await peer.rest() == b""


# -- TLS ----------------------------------------------------------------------


async def test_tls_carries_the_same_messages(scene: Scene, certificates: Certificates) -> None:
    tls = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}
    async with serving("wss://127.0.0.1:0", scene.desk(), **tls) as desk:
        url = desk.system.addresses()["shop/bridge"]
        assert url.startswith("wss://127.0.0.1:")
        async with raw(url) as plain:
            await plain.send(b"GET / HTTP/1.1\r\n\r\n")
            await plain.rest()
        async with connect(url, tls_ca=str(certificates.authority)) as client:
            assert await client.send("echo", "x" * 1_000_000) == "x" * 1_000_000
            with trio.move_on_after(0.01):
                await client.send("wait", 1)
            assert (await client.send("who"))[2].startswith("wss-")
        scene.gate.set()


def test_tls_without_a_certificate_and_a_certificate_without_tls_are_refused(
    certificates: Certificates, tmp_path: Any
) -> None:
    with pytest.raises(DeclarationError, match=r"wss:// needs a certificate: tls_cert="):
        serve("wss://127.0.0.1:0")
    with pytest.raises(DeclarationError, match="a certificate is for wss://, not for ws://"):
        serve("ws://127.0.0.1:0", tls_cert=str(certificates.chain))
    with pytest.raises(DeclarationError, match="TLS cannot be set up: No such file"):
        serve("wss://127.0.0.1:0", tls_cert=str(tmp_path / "none.pem"))
    with pytest.raises(DeclarationError, match="tls and tls_ca are for wss://, not for ws://"):
        connect("ws://127.0.0.1:1", tls_ca=str(certificates.authority))


# -- installation -------------------------------------------------------------


def test_a_library_that_is_not_installed_is_told_with_the_line_that_mends_it() -> None:
    program = (
        "import sys; sys.modules['trio_websocket'] = None\n"
        "from understudy import serve\n"
        "serve('ws://127.0.0.1:0')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "needs trio-websocket, which is not installed: " in done.stderr
    assert "pip install 'understudy[websocket]'" in done.stderr
