"""Users' asyncio code in the tree: calls both ways, handlers and whole actors on the loop."""

import asyncio
import random
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import trio
import trio.lowlevel
from attrs import frozen
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy import (
    Actor,
    MessageContext,
    Request,
    asyncio_call,
    child,
    event_pattern,
    message_pattern,
    one_for_one,
    running,
    trio_call,
)
from understudy.actors.asyncio_thread import asyncio_thread
from understudy.actors.behavior import Behavior
from understudy.actors.context import origin_now
from understudy.actors.errors import (
    ActorCrashed,
    AskTimeout,
    AsyncioThreadEnded,
    DeclarationError,
    Fenced,
    RpcError,
    UnderstudyError,
)
from understudy.actors.lifecycle import Started
from understudy.supervisors.child import Supervisor
from understudy.testing import isolated

LOOP = "understudy-asyncio-users"


def _here() -> str:
    return threading.current_thread().name


class Adder(Actor[Any]):
    """In trio."""

    @message_pattern("add")
    async def add(self, pair: tuple[int, int]) -> int:
        await trio.lowlevel.checkpoint()
        return sum(pair)

    @message_pattern("sleep")
    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @message_pattern("origin")
    async def origin(self, _: None) -> str:
        origin = origin_now()
        return "" if origin is None else origin.message_id


# -- calls both ways ------------------------------------------------------------------


async def test_a_call_runs_on_the_users_loop() -> None:
    async def where(first: str, *, second: str) -> tuple[str, str, str]:
        await asyncio.sleep(0)
        return first, second, _here()

    assert await asyncio_call(where, "a", second="b") == ("a", "b", LOOP)


async def test_a_call_on_the_loop_already_names_what_to_do() -> None:
    with pytest.raises(UnderstudyError, match="await the coroutine"):
        await asyncio_call(asyncio_call, asyncio.sleep, 0)


async def test_calling_into_trio_from_trio_names_what_to_do() -> None:
    with pytest.raises(UnderstudyError, match="run by asyncio_call"):
        await trio_call(trio.sleep, 0)


async def test_a_call_into_trio_takes_coroutines_and_plain_functions() -> None:
    home = threading.current_thread().name

    async def there() -> list[object]:
        return [
            await trio_call(_here),
            await trio_call(trio.sleep, 0),
            await trio_call(int, "ff", base=16),
        ]

    assert await asyncio_call(there) == [home, None, 255]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(2), StopIteration()], ids=repr)
async def test_exceptions_cross_into_asyncio_and_back(error: BaseException) -> None:
    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async def there() -> None:
        await trio_call(fails)

    kind = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(kind):
        await asyncio_call(there)


async def test_calls_of_a_gather_run_side_by_side() -> None:
    together = trio.Event()
    waiting = 0

    async def meet() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            together.set()
        await together.wait()

    async def there() -> None:
        await asyncio.gather(*(trio_call(meet) for _ in range(3)))

    with trio.fail_after(5):
        await asyncio_call(there)


async def test_a_cancellation_crosses_to_asyncio_and_back_to_trio() -> None:
    steps: list[str] = []
    begun = trio.Event()

    async def innermost() -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            steps.append("trio")

    async def there() -> None:
        try:
            await trio_call(innermost)
        except asyncio.CancelledError:
            steps.append("asyncio")
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio_call, there)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert steps == ["trio", "asyncio"]


@pytest.mark.parametrize("seed", range(6))
async def test_a_storm_of_calls_both_ways_leaves_nothing_behind(seed: int) -> None:
    chance = random.Random(seed)
    before = trio.lowlevel.current_statistics().tasks_living
    balance = 0

    async def in_trio(pauses: int) -> int:
        nonlocal balance
        balance += 1
        try:
            for _ in range(pauses):
                await trio.lowlevel.checkpoint()
        finally:
            balance -= 1
        return pauses

    async def there(pauses: list[int], patience: float) -> int:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return sum(await asyncio.gather(*(trio_call(in_trio, each) for each in pauses)))
        return -1

    async def one() -> None:
        pauses = [chance.randrange(20) for _ in range(chance.randrange(4))]
        with trio.move_on_after(chance.choice((0.0, 0.001, 0.003, 10))):
            patience = chance.choice((0.0, 0.001, 0.003, 10))
            assert await asyncio_call(there, pauses, patience) in (sum(pauses), -1)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one)

    async def left() -> int:
        return len(asyncio.all_tasks()) - 1

    assert await asyncio_call(left) == 0
    assert balance == 0
    loops = 1  # the system task that closes the loop
    assert trio.lowlevel.current_statistics().tasks_living == before + loops


