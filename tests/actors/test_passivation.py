"""Actors that lay down their state when they have nothing to do, and come back for mail."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.deferred import Reply
from understudy.actors.errors import ActorStopped, DeclarationError, Retry
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Activated, Crashed, Passivated, Started
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import isolated


@attrs.define
class World:
    """What outlives the instances, and decides what they meet."""

    log: list[str] = attrs.field(factory=list)
    replies: list[Reply] = attrs.field(factory=list)
    fails: int = 0
    slow_stop: float = 0.0


class Session(Actor[Terminated]):
    """Counts; holds on to things if it is told to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    async def started(self) -> None:
        self.world.log.append("started")
        if self.world.fails and "stopping" in self.world.log:
            self.world.fails -= 1
            raise OSError("no database")

    async def stopping(self) -> None:
        await trio.sleep(self.world.slow_stop)
        self.world.log.append("stopping")

    def receive(self, message: Terminated) -> None: ...

    @message_pattern("count")
    async def count_up(self) -> int:
        self.count += 1
        return self.count

    @message_pattern("hold")
    async def hold(self, what: str) -> None:
        if what == "timer":
            self.after(1000, "count", None)
        elif what == "stash":
            self.stash()
        elif what == "watch":
            self.watch(self.lookup("other"))
        elif what == "link":
            self.link(self.lookup("other"))
        elif what == "reply":
            self.world.replies.append(self.reply_later())
        elif what == "retry":
            raise Retry(after=1000)
        elif what == "child":
            await self.start_child(child(Other, name="kid"))
        elif what == "work":
            await trio.sleep(1000)

    @event_pattern("let go")
    async def let_go(self, what: str) -> None:
        if what == "watch":
            self.unwatch(self.lookup("other"))
        elif what == "link":
            self.unlink(self.lookup("other"))
        elif what == "stash":
            self.unstash()
        elif what == "child":
            await self.stop_child("kid")

    @message_pattern("life")
    async def life(self) -> int:
        return self.incarnation

    @message_pattern("sleep")
    async def sleeps(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Other(Actor):
    """Somebody to hold on to."""


@pytest.fixture
def world() -> World:
    return World()


def kinds(session: Any) -> list[str]:
    kept: list[str] = session.lifecycle.kinds()
    return kept


async def test_an_idle_actor_lays_down_its_state_and_makes_it_anew(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        assert [await session.ask("count", None) for _ in range(3)] == [1, 2, 3]
        await trio.sleep(11)
        assert world.log == ["started", "stopping"]
        assert await session.ask("count", None) == 1

    assert world.log == ["started", "stopping"] * 2


async def test_it_says_so_and_keeps_its_number(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)
        assert await session.ask("life", None) == 1
        assert session.lifecycle.of(Passivated) == [
            Passivated(path="isolated/session", incarnation=1, after=10)
        ]
        assert session.lifecycle.of(Activated) == [
            Activated(path="isolated/session", incarnation=1)
        ]
        assert kinds(session) == ["started", "passivated", "activated"]


async def test_it_is_passive_right_after_that_time_and_not_before(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(7)
        await session.ask("sleep", 1)
        await trio.sleep(9.9)
        assert world.log == ["started"]
        await trio.sleep(0.2)
        assert world.log == ["started", "stopping"]


async def test_time_at_work_is_no_idleness(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await session.ask("sleep", 50, timeout=100)
        assert world.log == ["started"]
        await trio.sleep(9)
        assert world.log == ["started"]
        await trio.sleep(11)
        assert world.log == ["started", "stopping"]


async def test_it_becomes_passive_again_and_again(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        for _ in range(4):
            await session.ask("count", None)
            await trio.sleep(11)
        assert len(session.lifecycle.of(Passivated)) == 4
        assert len(session.lifecycle.of(Activated)) == 3


@pytest.mark.parametrize("what", ["timer", "stash", "watch", "link", "reply", "retry", "child"])
async def test_it_is_not_passive_while_it_holds_what_would_be_lost(
    what: str, world: World, clock: MockClock
) -> None:
    session = child(Session, world, passivate_after=10)
    async with running(Supervisor("t", [session, child(Other)])) as system:
        system.ref("session").tell("hold", what)
        async with trio.open_nursery() as nursery:
            if what in ("reply", "stash"):
                nursery.start_soon(_ask_patiently, system.ref("session"), what)
            await trio.sleep(100)
            assert world.log == ["started"]
            nursery.cancel_scope.cancel()


async def _ask_patiently(session: Any, what: str) -> None:
    await session.ask("hold", what, timeout=10_000)


@pytest.mark.parametrize("what", ["watch", "link", "child"])
async def test_it_is_passive_once_it_has_let_go(what: str, world: World, clock: MockClock) -> None:
    session = child(Session, world, passivate_after=10)
    async with running(Supervisor("t", [session, child(Other)])) as system:
        system.ref("session").tell("hold", what)
        await trio.sleep(100)
        system.ref("session").tell("let go", what)
        await trio.sleep(25)
        assert world.log == ["started", "stopping"]


async def test_it_is_not_passive_while_one_of_its_lanes_is_busy(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10, concurrency=3) as session:
        session.tell("hold", "work")
        session.tell("count", None)
        await trio.sleep(100)
        assert world.log == ["started"]


async def test_with_several_lanes_it_is_passive_when_all_are_idle(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10, concurrency=3) as session:
        for _ in range(3):
            for _ in range(3):
                session.tell("sleep", 1)
            await trio.sleep(20)
        assert len(session.lifecycle.of(Passivated)) == 3
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(session.ask, "sleep", 1)
        assert trio.current_time() - begin == 1  # all three lanes are there again


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_mail_at_the_very_moment_is_handled(
    concurrency: int, world: World, clock: MockClock
) -> None:
    async with isolated(
        Session, world, passivate_after=10, concurrency=concurrency, shutdown=99
    ) as session:
        timers = session.system.timers
        for number in range(20):
            before = [0, 1][number % 2]  # planned before, or after, the look that ends it
            due = trio.current_time() + 10

            def send() -> None:
                session.tell("count", None)

            if before:
                timers.call_at(due, send)
            await session.ask("sleep", 0)
            if not before:
                timers.call_at(due, send)
            await trio.sleep_until(due + 0.001)
            await session.ask("sleep", 0)
            begin = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(concurrency):
                    nursery.start_soon(session.ask, "sleep", 1)
            assert trio.current_time() - begin == 1
        await trio.sleep(30)
        assert kinds(session)[-1] == "passivated"


async def test_mail_during_stopping_activates_it_again(world: World, clock: MockClock) -> None:
    world.slow_stop = 3
    async with isolated(Session, world, passivate_after=10) as session:
        await session.ask("count", None)
        await trio.sleep(11)
        assert await session.ask("count", None) == 1
        assert world.log == ["started", "stopping", "started"]
        assert trio.current_time() == pytest.approx(13, abs=0.1)


async def test_a_stop_during_stopping_runs_it_once(world: World, clock: MockClock) -> None:
    world.slow_stop = 3
    async with isolated(Session, world, passivate_after=10):
        await trio.sleep(11)

    assert world.log == ["started", "stopping"]


async def test_a_stop_while_passive_starts_nothing(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)

    assert world.log == ["started", "stopping"]
    assert kinds(session) == ["started", "passivated", "stopping", "stopped"]
    assert session.lifecycle.notices[-1].how == "shutdown"  # type: ignore[attr-defined]


async def test_a_stop_serves_the_mail_that_has_just_activated_it(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)
        delivery = await session.event("let go", "nothing")

    assert delivery.outcome == "acknowledged"
    assert world.log == ["started", "stopping"] * 2


async def test_a_kill_while_passive_ends_it(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10, shutdown=0) as session:
        await trio.sleep(11)
    with pytest.raises(ActorStopped):
        await session.ask("count", None)

    assert world.log == ["started", "stopping"]
    assert session.lifecycle.notices[-1].how == "killed"  # type: ignore[attr-defined]


async def test_a_failing_activation_is_a_crash_and_the_mail_waits_for_the_next_life(
    world: World, clock: MockClock
) -> None:
    world.fails = 1
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)
        assert await session.ask("life", None, timeout=60) == 2
        (crash,) = session.lifecycle.of(Crashed)
        assert isinstance(crash.error, OSError)
        await trio.sleep(30)
        assert len(session.lifecycle.of(Started)) == 2
        assert kinds(session)[-1] == "passivated"


async def test_a_crash_after_activation_restarts_as_usual(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)
        await session.crash()
        assert await session.ask("life", None, timeout=60) == 2


async def test_an_actor_that_never_had_mail_becomes_passive_too(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=10):
        await trio.sleep(11)
        assert world.log == ["started", "stopping"]


async def test_a_suspended_or_traced_actor_stays_as_it_is(world: World, clock: MockClock) -> None:
    class Deaf:
        def received(self, envelope: Any) -> None: ...

        def handled(self, envelope: Any, error: BaseException | None) -> None: ...

    async with isolated(Session, world, passivate_after=10) as session:
        session._cell.suspend()
        await trio.sleep(100)
        session._cell.trace(Deaf())
        session._cell.resume()
        await trio.sleep(100)
        assert world.log == ["started"]
        session._cell.trace(None)
        await trio.sleep(30)
        assert world.log == ["started", "stopping"]


async def test_a_watcher_does_not_take_it_for_ended(world: World, clock: MockClock) -> None:
    seen: list[Any] = []

    class Watcher(Actor[Terminated]):
        async def started(self) -> None:
            self.watch(self.lookup("session"))

        def receive(self, message: Terminated) -> None:
            seen.append(message)

    spec = Supervisor("t", [child(Session, world, passivate_after=10), child(Watcher)])
    async with running(spec):
        await trio.sleep(30)
        assert world.log == ["started", "stopping"]
        assert seen == []


async def test_a_stream_and_an_outside_request_activate_it(world: World, clock: MockClock) -> None:
    async with isolated(Session, world, passivate_after=10) as session:
        await trio.sleep(11)
        assert await session.request("count") == 1
        await trio.sleep(11)
        assert await session.request("count") == 1


async def test_with_no_time_at_all_it_is_passive_whenever_it_is_idle(
    world: World, clock: MockClock
) -> None:
    async with isolated(Session, world, passivate_after=0) as session:
        await wait_all_tasks_blocked()
        assert await session.ask("count", None) == 1
        await wait_all_tasks_blocked()
        assert await session.ask("count", None) == 1
        session.tell("hold", "timer")  # must not keep the clock busy
        await trio.sleep(5)
        assert kinds(session)[-1] == "activated"


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(DeclarationError, match="passivate_after must be at least 0"):
        child(Session, World(), passivate_after=-1)
