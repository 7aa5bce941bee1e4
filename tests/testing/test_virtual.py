"""Letting time pass."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.testing import advance, isolated

from .shop import Worker


async def ticks(seconds: Sequence[float], log: list[float]) -> None:
    for one in seconds:
        await trio.sleep(one)
        log.append(trio.current_time())


@pytest.fixture(params=[0, float("inf")], ids=["a clock that jumps", "a clock that stands"])
def any_clock(request: pytest.FixtureRequest) -> MockClock:
    return MockClock(autojump_threshold=request.param)


async def test_what_is_due_has_happened_each_at_its_time(
    any_clock: MockClock, nursery: trio.Nursery
) -> None:
    threshold, log = any_clock.autojump_threshold, list[float]()
    nursery.start_soon(ticks, [1, 2, 3, 4], log)
    await advance(6)

    assert log == [1, 3, 6]
    assert trio.current_time() == 6
    assert any_clock.autojump_threshold == threshold


async def test_no_time_at_all_lets_everything_run(
    any_clock: MockClock, nursery: trio.Nursery
) -> None:
    log: list[float] = []
    nursery.start_soon(ticks, [0, 0, 0, 1], log)
    await advance(0)

    assert log == [0, 0, 0]


async def test_in_real_time_it_waits() -> None:
    began = trio.current_time()
    await advance(0.01)

    assert trio.current_time() - began >= 0.01


async def test_time_does_not_go_back(clock: MockClock) -> None:
    with pytest.raises(ValueError, match=r"advance\(-1\): time does not go back"):
        await advance(-1)


async def test_time_waits_for_asyncio_code_that_is_under_way(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await worker.ask("nap", 0.05, timeout=30))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while clock.autojump_threshold == 0:  # until asyncio holds it
                await trio.lowlevel.checkpoint()
            await advance(60)
            assert answers == ["rested"]
        assert (trio.current_time(), clock.autojump_threshold) == (60, 0)
