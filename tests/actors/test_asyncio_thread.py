"""The asyncio thread on its own: what crosses, how it ends, and that no wake-up is lost.

Time is real here: the other side is a real thread. Nothing sleeps to wait for it.
"""

import asyncio
import contextvars
import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sniffio
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors import asyncio_thread as module
from understudy.actors.asyncio_queues import Inlet, Outlet
from understudy.actors.asyncio_thread import AsyncioThread, asyncio_thread
from understudy.actors.errors import AsyncioThreadEnded

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


@pytest.fixture
async def thread() -> AsyncioThread:
    return asyncio_thread("users")


async def _tasks(thread: AsyncioThread) -> int:
    """How many tasks there are on the loop, beside the one that looks."""

    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    return await thread.call(count)


# -- calls --------------------------------------------------------------------------


async def test_a_result_comes_back_from_another_thread(thread: AsyncioThread) -> None:
    async def where(number: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        return number, threading.current_thread().name

    assert await thread.call(where, 7) == (7, "understudy-asyncio-users")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("seven"),
        StopAsyncIteration(),
        SystemExit(3),
        KeyboardInterrupt(),
        ExceptionGroup("two", [ValueError(1), KeyError(2)]),
        BaseExceptionGroup("worse", [SystemExit(1), KeyError(2)]),
    ],
    ids=repr,
)
async def test_what_a_coroutine_raises_comes_out_in_trio(
    thread: AsyncioThread, error: BaseException
) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await thread.call(fails)
    assert caught.value is error
    assert await _tasks(thread) == 0  # and the loop is still there


async def test_context_variables_go_along_and_do_not_come_back(thread: AsyncioThread) -> None:
    async def look() -> str:
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        return seen

    VARIABLE.set("mine")
    assert await thread.call(look) == "mine"
    assert VARIABLE.get() == "mine"


async def test_libraries_for_both_loops_see_asyncio_there(thread: AsyncioThread) -> None:
    async def library() -> str:
        return sniffio.current_async_library()

    assert await thread.call(library) == "asyncio"


