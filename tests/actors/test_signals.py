"""Signals: what reaches an actor before all mail, however busy, full or idle it is."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorCrashed, ActorStopped
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import Crash
from understudy.actors.lifecycle import Crashed
from understudy.actors.ref import Ref
from understudy.actors.watching import Terminated
from understudy.supervisors.child import child
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]


class Hearing(Actor[Any]):
    """Notes what reaches it."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        ended = isinstance(message, Terminated)
        self.log.append(message.ref.path.rpartition("/")[2] if ended else message)
        return None

    @message_pattern("wait")
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.log.append("waited")


class Brief(Actor[Any]):
    """Ends when it is told anything."""

    def receive(self, message: Any) -> None:
        self.stop()


@pytest.fixture
def log() -> Log:
    return []


async def watched(actor: Isolated[Any], *names: str) -> list[Ref[Any]]:
    """Siblings of these names that `actor` watches."""
    refs = []
    for name in names:
        await actor.system.start_child(child(Brief, name=name, restart="transient"))
        refs.append(actor.system.ref(f"isolated/{name}"))
    await actor.ask(Do(lambda self: [self.watch(ref) for ref in refs]))
    return refs


def stop_now(actor: Isolated[Any], refs: list[Ref[Any]]) -> None:
    for ref in refs:
        ref.tell("stop")


async def test_several_signals_come_in_their_order_before_mail(log: Log, clock: MockClock) -> None:
    async with isolated(Hearing, log, mailbox=2) as actor:
        refs = await watched(actor, "a", "b", "c")
        actor.tell("wait", 5)
        await wait_all_tasks_blocked()
        for mail in ("mail 1", "mail 2"):
            actor.tell(mail)
        for ref in refs:
            ref.tell("stop")
            await trio.sleep(1)
        await trio.sleep(5)

    assert log == ["waited", "a", "b", "c", "mail 1", "mail 2"]


async def test_a_signal_between_two_messages_of_a_burst_comes_between_them(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Hearing, log) as actor:
        (ref,) = await watched(actor, "a")
        await actor.ask(Do(lambda self: self.unwatch(ref)))
        ref.tell("stop")
        await wait_all_tasks_blocked()
        for message in ("mail 1", lambda self: self.watch(ref), "mail 2"):
            actor.tell(message)

    assert log == ["mail 1", "a", "mail 2"]


