"""A client's connections: which of them is used, how they come back, and what they wait for."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.errors import ConnectionLost, RequestTimeout
from understudy.transports.client import Client, connect
from understudy.transports.codec import nest
from understudy.transports.direct.reach import Reach

from ...brokers.certificates import Certificates
from ..serving import hosting, until
from .desk import Scene
from .wire import Wire, answering

BIG = "x" * 100_000


async def say_yes(wire: Wire) -> None:
    while True:
        (body,) = await wire.bodies(1)
        id = body.partition(b'"id":')[2].rstrip(b"}")
        await wire.send(nest.frame(nest.value(id, b'"yes"')))


async def stall(wire: Wire) -> None:
    """A service that reads nothing."""
    await trio.sleep_forever()


class Two:
    """A service whose first connection is served one way, and its second another."""

    def __init__(self, *ways: Any) -> None:
        self._ways = iter(ways)

    async def __call__(self, wire: Wire) -> None:
        with suppress(AssertionError):  # the client has hung up
            await next(self._ways)(wire)


async def ignore(wire: Wire) -> None:
    await wire.rest()


# -- which is used ------------------------------------------------------------


async def test_a_connection_that_does_not_answer_is_left_out() -> None:
    async with answering(Two(ignore, say_yes)) as url, connect(url, connections=2) as client:
        outcomes = []
        for _ in range(8):
            try:
                outcomes.append(await client.send("any", timeout=0.2))
            except RequestTimeout:
                outcomes.append("late")

    assert outcomes.count("late") == 1
    assert outcomes.count("yes") == 7


async def test_a_connection_that_was_left_out_is_tried_again_after_a_while() -> None:
    late = trio.Event()

    async def first_late(wire: Wire) -> None:
        await wire.bodies(1)
        late.set()
        await say_yes(wire)

    options: Any = {"connections": 2, "reconnect_max": 0.1}
    async with answering(Two(first_late, ignore)) as url, connect(url, **options) as client:
        for _ in range(2):
            with pytest.raises(RequestTimeout):
                await client.send("any", timeout=0.05)
        await late.wait()
        answers = []
        for _ in range(6):
            await trio.sleep(0.15)
            try:
                answers.append(await client.send("any", timeout=0.1))
            except RequestTimeout:
                answers.append("late")

    assert "yes" in answers


async def test_a_connection_that_takes_nothing_is_left_out() -> None:
    async with answering(Two(stall, say_yes)) as url, connect(url, connections=2) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(quietly, client)
            await wait_all_tasks_blocked(0.05)
            for _ in range(6):
                assert await client.send("any", timeout=2) == "yes"
            nursery.cancel_scope.cancel()


async def quietly(client: Client) -> None:
    await client.send("any", BIG, timeout=60)


# -- how they come back -------------------------------------------------------


async def test_of_many_connections_one_is_made_at_a_time(clock: MockClock) -> None:
    reach = Reach(5.0)
    times: list[float] = []
    running = 0

    async def refused() -> None:
        nonlocal running
        running += 1
        assert running == 1
        times.append(trio.current_time())
        await trio.sleep(0.01)
        running -= 1
        raise ConnectionLost("here", "refused", sent=False)

    async def keep_trying() -> None:
        while True:
            try:
                await reach.attempt(refused)
            except ConnectionLost:
                continue

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(keep_trying)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()

    gaps = [after - before for before, after in pairwise(times)]
    for gap, least in zip(gaps, [0.1, 0.2, 0.4, 0.8, 1.6], strict=False):
        assert least <= gap < 2 * least + 0.1
    assert all(2.5 <= gap <= 5.1 for gap in gaps[6:])


async def test_clients_come_back_at_different_times(clock: MockClock) -> None:
    async def refused() -> None:
        raise ConnectionLost("here", "refused", sent=False)

    async def after_five_failures() -> float:
        reach = Reach(5.0)
        for _ in range(5):
            with pytest.raises(ConnectionLost):
                await reach.attempt(refused)
        return reach.not_before - trio.current_time()

    delays = [await after_five_failures() for _ in range(20)]
    assert len({round(delay, 2) for delay in delays}) > 10


async def test_a_pool_makes_one_attempt_at_a_time_while_its_service_is_deaf(
    certificates: Certificates,
) -> None:
    open_now = most = total = 0

    async def deaf(wire: Wire) -> None:
        nonlocal open_now, most, total
        open_now, total = open_now + 1, total + 1
        most = max(most, open_now)
        await wire.rest()
        open_now -= 1

    scene = Scene()
    tls: Any = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}
    options: Any = {"tls_ca": str(certificates.authority), "connections": 8}
    async with hosting("tcps://127.0.0.1:0", scene.desk(), **tls) as desk:
        url = desk.system.addresses()["shop/bridge"]
        port = int(url.rpartition(":")[2])
        async with connect(url, **options, connect_timeout=0.05, reconnect_max=0.2) as client:
            assert await client.send("echo", 1) == 1
            desk.system.stop()
            await desk.system.stopped()
            async with trio.open_nursery() as nursery:
                serve = await nursery.start(trio.serve_tcp, lambda s: deaf(Wire(s)), port)
                assert serve
                await until(lambda: total >= 4)
                nursery.cancel_scope.cancel()

    assert most == 1


# -- what they wait for -------------------------------------------------------


async def test_an_event_that_cannot_be_written_fails_after_its_deadline() -> None:
    async with answering(stall) as url, connect(url, write_deadline=0.3) as client:
        lost = None
        with trio.fail_after(20):
            while lost is None:
                try:
                    await client.emit("told", BIG)
                except ConnectionLost as error:
                    lost = str(error)

    assert "took nothing for 0.3 s" in lost or "takes nothing; gave up on 'told'" in lost


async def test_an_event_among_many_waits_no_longer_than_its_own_deadline() -> None:
    """Though the service goes on taking a little now and then."""

    async def sip(wire: Wire) -> None:
        while True:
            await trio.sleep(0.02)
            await wire.stream.receive_some(200_000)

    async with answering(Two(sip)) as url, connect(url, write_deadline=0.5) as client:
        with pytest.raises(ConnectionLost, match=r"gave up on 'told' after 0\.5 s"):
            await client.emit("told", "x" * 40_000_000)


async def test_calls_fail_at_once_when_their_service_takes_nothing() -> None:
    async with answering(stall) as url, connect(url, write_deadline=0.2) as client:
        lost: list[ConnectionLost] = []

        async def ask() -> None:
            try:
                await client.send("any", BIG, timeout=60)
            except ConnectionLost as error:
                lost.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(ask)
            await until(lambda: lost, within=20)
            nursery.cancel_scope.cancel()

    assert len(lost) > 10
    assert str(lost[0]) == f"{url}: the service took nothing for 0.2 s."


async def test_a_client_of_a_service_that_takes_nothing_can_be_closed() -> None:
    with trio.fail_after(20):
        async with answering(stall) as url, connect(url, write_deadline=0.2) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(quietly, client)
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
