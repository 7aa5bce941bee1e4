"""Messages put aside: where they wait, how they come back, and that none is lost or doubled."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Fenced,
    MailboxFull,
    Retry,
    RpcError,
    UnderstudyError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Undelivered
from understudy.actors.retry import RetryPolicy
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]


class Door(Actor[Any]):
    """Puts everything aside until it is opened."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.is_open = False

    async def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        return self.pass_or_wait(message)

    @message_pattern("enter")
    async def enter(self, who: str) -> str:
        return self.pass_or_wait(who)

    @event_pattern("arrived")
    async def on_arrived(self, who: str) -> None:
        self.pass_or_wait(who)

    @message_pattern("open")
    async def open(self, count: int | None) -> None:
        self.is_open = True
        self.unstash(count)

    @message_pattern("wait")
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @message_pattern("crash")
    async def crash(self, data: Any) -> None:
        raise ZeroDivisionError

    def pass_or_wait(self, who: str) -> str:
        if not self.is_open:
            self.stash()
            return "never seen"
        self.log.append(who)
        return f"{who} is in"


@pytest.fixture
def log() -> Log:
    return []


async def test_stashed_messages_come_back_in_order_and_before_other_mail(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log) as door:
        for who in "abc":
            door.tell(who)
        door.tell("open", None)
        door.tell("d")

    assert log == ["a", "b", "c", "d"]


async def test_unstash_brings_back_as_many_as_it_is_told_oldest_first(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log) as door:
        for who in "abc":
            door.tell(who)
        await door.ask("open", 2)
        await wait_all_tasks_blocked()
        assert log == ["a", "b"]
        await door.ask("open", 7)
        await wait_all_tasks_blocked()
        assert log == ["a", "b", "c"]


async def test_unstash_of_nothing_is_nothing(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log) as door:
        await door.ask("open", None)
        await door.ask("open", 0)

    assert log == []


async def test_a_message_may_be_stashed_again_and_again(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log) as door:
        for who in "ab":
            door.tell(who)
        for _ in range(3):
            await door.ask(Do(lambda self: self.unstash()))
        await door.ask("open", None)

    assert log == ["a", "b"]


async def test_an_asker_waits_through_a_stash(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log) as door, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            log.append(await door.ask("enter", "a"))

        await trio.sleep(3)
        await door.ask("open", None)

    assert log == ["a", "a is in"]


async def test_an_asker_that_left_is_not_brought_back(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log) as door:
        with pytest.raises(AskTimeout):
            await door.ask("enter", "late", timeout=1)
        door.tell("in time")
        await door.ask("open", None)
        await wait_all_tasks_blocked()

    assert log == ["in time"]


async def test_a_request_from_outside_is_answered_after_the_stash(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log) as door:
        door.system.timers.call_at(2, lambda: door.tell("open", None))
        assert await door.request("enter", "a") == "a is in"

        assert trio.current_time() == 2


async def test_an_event_from_outside_is_acknowledged_after_the_stash(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log) as door:
        delivery = await door.event("arrived", "a")
        await trio.sleep(2)
        assert delivery.outcome is None
        await door.ask("open", None)
        assert await delivery.settled() == "acknowledged"

    assert log == ["a"]


# -- what is refused


async def test_a_message_is_stashed_once(log: Log, clock: MockClock) -> None:
    def twice(self: Door) -> None:
        self.stash()
        with pytest.raises(UnderstudyError, match="stashed, forwarded or left"):
            self.stash()
        self.log.append("refused")

    async with isolated(Door, log) as door:
        door.tell(twice)
        await wait_all_tasks_blocked()

        assert log == ["refused"]


async def test_there_is_nothing_to_stash_outside_of_a_handler(log: Log, clock: MockClock) -> None:
    class Early(Door):
        async def started(self) -> None:
            with pytest.raises(UnderstudyError, match="no message in hand"):
                self.stash()
            self.log.append("refused")

    lives: list[Door] = []
    async with isolated(Early, log) as door:
        await door.ask(Do(lives.append))
        with pytest.raises(UnderstudyError, match="no message in hand"):
            lives[0].stash()

    assert log == ["refused"]


