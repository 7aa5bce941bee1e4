"""Timers of an actor: when they tick, what replaces them, and that none outlives its life."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import (
    ActorCrashed,
    Fenced,
    NoHandler,
    PayloadError,
    Retry,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import DeadLettered, Started
from understudy.actors.schedule import Scheduled
from understudy.testing import Isolated, isolated

from .driven import Do


class Clock(Actor[Any]):
    """Notes what it is told and when; runs what it is given, in a handler."""

    def __init__(self, ticks: list[Any], slow: float = 0) -> None:
        self.ticks = ticks
        self.slow = slow
        self.timer: Scheduled | None = None

    async def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.ticks.append((trio.current_time(), message))
        await trio.sleep(self.slow)
        return None

    @message_pattern("wait")
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @message_pattern("wait and fail")
    async def wait_and_fail(self, seconds: float) -> None:
        await trio.sleep(seconds)
        raise ZeroDivisionError

    @event_pattern("rang")
    async def on_rang(self, bell: int, context: MessageContext) -> None:
        self.ticks.append((trio.current_time(), bell, context.transport, context.message_id))


Ticks = list[Any]
Plan = Callable[[Clock], Any]


@pytest.fixture
def ticks() -> Ticks:
    return []


async def test_after_sends_one_message_when_the_time_has_come(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        await actor.ask(Do(lambda self: bool(self.after(3, "three") and self.after(1, "one"))))
        await trio.sleep(100)

    assert ticks == [(1, "one"), (3, "three")]


async def test_after_takes_a_pattern_or_method_and_its_data(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.after(1, "rang", 1))
        actor.tell(lambda self: self.after(2, Clock.on_rang, 2))
        await trio.sleep(5)

    assert [tick[:3] for tick in ticks] == [(1, 1, "local"), (2, 2, "local")]


async def test_every_keeps_its_rate(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks, 0.25) as actor:
        actor.tell(lambda self: self.every(1, "tick"))
        await trio.sleep(4.5)

    assert ticks == [(1, "tick"), (2, "tick"), (3, "tick"), (4, "tick")]


async def test_a_slow_actor_misses_ticks_and_never_has_two_waiting(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks, 2.5) as actor:
        actor.tell(lambda self: self.every(1, "tick"))
        await trio.sleep(11)
        assert len(actor._mailbox.queue) <= 1

    assert [when for when, _ in ticks][:4] == [1, 4, 7, 10]


async def test_a_tick_that_waits_while_the_actor_is_busy_is_one(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, "tick"))
        await actor.ask("wait", 10.5, timeout=60)
        await wait_all_tasks_blocked()
        assert ticks == [(10.5, "tick")]
        await trio.sleep(1)

    assert ticks == [(10.5, "tick"), (11, "tick")]


async def test_a_cancelled_timer_does_not_tick(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.after(1, "no").cancel())
        actor.tell(lambda self: self.every(1, "no").cancel())
        await trio.sleep(5)

    assert ticks == []


async def test_cancelling_takes_back_a_tick_that_waits(ticks: Ticks, clock: MockClock) -> None:
    def plan(self: Clock) -> None:
        self.timer = self.after(1, "no")

    async with isolated(Clock, ticks) as actor:
        actor.tell(plan)
        actor.tell("wait", 5)
        actor.tell(lambda self: self.timer.cancel())
        await trio.sleep(4)
        assert len(actor._mailbox.queue) == 2
        await trio.sleep(4)

    assert ticks == []


async def test_a_cancelled_timer_puts_nothing_into_the_mailbox(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, "no").cancel())
        actor.tell(lambda self: self.after(1, "no").cancel())
        actor.tell("wait", 5)
        await trio.sleep(3)

        assert actor._mailbox.statistics().waiting == 0


async def test_a_late_tick_shifts_no_later_one(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, "tick"))
        await wait_all_tasks_blocked()
        clock.jump(1.5)  # as if something had kept the loop busy
        await trio.sleep(2)

    assert [when for when, _ in ticks] == [1.5, 2, 3]


async def test_a_timer_can_be_cancelled_twice_and_after_its_tick(
    ticks: Ticks, clock: MockClock
) -> None:
    timers: list[Scheduled] = []
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: timers.append(self.after(1, "yes")))
        await trio.sleep(2)
        timers[0].cancel()
        timers[0].cancel()

    assert ticks == [(1, "yes")]
    assert not timers[0].open


# -- keys


async def test_the_same_key_replaces_the_timer(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, "old", key="k"))
        actor.tell(lambda self: self.after(2.5, "new", key="k"))
        actor.tell(lambda self: self.after(2.5, "other", key="l"))
        await trio.sleep(10)

    assert ticks == [(2.5, "new"), (2.5, "other")]


async def test_the_same_key_replaces_a_tick_that_waits_already(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.after(1, "old", key="k"))
        actor.tell("wait", 3)
        actor.tell(lambda self: self.after(1, "new", key="k"))
        await trio.sleep(10)

    assert ticks == [(4, "new")]


async def test_timers_without_a_key_do_not_replace_each_other(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        for number in range(3):
            actor.tell(lambda self, number=number: self.after(1, number))
        await trio.sleep(2)

    assert ticks == [(1, 0), (1, 1), (1, 2)]


async def test_a_tick_may_plan_the_next_one_under_its_own_key(
    ticks: Ticks, clock: MockClock
) -> None:
    def again(self: Clock) -> None:
        self.ticks.append(trio.current_time())
        self.after(1, again, key="k")

    async with isolated(Clock, ticks) as actor:
        actor.tell(again)
        await trio.sleep(3.5)

    assert ticks == [0, 1, 2, 3]


async def test_a_key_that_is_free_again_can_be_used_again(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.after(1, "first", key="k"))
        await trio.sleep(2)
        actor.tell(lambda self: self.after(1, "second", key="k"))
        await trio.sleep(2)

    assert ticks == [(1, "first"), (3, "second")]


# -- what cannot work


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (lambda self: self.after(-1, "x"), ValueError),
        (lambda self: self.after(math.nan, "x"), ValueError),
        (lambda self: self.every(0, "x"), ValueError),
        (lambda self: self.every(-1, "x"), ValueError),
        (lambda self: self.after(1, "no such pattern", 1), NoHandler),
        (lambda self: self.after(1, "rang", "no number"), PayloadError),
        (lambda self: self.after(1, "x", key=[]), TypeError),
        (lambda self: self.every(1, "x", key=[]), TypeError),
    ],
    ids=["negative", "nan", "period 0", "negative period", "pattern", "payload", "key", "every"],
)
async def test_a_timer_that_cannot_work_is_refused_at_once_and_never_ticks(
    plan: Plan, error: type[Exception], ticks: Ticks, clock: MockClock
) -> None:
    def attempt(self: Clock) -> bool:
        with pytest.raises(error):
            plan(self)
        return True

    async with isolated(Clock, ticks) as actor:
        assert await actor.ask(Do(attempt))
        await trio.sleep(10)

    assert ticks == []


async def test_an_actor_without_receive_plans_no_bare_messages(clock: MockClock) -> None:
    class Deaf(Actor):
        @message_pattern("plan")
        async def plan(self, data: Any) -> None:
            self.after(1, "anything")

    async with isolated(Deaf) as deaf:
        with pytest.raises(NoHandler, match="str"):
            await deaf.ask("plan", None)


# -- the end of a life


async def test_a_planned_timer_ends_with_its_incarnation(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks) as actor:
        await actor.ask(Do(lambda self: bool(self.after(5, "no") and self.every(1, "tick"))))
        await trio.sleep(1.5)
        await actor.crash()
        await trio.sleep(20)

    assert ticks == [(1, "tick")]


@pytest.mark.parametrize("period", [None, 1], ids=["after", "every"])
async def test_a_tick_that_waits_at_a_crash_is_not_seen_by_the_next_life(
    period: float | None, ticks: Ticks, clock: MockClock
) -> None:
    def plan(self: Clock) -> None:
        if period is None:
            self.after(1, "no")
        else:
            self.every(1, "no")

    async with isolated(Clock, ticks) as actor:
        actor.tell(plan)
        actor.tell("wait and fail", 3)
        actor.tell("mail")
        await trio.sleep(10)
        assert actor.incarnation == 2

    assert ticks == [(3, "mail")]


async def test_timers_planned_before_the_start_is_complete_tick_and_end_with_a_failed_start(
    ticks: Ticks, clock: MockClock
) -> None:
    class Early(Clock):
        def __init__(self, ticks: Ticks) -> None:
            super().__init__(ticks)
            self.after(1, f"init {self.incarnation}")

        async def started(self) -> None:
            self.after(2, f"started {self.incarnation}")
            if self.incarnation == 2:
                raise OSError("no")

    async with isolated(Early, ticks) as actor:
        await trio.sleep(3)
        await actor.crash()
        await actor.lifecycle.expect(Started, lambda notice: notice.incarnation == 3)
        await trio.sleep(3)

    begun = 3.1
    expected = [(1, "init 1"), (2, "started 1"), (begun + 1, "init 3"), (begun + 2, "started 3")]
    assert [message for _, message in ticks] == [message for _, message in expected]
    assert [when for when, _ in ticks] == pytest.approx([when for when, _ in expected], abs=0.1)


async def test_a_crash_on_a_tick_counts_and_is_a_dead_letter(
    ticks: Ticks, clock: MockClock
) -> None:
    def fail(self: Clock) -> None:
        raise ZeroDivisionError

    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, fail))
        await actor.lifecycle.expect(DeadLettered, within=5)
        await trio.sleep(5)
        (letter,) = await actor.dead_letters()

        assert actor.incarnation == 2
    assert (letter.reason, letter.attempts, letter.kind) == ("crashed", 1, "tell")


@pytest.mark.parametrize(
    ("error", "reason"), [(RpcError("no"), "rejected"), (Retry("later"), "expired")]
)
async def test_a_refused_tick_is_a_dead_letter_and_the_timer_goes_on(
    error: Exception, reason: str, ticks: Ticks, clock: MockClock
) -> None:
    def refuse(self: Clock) -> None:
        self.ticks.append(trio.current_time())
        raise error

    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, refuse))
        await trio.sleep(2.5)
        letters = await actor.dead_letters()

        assert actor.incarnation == 1
    assert ticks == [1, 2]
    assert [letter.reason for letter in letters] == [reason, reason]


async def test_a_timer_ticks_while_the_actor_is_told_to_drain(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.after(1, "in time"))
        actor.tell("wait", 2)
        await wait_all_tasks_blocked()

    assert ticks == [(2, "in time")]
    assert trio.current_time() == 2


async def test_an_idle_actor_is_not_kept_from_its_stop_by_timers(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        await actor.ask(Do(lambda self: bool(self.every(1, "tick"))))

    assert (ticks, trio.current_time()) == ([], 0)


async def test_a_leftover_of_an_ended_life_plans_nothing(ticks: Ticks, clock: MockClock) -> None:
    lives: list[Clock] = []

    async with isolated(Clock, ticks) as actor:
        await actor.ask(Do(lambda self: lives.append(self)))
        await actor.crash()
        with pytest.raises(Fenced):
            lives[0].after(1, "no")
        await trio.sleep(5)

    assert ticks == []


# -- beside other features


async def test_ticks_come_into_a_full_mailbox(ticks: Ticks, clock: MockClock) -> None:
    async with isolated(Clock, ticks, mailbox=1) as actor:
        await actor.ask(Do(lambda self: bool(self.after(1, "tick"))))
        actor.tell("wait", 2)
        await wait_all_tasks_blocked()
        actor.tell("mail")
        await trio.sleep(5)

    assert ticks == [(2, "mail"), (2, "tick")]


@pytest.mark.parametrize("concurrency", [2, 4])
async def test_every_never_runs_beside_itself_whatever_the_concurrency(
    concurrency: int, ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks, 1.5, concurrency=concurrency) as actor:
        actor.tell(lambda self: self.every(1, "tick"))
        await trio.sleep(6)

    assert [when for when, _ in ticks][:3] == [1, 3, 5]


async def test_every_tick_is_a_message_with_an_id_of_its_own(
    ticks: Ticks, clock: MockClock
) -> None:
    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, "rang", 7))
        await trio.sleep(3.5)

    assert len({tick[3] for tick in ticks}) == 3


async def test_timers_go_on_in_a_sick_actor(ticks: Ticks, clock: MockClock) -> None:
    class Fragile(Clock):
        @message_pattern("poison")
        async def poison(self, data: Any) -> None:
            raise ZeroDivisionError

        async def started(self) -> None:
            self.every(1, "rang", 1)

    async with isolated(Fragile, ticks, sick_after=1) as actor:
        with pytest.raises(RpcError):
            await actor.request("poison")
        await trio.sleep(3.5)

    assert [tick[0] for tick in ticks] == pytest.approx([1, 2, 3])


async def test_the_reply_to_a_periodic_tick_may_come_later_and_none_ticks_before(
    ticks: Ticks, clock: MockClock
) -> None:
    kept: list[Any] = []

    def keep(self: Clock) -> None:
        self.ticks.append(trio.current_time())
        kept.append(self.reply_later())

    async with isolated(Clock, ticks) as actor:
        actor.tell(lambda self: self.every(1, keep))
        await trio.sleep(3.5)
        kept.pop().succeed()
        await trio.sleep(1)

    assert ticks == [1, 4]


async def test_a_stashed_tick_keeps_its_timer_waiting_and_can_be_cancelled(
    ticks: Ticks, clock: MockClock
) -> None:
    def put_aside(self: Clock) -> None:
        self.ticks.append(trio.current_time())
        self.stash()

    def release(self: Clock) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.unstash()

    def plan(self: Clock) -> None:
        self.timer = self.every(1, put_aside)

    async with isolated(Clock, ticks) as actor:
        actor.tell(plan)
        await trio.sleep(3.5)
        actor.tell(release)
        await trio.sleep(3)

    assert ticks == [1]


async def test_a_timer_that_is_over_is_not_kept_in_memory(ticks: Ticks, clock: MockClock) -> None:
    class Message:
        """Can be referred to weakly."""

        def __call__(self, actor: Clock) -> None: ...

    seen: list[weakref.ref[Message]] = []

    def plan(self: Clock) -> None:
        message = Message()
        seen.append(weakref.ref(message))
        self.after(1, message)

    async with isolated(Clock, ticks) as actor:
        await actor.ask(Do(plan))
        await trio.sleep(2)
        await actor.ask(Do(lambda self: None))
        gc.collect()

        assert seen[0]() is None


async def test_an_ask_of_a_busy_actor_is_not_disturbed_by_its_timers(
    ticks: Ticks, clock: MockClock
) -> None:
    async def ask(actor: Isolated[Clock], answers: list[Any]) -> None:
        try:
            await actor.ask("wait and fail", 1)
        except ActorCrashed as error:
            answers.append(error.incarnation)

    answers: list[Any] = []
    async with isolated(Clock, ticks) as actor, trio.open_nursery() as nursery:
        actor.tell(lambda self: self.every(0.1, "tick"))
        nursery.start_soon(ask, actor, answers)
        await trio.sleep(2)

    assert answers == [1]