async def test_a_cancellation_crosses_and_the_clean_up_ends_before_trio_goes_on(
    thread: AsyncioThread,
) -> None:
    steps: list[str] = []
    begun = trio.Event()

    async def waits() -> None:
        try:
            thread.back(begun.set)
            await asyncio.sleep(3600)
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            steps.append("cleaned up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, waits)
        await begun.wait()
        nursery.cancel_scope.cancel()
    steps.append("trio went on")
    assert steps == ["cleaned up", "trio went on"]


async def test_a_call_cancelled_before_it_has_begun_does_not_begin(thread: AsyncioThread) -> None:
    begun: list[int] = []
    gate = threading.Event()

    async def never() -> None:
        begun.append(1)

    thread.soon(gate.wait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, never)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        gate.set()
    assert not begun


async def test_a_cancelled_task_calls_nothing(thread: AsyncioThread) -> None:
    called: list[int] = []

    async def never() -> None:
        called.append(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await thread.call(never)
    assert scope.cancelled_caught
    assert await _tasks(thread) == 0
    assert not called


async def test_a_coroutine_that_swallows_its_cancellation_gives_its_value(
    thread: AsyncioThread,
) -> None:
    begun = trio.Event()
    values: list[str] = []

    async def stubborn() -> str:
        thread.back(begun.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "value"
        return "?"

    async def keep() -> None:
        values.append(await thread.call(stubborn))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert values == ["value"]


async def test_an_error_of_the_clean_up_wins_over_the_cancellation(thread: AsyncioThread) -> None:
    begun = trio.Event()

    async def fails() -> None:
        try:
            thread.back(begun.set)
            await asyncio.sleep(3600)
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.call, fails)
            await begun.wait()
            nursery.cancel_scope.cancel()
    assert "while cleaning up" in repr(caught.value.exceptions)


async def test_a_task_that_its_own_loop_cancels_is_an_error_and_no_cancellation(
    thread: AsyncioThread,
) -> None:
    async def cancels_itself() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(3600)

    with pytest.raises(RuntimeError, match="cancelled by something on its own loop"):
        await thread.call(cancels_itself)


async def test_a_task_that_is_cancelled_on_its_loop_before_it_has_begun_is_heard_of(
    thread: AsyncioThread,
) -> None:
    gate = threading.Event()
    heard: list[str] = []

    async def call() -> None:
        with pytest.raises(RuntimeError, match="cancelled by something on its own loop"):
            await thread.call(asyncio.sleep, 3600)
        heard.append("yes")

    def cancel_all() -> None:
        for task in asyncio.all_tasks(thread.loop):
            task.cancel()

    thread.soon(gate.wait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        thread.soon(cancel_all)
        gate.set()
    assert heard == ["yes"]


@pytest.mark.parametrize("seed", range(8))
async def test_a_storm_of_cancelled_calls_leaves_no_task_behind(
    thread: AsyncioThread, seed: int
) -> None:
    chance = random.Random(seed)
    begun = ended = 0

    async def work(pauses: int, cleaning: int) -> int:
        nonlocal begun, ended
        begun += 1
        try:
            for _ in range(pauses):
                await asyncio.sleep(0)
        finally:
            try:
                for _ in range(cleaning):
                    await asyncio.sleep(0)
            finally:
                ended += 1
        return pauses

    async def one() -> None:
        pauses, patience = chance.randrange(40), chance.randrange(40)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def impatient() -> None:
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                if chance.random() < 0.8:
                    nursery.start_soon(impatient)
                got = await thread.call(work, pauses, chance.randrange(4))
                assert got == pauses
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(one)
    assert begun == ended
    assert await _tasks(thread) == 0
    assert not thread._waiting


async def test_a_failing_plain_function_does_not_keep_those_after_it_from_running(
    thread: AsyncioThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise ValueError("alone")

    thread.soon(fails)
    assert await _tasks(thread) == 0
    assert "alone" in caplog.text


# -- the end ------------------------------------------------------------------------


async def _stops_its_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(3600)


async def _exits_in_a_task() -> None:
    async def exits() -> None:
        raise SystemExit(4)

    keep = asyncio.create_task(exits())
    await asyncio.sleep(3600)
    del keep


@pytest.mark.parametrize("kill", [_stops_its_loop, _exits_in_a_task])
async def test_a_loop_that_ends_fails_all_that_waits_and_the_next_use_has_a_new_one(
    caplog: pytest.LogCaptureFixture, kill: Callable[[], Awaitable[None]]
) -> None:
    thread = asyncio_thread("users")
    inlet: Inlet[int] = Inlet(thread, 4)
    outlet: Outlet[int] = Outlet(thread)
    outlet.send(1)
    failures: list[str] = []

    async def waits(name: str, function: Callable[..., Any], *arguments: Any) -> None:
        with pytest.raises(AsyncioThreadEnded):
            await function(*arguments)
        failures.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, "call", thread.call, asyncio.sleep, 3600)
        nursery.start_soon(waits, "inlet", inlet.burst)
        nursery.start_soon(waits, "room", outlet.room, 1)
        await wait_all_tasks_blocked()
        await waits("killer", thread.call, kill)
    assert sorted(failures) == ["call", "inlet", "killer", "room"]
    assert "the asyncio loop for users has ended" in caplog.text
    for dead in (inlet.burst, lambda: thread.call(asyncio.sleep, 0), lambda: outlet.room(1)):
        with pytest.raises(AsyncioThreadEnded):
            await dead()
    with pytest.raises(AsyncioThreadEnded):
        outlet.send(2)
    thread._there_woken = True  # as if it had ended just when it was woken
    with pytest.raises(AsyncioThreadEnded):
        thread.soon(failures.clear)
    assert asyncio_thread("users") is not thread
    assert await _tasks(asyncio_thread("users")) == 0


async def test_cancelling_a_call_while_its_loop_dies_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread = asyncio_thread("users")
    gate = threading.Event()

    def stop() -> None:
        thread.loop.stop()
        gate.wait()

    async def call() -> None:
        with pytest.raises((AsyncioThreadEnded, trio.Cancelled)):
            await thread.call(asyncio.sleep, 3600)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        thread.soon(stop)
        gate.set()
        nursery.cancel_scope.cancel()
    assert "has ended" in caplog.text or thread.alive


def _open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the folder itself
            continue
    return found


def _our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("understudy-asyncio")]


def test_nothing_is_left_when_the_run_ends() -> None:
    ended: list[str] = []

    async def serve_forever() -> None:
        try:
            async with await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0):
                await asyncio.sleep(3600)
        finally:
            ended.append("task")

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def begin() -> None:
        await asyncio.to_thread(ended.append, "executor")
        items = generator()
        await anext(items)
        kept.extend([asyncio.create_task(serve_forever()), items])
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio_thread("users").call(begin)
        await asyncio_thread("brokers").call(asyncio.sleep, 0)
        assert len(_our_threads()) >= 2

    kept: list[Any] = []
    trio.run(trio.to_thread.run_sync, ended.clear)  # trio's own thread and sockets are there now
    before = _open_files()
    trio.run(main)
    kept.clear()
    assert sorted(ended) == ["executor", "generator", "task"]
    assert not _our_threads()
    assert _open_files() <= before


def test_runs_one_after_the_other_have_loops_of_their_own() -> None:
    async def main() -> AsyncioThread:
        thread = asyncio_thread("users")
        await thread.call(asyncio.sleep, 0)
        return thread

    threads = [trio.run(main) for _ in range(3)]
    assert len(set(threads)) == 3
    assert not any(thread.alive for thread in threads)


def test_a_task_that_ignores_its_cancellation_is_named_and_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    kept: list[Any] = []

    async def stubborn_one() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async def begin() -> None:
        kept.append(asyncio.create_task(stubborn_one()))
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio_thread("users").call(begin)

    trio.run(main)
    assert "ignores its cancellation" in caplog.text
    assert "stubborn_one" in caplog.text
    assert not _our_threads()
    kept[0]._log_destroy_pending = False  # asyncio would complain of it once more


def test_a_function_in_the_executor_that_does_not_end_is_told_and_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    gate = threading.Event()

    async def begin() -> None:
        asyncio.get_running_loop().run_in_executor(None, gate.wait)

    async def main() -> None:
        await asyncio_thread("users").call(begin)

    trio.run(main)
    assert "in the executor of the loop for users does not end" in caplog.text
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("understudy-asyncio"):
            thread.join()


def test_a_blocked_loop_is_told_with_its_stack_and_does_not_hold_the_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", -0.8)
    gate, begun = threading.Event(), threading.Event()
    threads: list[AsyncioThread] = []

    def blocks() -> None:
        begun.set()
        gate.wait()

    async def main() -> None:
        threads.append(asyncio_thread("users"))
        threads[0].soon(blocks)
        await trio.to_thread.run_sync(begun.wait)

    start = time.monotonic()
    trio.run(main)
    assert time.monotonic() - start < 5
    assert "is left behind" in caplog.text
    assert "in blocks" in caplog.text
    gate.set()
    threads[0]._thread.join()


def test_a_task_that_exits_while_the_loop_is_closed_does_not_keep_others_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def exits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise SystemExit(1)

    async def cleans() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("cleaned")

    async def begin() -> None:
        kept.extend(asyncio.create_task(each()) for each in (exits, cleans))
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio_thread("users").call(begin)

    kept: list[Any] = []
    trio.run(main)
    assert ended == ["cleaned"]
    assert "SystemExit" in caplog.text
    assert kept[0].exception().code == 1


# -- inlet and outlet ---------------------------------------------------------------


async def test_an_inlet_is_bounded_and_who_fills_it_waits(thread: AsyncioThread) -> None:
    inlet: Inlet[int] = Inlet(thread, 10)
    longest = 0

    async def fill() -> None:
        nonlocal longest
        for number in range(1000):
            assert await inlet.put(number)
            longest = max(longest, len(inlet))

    got: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, fill)
        while len(got) < 1000:
            got += await inlet.burst()
    assert got == list(range(1000))
    assert longest <= 10


