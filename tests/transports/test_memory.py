"""What memory does beyond the contract: it takes events back, and belongs to one run."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import ConnectionLost, Retry, StartFailed
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from .serving import hosting, serving, until

URL = "memory://desk"


class Desk(Actor):
    def __init__(self, seen: list[Any], gate: trio.Event) -> None:
        self.seen, self.gate = seen, gate

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern("numbers")
    async def numbers(self) -> AsyncIterator[int]:
        try:
            for number in range(1_000):
                self.seen.append(number)
                yield number
        finally:
            self.seen.append("ended")

    @message_pattern("one")
    async def one(self) -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            self.seen.append("ended")

    @message_pattern("silent")
    async def silent(self) -> None:
        await trio.sleep_forever()

    @event_pattern("told")
    async def told(self, data: Any, context: MessageContext) -> None:
        await self.gate.wait()
        self.seen.append((data, context.redelivered, context.message_id))

    @event_pattern("later")
    async def later(self, data: Any) -> None:
        self.seen.append(data)
        if not self.gate.is_set():
            raise Retry(after=600)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def gate() -> trio.Event:
    return trio.Event()


@pytest.fixture
def closed() -> trio.Event:
    """A gate that stays shut."""
    return trio.Event()


# -- names --------------------------------------------------------------------


async def test_a_name_has_one_service_at_a_time(seen: list[Any], gate: trio.Event) -> None:
    async with serving(URL, child(Desk, seen, gate)):
        with pytest.raises(StartFailed) as caught:
            async with serving(URL, child(Desk, seen, gate)):
                pass

    assert str(caught.value.__cause__) == (
        "memory://desk is served by shop/bridge already; shop/bridge needs another name, "
        "or must wait for its end."
    )


async def test_other_names_are_other_services(seen: list[Any], gate: trio.Event) -> None:
    async with serving(URL, child(Desk, seen, gate)):
        with pytest.raises(ConnectionLost, match=r"^memory://desk/2: nothing serves that name"):
            async with connect("memory://desk/2"):
                pass


def test_two_runs_never_meet(seen: list[Any]) -> None:
    async def leave_an_event() -> None:
        async with hosting(URL, child(Desk, seen, trio.Event())) as desk:
            async with desk.client() as client:
                await client.emit("told", 1)
                await until(lambda: desk.statistics().in_flight == 1)
                desk.system.kill()

    async def look() -> None:
        gate = trio.Event()
        gate.set()
        async with serving(URL, child(Desk, seen, gate)) as desk, desk.client() as client:
            await client.send("echo")
            await wait_all_tasks_blocked()

    trio.run(leave_an_event)
    trio.run(look)

    assert seen == []


async def test_a_client_may_wait_for_its_service(seen: list[Any], gate: trio.Event) -> None:
    answers: list[Any] = []

    async def call() -> None:
        async with connect(URL, patience=60) as client:
            answers.append(await client.send("echo", 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        async with serving(URL, child(Desk, seen, gate)):
            await until(lambda: answers == [1])


# -- events that come back ----------------------------------------------------


async def test_events_in_hand_at_a_kill_go_to_the_next_service_as_redelivered(
    seen: list[Any], gate: trio.Event, closed: trio.Event
) -> None:
    async with hosting(URL, child(Desk, seen, closed)) as desk, desk.client() as client:
        for number in range(3):
            await client.emit("told", number)
        await until(lambda: desk.statistics().in_flight == 3)
        desk.system.kill()
    gate.set()
    async with serving(URL, child(Desk, seen, gate)):
        await until(lambda: len(seen) == 3)

    ids = [f"memory-desk-1:event-{number}" for number in (1, 2, 3)]
    assert sorted(seen) == [(0, True, ids[0]), (1, True, ids[1]), (2, True, ids[2])]


async def test_events_nobody_has_read_go_to_the_next_service(
    seen: list[Any], gate: trio.Event, closed: trio.Event
) -> None:
    async with hosting(URL, child(Desk, seen, closed), in_flight=1) as desk:
        async with desk.client() as client:
            for number in range(5):
                await client.emit("told", number)
            desk.system.kill()
    gate.set()
    async with serving(URL, child(Desk, seen, gate)):
        await until(lambda: len(seen) == 5)

    assert sorted(data for data, _, _ in seen) == list(range(5))


async def test_an_event_that_waits_for_its_retry_goes_to_the_next_service(
    seen: list[Any], gate: trio.Event, closed: trio.Event
) -> None:
    async with hosting(URL, child(Desk, seen, closed)) as desk, desk.client() as client:
        await client.emit("later", "once")
        await until(lambda: seen == ["once"])
        desk.system.kill()
    gate.set()
    async with serving(URL, child(Desk, seen, gate)):
        await until(lambda: seen == ["once", "once"])


async def test_an_event_whose_actor_is_gone_waits_for_another_service(
    seen: list[Any], gate: trio.Event, closed: trio.Event
) -> None:
    async with serving(URL, child(Desk, seen, closed, shutdown=0)) as desk:
        async with desk.client() as client:
            await client.emit("told", 1)
            await until(lambda: desk.statistics().in_flight == 1)
            await desk.system.stop_child("shop/desk")
            await until(lambda: desk.statistics().in_flight == 0)
        assert await desk.dead_letters() == []
    gate.set()
    async with serving(URL, child(Desk, seen, gate)):
        await until(lambda: [data for data, _, _ in seen] == [1])


# -- streams ------------------------------------------------------------------


async def test_a_stream_is_at_most_its_credit_ahead_of_its_reader(
    seen: list[Any], gate: trio.Event
) -> None:
    async with serving(URL, child(Desk, seen, gate)) as desk, desk.client(credit=5) as client:
        async with aclosing(client.stream("numbers")) as items:
            await anext(items)
            await wait_all_tasks_blocked()
            ahead = len(seen)
            rest = [item async for item in items]

    # One is taken, five wait, and the generator holds the next two in its hands.
    assert ahead <= 1 + 5 + 2
    assert rest == list(range(1, 1_000))


async def test_leaving_one_stream_ends_its_generator_and_nothing_else(
    seen: list[Any], gate: trio.Event
) -> None:
    async with serving(URL, child(Desk, seen, gate)) as desk, desk.client() as client:
        async with aclosing(client.stream("numbers")) as items:
            await anext(items)
        await until(lambda: seen[-1] == "ended")

        assert await client.send("echo", 1) == 1
    assert len(seen) < 1_000


async def test_leaving_a_stream_ends_a_generator_that_waits(
    seen: list[Any], gate: trio.Event
) -> None:
    async with serving(URL, child(Desk, seen, gate)) as desk, desk.client() as client:
        async with aclosing(client.stream("one")) as items:
            assert await anext(items) == 1
        await until(lambda: seen == ["ended"])

        assert await client.send("echo", 1) == 1


# -- time ---------------------------------------------------------------------


async def test_virtual_time_holds(clock: MockClock, seen: list[Any], gate: trio.Event) -> None:
    async with serving(URL, child(Desk, seen, gate)) as desk, desk.client() as client:
        before = trio.current_time()
        with trio.move_on_after(3600):
            await client.send("silent", timeout=86_400)

        assert trio.current_time() == before + 3600
