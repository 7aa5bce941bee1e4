"""Real blocks, in real time, with limits far shorter than in production."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from understudy.actors.actor import Actor
from understudy.actors.handlers import event_pattern
from understudy.actors.lifecycle import Blocked, Notice
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.loop_watch import LoopWatch
from understudy.supervisors.system import System, running

LIMIT = 0.05
LONG = 8 * LIMIT


class Clerk(Actor[str]):
    """Blocks the loop in one way or another."""

    def receive(self, message: str) -> None:
        if message == "sleep":
            time.sleep(LONG)
        elif message == "hold the lock":
            sum(range(20_000_000))

    @event_pattern("clerk.deep")
    async def deep(self, seconds: float) -> None:
        async def inner() -> None:
            time.sleep(seconds)  # noqa: ASYNC251

        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner)


class Slow(Actor[str]):
    async def started(self) -> None:
        time.sleep(LONG)  # noqa: ASYNC251


class Notices:
    """What was published, and a wait for the next `Blocked`."""

    def __init__(self) -> None:
        self.blocks: list[Blocked] = []
        self._came = trio.Event()

    def take(self, notice: Notice) -> None:
        if isinstance(notice, Blocked):
            self.blocks.append(notice)
            self._came.set()

    async def of(self, what: str) -> Blocked:
        """The first one of this handler or path; a slow machine may have others."""
        with trio.fail_after(20):
            while not (found := [b for b in self.blocks if what in (b.handler, b.path)]):
                self._came = trio.Event()
                await self._came.wait()
        return found[0]


@pytest.fixture
async def notices() -> Notices:
    return Notices()


@contextmanager
def watched(
    notices: Notices, system: System, *, limit: float = LIMIT, aloud: float = 60.0
) -> Iterator[None]:
    system.bus.subscribe(notices.take)
    with LoopWatch(system.bus.publish, system.name, limit, aloud=aloud).watching():
        yield


async def _answers() -> None:
    """Let the loop run for some questions."""
    await trio.sleep(4 * LIMIT)


async def test_a_blocking_handler_is_named_with_its_line_and_how_long(notices: Notices) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system):
            await _answers()
            system.ref(Clerk).tell("sleep")
            block = await notices.of("Clerk.receive")

    line = Clerk.receive.__code__.co_firstlineno + 2
    assert (block.path, block.incarnation) == ("shop/clerk", 1)
    assert block.at == f"test_loop_watch.py:{line} in receive"
    assert LIMIT <= block.seconds < 60


async def test_a_task_of_a_handler_is_known_by_its_actor(notices: Notices) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system):
            system.ref(Clerk).tell(Clerk.deep, LONG)
            block = await notices.of("Clerk.deep.<locals>.inner")

    assert block.path == "shop/clerk"
    assert block.at.endswith("in inner")


async def test_a_start_that_blocks_is_named(notices: Notices) -> None:
    async with running(Supervisor("shop")) as system:
        with watched(notices, system):
            await system.start_child(child(Slow))
            block = await notices.of("Slow.started")

    assert block.path == "shop/slow"


async def test_code_of_no_actor_is_told_of_the_root(notices: Notices) -> None:
    async with running(Supervisor("shop")) as system:
        with watched(notices, system):
            time.sleep(LONG)  # noqa: ASYNC251
            block = await notices.of("shop")

    assert block.at.endswith("in test_code_of_no_actor_is_told_of_the_root")


async def test_a_call_that_holds_the_interpreters_lock_is_found_afterwards(
    notices: Notices,
) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system), trio.move_on_after(20):
            # Who gets the lock next is up to the machine: not every time it is the watch.
            while not any(block.handler == "Clerk.receive" for block in notices.blocks):
                await _answers()
                system.ref(Clerk).tell("hold the lock")
                await trio.lowlevel.checkpoint()

    assert any(block.handler == "Clerk.receive" for block in notices.blocks)


async def test_a_loop_that_answers_is_left_alone(notices: Notices) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system, limit=1.0):
            await trio.sleep(1.6)

    assert notices.blocks == []


async def test_the_same_handler_is_told_of_once_in_a_while(notices: Notices) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system):
            for _ in range(2):
                await _answers()
                system.ref(Clerk).tell(Clerk.deep, 1.5)
                await notices.of("Clerk.deep.<locals>.inner")
            await _answers()

    handlers = [block.handler for block in notices.blocks]
    assert handlers.count("Clerk.deep.<locals>.inner") == 1


async def test_a_long_block_is_told_on_stderr_while_it_lasts(
    notices: Notices, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(Supervisor("shop", [child(Clerk)])) as system:
        with watched(notices, system, aloud=2 * LIMIT):
            system.ref(Clerk).tell("sleep")
            await notices.of("Clerk.receive")

    error = capfd.readouterr().err
    start = "understudy: shop/clerk: Clerk.receive has blocked the event loop for"
    assert error.count(start) == 1


async def test_the_thread_ends_with_the_watch(notices: Notices) -> None:
    async with running(Supervisor("shop")) as system:
        with watched(notices, system):
            during = {thread.name for thread in threading.enumerate()}
        after = {thread.name for thread in threading.enumerate()}

    assert during - after == {"understudy-loop-watch"}
