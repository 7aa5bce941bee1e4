"""What one peer, or all of them together, may have of the TCP bridge, and for how long."""

import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.transports.codec import nest
from understudy.transports.tcp import poller

from ..serving import Service, hosting, serving, until
from .desk import Scene
from .wire import Wire, request, wired

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture(params=["epoll", "no epoll"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no epoll, which every system can do without."""
    if request.param == "no epoll":
        monkeypatch.setattr(poller, "sys", SimpleNamespace(platform="darwin"))


def answer(data: str, id: str = "1") -> bytes:
    return nest.frame(f'{{"response":{data},"isDisposed":true,"id":"{id}"}}'.encode())


def refused(service: Service) -> Callable[[], dict[str, int]]:
    return lambda: service.statistics().refused


# -- messages in flight -------------------------------------------------------


@pytest.mark.usefixtures("anywhere")
async def test_all_connections_together_have_a_number_of_messages_in_flight(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight_total=3) as desk:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(wired(desk.url)) for _ in range(9)]
            for number, wire in enumerate(wires):
                await wire.send(request("wait", str(number)))
                await wait_all_tasks_blocked(0.01)
            assert scene.seen == [0, 1, 2]

            scene.gate.set()
            for number, wire in enumerate(wires):
                assert await wire.bodies(1) == [answer(str(number)).partition(b"#")[2]]
            for wire in wires:
                assert await wire.probe() == b""
        assert desk.statistics().in_flight == 0


async def test_those_who_wait_are_served_in_turn(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight_total=1) as desk:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(wired(desk.url)) for _ in range(8)]
            for number, wire in enumerate(wires):
                await wire.send(request("wait", str(number)), request("wait", str(number)))
                await wait_all_tasks_blocked(0.01)
            scene.gate.set()
            for wire in wires:
                await wire.bodies(2)

        assert list(dict.fromkeys(scene.seen)) == list(range(8))


async def test_events_count_and_those_who_wait_for_them_go_on(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight_total=1) as desk:
        async with wired(desk.url) as one, wired(desk.url) as other:
            for number in range(20):
                await one.send(nest.frame(b'{"pattern":"told","data":%d}' % number))
                await other.send(nest.frame(b'{"pattern":"told","data":%d}' % (100 + number)))
            await until(lambda: len(scene.seen) == 40)

        assert [seen for seen in scene.seen if seen < 100] == list(range(20))


async def test_requests_whose_callers_have_gone_still_count(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight_total=2) as desk:
        for _ in range(2):
            async with wired(desk.url) as gone:
                await gone.send(request("wait", "0"))
                await until(lambda: desk.statistics().in_flight > 0)
                gone.vanish()
            await wait_all_tasks_blocked(0.01)
        assert desk.statistics().in_flight == 2
        async with wired(desk.url) as wire:
            await wire.send(request("wait", "1"))
            await wait_all_tasks_blocked(0.02)
            assert scene.seen == [0, 0]

            scene.gate.set()
            assert await wire.exactly(len(answer("1"))) == answer("1")


async def test_answers_to_those_who_have_gone_make_room_for_others(scene: Scene) -> None:
    """Errors too, which go another way than values."""
    async with serving(URL, scene.desk(concurrency=1), in_flight_total=2) as desk:
        async with wired(desk.url) as gone, wired(desk.url) as wire:
            await gone.send(request("wait", "1"), request("flop", "1"))
            await until(lambda: scene.seen == [1])
            gone.vanish()
            await wire.send(request("echo", "2"))
            await wait_all_tasks_blocked(0.01)
            scene.gate.set()

            assert await wire.bodies(1) == [answer("2").partition(b"#")[2]]


async def test_a_peer_that_leaves_while_it_waits_its_turn_is_let_go(scene: Scene) -> None:
    async with serving(URL, scene.desk(), in_flight_total=1) as desk:
        async with wired(desk.url) as first, wired(desk.url) as second:
            await first.send(request("wait", "0"))
            await until(lambda: scene.seen == [0])
            await second.send(request("wait", "1"))
            await wait_all_tasks_blocked(0.01)
            second.vanish()
            scene.gate.set()
            await until(lambda: desk.statistics().connections == 1)


@pytest.mark.usefixtures("anywhere")
async def test_a_drain_does_not_wait_for_those_who_were_not_read(scene: Scene) -> None:
    async with hosting(URL, scene.desk(), in_flight_total=1) as desk:
        async with wired(desk.url) as first, wired(desk.url) as idle, wired(desk.url) as last:
            await first.send(request("wait", "0"))
            await until(lambda: scene.seen == [0])
            await last.send(request("wait", "1"))
            await wait_all_tasks_blocked(0.01)
            desk.system.stop()
            assert await last.rest() == b""
            assert await idle.rest() == b""
            scene.gate.set()

            assert await first.rest() == answer("0")
        assert scene.seen == [0]


# -- deadlines ----------------------------------------------------------------


async def test_a_peer_that_says_nothing_is_let_go_after_a_while(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(URL, scene.desk(), idle=0.1) as desk, wired(desk.url) as wire:
        assert await wire.probe() == b""
        assert await wire.rest() == b""

        assert refused(desk)() == {"idle peers": 1}
    assert "no message for 0.1 s; the connection is closed" in caplog.text


async def test_a_peer_that_waits_for_an_answer_is_not_idle(scene: Scene) -> None:
    async with serving(URL, scene.desk(), idle=0.1) as desk, wired(desk.url) as wire:
        await wire.send(request("wait", "1"))
        await trio.sleep(0.4)
        scene.gate.set()

        assert await wire.exactly(len(answer("1"))) == answer("1")


async def test_peers_are_never_let_go_unless_asked_for(scene: Scene) -> None:
    async with serving(URL, scene.desk(), frame_deadline=0.05) as desk, wired(desk.url) as wire:
        await trio.sleep(0.3)

        assert await wire.probe() == b""


async def test_a_frame_that_came_in_time_is_not_held_against_its_peer(scene: Scene) -> None:
    whole = request("echo", '"in two pieces"')
    async with serving(URL, scene.desk(), frame_deadline=0.2) as desk, wired(desk.url) as wire:
        await wire.send(whole[:10])
        await wait_all_tasks_blocked(0.01)
        await wire.send(whole[10:])
        await wire.bodies(1)
        await trio.sleep(0.5)

        assert await wire.probe() == b""


async def test_time_in_which_a_peer_was_not_read_is_not_held_against_it(scene: Scene) -> None:
    options: Any = {"frame_deadline": 0.2, "in_flight": 1}
    last = request("echo", '"late"', id="2")
    async with serving(URL, scene.desk(), **options) as desk, wired(desk.url) as wire:
        await wire.send(request("wait", "1") + last[:20])
        await trio.sleep(0.6)
        scene.gate.set()
        await wire.bodies(1)
        await wire.send(last[20:])

        assert await wire.bodies(1) == [answer('"late"', id="2").partition(b"#")[2]]
        assert refused(desk)() == {}


# -- memory -------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 1_000_000])
async def test_a_peer_that_reads_nothing_has_a_bound_of_answers_waiting(
    scene: Scene, limit: int
) -> None:
    options: Any = {"write_limit": limit, "write_deadline": 60.0}
    async with serving(URL, scene.desk(), **options) as desk, wired(desk.url) as wire:
        with suppress(trio.BrokenResourceError):  # closed before it had asked for all
            for _ in range(40):
                await wire.send(request("big", "1000000"))
        await until(lambda: not desk.statistics().connections)

        assert refused(desk)() == {"peers that do not read": 1}


async def test_of_many_who_are_slow_the_one_with_most_waiting_is_cut_off(scene: Scene) -> None:
    options: Any = {"write_limit": 20_000_000, "write_deadline": 60.0}
    async with serving(URL, scene.desk(), **options) as desk:
        async with wired(desk.url) as slow, wired(desk.url) as worst:
            await slow.send(*[request("big", "1000000")] * 8)
            await until(lambda: desk.statistics().in_flight == 0)
            await worst.send(request("big", "1000000") * 60)
            await until(lambda: desk.statistics().connections == 1)

            assert len(await slow.bodies(8)) == 8
            assert await slow.probe() == b""


# -- peers that are gone ------------------------------------------------------


def keepalive_timers(port: int) -> int:
    """How many connections from or to a port wait for TCP's own question (Linux)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(line[1], line[2], line[3], line[5]) for line in lines]
    wanted = f":{port:04X}"
    return sum(
        state == "01"
        and timer.startswith("02")
        and (here.endswith(wanted) or there.endswith(wanted))
        for here, there, state, timer in ends
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
@pytest.mark.parametrize(("seconds", "timers"), [(30.0, 2), (0.0, 0)], ids=["on", "off"])
async def test_the_system_asks_silent_peers_whether_they_are_there(
    scene: Scene, seconds: float, timers: int
) -> None:
    async with serving(URL, scene.desk(), keepalive=seconds) as desk:
        async with desk.client(keepalive=seconds) as client:
            assert await client.send("echo", 1) == 1

            port = urlsplit(desk.url).port or 0
            await until(lambda: keepalive_timers(port) == timers)


async def test_a_peer_that_reads_slowly_while_the_service_stops_gets_everything(
    scene: Scene,
) -> None:
    """Though it takes longer than a peer has to hang up."""
    frame = answer('"' + "x" * 3_000_000 + '"')
    async with hosting(URL, scene.desk()) as desk, wired(desk.url) as wire:
        await wire.send(request("wait", '"' + "x" * 3_000_000 + '"'))
        await until(lambda: scene.seen)
        desk.system.stop()
        await wait_all_tasks_blocked(0.01)
        await wire.send(request("echo", "1"))  # unread: without care it resets the connection
        scene.gate.set()
        got = await slowly(wire, len(frame), pieces=6, pause=0.4)

        assert got == frame


async def slowly(wire: Wire, size: int, pieces: int, pause: float) -> bytes:
    got = b""
    for _ in range(pieces):
        await trio.sleep(pause)
        got += await wire.exactly(min(size // pieces + 1, size - len(got)))
    return got