async def test_a_timeout_of_asyncio_cancels_what_it_called_in_trio() -> None:
    ended: list[str] = []

    async def innermost() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("ended")

    async def there() -> str:
        try:
            async with asyncio.timeout(0.01):
                await trio_call(innermost)
        except TimeoutError:
            return "timed out"
        return "?"

    assert await asyncio_call(there) == "timed out"
    assert ended == ["ended"]


async def test_a_cancellation_is_not_lost_in_trio_code_that_swallows_it() -> None:
    begun = trio.Event()

    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            begun.set()
            await wait_all_tasks_blocked()
        return "done"

    async def there() -> None:
        await trio_call(stubborn)
        raise AssertionError("it went on")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio_call, there)
        await begun.wait()
        nursery.cancel_scope.cancel()


async def test_an_ask_made_there_ends_when_the_asker_of_its_handler_gives_up() -> None:
    gave_up = trio.Event()

    class Asks(Actor[Any]):
        @message_pattern("slow", loop="asyncio")
        async def slow(self, seconds: float) -> None:
            with pytest.raises(AskTimeout):
                await trio_call(adder.ask, "sleep", seconds, timeout=1000)
            await trio_call(gave_up.set)

    async with isolated(Adder, shutdown=0.01) as adder, isolated(Asks) as asks:
        with pytest.raises(AskTimeout):
            await asks.ask("slow", 3600, timeout=0.05)
        with trio.fail_after(5):
            await gave_up.wait()


async def test_what_is_asked_there_is_asked_for_the_message_in_hand() -> None:
    class Asks(Actor[Any]):
        @message_pattern("origin", loop="asyncio")
        async def origin(self, _: None) -> Any:
            return await trio_call(adder.ask, "origin", None)

    async with isolated(Adder) as adder, isolated(Asks) as asks:
        assert await asks.request("origin", message_id="m-7") == "m-7"


# -- what must not be touched from there -------------------------------------------------


TOUCHES: dict[str, Callable[[Any, Any], Any]] = {
    "tell": lambda actor, ref: ref.tell("add", (1, 2)),
    "ask": lambda actor, ref: ref.ask("add", (1, 2)),
    "tell_wait": lambda actor, ref: ref.tell_wait("add", (1, 2)),
    "stream": lambda actor, ref: ref.stream("add", (1, 2)),
    "after": lambda actor, ref: actor.after(1, "x", 1),
    "watch": lambda actor, ref: actor.watch(ref),
    "stash": lambda actor, ref: actor.stash(),
    "stop": lambda actor, ref: actor.stop(),
    "reply_later": lambda actor, ref: actor.reply_later(),
}


@pytest.mark.parametrize("name", TOUCHES)
async def test_what_is_trios_refuses_asyncio_code_and_names_trio_call(name: str) -> None:
    class Touches(Actor[Any]):
        @message_pattern("x", loop="asyncio")
        async def x(self, _: int) -> str:
            with pytest.raises(UnderstudyError, match="trio_call"):
                await TOUCHES[name](self, adder)
            return "refused"

    async with isolated(Adder) as adder, isolated(Touches) as touches:
        assert await touches.ask("x", 1) == "refused"
        assert await adder.ask("add", (1, 2)) == 3  # its lane was not lost


async def test_tells_stashes_and_late_answers_work_by_trio_call() -> None:
    class Late(Actor[Any]):
        @message_pattern("late", loop="asyncio")
        async def late(self, number: int) -> None:
            reply = await trio_call(self.reply_later)
            await trio_call(self.ref.tell, "finish", number)
            replies.append(reply)

        @event_pattern("finish", loop="asyncio")
        async def finish(self, number: int) -> None:
            await trio_call(replies.pop().succeed, number + 1)

    replies: list[Any] = []
    async with isolated(Late) as late:
        assert await late.ask("late", 6) == 7


