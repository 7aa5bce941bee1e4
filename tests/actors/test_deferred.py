"""Replies given later: who waits for them, and what ends the wait when none comes."""

import gc
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.deferred import Reply
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Fenced,
    Retry,
    RpcError,
    UnderstudyError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Recovered, Undelivered
from understudy.actors.retry import RetryPolicy
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]


class Desk(Actor[Any]):
    """Keeps replies, and gives them when it is told to."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.replies: list[Reply] = []

    def receive(self, message: Any) -> Any:
        return message(self)

    @message_pattern("keep")
    async def keep(self, what: Any) -> str:
        self.log.append((what, self.incarnation))
        self.replies.append(self.reply_later())
        return "never seen"

    @event_pattern("kept")
    async def on_kept(self, what: Any) -> None:
        await self.keep(what)

    @message_pattern("drop")
    async def drop(self, what: Any) -> None:
        self.log.append((what, self.incarnation))
        self.reply_later()

    @event_pattern("dropped")
    async def on_dropped(self, what: Any) -> None:
        await self.drop(what)

    @message_pattern("keep and fail")
    async def keep_and_fail(self, what: Any) -> None:
        await self.keep(what)
        raise ERRORS.get(what, ZeroDivisionError())

    @event_pattern("kept and failed")
    async def on_kept_and_failed(self, what: Any) -> None:
        await self.keep_and_fail(what)

    @message_pattern("answer and fail")
    async def answer_and_fail(self, what: Any) -> None:
        self.reply_later().succeed(what)
        raise ZeroDivisionError


ERRORS: dict[Any, Exception] = {"rpc": RpcError("no"), "retry": Retry("later")}


@pytest.fixture
def log() -> Log:
    return []


async def ask(desk: Isolated[Desk], pattern: str, what: Any, answers: Log) -> None:
    """Ask and note the answer, or the kind of error."""
    try:
        answers.append(await desk.ask(pattern, what, timeout=60))
    except (UnderstudyError, ValueError) as error:
        answers.append(type(error))


async def test_an_asker_waits_until_the_reply_is_given_by_another_message(
    log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await trio.sleep(2)
        assert answers == []
        await desk.ask(Do(lambda self: self.replies[0].succeed("later")))
        await wait_all_tasks_blocked()

        assert answers == ["later"]


def answer(number: int) -> Do:
    return Do(lambda self: self.replies[number].succeed(number))


async def test_other_messages_are_handled_meanwhile_and_answers_come_in_any_order(
    log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, desk, "keep", number, answers)
            await wait_all_tasks_blocked()
        for number in (2, 0, 1):
            await desk.ask(answer(number))
            await wait_all_tasks_blocked()

    assert answers == [2, 0, 1]


async def test_a_reply_may_be_given_by_a_task_of_the_actor(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        answers: Log = []
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        (reply,) = await desk.ask(Do(lambda self: self.replies))

        async def later() -> None:
            await trio.sleep(1)
            reply.succeed("from a task")

        nursery.start_soon(later)
        await trio.sleep(2)

        assert answers == ["from a task"]


@pytest.mark.parametrize("error", [RpcError("no"), Retry("not now"), ValueError("odd")])
async def test_an_error_given_later_reaches_the_asker_and_is_no_crash(
    error: Exception, log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        await desk.ask(Do(lambda self: self.replies[0].fail(error)))
        await wait_all_tasks_blocked()

        assert (answers, desk.incarnation) == ([type(error)], 1)


async def test_a_second_answer_is_refused(log: Log, clock: MockClock) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        (reply,) = await desk.ask(Do(lambda self: self.replies))
        reply.succeed("first")
        for second in (reply.succeed, lambda: reply.fail(RpcError("no"))):
            with pytest.raises(UnderstudyError, match="answered already"):
                second()

    assert answers == ["first"]


async def test_a_message_is_left_for_later_once(log: Log, clock: MockClock) -> None:
    def twice(self: Desk) -> None:
        reply = self.reply_later()
        with pytest.raises(UnderstudyError, match="left to be answered later already"):
            self.reply_later()
        reply.succeed("once")

    async with isolated(Desk, log) as desk:
        assert await desk.ask(Do(twice)) == "once"


async def test_whether_anybody_waits_can_be_seen(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log) as desk:
        with pytest.raises(AskTimeout):
            await desk.ask("keep", 1, timeout=1)
        desk.tell("keep", 2)
        (late, told) = await desk.ask(Do(lambda self: self.replies))
        assert not late.open
        assert not told.open
        late.succeed("too late")
        told.succeed("to nobody")

    assert [notice.why for notice in desk.lifecycle.of(Undelivered)] == [
        "its asker does not wait any more"
    ]


async def test_a_request_from_outside_is_answered_later(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log) as desk:
        desk.system.timers.call_at(
            2, lambda: desk.tell(lambda self: self.replies[0].succeed("later"))
        )
        assert await desk.request("keep", 1) == "later"

        assert trio.current_time() == 2


async def test_an_event_is_acknowledged_when_its_reply_is_given(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log) as desk:
        delivery = await desk.event("kept", 1)
        await trio.sleep(2)
        assert delivery.outcome is None
        (reply,) = await desk.ask(Do(lambda self: self.replies))
        assert reply.open
        reply.succeed()
        assert await delivery.settled() == "acknowledged"
        assert not reply.open


async def test_an_event_whose_reply_is_a_refusal_is_a_dead_letter(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log) as desk:
        delivery = await desk.event("kept", 1)
        await wait_all_tasks_blocked()
        await desk.ask(Do(lambda self: self.replies[0].fail(RpcError("no"))))
        assert await delivery.settled() == "acknowledged"

        assert [letter.reason for letter in await desk.dead_letters()] == ["rejected"]


async def test_an_event_whose_reply_asks_for_a_retry_comes_again(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log) as desk:
        delivery = await desk.event("kept", 1)
        await wait_all_tasks_blocked()
        await desk.ask(Do(lambda self: self.replies[0].fail(Retry("later", after=2))))
        await trio.sleep(3)
        await desk.ask(Do(lambda self: self.replies[1].succeed()))
        assert await delivery.settled() == "acknowledged"

    assert log == [(1, 1), (1, 1)]


# -- the incarnation ends before


async def test_a_crash_on_another_message_tells_the_asker_and_brings_the_rest_again_in_order(
    log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", "asked", answers)
        await wait_all_tasks_blocked()
        deliveries = [await desk.event("kept", f"event {n}") for n in range(3)]
        for number in range(2):
            desk.tell("keep", f"told {number}")
        await wait_all_tasks_blocked()
        first = [what for what, _ in log]
        log.clear()
        await desk.crash()
        await trio.sleep(1)

        assert answers == [ActorStopped]
        told, events = ["told 0", "told 1"], ["event 0", "event 1", "event 2"]
        assert first == ["asked", *events, *told]
        assert log == [(what, 2) for what in (*told, *events)]
        assert [delivery.outcome for delivery in deliveries] == [None] * 3
        assert await desk.dead_letters() == []


async def test_an_ordered_stop_releases_what_was_not_answered(log: Log, clock: MockClock) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", "asked", answers)
        delivery = await desk.event("kept", "event")
        desk.tell("keep", "told")
        await wait_all_tasks_blocked()
        await desk.system.stop_child(desk.path)
        assert await delivery.settled() == "given back"

    assert answers == [ActorStopped]
    assert [notice.message for notice in desk.lifecycle.of(Undelivered)] == ["str"]


async def test_replies_may_still_be_given_while_it_drains_and_in_stopping(
    log: Log, clock: MockClock
) -> None:
    class Closing(Desk):
        async def stopping(self) -> None:
            for reply in self.replies:
                reply.succeed("closing")

    answers: Log = []
    async with isolated(Closing, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        await desk.system.stop_child(desk.path)

    assert answers == ["closing"]


async def test_a_reply_of_an_ended_life_is_refused(log: Log, clock: MockClock) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        (reply,) = await desk.ask(Do(lambda self: self.replies))
        await desk.crash()
        for late in (reply.succeed, lambda: reply.fail(RpcError("late"))):
            with pytest.raises(Fenced):
                late()

    assert answers == [ActorStopped]


# -- the handler fails after it


@pytest.mark.parametrize(
    ("pattern", "what", "answer", "incarnation"),
    [
        ("keep and fail", 1, ActorCrashed, 2),
        ("keep and fail", "rpc", RpcError, 1),
        ("keep and fail", "retry", Retry, 1),
        ("answer and fail", "answered", "answered", 2),
    ],
)
async def test_a_handler_that_fails_afterwards_fails_its_message_unless_it_was_answered(
    pattern: str, what: Any, answer: Any, incarnation: int, log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk:
        await ask(desk, pattern, what, answers)
        await trio.sleep(1)

        assert desk.incarnation == incarnation
    assert answers == [answer]


async def test_a_told_message_that_is_left_for_later_and_crashes_is_a_dead_letter(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log) as desk:
        desk.tell("keep and fail", 1)
        await trio.sleep(1)
        (letter,) = await desk.dead_letters()

    assert (letter.reason, letter.pattern, log) == ("crashed", "keep and fail", [(1, 1)])


async def test_a_told_message_that_was_answered_is_no_dead_letter_when_its_handler_crashes(
    log: Log, clock: MockClock
) -> None:
    def answer_and_fail(self: Desk) -> None:
        self.replies.append(self.reply_later())
        self.replies[0].succeed()
        raise ZeroDivisionError

    async with isolated(Desk, log) as desk:
        desk.tell(answer_and_fail)
        await trio.sleep(1)

        assert desk.incarnation == 2
        assert await desk.dead_letters() == []


async def test_an_event_that_crashes_after_it_is_tried_as_often_as_any(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log, events=RetryPolicy(attempts=3)) as desk:
        delivery = await desk.event("kept and failed", 1)
        assert await delivery.settled() == "acknowledged"
        (letter,) = await desk.dead_letters()

    assert letter.attempts == 3
    assert log == [(1, 1), (1, 2), (1, 3)]


# -- a reply that is dropped


async def test_a_dropped_reply_fails_its_asker_at_once_and_crashes_nothing(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log) as desk:
        with pytest.raises(ActorCrashed) as caught:
            await desk.ask("drop", 1)
        assert "dropped unused" in str(caught.value.__cause__)
        with pytest.raises(RpcError, match="Internal server error"):
            await desk.request("drop", 1)

        assert (desk.incarnation, trio.current_time()) == (1, 0)


async def test_an_event_whose_reply_is_dropped_does_not_come_again_for_ever(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log, events=RetryPolicy(attempts=3)) as desk:
        delivery = await desk.event("dropped", 1)
        assert await delivery.settled() == "acknowledged"
        (letter,) = await desk.dead_letters()

    assert (letter.reason, letter.attempts) == ("crashed", 3)
    assert log == [(1, 1)] * 3


async def test_a_told_message_whose_reply_is_dropped_is_a_dead_letter(
    log: Log, clock: MockClock
) -> None:
    async with isolated(Desk, log) as desk:
        desk.tell("drop", 1)
        await trio.sleep(1)

        assert [letter.reason for letter in await desk.dead_letters()] == ["crashed"]


async def test_a_reply_that_is_collected_in_another_thread_is_seen_to_in_trios(
    log: Log, mock_clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(ask, desk, "keep", 1, answers)
        await wait_all_tasks_blocked()
        await desk.ask(Do(lambda self: self.replies.append(self.replies)))  # only the gc frees it
        await desk.ask(Do(lambda self: self.__setattr__("replies", [])))
        await trio.to_thread.run_sync(gc.collect)
        await wait_all_tasks_blocked()

        assert answers == [ActorCrashed]


async def test_a_reply_that_was_used_may_be_dropped(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log) as desk:
        assert await desk.ask(Do(lambda self: self.reply_later().succeed(7))) == 7
        await trio.sleep(1)

        assert await desk.dead_letters() == []


# -- beside other features


async def test_a_leftover_of_an_ended_life_takes_no_message(log: Log, clock: MockClock) -> None:
    class Stubborn(Desk):
        @message_pattern("hold on")
        async def hold_on(self, seconds: float) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            with pytest.raises(Fenced):
                self.reply_later()
            self.log.append("fenced")

    async with isolated(Stubborn, log, shutdown=1) as desk:
        desk.tell("hold on", 10)
        await wait_all_tasks_blocked()
        await desk.system.stop_child(desk.path)
        await trio.sleep(10)

    assert log == ["fenced"]


async def test_there_is_nothing_to_answer_outside_of_a_handler(log: Log, clock: MockClock) -> None:
    class Early(Desk):
        async def started(self) -> None:
            with pytest.raises(UnderstudyError, match="no message in hand"):
                self.reply_later()
            self.log.append("refused")

    async with isolated(Early, log):
        assert log == ["refused"]


async def test_a_sick_actor_that_answers_later_gets_well(log: Log, clock: MockClock) -> None:
    async with isolated(Desk, log, sick_after=1) as desk:
        with pytest.raises(RpcError):
            await desk.request("keep and fail", 1)
        delivery = await desk.event("kept", "event")
        await desk.lifecycle.expect(Recovered, within=10)
        await desk.ask(Do(lambda self: self.replies[0].succeed()))

        assert delivery.outcome == "acknowledged"


@pytest.mark.parametrize("concurrency", [2, 4])
async def test_lanes_leave_replies_side_by_side(
    concurrency: int, log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with isolated(Desk, log, concurrency=concurrency) as desk, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, desk, "keep", number, answers)
        await wait_all_tasks_blocked()
        for reply in await desk.ask(Do(lambda self: self.replies)):
            reply.succeed("all")
        await wait_all_tasks_blocked()

    assert answers == ["all"] * 6
