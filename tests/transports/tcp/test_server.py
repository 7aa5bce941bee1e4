"""The TCP bridge against peers that are slow, strange, hostile or gone."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from understudy.actors.errors import StartFailed
from understudy.transports.codec import nest

from ..serving import Service, hosting, serving, until
from .desk import Scene
from .wire import PROBE, request, wired

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
async def desk(scene: Scene) -> AsyncIterator[Service]:
    async with serving(URL, scene.desk()) as service:
        yield service
        scene.gate.set()


def answer(data: str, id: str = "1") -> bytes:
    return nest.frame(f'{{"response":{data},"isDisposed":true,"id":"{id}"}}'.encode())


# -- bytes --------------------------------------------------------------------


async def test_a_request_may_come_in_any_two_pieces(desk: Service) -> None:
    whole = request("echo", '"é😀"')
    async with wired(desk.url) as wire:
        for cut in range(1, len(whole)):
            await wire.send(whole[:cut])
            await wait_all_tasks_blocked(0.001)
            await wire.send(whole[cut:])
            assert await wire.exactly(len(answer('"é😀"'))) == answer('"é😀"')


async def test_a_request_may_come_byte_by_byte(desk: Service) -> None:
    async with wired(desk.url) as wire:
        for byte in request("echo", '"é😀"'):
            await wire.send(bytes([byte]))
            await wait_all_tasks_blocked(0.001)

        assert await wire.exactly(len(answer('"é😀"'))) == answer('"é😀"')


async def test_both_dialects_are_spoken_on_one_port_at_once(desk: Service) -> None:
    line = b'{"id":"7","kind":"send","pattern":"echo","payload":[1]}\n'
    reply = b'{"id":"7","ok":true,"payload":[1]}\n'
    async with wired(desk.url) as ours, wired(desk.url) as theirs:
        await ours.send(request("echo", "[1]"), request("echo", "[2]"))
        await theirs.send(line, line)

        assert await ours.exactly(2 * len(answer("[1]"))) == answer("[1]") + answer("[2]")
        assert await theirs.exactly(len(reply) * 2) == reply * 2


async def test_a_line_that_is_no_request_is_answered_and_the_next_one_too(desk: Service) -> None:
    good = b'{"id":"7","kind":"send","pattern":"echo","payload":1}\n'
    async with wired(desk.url) as wire:
        await wire.send(b'{"kind":"nonsense"}\n{\n' + good)

        invalid = b'{"id":"0","ok":false,"error":{"message":"invalid request"}}\n'
        expected = invalid * 2 + b'{"id":"7","ok":true,"payload":1}\n'
        assert await wire.exactly(len(expected)) == expected


async def test_a_stream_asked_for_in_nestrs_is_an_error_and_not_a_silence(desk: Service) -> None:
    async with wired(desk.url) as wire:
        await wire.send(b'{"id":"7","kind":"send","pattern":"count","payload":3}\n')

        expected = b'{"id":"7","ok":false,"error":{"message":"Internal server error"}}\n'
        assert await wire.exactly(len(expected)) == expected


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"-5#", b"["], ids=repr)
async def test_a_first_byte_of_neither_dialect_ends_the_connection(
    desk: Service, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(desk.url) as wire:
        await wire.send(first)
        assert await wire.rest() == b""

    assert desk.statistics().refused == {"strange protocols": 1}
    assert "the first byte is neither a frame length (NestJS) nor '{' (nestrs)" in caplog.text


async def test_a_frame_of_the_limit_is_taken_and_one_over_it_ends_the_connection(
    scene: Scene,
) -> None:
    whole = request("echo", '"' + "x" * 100 + '"')
    limit = len(whole.partition(b"#")[2])
    async with serving(URL, scene.desk(), frame_limit=limit) as desk:
        async with wired(desk.url) as wire:
            await wire.send(whole, request("echo", '"' + "x" * 101 + '"'))
            assert await wire.rest() == answer('"' + "x" * 100 + '"')

        assert desk.statistics().refused == {"broken frames": 1}


async def test_an_absurd_length_ends_the_connection_before_its_body_comes(desk: Service) -> None:
    async with wired(desk.url) as wire:
        await wire.send(b"99999999999#")

        assert await wire.rest() == b""


@pytest.mark.parametrize(
    "piece", [b"9", b'50#{"pattern"', b'{"id"'], ids=["header", "body", "line"]
)
async def test_a_frame_that_stops_halfway_ends_the_connection_after_a_while(
    scene: Scene, piece: bytes
) -> None:
    async with serving(URL, scene.desk(), frame_deadline=0.05) as desk:
        async with wired(desk.url) as wire:
            await wire.send(piece)
            assert await wire.rest() == b""

        assert desk.statistics().refused == {"unfinished frames": 1}


async def test_a_frame_that_trickles_in_is_cut_off_all_the_same(scene: Scene) -> None:
    async with serving(URL, scene.desk(), frame_deadline=0.1) as desk, wired(desk.url) as wire:
        await wire.send(b"5000#{")
        for _ in range(50):
            await wait_all_tasks_blocked(0.01)
            with suppress(trio.BrokenResourceError):
                await wire.send(b" ")

        assert desk.statistics().refused == {"unfinished frames": 1}


# -- peers --------------------------------------------------------------------


async def test_a_peer_that_takes_no_answers_is_cut_off(scene: Scene) -> None:
    async with serving(URL, scene.desk(), write_deadline=0.1) as desk, wired(desk.url) as wire:
        await wire.send(*[request("big", "2000000")] * 10)
        await until(lambda: desk.statistics().accepted and not desk.statistics().connections)

        assert desk.statistics().refused == {"peers that do not read": 1}
        async with desk.client() as client:
            assert await client.send("echo", 1) == 1


async def test_a_peer_that_reads_slowly_gets_everything(desk: Service) -> None:
    frame = answer('"' + "x" * 500_000 + '"')
    async with wired(desk.url) as wire:
        await wire.send(*[request("big", "500000")] * 20)
        await wait_all_tasks_blocked(0.02)

        for _ in range(20):
            assert await wire.exactly(len(frame)) == frame


async def test_a_stream_waits_for_a_peer_that_does_not_read(desk: Service, scene: Scene) -> None:
    async with wired(desk.url) as wire:
        await wire.send(request("flood", "20000"))
        await wait_all_tasks_blocked(0.05)
        assert 0 < len(scene.seen) < 2_000

        wire.vanish()
        await until(lambda: scene.seen[-1] == "ended")
    assert len(scene.seen) < 2_000


async def test_a_peer_that_vanishes_midrequest_harms_nobody(desk: Service, scene: Scene) -> None:
    async with wired(desk.url) as wire, desk.client() as client:
        await wire.send(*[request("wait", "1")] * 3)
        await until(lambda: len(scene.seen) == 3)
        wire.vanish()
        scene.gate.set()
        await until(lambda: desk.statistics().connections == 1)

        assert await client.send("echo", "still here") == "still here"
        assert desk.statistics().in_flight == 0


@pytest.mark.parametrize(
    "last",
    [b"3#[1]", PROBE, nest.frame(b'{"pattern":"told"}')],
    ids=["nothing", "request", "event"],
)
async def test_a_peer_that_leaves_in_the_moment_of_its_last_bytes_is_let_go(
    desk: Service, last: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(desk.url).port or 0)) as raw:
        await until(lambda: desk.statistics().connections == 1)
        raw.sendall(last)
    # Bytes and end have both come in before the service could look.
    await until(lambda: desk.statistics().connections == 0)


async def test_a_peer_that_sends_no_more_still_gets_its_answers(
    desk: Service, scene: Scene
) -> None:
    async with wired(desk.url) as wire:
        await wire.send(request("wait", "1"))
        await until(lambda: scene.seen == [1])
        await wire.stream.send_eof()
        await wait_all_tasks_blocked(0.01)
        scene.gate.set()

        assert await wire.rest() == answer("1")


async def test_a_full_mailbox_holds_up_its_own_senders_only(scene: Scene) -> None:
    async with serving(URL, scene.desk(mailbox=1, concurrency=1)) as desk:
        async with wired(desk.url) as wire:
            await wire.send(*[request("wait", str(number)) for number in range(10)])
            await until(lambda: scene.seen == [0])
            scene.gate.set()

            assert await wire.bodies(10) == [
                answer(str(number)).partition(b"#")[2] for number in range(10)
            ]


async def test_more_connections_than_allowed_are_refused(scene: Scene) -> None:
    async with serving(URL, scene.desk(), max_connections=2) as desk:
        async with wired(desk.url) as first, wired(desk.url) as second:
            assert await first.probe() == await second.probe() == b""
            async with wired(desk.url) as third:
                assert await third.rest() == b""
            assert await first.probe() == b""

        await until(lambda: desk.statistics().connections == 0)
        async with wired(desk.url) as later:
            assert await later.probe() == b""
        assert desk.statistics().refused == {"connections over the limit": 1}


async def test_many_connections_that_come_and_go_leave_nothing_behind(desk: Service) -> None:
    for _ in range(20):
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(wired(desk.url)) for _ in range(10)]
            assert [await wire.probe() for wire in wires] == [b""] * 10

    await until(lambda: desk.statistics().connections == 0)
    assert desk.statistics().accepted == 200
    assert desk.statistics().in_flight == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.binary(max_size=200)
        | st.sampled_from([b"5#", b"{", b"\n", b"99999#", b"#", PROBE[:20], b"3#[1]", b"2#{}"])
        | st.integers(0, 300).map(lambda n: b"%d#" % n),
        max_size=8,
    )
)
async def test_no_bytes_can_harm_the_service_or_another_connection(pieces: list[bytes]) -> None:
    async with serving(URL, Scene().desk()) as desk, wired(desk.url) as good:
        assert await good.probe() == b""
        async with wired(desk.url) as bad:
            with suppress(trio.BrokenResourceError):  # closed before it had all of them
                await bad.send(*pieces)
        assert await good.probe() == b""
        await until(lambda: desk.statistics().connections == 1)


# -- start and stop -----------------------------------------------------------


async def test_the_address_is_told_with_the_port_that_was_taken(desk: Service) -> None:
    assert desk.system.addresses() == {"shop/bridge": desk.url}
    assert desk.url.startswith("tcp://127.0.0.1:")
    assert not desk.url.endswith(":0")


async def test_a_port_in_use_fails_the_start_and_is_named(desk: Service, scene: Scene) -> None:
    with pytest.raises(StartFailed, match=r"^shop/bridge \(incarnation 1\) could not") as caught:
        async with serving(desk.url, scene.desk()):
            pass

    assert f"{desk.url}: " in str(caught.value.__cause__)
    assert "address already in use" in str(caught.value.__cause__).lower()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *(["[::1]"] if has_ipv6() else [])])
async def test_a_service_listens_where_it_was_told(scene: Scene, host: str) -> None:
    async with serving(f"tcp://{host}:0", scene.desk()) as desk, desk.client() as client:
        assert await client.send("echo", "here") == "here"


async def test_big_answers_reach_a_peer_that_goes_on_sending_during_the_drain(
    scene: Scene,
) -> None:
    frame = answer('"' + "x" * 3_000_000 + '"')
    async with hosting(URL, scene.desk()) as desk, wired(desk.url) as wire:
        await wire.send(request("wait", '"' + "x" * 3_000_000 + '"'))
        await until(lambda: scene.seen)
        desk.system.stop()
        await wait_all_tasks_blocked(0.01)
        await wire.send(request("echo", "1"))
        scene.gate.set()

        assert await wire.exactly(len(frame)) == frame


async def test_a_stopping_service_hangs_up_on_idle_peers(scene: Scene) -> None:
    async with hosting(URL, scene.desk()) as desk, wired(desk.url) as wire:
        assert await wire.probe() == b""
        desk.system.stop()

        assert await wire.rest() == b""


async def test_what_was_not_answered_when_the_time_is_over_is_hung_up_on(scene: Scene) -> None:
    async with hosting(URL, scene.desk()) as desk, wired(desk.url) as wire:
        await wire.send(request("wait", "1"))
        await until(lambda: scene.seen == [1])
        desk.system.kill()

        assert await wire.rest() in (b"", answer_unavailable())


def answer_unavailable() -> bytes:
    error = b'{"status":503,"message":"Service unavailable"}'
    return nest.frame(nest.failure(b'"1"', error))