async def test_what_is_left_of_an_ended_handler_is_refused() -> None:
    refused = threading.Event()
    held: list[Any] = []

    class Leaves(Actor[Any]):
        @message_pattern("leave", loop="asyncio")
        async def leave(self, _: int) -> None:
            held.append(asyncio.create_task(self.later()))

        async def later(self) -> None:
            await trio_call(over.wait)
            try:
                await trio_call(_here)
            except Fenced:
                refused.set()

    over = trio.Event()
    async with isolated(Leaves) as leaves:
        await leaves.ask("leave", 1)
        await leaves.crash()
    over.set()
    with trio.fail_after(5):
        await trio.to_thread.run_sync(refused.wait)


# -- handlers on the loop ----------------------------------------------------------------


class Mixed(Actor[Any]):
    """One handler in trio, the others on the loop."""

    left: ClassVar[list[str]] = []

    @message_pattern("trio")
    async def in_trio(self, _: int) -> str:
        return _here()

    @message_pattern("asyncio", loop="asyncio")
    async def there(self, _: int, context: MessageContext) -> tuple[str, str | None]:
        await asyncio.sleep(0)
        return _here(), context.pattern

    @message_pattern("refuses", loop="asyncio")
    async def refuses(self, _: int) -> None:
        raise RpcError("no")

    @message_pattern("crashes", loop="asyncio")
    async def crashes(self, _: int) -> None:
        raise ValueError("crash")

    @message_pattern("items", loop="asyncio")
    async def items(self, count: int) -> AsyncIterator[tuple[int, str]]:
        try:
            async with asyncio.timeout(60):
                for number in range(count):
                    yield number, _here()
                    await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.left.append("left")


async def test_a_handler_runs_where_it_says() -> None:
    async with isolated(Mixed) as mixed:
        assert await mixed.ask("trio", 1) == _here()
        assert await mixed.ask("asyncio", 1) == (LOOP, "asyncio")


async def test_errors_mean_there_what_they_mean_here() -> None:
    async with isolated(Mixed) as mixed:
        with pytest.raises(RpcError, match="no"):
            await mixed.ask("refuses", 1)
        assert mixed.incarnation == 1
        with pytest.raises(ActorCrashed) as caught:
            await mixed.ask("crashes", 1)
        assert isinstance(caught.value.__cause__, ValueError)
        assert (await mixed.ask("asyncio", 1))[0] == LOOP
        assert mixed.incarnation == 2


async def test_items_cross_one_by_one_in_order() -> None:
    async with isolated(Mixed) as mixed:
        got = [item async for item in mixed.stream("items", 100)]
    assert got == [(number, LOOP) for number in range(100)]


async def test_leaving_a_stream_ends_its_generator_on_the_loop() -> None:
    Mixed.left.clear()
    async with isolated(Mixed) as mixed:
        stream = mixed.stream("items", 1_000_000)
        async for number, _ in stream:
            if number == 30:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert await mixed.ask("trio", 1)  # its lane is free again
    assert Mixed.left == ["left"]


async def test_a_stream_is_only_as_far_ahead_as_its_caller_allows() -> None:
    made: list[int] = []

    class Eager(Actor[Any]):
        @message_pattern("items", loop="asyncio")
        async def items(self, _: int) -> AsyncIterator[int]:
            for number in range(1000):
                made.append(number)
                yield number

    async with isolated(Eager) as eager:
        stream = eager.stream("items", 0)
        assert await anext(stream) == 0
        for _ in range(200):  # time for as much as would come without a bound
            await asyncio_call(asyncio.sleep, 0)
        assert len(made) < 30
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_generator_that_fails_crashes_its_actor_after_its_items() -> None:
    class Fails(Actor[Any]):
        @message_pattern("items", loop="asyncio")
        async def items(self, _: int) -> AsyncIterator[int]:
            yield 1
            raise ValueError("then")

    got: list[int] = []

    async def take() -> None:
        async for item in fails.stream("items", 0):
            got.append(item)

    async with isolated(Fails) as fails:
        with pytest.raises(ActorCrashed):
            await take()
    assert got == [1]


def test_a_plain_def_cannot_ask_for_the_loop() -> None:
    class Plain(Actor[Any]):
        @message_pattern("x", loop="asyncio")
        def x(self, _: int) -> None: ...

    with pytest.raises(DeclarationError, match="plain def"):
        Behavior.of(Plain)


def test_a_loop_that_does_not_exist_is_refused() -> None:
    class Twisted(Actor[Any]):
        loop = "twisted"  # type: ignore[assignment]

    with pytest.raises(DeclarationError, match="'twisted'"):
        Behavior.of(Twisted)


