"""Keys that a broker keeps an order by: they hold where neither actor nor handler has a key."""

import json
from typing import Any

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.delivery.intake import Inbound
from understudy.supervisors.pool import pool
from understudy.supervisors.system import running
from understudy.testing import isolated
from understudy.testing.outside import Delivery


@attrs.frozen
class Job:
    """One message: the key that its handler might name, its number, and how long it takes."""

    key: str
    number: int
    seconds: float = 0.0


class Till(Actor[Any]):
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @event_pattern("job")
    async def job(self, job: Job) -> None:
        self.log.append(("begin", job.key, job.number))
        await trio.sleep(job.seconds)
        self.log.append(("end", job.key, job.number))

    @event_pattern("own", key="number")
    async def own(self, job: Job) -> None:
        await self.job(job)


@given(
    jobs=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), min_size=1, max_size=30
    ),
    members=st.sampled_from([0, 3]),
)
def test_messages_of_one_key_are_handled_in_order_also_by_a_pool(
    jobs: list[tuple[str, int]], members: int
) -> None:
    log: list[Any] = []
    spec = (
        pool(Till, log, size=members, concurrency=2, shutdown=100)
        if members
        else child(Till, log, concurrency=4, shutdown=100)
    )

    async def main() -> None:
        async with running(Supervisor("shop", [spec])) as system:
            deliveries = []
            for number, (key, seconds) in enumerate(jobs):
                body = json.dumps({"key": key, "number": number, "seconds": seconds}).encode()
                inbound = Inbound(pattern="job", data=body, order_key=key)
                deliveries.append(Delivery(str(number)))
                await system.intake.event(inbound, deliveries[-1])
            for delivery in deliveries:
                assert await delivery.settled(within=1000) == "acknowledged"

    trio.run(main, clock=MockClock(autojump_threshold=0))

    for key in "abc":
        mine = [(what, number) for what, owner, number in log if owner == key]
        numbers = [number for number, (owner, _) in enumerate(jobs) if owner == key]
        assert mine == [(what, n) for n in numbers for what in ("begin", "end")]


async def test_other_keys_go_on_while_one_is_busy(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with isolated(Till, log, concurrency=2, shutdown=100) as till:
        for number, key in enumerate(["a", "a", "b"]):
            await till.event("job", {"key": key, "number": number, "seconds": 1}, order_key=key)
        await trio.sleep(0.5)

        assert log == [("begin", "a", 0), ("begin", "b", 2)]


async def test_a_key_of_the_handler_goes_before_that_of_the_broker(
    autojump_clock: MockClock,
) -> None:
    log: list[Any] = []
    async with isolated(Till, log, concurrency=2, shutdown=100) as till:
        for number in range(2):
            await till.event("own", {"key": "a", "number": number, "seconds": 1}, order_key="a")
        await trio.sleep(0.5)

        assert log == [("begin", "a", 0), ("begin", "a", 1)]


async def test_order_begins_with_the_first_message_that_has_a_key(
    autojump_clock: MockClock,
) -> None:
    log: list[Any] = []
    async with isolated(Till, log, concurrency=3, shutdown=100) as till:
        await till.event("job", {"key": "none", "number": 0, "seconds": 5})
        await trio.sleep(1)
        for number in (1, 2):
            await till.event("job", {"key": "a", "number": number, "seconds": 1}, order_key="a")
        await trio.sleep(1.5)

        assert log == [("begin", "none", 0), ("begin", "a", 1), ("end", "a", 1), ("begin", "a", 2)]
