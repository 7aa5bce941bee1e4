"""Timers: planned calls and asks that expire, on one clock."""

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.timers import GRAIN, Timers


@attrs.define(eq=False)
class Waiting:
    deadline: float
    expired_at: float | None = None

    def expire(self) -> None:
        self.expired_at = trio.current_time()


@pytest.fixture
async def timers(nursery: trio.Nursery) -> Timers:
    timers = Timers()
    nursery.start_soon(timers.run)
    await wait_all_tasks_blocked()
    return timers


async def test_planned_calls_come_in_order_and_on_time(timers: Timers, clock: MockClock) -> None:
    calls: list[tuple[str, float]] = []
    for when in (3.0, 1.0, 2.0):
        timers.call_at(when, lambda when=when: calls.append((f"{when:g}", trio.current_time())))  # type: ignore[misc]
    await trio.sleep(10)

    assert calls == [("1", 1.0), ("2", 2.0), ("3", 3.0)]


async def test_calls_for_the_same_time_keep_the_order_they_were_planned_in(
    timers: Timers, clock: MockClock
) -> None:
    calls: list[int] = []
    for number in range(5):
        timers.call_at(1.0, lambda number=number: calls.append(number))  # type: ignore[misc]
    await trio.sleep(1.5)

    assert calls == [0, 1, 2, 3, 4]


async def test_a_cancelled_timer_does_not_call(timers: Timers, clock: MockClock) -> None:
    calls: list[str] = []
    timers.call_at(1.0, lambda: calls.append("one")).cancel()
    timers.call_at(1.0, lambda: calls.append("other"))
    await trio.sleep(2)

    assert calls == ["other"]


async def test_a_timer_may_plan_the_next(timers: Timers, clock: MockClock) -> None:
    calls: list[float] = []

    def again() -> None:
        calls.append(trio.current_time())
        if len(calls) < 3:
            timers.call_at(trio.current_time() + 1, again)

    timers.call_at(1.0, again)
    await trio.sleep(10)

    assert calls == [1.0, 2.0, 3.0]


async def test_a_call_that_is_due_is_made_without_waiting(timers: Timers, clock: MockClock) -> None:
    called = trio.Event()
    timers.call_at(trio.current_time(), called.set)
    await called.wait()

    assert trio.current_time() == 0


async def test_one_that_waits_alone_expires_on_time(timers: Timers, clock: MockClock) -> None:
    waiting = Waiting(1.2345)
    timers.watch(waiting)
    await trio.sleep(2)

    assert waiting.expired_at == 1.2345
    assert not timers.waiting


async def test_one_that_is_taken_out_never_expires(timers: Timers, clock: MockClock) -> None:
    waiting = Waiting(1.0)
    timers.watch(waiting)
    timers.waiting.pop(waiting)
    await trio.sleep(2)

    assert waiting.expired_at is None


async def test_an_earlier_deadline_after_a_later_one_is_kept(
    timers: Timers, clock: MockClock
) -> None:
    late, early = Waiting(5.0), Waiting(1.0)
    timers.watch(late)
    await trio.sleep(0.5)
    timers.watch(early)
    await trio.sleep(10)

    assert (early.expired_at, late.expired_at) == (1.0, 5.0)


async def test_many_deadlines_are_swept_together_and_never_early(
    timers: Timers, clock: MockClock
) -> None:
    crowd = [Waiting(1 + number / 1000) for number in range(50)]
    for waiting in crowd:
        timers.watch(waiting)
    await trio.sleep(2)

    lateness = [(waiting.expired_at or 0) - waiting.deadline for waiting in crowd]
    assert min(lateness) >= 0
    assert max(lateness) <= GRAIN + 1e-9
    assert len({waiting.expired_at for waiting in crowd}) < 10