def test_handlers_in_trio_stay_on_the_short_path() -> None:
    behavior = Behavior.of(Mixed)
    assert behavior.requests["trio"].direct
    assert not behavior.requests["asyncio"].direct


# -- actors that live there --------------------------------------------------------------


@frozen
class Where(Request[list[str]]):
    pass


class Echo(Actor[Where]):
    """Holds a connection of asyncio's own library, which only its loop can use."""

    loop = "asyncio"

    def __init__(self, port: int, log: list[str]) -> None:
        self.port, self.log = port, log

    async def started(self) -> None:
        self.log.append(f"started on {_here()}")
        self.lock = asyncio.Lock()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def stopping(self) -> None:
        self.log.append(f"stopping on {_here()}")
        self.writer.close()
        await self.writer.wait_closed()

    def receive(self, message: Where) -> list[str]:
        return [_here()]

    @message_pattern("echo")
    async def echo(self, text: str) -> str:
        async with self.lock:
            self.writer.write(f"{text}\n".encode())
            return (await self.reader.readline()).decode().strip()

    @message_pattern("plain")
    def plain(self, _: int) -> str:
        return _here()

    @message_pattern("trio", loop="trio")
    async def in_trio(self, _: int) -> str:
        await trio.lowlevel.checkpoint()
        return _here()

    @message_pattern("crash")
    async def crash(self, _: int) -> None:
        self.writer.close()
        raise ValueError("crash")

    @message_pattern("kill the loop")
    async def kill_the_loop(self, _: int) -> None:
        self.writer.close()
        asyncio.get_running_loop().stop()
        await asyncio.sleep(3600)


@pytest.fixture
async def port() -> Any:
    """An echo server on the brokers' loop, so that the users' may end."""
    server: list[asyncio.Server] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def begin() -> int:
        server.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return int(server[0].sockets[0].getsockname()[1])

    async def end() -> None:
        server[0].close()

    thread = asyncio_thread("brokers")
    yield await thread.call(begin)
    await thread.call(end)


async def test_an_actor_lives_on_the_loop_from_started_to_stopping(port: int) -> None:
    log: list[str] = []
    async with isolated(Echo, port, log) as echo:
        assert await echo.ask("echo", "hello") == "hello"
        assert await echo.ask(Where()) == [LOOP]
        assert await echo.ask("plain", 1) == LOOP
        assert await echo.ask("trio", 1) == _here()
    assert log == [f"started on {LOOP}", f"stopping on {LOOP}"]


async def test_the_example_of_the_page_quotes_and_tells_the_audit(port: int) -> None:
    page = ModuleType("asyncio_page")
    monkey = pytest.MonkeyPatch()
    monkey.setitem(sys.modules, page.__name__, page)  # where typing looks names up
    text = (Path(__file__).parents[2] / "docs" / "actors.md").read_text()
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)), page.__dict__)
    async with isolated(page.Audit) as audit, isolated(page.Quotes, port, audit) as quotes:
        assert await quotes.ask("quotes.get", "lamp") == "lamp"
        await wait_all_tasks_blocked()
        told: Any = audit.system.registry.find("isolated/audit").instance
        assert told.seen
    monkey.undo()


async def test_a_crash_on_the_loop_restarts_the_actor_there(port: int) -> None:
    log: list[str] = []
    async with isolated(Echo, port, log) as echo:
        with pytest.raises(ActorCrashed):
            await echo.ask("crash", 1)
        assert await echo.ask("echo", "again") == "again"
    assert log == [f"started on {LOOP}"] * 2 + [f"stopping on {LOOP}"]


