"""Handing out what a generator yields, with the last item known as the last."""

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorCrashed, ActorStopped, RpcError
from understudy.actors.handlers import message_pattern
from understudy.actors.streams import hand_out
from understudy.testing import isolated


class Caller:
    """A receipt that takes items, and leaves after so many if it is told to."""

    def __init__(self, leaves_after: int = 1000) -> None:
        self.items: list[tuple[Any, bool]] = []
        self.open = True
        self._leaves_after = leaves_after
        self._on_leave: Callable[[], None] | None = None

    def on_leave(self, function: Callable[[], None]) -> None:
        self._on_leave = function
        if not self.open:
            function()

    def leave(self) -> None:
        self.open = False
        if self._on_leave is not None:
            self._on_leave()

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()

    def item(self, value: Any, *, last: bool) -> None:
        self.items.append((value, last))
        if len(self.items) >= self._leaves_after:
            self.leave()

    def succeeded(self, value: Any) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None: ...

    def released(self, why: str) -> None: ...


async def counting(
    count: int, log: list[Any] | None = None, wait: float | None = None, end: Any = None
) -> AsyncGenerator[int, None]:
    """`count` numbers with a wait before each, then an error or a wait before the end."""
    try:
        for number in range(count):
            if wait is not None:
                await trio.sleep(wait)
            yield number
        if isinstance(end, Exception):
            raise end
        if end is not None:
            await trio.sleep(end)
    finally:
        if log is not None:  # a wait before its end hides which item was the last
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            log.append("closed")


@pytest.mark.parametrize("count", [0, 1, 2, 40])
@pytest.mark.parametrize("wait", [None, 1], ids=["at once", "slowly"])
async def test_every_item_is_handed_out_in_order_and_only_the_last_is_the_last(
    count: int, wait: float | None, clock: MockClock
) -> None:
    caller = Caller()
    assert await hand_out(counting(count, wait=wait), caller) is UNSET
    assert caller.items == [(number, number == count - 1) for number in range(count)]


async def test_an_item_before_a_wait_goes_out_before_it_is_known_to_be_the_last(
    clock: MockClock,
) -> None:
    caller = Caller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_out, counting(1, end=5), caller)
        await wait_all_tasks_blocked()
        assert caller.items == [(0, False)]

    assert trio.current_time() == 5
    assert caller.items == [(0, False)]


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("wait", [None, 1], ids=["at once", "slowly"])
async def test_an_error_comes_after_all_items_and_none_of_them_is_the_last(
    count: int, wait: float | None, clock: MockClock
) -> None:
    caller = Caller()
    with pytest.raises(RpcError, match="no more"):
        await hand_out(counting(count, wait=wait, end=RpcError("no more")), caller)

    assert caller.items == [(number, False) for number in range(count)]


@pytest.mark.parametrize("wait", [None, 1], ids=["at once", "slowly"])
async def test_a_caller_that_leaves_closes_the_generator(
    wait: float | None, clock: MockClock
) -> None:
    caller, log = Caller(leaves_after=2), list[Any]()
    await hand_out(counting(10, log, wait=wait), caller)

    assert [value for value, _ in caller.items] == [0, 1]
    assert log == ["closed"]


async def test_a_caller_that_leaves_during_a_wait_ends_it_at_once(clock: MockClock) -> None:
    caller, log = Caller(), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_out, counting(10, log, wait=10), caller)
        await trio.sleep(15)
        caller.leave()
        await wait_all_tasks_blocked()
        assert log == ["closed"]

    assert trio.current_time() == 15


async def test_a_caller_that_has_left_before_gets_nothing(clock: MockClock) -> None:
    caller, log = Caller(), list[Any]()
    caller.leave()
    await hand_out(counting(10, log, wait=1), caller)

    assert caller.items == []
    assert trio.current_time() == 0


@pytest.mark.parametrize("wait", [None, 1], ids=["at once", "slowly"])
async def test_without_a_caller_the_generator_runs_to_its_end(
    wait: float | None, clock: MockClock
) -> None:
    log: list[Any] = []
    assert await hand_out(counting(3, log, wait=wait), None) is UNSET
    assert log == ["closed"]
    assert trio.current_time() == (0 if wait is None else 3)