async def test_a_leftover_of_an_ended_life_stashes_and_unstashes_nothing(
    log: Log, clock: MockClock
) -> None:
    class Stubborn(Door):
        @message_pattern("hold on")
        async def hold_on(self, seconds: float) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            for act in (self.stash, self.unstash):
                with pytest.raises(Fenced):
                    act()
            self.log.append("fenced")

    async with isolated(Stubborn, log, shutdown=1) as door:
        door.tell("hold on", 10)
        await wait_all_tasks_blocked()
        await door.system.stop_child(door.path)
        assert trio.current_time() == 6
        await trio.sleep(5)

    assert log == ["fenced"]


# -- room


async def test_no_more_is_stashed_than_the_mailbox_may_hold(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log, mailbox=3) as door:
        for who in "abc":
            door.tell(who)
            await wait_all_tasks_blocked()
        with pytest.raises(ActorCrashed) as caught:
            await door.ask("enter", "d")

    assert isinstance(caught.value.__cause__, MailboxFull)
    assert caught.value.__cause__.capacity == 3


async def test_stashed_messages_take_room_in_the_mailbox_until_they_are_back(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log, mailbox=4) as door:
        for who in "ab":
            door.tell(who)
        await wait_all_tasks_blocked()
        assert (door._mailbox.reserved, door._mailbox.limit) == (2, 2)
        await door.ask("open", None)
        await wait_all_tasks_blocked()

        assert (door._mailbox.reserved, door._mailbox.limit) == (0, 4)


async def test_a_sender_that_waits_for_room_gets_it_when_the_stash_is_empty(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Door, log, mailbox=4) as door, trio.open_nursery() as nursery:
        for who in "abc":
            door.tell(who)
        await wait_all_tasks_blocked()
        door.tell("wait", 1)
        await wait_all_tasks_blocked()
        door.tell("open", None)
        nursery.start_soon(door.tell_wait, "d")
        await wait_all_tasks_blocked()
        assert len(door._mailbox.senders) == 1
        await trio.sleep(2)

    assert log == ["a", "b", "c", "d"]


# -- the end of a life


async def test_at_a_crash_the_stash_is_back_in_order_before_other_mail(
    log: Log, clock: MockClock
) -> None:
    class Opened(Door):
        async def started(self) -> None:
            self.is_open = self.incarnation > 1

    async with isolated(Opened, log) as door:
        for who in "ab":
            door.tell(who)
        await wait_all_tasks_blocked()
        door.tell(lambda self: 1 / 0)
        door.tell("c")
        await trio.sleep(1)

    assert log == ["a", "b", "c"]


async def test_askers_and_outside_messages_in_the_stash_live_through_a_crash(
    log: Log, clock: MockClock
) -> None:
    class Opened(Door):
        async def started(self) -> None:
            self.is_open = self.incarnation > 1

    async with isolated(Opened, log) as door, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            log.append(await door.ask("enter", "asker"))

        await wait_all_tasks_blocked()
        delivery = await door.event("arrived", "event")
        await wait_all_tasks_blocked()
        await door.crash()
        assert await delivery.settled() == "acknowledged"

    assert sorted(log) == ["asker", "asker is in", "event"]


async def test_the_stash_is_released_when_the_actor_ends_for_good(
    log: Log, clock: MockClock
) -> None:
    async def enter(door: Isolated[Door]) -> None:
        with pytest.raises(ActorStopped):
            await door.ask("enter", "asker", timeout=60)
        log.append("told")

    async with isolated(Door, log) as door, trio.open_nursery() as nursery:
        nursery.start_soon(enter, door)
        delivery = await door.event("arrived", "event")
        door.tell("told")
        await wait_all_tasks_blocked()
        await door.system.stop_child(door.path)
        assert await delivery.settled() == "given back"

    assert log == ["told"]
    assert [notice.message for notice in door.lifecycle.of(Undelivered)] == ["str"]


async def test_a_drain_does_not_wait_for_what_is_stashed(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log) as door:
        door.tell("a")
        door.tell("wait", 2)
        await wait_all_tasks_blocked()

    assert (log, trio.current_time()) == ([], 2)


