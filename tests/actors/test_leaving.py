"""`stop()`: an actor ends itself in order, and its restart type says what follows."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorCrashed, ActorStopped
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Stopped, Undelivered
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]


class Leaving(Actor[Any]):
    """Stops itself in different places, and notes its hooks."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.log.append((message, self.incarnation))
        return None

    @message_pattern("leave after")
    async def leave_after(self, seconds: float) -> str:
        self.stop()
        await trio.sleep(seconds)
        self.log.append("done")
        return "bye"

    @message_pattern("work")
    async def work(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "worked"

    @message_pattern("leave and fail")
    async def leave_and_fail(self, data: Any) -> None:
        self.stop()
        raise ZeroDivisionError

    @event_pattern("came")
    async def on_came(self, what: str) -> None:
        self.log.append((what, self.incarnation))

    async def stopping(self) -> None:
        self.log.append("stopping")


@pytest.fixture
def log() -> Log:
    return []


async def test_the_message_in_hand_is_handled_to_its_end_and_answered(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Leaving, log, restart="transient") as actor:
        assert await actor.ask("leave after", 2) == "bye"
        await wait_all_tasks_blocked()

        assert log == ["done", "stopping"]
        assert [notice.how for notice in actor.lifecycle.of(Stopped)] == ["normal"]


@pytest.mark.parametrize("restart", ["transient", "temporary"])
async def test_it_does_not_come_back_unless_it_is_permanent(
    restart: Any, log: Log, clock: MockClock
) -> None:
    async with isolated(Leaving, log, restart=restart) as actor:
        actor.tell(lambda self: self.stop())
        actor.tell("mail")
        await trio.sleep(1)
        assert not actor.alive
        with pytest.raises(ActorStopped):
            await actor.ask("work", 1)

    assert log == ["stopping"]
    assert [notice.message for notice in actor.lifecycle.of(Undelivered)] == ["str"]


async def test_a_permanent_one_comes_back_and_its_mail_has_waited(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Leaving, log) as actor:
        actor.tell(lambda self: self.stop())
        actor.tell("mail")
        delivery = await actor.event("came", "event")
        assert await delivery.settled() == "acknowledged"
        assert actor.incarnation == 2
        log.remove("stopping")
        assert log == [("mail", 2), ("event", 2)]
        log.clear()

    assert log == ["stopping"]


async def test_a_clean_end_of_a_permanent_one_counts_against_its_supervisor(
    log: Log, clock: MockClock
) -> None:
    async def leave_twice() -> None:
        async with isolated(Leaving, log, max_restarts=1) as actor:
            for _ in range(2):
                actor.tell(lambda self: self.stop())
            await trio.sleep(60)

    with pytest.raises(SupervisorGaveUp):
        await leave_twice()


async def test_events_go_back_when_it_does_not_come_back(log: Log, clock: MockClock) -> None:
    async with isolated(Leaving, log, restart="transient") as actor:
        actor.tell("leave after", 1)
        delivery = await actor.event("came", "event")
        assert await delivery.settled() == "given back"

    assert log == ["done", "stopping"]


async def test_a_second_stop_is_the_same_stop(log: Log, clock: MockClock) -> None:
    def twice(self: Leaving) -> None:
        self.stop()
        self.stop()

    async with isolated(Leaving, log, max_restarts=1) as actor:
        actor.tell(twice)
        await trio.sleep(1)

        assert (actor.incarnation, log) == (2, ["stopping"])


async def test_an_actor_that_is_being_stopped_may_stop_itself(log: Log, clock: MockClock) -> None:
    class Twice(Leaving):
        async def stopping(self) -> None:
            await super().stopping()
            self.stop()

    async with isolated(Twice, log) as actor:
        actor.tell("leave after", 1)
        await wait_all_tasks_blocked()

    assert log == ["done", "stopping"]
    assert [notice.how for notice in actor.lifecycle.of(Stopped)] == ["shutdown"]


async def test_it_does_not_drain_what_waits(log: Log, clock: MockClock) -> None:
    async with isolated(Leaving, log, restart="transient") as actor:
        actor.tell("leave after", 1)
        actor.tell("mail")
        await wait_all_tasks_blocked()

    assert log == ["done", "stopping"]


async def test_a_crash_in_the_same_message_is_a_crash(log: Log, clock: MockClock) -> None:
    async with isolated(Leaving, log, restart="transient") as actor:
        with pytest.raises(ActorCrashed):
            await actor.ask("leave and fail", 1)
        await trio.sleep(1)
        assert actor.incarnation == 2

    assert actor.lifecycle.kinds()[:3] == ["started", "crashed", "restarting"]


@pytest.mark.parametrize("hook", ["__init__", "started"])
async def test_it_may_leave_before_its_first_message(hook: str, log: Log, clock: MockClock) -> None:
    class Brief(Leaving):
        def __init__(self, log: Log) -> None:
            super().__init__(log)
            if hook == "__init__":
                self.stop()

        async def started(self) -> None:
            if hook == "started":
                self.stop()

    async with isolated(Brief, log, restart="transient") as actor:
        actor.tell("mail")
        await trio.sleep(1)

        assert (log, actor.alive) == (["stopping"], False)


@pytest.mark.parametrize("seconds", [0, 100], ids=["before its first message", "long idle"])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_it_may_leave_while_it_has_nothing_to_do(
    seconds: float, concurrency: int, log: Log, clock: MockClock
) -> None:
    lives: list[Leaving] = []

    class Known(Leaving):
        async def started(self) -> None:
            lives.append(self)

    async with isolated(Known, log, restart="transient", concurrency=concurrency) as actor:
        if seconds:
            await actor.ask("work", 0)
            await trio.sleep(seconds)
        lives[0].stop()
        await trio.sleep(1)

        assert (log, actor.alive) == (["stopping"], False)


async def test_a_leftover_of_an_ended_life_stops_nothing(log: Log, clock: MockClock) -> None:
    lives: list[Leaving] = []
    async with isolated(Leaving, log) as actor:
        await actor.ask(Do(lives.append))
        await actor.crash()
        lives[0].stop()
        await trio.sleep(1)

        assert actor.incarnation == 2


@pytest.mark.parametrize("concurrency", [2, 3])
async def test_messages_on_other_lanes_are_finished_first(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    answers: Log = []

    async def work(actor: Isolated[Leaving]) -> None:
        answers.append((await actor.ask("work", 3), trio.current_time()))

    async with isolated(Leaving, log, restart="transient", concurrency=concurrency) as actor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, actor)
            await wait_all_tasks_blocked()
            actor.tell("leave after", 1)
            await trio.sleep(2)
            assert log == ["done"]
        await wait_all_tasks_blocked()
        assert not actor.alive

    assert answers == [("worked", 3)]
    assert log == ["done", "stopping"]


async def test_a_kill_while_it_stops_itself_runs_no_hook(log: Log, clock: MockClock) -> None:
    async with isolated(Leaving, log, shutdown=0) as actor:
        actor.tell("leave after", 100)
        await wait_all_tasks_blocked()

    assert log == []


async def test_timers_of_an_actor_that_left_tick_no_more(log: Log, clock: MockClock) -> None:
    def plan_and_stop(self: Leaving) -> None:
        self.every(1, "tick")
        self.stop()

    async with isolated(Leaving, log) as actor:
        actor.tell(plan_and_stop)
        await trio.sleep(5)
        assert actor.incarnation == 2

        assert log == ["stopping"]