@pytest.mark.parametrize("concurrency", [2, 4])
async def test_a_busy_lane_does_not_keep_a_signal_from_an_idle_one(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    async with isolated(Hearing, log, concurrency=concurrency) as actor:
        refs = await watched(actor, "a", "b")
        actor.tell("wait", 10)
        await wait_all_tasks_blocked()
        stop_now(actor, refs)
        await trio.sleep(1)
        assert sorted(log) == ["a", "b"]
        await trio.sleep(10)

    assert sorted(log) == ["a", "b", "waited"]


async def test_a_signal_is_no_message_of_any_key(log: Log, clock: MockClock) -> None:
    async with isolated(Hearing, log, concurrency=2, key=lambda message: message.no_such) as actor:
        (ref,) = await watched_by_start(actor)
        ref.tell("stop")
        await trio.sleep(1)

        assert (log, actor.incarnation) == (["a"], 1)


async def watched_by_start(actor: Isolated[Any]) -> list[Ref[Any]]:
    """Watch without a message: whatever the key function makes of those."""
    await actor.system.start_child(child(Brief, name="a", restart="transient"))
    ref = actor.system.ref("isolated/a")
    cell = actor.system.registry.find(Hearing)
    assert cell.instance is not None
    cell.instance.watch(ref)
    return [ref]


async def test_a_crash_by_signal_comes_after_the_message_in_hand_and_before_mail(
    log: Log, clock: MockClock
) -> None:
    error = OSError("from outside")
    async with isolated(Hearing, log) as actor:
        actor.tell("wait", 2)
        await wait_all_tasks_blocked()
        actor.tell(lambda self: self.log.append(self.incarnation))
        actor.system.registry.find(Hearing).fail(error)
        await trio.sleep(5)

    assert log == ["waited", 2]
    assert [notice.error for notice in actor.lifecycle.of(Crashed)] == [error]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_crash_by_signal_reaches_an_idle_actor_at_once(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    async with isolated(Hearing, log, concurrency=concurrency) as actor:
        for crashes in (1, 2):
            actor.system.registry.find(Hearing).fail(OSError())
            await wait_all_tasks_blocked()
            assert len(actor.lifecycle.of(Crashed)) == crashes
            await actor.ask("wait", 1)


async def test_a_crash_by_signal_gives_other_lanes_their_grace(log: Log, clock: MockClock) -> None:
    async with isolated(Hearing, log, concurrency=3, crash_grace=2) as actor:
        actor.tell("wait", 1)
        actor.tell("wait", 2.5)
        await wait_all_tasks_blocked()
        actor.system.registry.find(Hearing).fail(OSError())
        await trio.sleep(2.2)

        assert (log, actor.incarnation) == (["waited"], 2)


async def test_signals_of_one_life_are_gone_with_it(log: Log, clock: MockClock) -> None:
    async with isolated(Hearing, log) as actor:
        refs = await watched(actor, "a", "b")
        cell = actor.system.registry.find(Hearing)
        actor.tell("wait", 2)
        await wait_all_tasks_blocked()
        assert cell.life is not None
        cell.life.signal(Crash(OSError()))
        stop_now(actor, refs)
        await trio.sleep(5)

    assert log == ["waited"]


async def test_signals_come_while_it_drains_and_not_when_it_does_not(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Hearing, log, restart="transient") as actor:
        refs = await watched(actor, "a", "b")
        actor.tell("wait", 2)
        await wait_all_tasks_blocked()
        stop_now(actor, refs[:1])
        actor.tell(lambda self: self.stop())
        actor.tell("mail")
        await wait_all_tasks_blocked()
        await actor.system.stop_child(actor.path)
        stop_now(actor, refs[1:])
        await trio.sleep(5)

    assert log == ["waited", "a"]


async def test_a_signal_that_crashes_its_handler_is_a_crash_of_its_own(
    log: Log, clock: MockClock
) -> None:
    class Fragile(Hearing):
        def receive(self, message: Any) -> Any:
            if isinstance(message, Terminated):
                raise ZeroDivisionError
            return super().receive(message)

    async with isolated(Fragile, log) as actor:
        refs = await watched(actor, "a")
        stop_now(actor, refs)
        notice = await actor.lifecycle.expect(Crashed)
        await trio.sleep(1)

        assert (notice.origin, notice.pattern, actor.incarnation) == (None, "Terminated", 2)


async def test_a_signal_may_be_stashed_like_a_message(log: Log, clock: MockClock) -> None:
    class Later(Hearing):
        def receive(self, message: Any) -> Any:
            if isinstance(message, Terminated) and not self.log:
                return self.stash()
            return super().receive(message)

    async with isolated(Later, log) as actor:
        refs = await watched(actor, "a")
        stop_now(actor, refs)
        await wait_all_tasks_blocked()
        actor.tell("mail")
        actor.tell(lambda self: self.unstash())

    assert log == ["mail", "a"]


async def test_an_asker_is_not_disturbed_by_signals(log: Log, clock: MockClock) -> None:
    async def ask(actor: Isolated[Any]) -> None:
        try:
            await actor.ask("wait", 1)
            log.append("answered")
        except (ActorCrashed, ActorStopped):
            log.append("disturbed")

    async with isolated(Hearing, log) as actor, trio.open_nursery() as nursery:
        refs = await watched(actor, "a")
        nursery.start_soon(ask, actor)
        await wait_all_tasks_blocked()
        stop_now(actor, refs)
        await trio.sleep(2)

    assert sorted(log) == ["a", "answered", "waited"]