async def test_without_a_caller_an_error_is_raised(clock: MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        await hand_out(counting(2, end=ZeroDivisionError()), None)


async def test_a_cancelled_stream_is_closed(clock: MockClock) -> None:
    caller, log = Caller(), list[Any]()
    with trio.move_on_after(15) as scope:
        await hand_out(counting(10, log, wait=10), caller)

    assert scope.cancelled_caught
    assert log == ["closed"]
    assert caller.items == [(0, False)]


async def test_a_generator_may_catch_what_its_wait_raises(clock: MockClock) -> None:
    async def patient() -> AsyncGenerator[str, None]:
        yield "before"
        with suppress(trio.TooSlowError):
            with trio.fail_after(1):
                await trio.sleep_forever()
        yield "after"

    caller = Caller()
    await hand_out(patient(), caller)

    assert caller.items == [("before", False), ("after", True)]


@given(steps=st.lists(st.one_of(st.integers(0, 3), st.just("item")), max_size=20))
def test_whatever_a_generator_does_in_between_its_items_arrive_in_order(steps: list[Any]) -> None:
    async def generator() -> AsyncGenerator[int, None]:
        for number, step in enumerate(steps):
            if step == "item":
                yield number
            else:
                await trio.sleep(step)

    caller = Caller()

    async def main() -> None:
        await hand_out(generator(), caller)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [value for value, _ in caller.items] == [n for n, s in enumerate(steps) if s == "item"]
    assert [last for _, last in caller.items[:-1]] == [False] * len(caller.items[:-1])
    if steps and steps[-1] == "item":
        assert caller.items[-1][1]


# -- within an actor


class Feed(Actor):
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @message_pattern("count")
    async def count(self, count: int) -> AsyncGenerator[int, None]:
        async for number in counting(count, self.log, wait=1):
            yield number

    @message_pattern("break")
    async def break_down(self, kind: str) -> AsyncGenerator[int, None]:
        yield 1
        raise RpcError("no") if kind == "answer" else ZeroDivisionError

    @message_pattern("hello")
    async def hello(self, _: None) -> int:
        return self.incarnation


async def test_a_tell_to_a_streaming_handler_runs_it(clock: MockClock) -> None:
    log: list[Any] = []
    async with isolated(Feed, log) as feed:
        feed.tell("count", 3)

    assert log == ["closed"]


async def test_a_stream_takes_a_lane_until_it_ends(clock: MockClock) -> None:
    async with isolated(Feed, []) as feed:
        stream: Any = feed.stream(Feed.count, 5)
        assert await anext(stream) == 0
        assert await feed.ask("hello", None, timeout=60) == 1
        assert trio.current_time() == 5


async def test_leaving_a_stream_frees_its_lane_at_once(clock: MockClock) -> None:
    async with isolated(Feed, []) as feed:
        stream: Any = feed.stream(Feed.count, 500)
        assert await anext(stream) == 0
        await stream.aclose()
        assert await feed.ask("hello", None) == 1
        assert trio.current_time() == 1


async def test_a_stream_that_answers_with_an_error_does_not_crash(clock: MockClock) -> None:
    async with isolated(Feed, []) as feed:
        stream = feed.stream(Feed.break_down, "answer")
        assert await anext(stream) == 1
        with pytest.raises(RpcError, match="no"):
            await anext(stream)
        assert await feed.ask("hello", None) == 1


async def test_a_stream_that_crashes_is_not_run_again(clock: MockClock) -> None:
    async with isolated(Feed, []) as feed:
        stream = feed.stream(Feed.break_down, "crash")
        assert await anext(stream) == 1
        with pytest.raises(ActorCrashed):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert await feed.ask("hello", None) == 2


async def test_a_crash_beside_it_ends_a_stream_after_the_grace(clock: MockClock) -> None:
    log: list[Any] = []
    async with isolated(Feed, log, concurrency=2, crash_grace=3) as feed:
        stream = feed.stream(Feed.count, 500)
        assert await anext(stream) == 0
        feed.tell("break", "crash")
        assert [await anext(stream) for _ in range(2)] == [1, 2]
        with pytest.raises(ActorStopped):
            await anext(stream)
        assert log == ["closed"]
        assert trio.current_time() == pytest.approx(4, abs=0.1)
