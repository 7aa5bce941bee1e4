"""Actors without a task: what wakes them, and that sleep changes nothing else."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import CURRENT
from understudy.actors.errors import ActorCrashed, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Crashed, Stopped
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import one_for_all
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]
SENDER: ContextVar[str] = ContextVar("sender", default="nobody")

SLEEPS = ("never had mail", "long idle", "woken before")
"""How an actor came to sleep."""


class Sleeper(Actor[Any]):
    """Notes its hooks; runs what it is given."""

    def __init__(self, log: Log) -> None:
        self.log = log

    async def started(self) -> None:
        self.log.append(f"started {self.incarnation}")

    async def stopping(self) -> None:
        self.log.append("stopping")

    def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        ended = isinstance(message, Terminated)
        self.log.append("terminated" if ended else message)
        return message

    @message_pattern("echo")
    async def echo(self, value: Any) -> Any:
        await trio.sleep(1)
        return value

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @event_pattern("came")
    async def on_came(self, what: str) -> None:
        self.log.append(what)

    @message_pattern("fail")
    async def fail(self, data: Any) -> None:
        raise ZeroDivisionError


class Other(Actor[Any]):
    """Somebody to watch and to be linked to."""

    def receive(self, message: Any) -> Any:
        return message(self)


@pytest.fixture
def log() -> Log:
    return []


def asleep(actor: Isolated[Any]) -> bool:
    life = actor.system.registry.find(actor.path).life
    return life is not None and life.asleep


@asynccontextmanager
async def sleeping(
    log: Log, how: str = SLEEPS[0], actor: type[Sleeper] = Sleeper, **options: Any
) -> AsyncIterator[Isolated[Sleeper]]:
    """An actor that is asleep; the log begins then."""
    async with isolated(actor, log, **options) as sleeper:
        for _ in range(SLEEPS.index(how)):
            await sleeper.ask("echo", 1)
            await trio.sleep(60)
        assert asleep(sleeper)
        log.clear()
        yield sleeper


every_sleep = pytest.mark.parametrize("how", SLEEPS)


# -- falling asleep


async def test_an_actor_that_has_started_and_has_no_mail_has_no_task(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Sleeper, log) as actor:
        tasks = _tasks()
        actor.tell("mail")
        await wait_all_tasks_blocked()

        assert _tasks() == {*tasks, actor.path}


async def test_an_actor_that_was_idle_for_long_has_no_task(log: Log, clock: MockClock) -> None:
    async with isolated(Sleeper, log) as actor:
        actor.tell("mail")
        await trio.sleep(1)
        assert not asleep(actor)
        assert actor.path in _tasks()
        await trio.sleep(60)
        assert asleep(actor)
        assert actor.path not in _tasks()


async def test_mail_that_came_while_it_started_is_handled_before_it_sleeps(
    log: Log, clock: MockClock
) -> None:
    class Slow(Sleeper):
        async def started(self) -> None:
            self.ref.tell("mail")
            await trio.sleep(1)

    async with isolated(Slow, log) as actor:
        await wait_all_tasks_blocked()
        assert log == ["mail"]
        await actor.ask("echo", 1)


def _tasks() -> set[str]:
    """The names of the tasks of actors."""
    root = trio.lowlevel.current_root_task()
    found: set[str] = set()
    todo = [root] if root is not None else []
    while todo:
        task = todo.pop()
        found.add(task.name)
        todo.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return {name for name in found if name.startswith("isolated/")}


# -- waking up


@every_sleep
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_it_wakes_for_what_is_told_and_asked(
    how: str, concurrency: int, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how, concurrency=concurrency) as actor:
        actor.tell("told")
        await actor.tell_wait("told and waited")
        assert await actor.ask(Do(lambda self: self.receive("asked"))) == "asked"

        assert log == ["told", "told and waited", "asked"]


@every_sleep
async def test_its_first_message_may_be_an_ask(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        assert await actor.ask("echo", 7) == 7


@every_sleep
async def test_it_wakes_for_a_stream(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        assert [item async for item in actor.stream(Sleeper.count, 3)] == [0, 1, 2]


@every_sleep
async def test_it_wakes_for_messages_from_outside(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        delivery = await actor.event("came", "event")
        assert await delivery.settled() == "acknowledged"
    async with sleeping(log, how) as actor:
        assert await actor.request("echo", 7) == 7


@every_sleep
async def test_its_timers_wake_it(how: str, log: Log, clock: MockClock) -> None:
    class Timed(Sleeper):
        async def started(self) -> None:
            self.every(1000, "tick")

    async with sleeping(log, how, Timed) as actor:
        await trio.sleep(2500)
        assert asleep(actor)

    assert log == ["tick", "tick", "stopping"]


@every_sleep
async def test_what_it_has_put_aside_or_watches_is_kept_while_it_sleeps(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how) as actor:
        await actor.system.start_child(child(Other, restart="transient"))
        other = actor.system.ref(Other)
        await actor.ask(Do(lambda self: self.watch(other)))
        actor.tell(lambda self: self.stash())
        await trio.sleep(60)
        assert asleep(actor)
        other.tell(lambda self: self.stop())
        await trio.sleep(1)

        assert log == ["terminated"]
        assert actor._mailbox.reserved == 1


@every_sleep
async def test_its_state_is_kept_while_it_sleeps(how: str, log: Log, clock: MockClock) -> None:
    class Two(Sleeper):
        def other(self, message: Any) -> str:
            return "other"

    async with sleeping(log, how, Two) as actor:
        await actor.ask(Do(lambda self: self.become(self.other)))
        await trio.sleep(60)
        assert asleep(actor)
        assert await actor.ask(Do(len)) == "other"


@every_sleep
async def test_a_link_that_breaks_wakes_it_to_crash(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        await actor.system.start_child(child(Other, restart="transient"))
        other = actor.system.ref(Other)
        await actor.ask(Do(lambda self: self.link(other)))
        await trio.sleep(60)
        assert asleep(actor)
        other.tell(lambda self: 1 / 0)
        await actor.lifecycle.expect(Crashed)


@every_sleep
async def test_it_sleeps_again(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        for number in range(3):
            actor.tell(number)
            await trio.sleep(60)
            assert asleep(actor)

    assert log == [0, 1, 2, "stopping"]
    assert [notice.how for notice in actor.lifecycle.of(Stopped)] == ["shutdown"]


@pytest.mark.parametrize("concurrency", [2, 4])
async def test_lanes_sleep_and_are_there_again(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    async with isolated(Sleeper, log, concurrency=concurrency, shutdown=100) as actor:
        for _ in range(3):
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(2 * concurrency):
                    nursery.start_soon(actor.ask, "echo", number)
            assert trio.current_time() == begun + 2
            await trio.sleep(60)
            assert asleep(actor)


async def test_it_does_not_sleep_while_a_handler_is_at_work(log: Log, clock: MockClock) -> None:
    class Slow(Sleeper):
        @message_pattern("slow")
        async def slow(self, seconds: float) -> str:
            await trio.sleep(seconds)
            return "done"

    async with isolated(Slow, log, concurrency=2, shutdown=1000) as actor:
        async with trio.open_nursery() as nursery:
            answers: Log = []

            @nursery.start_soon
            async def _() -> None:
                answers.append(await actor.ask("slow", 100, timeout=1000))

            await trio.sleep(1)
            await actor.ask("echo", 1)
            await trio.sleep(60)
            assert not asleep(actor)
        assert answers == ["done"]


# -- its end


@every_sleep
async def test_an_ordered_stop_wakes_it_for_its_hook(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        pass

    assert log == ["stopping"]
    assert [notice.how for notice in actor.lifecycle.of(Stopped)] == ["shutdown"]


@every_sleep
async def test_a_kill_runs_no_hook(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how, shutdown=0) as actor:
        pass

    assert log == []
    assert [notice.how for notice in actor.lifecycle.of(Stopped)] == ["killed"]


@every_sleep
async def test_a_kill_just_after_mail_woke_it_leaves_the_mail_unhandled(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how, shutdown=0) as actor:
        actor.tell("mail")
        life = actor.system.registry.find(Sleeper).life
        assert life is not None
        life.kill()
        await wait_all_tasks_blocked()
        assert (log, life.ending and life.ending.kind) == (["started 2", "mail"], "killed")


@every_sleep
async def test_a_crash_after_waking_is_a_crash_like_any_other(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how) as actor:
        with pytest.raises(ActorCrashed):
            await actor.ask("fail", 1)
        actor.tell("mail")
        await trio.sleep(1)
        assert actor.incarnation == 2
        assert await actor.ask("echo", 7) == 7

    assert log == ["started 2", "mail", "stopping"]


@every_sleep
async def test_too_many_crashes_on_outside_messages_make_it_sick_all_the_same(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how, sick_after=2) as actor:
        for _ in range(2):
            with pytest.raises(RpcError):
                await actor.request("fail")
            await trio.sleep(60)
        assert actor.system.registry.find(Sleeper).sickness.sick
        delivery = await actor.event("came", "event")
        assert await delivery.settled() == "acknowledged"


async def test_a_sleeping_sibling_is_restarted_with_its_group(log: Log, clock: MockClock) -> None:
    class Fragile(Actor[int]):
        def receive(self, message: int) -> None:
            raise ZeroDivisionError

    specs = [child(Sleeper, log), child(Fragile)]
    async with running(Supervisor("top", specs, strategy=one_for_all)) as system:
        system.ref(Fragile).tell(1)
        await trio.sleep(1)
        system.ref(Sleeper).tell("mail")
        await trio.sleep(1)

    assert log == ["started 1", "stopping", "started 2", "mail", "stopping"]


async def test_mail_for_a_sleeper_that_was_killed_waits_for_its_next_life(
    log: Log, clock: MockClock
) -> None:
    class Fragile(Actor[Callable[[], None]]):
        def receive(self, message: Callable[[], None]) -> None:
            raise ZeroDivisionError

    specs = [child(Sleeper, log, shutdown=0), child(Fragile)]
    async with running(Supervisor("top", specs, strategy=one_for_all)) as system:
        sleeper = system.ref(Sleeper)
        system.bus.subscribe(
            lambda n: sleeper.tell("mail") if isinstance(n, Stopped) and n.how == "killed" else None
        )
        await sleeper.ask("echo", 1)
        await trio.sleep(60)
        system.ref(Fragile).tell(lambda: None)
        await trio.sleep(1)
        assert log == ["started 1", "started 2", "mail"]


# -- suspended


@every_sleep
async def test_a_suspended_sleeper_handles_its_mail_when_it_is_resumed(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how) as actor:
        cell = actor.system.registry.find(Sleeper)
        cell.suspend()
        actor.tell("mail")
        await trio.sleep(60)
        assert log == []
        cell.resume()
        await wait_all_tasks_blocked()
        assert log == ["mail"]


@every_sleep
async def test_a_suspended_sleeper_stops_in_order(how: str, log: Log, clock: MockClock) -> None:
    async with sleeping(log, how) as actor:
        actor.system.registry.find(Sleeper).suspend()

    assert (log, trio.current_time() % 60 < 5) == (["stopping"], True)


# -- who wakes it


@every_sleep
async def test_context_variables_of_who_wakes_it_are_not_seen(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how) as actor:
        SENDER.set("the test")
        actor.tell(lambda self: self.log.append(SENDER.get()))
        await trio.sleep(1)
        await actor.ask(Do(lambda self: self.log.append(SENDER.get())))

    assert log == ["nobody", "nobody", "stopping"]


@every_sleep
async def test_what_woke_it_has_nothing_to_do_with_what_it_does_later(
    how: str, log: Log, clock: MockClock
) -> None:
    async with sleeping(log, how) as actor:
        delivery = await actor.event("came", "event")
        await delivery.settled()
        actor.tell(lambda self: self.log.append(CURRENT.get().envelope.origin))
        await trio.sleep(1)

    assert log == ["event", None, "stopping"]
