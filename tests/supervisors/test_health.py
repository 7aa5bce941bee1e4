"""The health record: what it says of a tree in every state, and that it is plain data."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.encoding import encode
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Notice, StateChanged
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.delivery.store import MemoryStore
from understudy.supervisors.health import ChildHealth, Health
from understudy.supervisors.pool import pool
from understudy.supervisors.resource import resource
from understudy.supervisors.strategy import Backoff
from understudy.supervisors.system import System, running
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ..brokers.nats import NatsBroker


class Till(Actor[str]):
    """Does what it is told to."""

    async def receive(self, message: str) -> None:
        match message:
            case "crash":
                raise ValueError("out of coins")
            case "sleep":
                await trio.sleep(60)


class Counter(Till):
    """The same, for callers from outside."""

    @message_pattern("crash")
    async def crash(self) -> None:
        raise ValueError("out of coins")

    @event_pattern("paid")
    async def paid(self, amount: int) -> None:
        pass


def _of(health: Health, path: str) -> ChildHealth:
    return next(one for one in health.children if one.path == path)


@asynccontextmanager
async def _told(system: System, state: str) -> AsyncIterator[None]:
    """Wait, after the block, until a bridge has come to this state."""
    came = trio.Event()

    def take(notice: Notice) -> None:
        if isinstance(notice, StateChanged) and notice.state == state:
            came.set()

    end = system.bus.subscribe(take)
    yield
    with trio.fail_after(20):
        await came.wait()
    end()


async def settled() -> None:
    await wait_all_tasks_blocked()


async def test_a_tree_that_runs_is_live_and_ready(clock: MockClock) -> None:
    async with running(
        Supervisor("shop", [child(Till), pool(Till, size=2, name="tills")])
    ) as system:
        await trio.sleep(7)
        health = system.health()

    assert (health.name, health.live, health.ready, health.state) == ("shop", True, True, "running")
    assert (health.seconds, health.troubles, health.total) == (7, (), 4)
    assert [one.path for one in health.children] == [
        "shop/till",
        "shop/tills",
        "shop/tills/1",
        "shop/tills/2",
    ]
    assert _of(health, "shop/till") == ChildHealth(
        path="shop/till", kind="actor", state="running", seconds=7, waiting=0, capacity=1024
    )
    assert (_of(health, "shop/tills").kind, _of(health, "shop/tills").capacity) == ("pool", 2048)


async def test_the_record_is_json(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Till)])) as system:
        told = json.loads(encode(system.health()))

    assert (told["ready"], told["children"][0]["path"]) == (True, "shop/till")
    assert told["dead_letters"]["alarm"] is None


async def test_mail_and_restarts_are_counted(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Till)])) as system:
        till = system.ref(Till)
        till.tell("crash")
        await settled()
        till.tell("sleep")
        await settled()
        for _ in range(3):
            till.tell("nothing")
        told = _of(system.health(), "shop/till")

    assert (told.restarts, told.waiting) == (1, 3)


async def test_a_child_that_waits_to_come_back_is_told_with_the_reason(clock: MockClock) -> None:
    slow = Backoff(minimum=5, maximum=5, jitter=0)
    async with running(Supervisor("shop", [child(Till, backoff=slow)], max_restarts=9)) as system:
        for _ in range(2):
            system.ref(Till).tell("crash")
        await settled()
        await trio.sleep(1)
        health = system.health()
        await trio.sleep(10)
        later = system.health()

    assert (health.live, health.ready) == (True, False)
    (trouble,) = health.troubles
    assert trouble.startswith("shop/till is restarting: shop/till (incarnation 2) crashed")
    assert "ValueError: out of coins" in trouble
    assert (_of(health, "shop/till").state, _of(health, "shop/till").seconds) == ("restarting", 1)
    assert later.ready


async def test_a_resource_that_cannot_connect_waits_and_says_why(clock: MockClock) -> None:
    away = [True, True]

    @asynccontextmanager
    async def database() -> AsyncIterator[str]:
        if away:
            away.pop()
            raise OSError("nobody there")
        yield "connection"

    seen: list[Health] = []
    tree = Supervisor("shop", [resource(database, backoff=Backoff(minimum=10, maximum=10))])
    system = System(tree)
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            await trio.sleep(1)
            seen.append(system.health())

        nursery.start_soon(look)
        await system.run(nursery)
        seen.append(system.health())
        system.stop()
        await system.finish()
        nursery.cancel_scope.cancel()

    waiting, up = seen
    assert (waiting.ready, waiting.state) == (False, "starting")
    assert (_of(waiting, "shop/database").state, up.ready) == ("waiting", True)
    assert any("shop/database is waiting: OSError: nobody there" in t for t in waiting.troubles)


async def test_a_sick_actor_keeps_its_tree_from_being_ready(clock: MockClock) -> None:
    tree = Supervisor("shop", [child(Counter, sick_after=1), serve("memory://health")])
    async with running(tree) as system, connect("memory://health") as client:
        with pytest.raises(RpcError):
            await client.send("crash")
        await settled()
        health = system.health()

    assert (_of(health, "shop/counter").state, health.ready) == ("sick", False)
    assert health.troubles[0].startswith("shop/counter is sick: ")


async def test_a_suspended_actor_keeps_its_tree_from_being_ready(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Till)])) as system:
        system.debug(system.ref(Till)).suspend()
        health = system.health()
        system.debug(system.ref(Till)).resume()
        resumed = system.health()

    assert (_of(health, "shop/till").state, health.ready) == ("suspended", False)
    assert resumed.ready


async def test_a_tree_that_stops_is_live_but_not_ready(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Till, shutdown=100)])) as system:
        system.ref(Till).tell("sleep")
        await settled()
        system.stop()
        await settled()
        health = system.health()

    assert (health.live, health.ready, health.state) == (True, False, "stopping")
    assert _of(health, "shop/till").state == "stopping"
    assert (system.health().live, system.health().state) == (False, "down")


async def test_a_store_that_cannot_write_keeps_the_tree_from_being_ready(clock: MockClock) -> None:
    class Full(MemoryStore):
        alarm: Any = "the disk is full"

        def statistics(self) -> Any:
            self._alarm = self.alarm
            return super().statistics()

    async with running(Supervisor("shop", [child(Till)]), dead_letters=Full()) as system:
        health, healthy = system.health(), system.healthy

    assert (health.ready, healthy) == (False, False)
    assert health.troubles == ("dead letters cannot be written: the disk is full",)


async def test_a_big_tree_is_told_in_part_and_its_troubles_are_counted(clock: MockClock) -> None:
    slow = Backoff(minimum=50, maximum=50)
    tills = [child(Till, name=f"till-{number}", backoff=slow) for number in range(30)]
    async with running(Supervisor("shop", tills, max_restarts=99)) as system:
        for _ in range(2):
            for number in range(30):
                system.ref(f"till-{number}").tell("crash")
            await settled()
        health = system.health(limit=5)

    assert (len(health.children), health.total) == (5, 30)
    assert (len(health.troubles), health.troubles[-1]) == (20, "and 11 more")


async def test_everything_that_counts_tells_its_numbers(clock: MockClock) -> None:
    tree = Supervisor("shop", [child(Till), serve("memory://numbers")])
    async with running(tree) as system, connect("memory://numbers") as client:
        system.ref(Till).tell("sleep")
        await settled()
        system.ref(Till).tell("nothing")
        numbers = system.statistics()
        del client

    assert list(numbers) == ["shop/till", "shop/memory"]
    till = numbers["shop/till"]
    assert (till.in_hand, till.mailbox.waiting, till.sick, till.passive) == (1, 1, False, False)
    assert numbers["shop/memory"].accepted == 1


async def test_a_bridge_without_its_broker_waits_and_is_ready_when_it_is_back(
    own_nats: Callable[..., NatsBroker],
) -> None:
    broker = own_nats(jetstream=False)
    tree = Supervisor("shop", [child(Till), serve(broker.url, reconnect_max=0.1)])
    async with running(tree) as system:
        states = [_of(system.health(), "shop/nats").state]
        async with _told(system, "waiting"):
            broker.stop()
        away = system.health()
        async with _told(system, "connected"):
            broker.start()
        states.append(_of(system.health(), "shop/nats").state)

    assert states == ["running", "running"]
    assert (_of(away, "shop/nats").state, away.ready, away.live) == ("waiting", False, True)
    assert away.troubles[0].startswith("shop/nats is waiting: ")


async def test_a_path_cannot_steer_the_terminal_it_is_shown_on(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Till, name="t\033[2J\nl")])) as system:
        (told,) = system.health().children

    assert told.path == "shop/t\\x1b[2J\\nl"