async def test_a_kill_keeps_stash_and_hand_in_order_for_the_next_life(
    log: Log, clock: MockClock
) -> None:
    from understudy.supervisors.child import Supervisor, child
    from understudy.supervisors.strategy import one_for_all
    from understudy.supervisors.system import running

    class Slow(Door):
        async def receive(self, message: Any) -> Any:
            if self.incarnation > 1:
                self.log.append(message)
                return
            if message == "slow":
                await trio.sleep(100)
            self.stash()

    class Sibling(Actor[int]):
        def receive(self, message: int) -> None:
            raise ZeroDivisionError

    specs = [child(Slow, log, shutdown=0), child(Sibling)]
    async with running(Supervisor("top", specs, strategy=one_for_all)) as system:
        for who in ("a", "b", "slow", "c"):
            system.ref(Slow).tell(who)
        await wait_all_tasks_blocked()
        system.ref(Sibling).tell(1)
        await trio.sleep(1)

    assert log == ["a", "b", "slow", "c"]


# -- a handler that fails after it has stashed


class Rash(Actor[Any]):
    """Stashes its message, then fails."""

    error: Exception = ZeroDivisionError()

    def __init__(self, runs: Log) -> None:
        self.runs = runs

    @message_pattern("ask")
    async def ask_me(self, data: Any) -> None:
        self.fail()

    @event_pattern("event")
    async def on_event(self, data: Any) -> None:
        self.fail()

    def fail(self) -> None:
        self.runs.append(self.incarnation)
        self.stash()
        raise self.error


async def test_a_crash_after_a_stash_is_a_crash_on_that_message(log: Log, clock: MockClock) -> None:
    async with isolated(Rash, log) as rash:
        with pytest.raises(ActorCrashed):
            await rash.ask("ask", 1)
        rash.tell("ask", 2)
        await trio.sleep(1)
        (letter,) = await rash.dead_letters()

        assert rash._mailbox.reserved == 0
    assert (letter.reason, letter.body, log) == ("crashed", b"2", [1, 2])


async def test_an_event_that_crashes_after_a_stash_is_tried_as_often_as_any(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Rash, log, events=RetryPolicy(attempts=3)) as rash:
        delivery = await rash.event("event", 1)
        assert await delivery.settled() == "acknowledged"
        (letter,) = await rash.dead_letters()

    assert (letter.attempts, log) == (3, [1, 2, 3])


@pytest.mark.parametrize("error", [RpcError("no"), Retry("later")], ids=["answer", "retry"])
async def test_an_answer_that_is_raised_after_a_stash_answers(
    error: Exception, log: Log, clock: MockClock
) -> None:
    class Refusing(Rash):
        pass

    Refusing.error = error
    async with isolated(Refusing, log) as rash:
        with pytest.raises(type(error)):
            await rash.ask("ask", 1)

        assert rash.incarnation == 1
    assert log == [1]


async def test_equal_messages_in_the_stash_are_not_mixed_up(log: Log, clock: MockClock) -> None:
    class Third(Door):
        def pass_or_wait(self, who: str) -> str:
            self.log.append(repr(who))
            if self.incarnation == 1:
                self.stash()
                if len(self.log) == 3:
                    raise ZeroDivisionError
            return who

    async with isolated(Third, log) as door:
        for equal in (1, True, 1.0):
            door.tell(equal)
        await trio.sleep(1)

    assert log == ["1", "True", "1.0", "1", "True"]


async def test_a_stash_is_no_success_that_ends_a_sickness(log: Log, clock: MockClock) -> None:
    async with isolated(Door, log, sick_after=1) as door:
        with pytest.raises(RpcError):
            await door.request("crash")
        delivery = await door.event("arrived", "event")
        await trio.sleep(30)
        assert delivery.outcome is None
        assert door._mailbox.statistics().reserved == 1
        assert door.system.registry.find(Door).sickness.sick


@pytest.mark.parametrize("concurrency", [2, 5])
async def test_every_lane_stashes_its_own_message(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    class Slow(Door):
        async def receive(self, message: Any) -> Any:
            await trio.sleep(1)
            return self.pass_or_wait(message)

    async with isolated(Slow, log, concurrency=concurrency) as door:
        for who in "abcde":
            door.tell(who)
        await trio.sleep(6)
        assert log == []
        await door.ask("open", None)
        await trio.sleep(6)

    assert sorted(log) == list("abcde")