async def test_an_inlet_that_is_full_refuses_an_offer(thread: AsyncioThread) -> None:
    inlet: Inlet[int] = Inlet(thread, 2)

    async def offer() -> list[bool]:
        return [inlet.offer(number) for number in range(3)]

    assert await thread.call(offer) == [True, True, False]
    assert await inlet.burst() == [0, 1]


async def test_closing_an_inlet_lets_those_go_who_wait_for_room(thread: AsyncioThread) -> None:
    inlet: Inlet[int] = Inlet(thread, 1)
    waiting = trio.Event()

    async def fill() -> list[bool]:
        inlet.offer(0)
        puts = [asyncio.create_task(inlet.put(number)) for number in range(3)]
        await asyncio.sleep(0)
        thread.back(waiting.set)
        return await asyncio.gather(*puts)

    results: list[bool] = []

    async def keep() -> None:
        results.extend(await thread.call(fill))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await waiting.wait()
        inlet.close()
    assert results == [False, False, False]
    assert not inlet._writers


async def test_a_cancelled_reader_loses_nothing(thread: AsyncioThread) -> None:
    inlet: Inlet[int] = Inlet(thread, 16)
    chance = random.Random(5)
    total = 20_000

    async def fill() -> None:
        for number in range(total):
            await inlet.put(number)

    got: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, fill)
        while len(got) < total:
            with trio.move_on_after(chance.choice((0, 0.00001, 0.0001, 1))):
                got += await inlet.burst()
    assert got == list(range(total))
    assert not thread._waiting