async def test_an_actor_whose_loop_has_ended_starts_again_on_the_next_one(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    async with isolated(Echo, port, log) as echo:
        with pytest.raises(ActorCrashed) as caught:
            await echo.ask("kill the loop", 1)
        assert isinstance(caught.value.__cause__, AsyncioThreadEnded)
        assert await echo.ask("echo", "again") == "again"
    assert "has ended" in caplog.text


async def test_an_actor_does_not_go_on_with_what_it_made_on_a_loop_that_has_ended() -> None:
    class Holds(Actor[Any]):
        loop = "asyncio"

        async def started(self) -> None:
            self.made_on = asyncio.get_running_loop()

        @message_pattern("same")
        async def same(self, _: int) -> bool:
            return self.made_on is asyncio.get_running_loop()

    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(3600)

    async with isolated(Holds) as holds:
        assert await holds.ask("same", 1)
        with pytest.raises(AsyncioThreadEnded):
            await asyncio_call(stop)
        with pytest.raises(ActorCrashed):
            await holds.ask("same", 1)
        assert await holds.ask("same", 1)


async def test_messages_interleave_there_up_to_the_concurrency() -> None:
    class Meets(Actor[Any]):
        loop = "asyncio"
        waiting = 0

        async def started(self) -> None:
            self.together = asyncio.Event()

        @message_pattern("meet")
        async def meet(self, _: int) -> str:
            self.waiting += 1
            if self.waiting == 4:
                self.together.set()
            await self.together.wait()
            return "met"

    met: list[str] = []

    async def ask() -> None:
        met.append(await meets.ask("meet", 1))

    async with isolated(Meets, concurrency=4) as meets, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
    assert met == ["met"] * 4


async def test_a_kill_cancels_the_handler_there_and_waits_for_its_clean_up() -> None:
    steps: list[str] = []
    begun = trio.Event()

    class Waits(Actor[Any]):
        loop = "asyncio"

        @event_pattern("wait")
        async def wait(self, _: int) -> None:
            try:
                await trio_call(begun.set)
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0)
                steps.append("cleaned up")

        async def stopping(self) -> None:
            steps.append("stopping")

    tree = Supervisor("t", [child(Waits, name="waits", shutdown=0.05)], strategy=one_for_one)
    async with running(tree) as system:
        system.registry.find("t/waits").ref.tell("wait", 1)
        await begun.wait()
    assert steps == ["cleaned up"]


async def test_crash_grace_holds_there() -> None:
    steps: list[str] = []

    class Two(Actor[Any]):
        loop = "asyncio"

        @message_pattern("wait")
        async def wait(self, _: int) -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                steps.append("cancelled")
                raise

        @message_pattern("crash")
        async def crash(self, _: int) -> None:
            raise ValueError("crash")

    async def ask(pattern: str) -> None:
        with pytest.raises(UnderstudyError):
            await two.ask(pattern, 1)

    async with isolated(Two, concurrency=2, crash_grace=0.05) as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "wait")
            await wait_all_tasks_blocked()
            await ask("crash")
            nursery.cancel_scope.deadline = trio.current_time() + 5
            await two.lifecycle.expect(Started)
            nursery.cancel_scope.cancel()
    assert steps == ["cancelled"]


# -- the two loops, and virtual time -------------------------------------------------------


async def test_a_handler_that_blocks_its_loop_stalls_neither_brokers_nor_trio() -> None:
    gate = threading.Event()

    class Blocks(Actor[Any]):
        @message_pattern("block", loop="asyncio")
        async def block(self, _: int) -> str:
            gate.wait(30)
            return "done"

    answers: list[str] = []

    async def ask() -> None:
        answers.append(await blocks.ask("block", 1))

    async with isolated(Blocks) as blocks, trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(50):
            await asyncio_thread("brokers").call(asyncio.sleep, 0)
        assert not answers
        gate.set()
    assert answers == ["done"]


async def test_virtual_time_stands_still_while_asyncio_code_works(
    autojump_clock: MockClock,
) -> None:
    class Works(Actor[Any]):
        @message_pattern("work", loop="asyncio")
        async def work(self, _: int) -> str:
            await asyncio.sleep(0.05)
            return "worked"

    async with isolated(Works) as works:
        before = trio.current_time()
        assert await works.ask("work", 1, timeout=0.01) == "worked"
        assert trio.current_time() == before
        await trio.sleep(1000)  # and goes on afterwards
    assert trio.current_time() >= before + 1000


async def test_virtual_time_goes_on_while_asyncio_code_waits_for_trio(
    autojump_clock: MockClock,
) -> None:
    async def there() -> str:
        await asyncio.gather(trio_call(trio.sleep, 500), trio_call(trio.sleep, 1000))
        await asyncio.sleep(0.01)
        return "slept"

    start, before = time.monotonic(), trio.current_time()
    with trio.fail_after(1001):
        assert await asyncio_call(there) == "slept"
    assert trio.current_time() == before + 1000
    assert time.monotonic() - start < 10