async def test_cancelled_writers_leave_no_trace_and_no_wake_up_with_them(
    thread: AsyncioThread,
) -> None:
    inlet: Inlet[int] = Inlet(thread, 1)

    async def fill() -> int:
        inlet.offer(0)
        puts = [asyncio.create_task(inlet.put(number)) for number in range(1, 50)]
        await asyncio.sleep(0)
        for put in puts[:-1]:
            put.cancel()
        await asyncio.gather(*puts[:-1], return_exceptions=True)
        left = len(inlet._writers)
        thread.back(ready.set)
        await puts[-1]
        return left

    ready = trio.Event()
    left: list[int] = []

    async def keep() -> None:
        left.append(await thread.call(fill))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await ready.wait()
        assert await inlet.burst() == [0]
        assert await inlet.burst() == [49]
    assert left == [1]


def _pause(chance: random.Random) -> None:
    """Let the other thread catch up, now and then, for a moment of a random length."""
    if chance.random() < 0.002:
        time.sleep(chance.random() * 0.0005)


@pytest.mark.parametrize("seed", range(4))
async def test_no_wake_up_is_lost_between_two_threads(thread: AsyncioThread, seed: int) -> None:
    """There and back: whichever reader were not woken would keep both waiting for ever."""
    total = 150_000 if seed else 20_000  # with room for one, each item is a wake-up
    here, there = random.Random(seed), random.Random(-seed - 1)
    inlet: Inlet[int] = Inlet(thread, 1 + seed * 40)
    outlet: Outlet[int] = Outlet(thread)

    async def echo() -> int:
        count = 0
        while burst := await outlet.burst():
            for number in burst:
                if not inlet.offer(number):
                    await inlet.put(number)
                count += 1
                _pause(there)
        return count

    counts: list[int] = []
    got: list[int] = []

    async def run_echo() -> None:
        counts.append(await thread.call(echo))

    async def send() -> None:
        for number in range(total):
            outlet.send(number)
            _pause(here)
            if number % 64 == 0:
                await outlet.room(100)
        outlet.close()

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_echo)
            nursery.start_soon(send)
            while len(got) < total:
                got += await inlet.burst()
                _pause(here)
    assert got == list(range(total))
    assert counts == [total]


@pytest.mark.parametrize("look", [1, 2])
async def test_what_comes_just_after_the_reader_has_looked_wakes_it(
    thread: AsyncioThread, look: int
) -> None:
    looks = 0

    class Late(deque[int]):
        def __bool__(self) -> bool:
            nonlocal looks
            seen = len(self) > 0
            looks += 1
            if looks == look:  # the loop is quicker than who has just looked
                offered = threading.Event()
                thread.soon(inlet.offer, 7)
                thread.soon(offered.set)
                offered.wait()
            return seen

    inlet: Inlet[int] = Inlet(thread, 4)
    inlet._items = Late()
    with trio.fail_after(3):
        assert await inlet.burst() == [7]


async def test_a_closed_outlet_gives_what_is_there_then_nothing(thread: AsyncioThread) -> None:
    outlet: Outlet[int] = Outlet(thread)
    outlet.send(1)
    outlet.send(2)
    outlet.close()

    async def take() -> list[list[int]]:
        return [await outlet.burst(), await outlet.burst()]

    assert await thread.call(take) == [[1, 2], []]


async def test_closing_an_outlet_ends_the_wait_for_room(thread: AsyncioThread) -> None:
    outlet: Outlet[int] = Outlet(thread)
    outlet.send(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.room, 1)
        await wait_all_tasks_blocked()
        outlet.close()
