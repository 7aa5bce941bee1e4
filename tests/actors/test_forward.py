"""Forwarding: another actor answers the message in hand, and all that belongs to it goes along."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.context import MessageContext
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Fenced,
    MailboxFull,
    NoHandler,
    PayloadError,
    RpcError,
    UnderstudyError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Crashed
from understudy.actors.ref import Ref
from understudy.supervisors.child import child
from understudy.testing import Isolated, isolated

from .driven import Do

Log = list[Any]


@attrs.frozen
class Plain(Request[Any]):
    """A message without a pattern."""


class Clerk(Actor[Any]):
    """Does the work; runs what it is given."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def receive(self, message: Any) -> Any:
        return message(self) if callable(message) else ("clerk", message)

    @message_pattern("work")
    async def work(self, seconds: float, context: MessageContext) -> str:
        outside = context.message_id if context.transport != "local" else None
        self.log.append((seconds, context.deadline, outside))
        await trio.sleep(seconds)
        return "done"

    @message_pattern("break")
    async def fail(self, seconds: float) -> None:
        await trio.sleep(seconds)
        raise ZeroDivisionError

    @message_pattern("refuse")
    async def refuse(self, data: Any) -> None:
        raise RpcError("no")

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


class Desk(Actor[Any]):
    """Forwards all its messages to the clerk."""

    clerk: Ref[Any]

    def receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.forward(self.clerk, message)
        return "never seen"

    @message_pattern("desk")
    async def desk(self, order: list[Any]) -> str:
        pattern, data = order
        self.forward(self.clerk, pattern, data)
        return "never seen"

    @message_pattern("desk counts")
    async def desk_counts(self, to: int) -> AsyncIterator[int]:
        yield to

    @event_pattern("came")
    async def on_came(self, order: list[Any]) -> None:
        await self.desk(order)

    @message_pattern("forward and fail")
    async def forward_and_fail(self, data: Any) -> None:
        self.forward(self.clerk, "work", 1)
        raise RpcError("too late")


@asynccontextmanager
async def office(log: Log, **options: Any) -> AsyncIterator[tuple[Isolated[Desk], Ref[Clerk]]]:
    """A desk under test and its clerk, a sibling."""
    options = {"restart": "transient", "backoff": None} | options
    async with isolated(Desk, backoff=None) as desk:
        await desk.system.start_child(child(Clerk, log, **options))
        Desk.clerk = desk.system.ref(Clerk)
        yield desk, desk.system.ref(Clerk)


@pytest.fixture
def log() -> Log:
    return []


async def test_the_asker_gets_the_answer_of_the_other_actor(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, _):
        assert await desk.ask("desk", ["work", 1]) == "done"
        assert await desk.ask(Plain()) == ("clerk", Plain())


async def test_the_desk_is_free_while_the_other_works(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, _), trio.open_nursery() as nursery:
        nursery.start_soon(desk.ask, "desk", ["work", 3])
        await trio.sleep(1)
        assert await desk.ask(Do(lambda self: "free")) == "free"
        assert trio.current_time() == 1


async def test_a_method_names_the_handler_as_well_as_its_pattern(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, clerk):
        answer = await desk.ask(Do(lambda self: self.forward(clerk, Clerk.work, 0)))
        assert answer == "done"


async def test_the_deadline_goes_along(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, _):
        with pytest.raises(AskTimeout):
            await desk.ask("desk", ["work", 3], timeout=2)

    assert log == [(3, 2, None)]


async def test_a_message_nobody_waits_for_any_more_is_not_run(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, clerk):
        clerk.tell("work", 3)
        with pytest.raises(AskTimeout):
            await desk.ask("desk", ["work", 1], timeout=2)
        await trio.sleep(5)

    assert [seconds for seconds, _, _ in log] == [3]


async def test_errors_of_the_other_actor_reach_the_asker(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, clerk):
        with pytest.raises(RpcError, match="no"):
            await desk.ask("desk", ["refuse", 1])
        with pytest.raises(ActorCrashed) as caught:
            await desk.ask("desk", ["break", 1])
        assert (caught.value.path, desk.incarnation) == (clerk.path, 1)
        with pytest.raises(RpcError, match="Internal server error"):
            await desk.request("desk", ["break", 1])


async def test_the_origin_goes_along_and_a_crash_is_blamed_on_it(
    log: Log, clock: MockClock
) -> None:
    crashes: list[Crashed] = []
    async with office(log) as (desk, _):
        desk.system.bus.subscribe(lambda n: crashes.append(n) if isinstance(n, Crashed) else None)
        assert await desk.request("desk", ["work", 0], message_id="m-1") == "done"
        for number in range(10):
            with pytest.raises(RpcError):
                await desk.request("desk", ["break", 0], message_id=f"b-{number}")

    assert log[0][2] == "m-1"
    assert [crash.origin for crash in crashes] == [f"b-{number}" for number in range(10)]


async def test_an_event_is_acknowledged_when_the_other_is_done_with_it(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, _):
        delivery = await desk.event("came", ["work", 2])
        await trio.sleep(1)
        assert delivery.outcome is None
        await trio.sleep(2)
        assert delivery.outcome == "acknowledged"


async def test_an_event_that_crashes_the_other_comes_to_the_desk_again(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, _):
        delivery = await desk.event("came", ["break", 0])
        assert await delivery.settled() == "acknowledged"
        (letter,) = await desk.dead_letters()

        assert (letter.attempts, letter.actor, desk.incarnation) == (5, desk.path, 1)


async def test_an_event_comes_again_when_the_other_stops_with_it(
    log: Log, clock: MockClock
) -> None:
    async with office(log, shutdown=1) as (desk, clerk):
        delivery = await desk.event("came", ["work", 100])
        await wait_all_tasks_blocked()
        await desk.system.stop_child(clerk.path)
        assert await delivery.settled() == "acknowledged"

        # There is no clerk for it any more, and that crashes the desk's handler.
        (letter,) = await desk.dead_letters()
        assert "ActorStopped" in letter.error


async def test_a_told_message_is_told_on(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, _):
        desk.tell("desk", ["break", 0])
        await trio.sleep(1)
        (letter,) = await desk.dead_letters()

    assert (letter.actor, letter.pattern) == ("isolated/clerk", "break")


async def test_a_chain_of_forwards_is_one_message(log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, clerk):
        first = lambda self: self.forward(  # noqa: E731
            self.ref, lambda self: self.forward(clerk, "work", 1)
        )
        assert await desk.ask(Do(first)) == "done"


async def test_the_other_may_answer_later(log: Log, clock: MockClock) -> None:
    kept: list[Any] = []
    async with office(log) as (desk, clerk), trio.open_nursery() as nursery:
        keep = lambda self: kept.append(self.reply_later())  # noqa: E731

        @nursery.start_soon
        async def _() -> None:
            log.append(await desk.ask(Do(lambda self: self.forward(clerk, keep))))

        await wait_all_tasks_blocked()
        kept.pop().succeed("later")
        await wait_all_tasks_blocked()

    assert log == ["later"]


async def test_a_stream_goes_on_to_its_caller(log: Log, clock: MockClock) -> None:
    class Front(Desk):
        @message_pattern("numbers")
        async def numbers(self, to: int) -> int:
            self.forward(self.clerk, "count", to)
            return -1

    async with isolated(Front) as desk:
        await desk.system.start_child(child(Clerk, log))
        Desk.clerk = desk.system.ref(Clerk)
        assert await desk.request("numbers", 3) == [0, 1, 2]


@pytest.mark.parametrize("to", [0, 3])
async def test_an_ask_is_not_forwarded_to_a_stream(to: int, log: Log, clock: MockClock) -> None:
    async with office(log) as (desk, _):
        with pytest.raises(ActorCrashed) as caught:
            await desk.ask("desk", ["count", to])

    assert isinstance(caught.value.__cause__, TypeError)
    assert "streams" in str(caught.value.__cause__)


# -- what cannot be forwarded


async def attempt(desk: Isolated[Desk], error: type[Exception], *message: Any) -> Any:
    """Forward, see it refused, and answer by oneself after all."""

    def forward(self: Desk) -> str:
        with pytest.raises(error):
            self.forward(self.clerk, *message)
        return "still in hand"

    return await desk.ask(Do(forward))


@pytest.mark.parametrize(
    ("message", "error"),
    [(("no such pattern", 1), NoHandler), (("work", "no number"), PayloadError)],
)
async def test_what_the_other_cannot_handle_stays_in_hand(
    message: tuple[Any, ...], error: type[Exception], log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, _):
        assert await attempt(desk, error, *message) == "still in hand"


async def test_a_full_mailbox_leaves_the_message_in_hand(log: Log, clock: MockClock) -> None:
    async with office(log, mailbox=1) as (desk, clerk):
        clerk.tell("work", 1)
        await wait_all_tasks_blocked()
        clerk.tell("work", 1)
        assert await attempt(desk, MailboxFull, "work", 1) == "still in hand"


async def test_an_actor_that_has_ended_leaves_the_message_in_hand(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, clerk):
        clerk.tell(lambda self: self.stop())
        await wait_all_tasks_blocked()
        assert await attempt(desk, ActorStopped, "work", 1) == "still in hand"


async def test_a_message_is_forwarded_once(log: Log, clock: MockClock) -> None:
    def twice(self: Desk) -> None:
        self.forward(self.clerk, "work", 0)
        with pytest.raises(UnderstudyError, match="stashed, forwarded or left"):
            self.forward(self.clerk, "work", 0)
        with pytest.raises(UnderstudyError, match="stashed, forwarded or left"):
            self.stash()

    async with office(log) as (desk, _):
        assert await desk.ask(Do(twice)) == "done"
        await trio.sleep(1)

    assert len(log) == 1


async def test_there_is_nothing_to_forward_outside_of_a_handler(log: Log, clock: MockClock) -> None:
    lives: list[Desk] = []
    async with office(log) as (desk, clerk):
        await desk.ask(Do(lives.append))
        with pytest.raises(UnderstudyError, match="no message in hand"):
            lives[0].forward(clerk, "work", 0)


async def test_a_leftover_of_an_ended_life_forwards_nothing(log: Log, clock: MockClock) -> None:
    class Stubborn(Desk):
        @message_pattern("hold on")
        async def hold_on(self, seconds: float) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            with pytest.raises(Fenced):
                self.forward(self.ref, "hold on", 1)
            log.append("fenced")

    async with isolated(Stubborn, shutdown=1) as desk:
        desk.tell("hold on", 10)
        await wait_all_tasks_blocked()
        await desk.system.stop_child(desk.path)
        await trio.sleep(10)

    assert log == ["fenced"]


# -- the desk ends


async def test_a_handler_that_fails_after_forwarding_crashes_and_the_answer_comes(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, _):
        assert await desk.ask("forward and fail", 1) == "done"

        assert desk.incarnation == 2
        assert await desk.dead_letters() == []


async def test_what_was_forwarded_is_answered_though_the_desk_has_ended(
    log: Log, clock: MockClock
) -> None:
    answers: Log = []
    async with office(log) as (desk, _clerk), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            answers.append(await desk.ask("desk", ["work", 2]))

        await trio.sleep(1)
        await desk.system.stop_child(desk.path)
        await trio.sleep(2)

    assert answers == ["done"]


async def test_a_forwarded_tick_does_not_end_with_the_timer_it_came_from(
    log: Log, clock: MockClock
) -> None:
    async with office(log) as (desk, clerk):
        forward = lambda self: self.forward(clerk, "work", 0.5)  # noqa: E731
        clerk.tell("work", 5)
        await desk.ask(Do(lambda self: bool(self.after(1, forward) and self.every(2, forward))))
        await trio.sleep(4.5)
        await desk.crash()
        await trio.sleep(10)

    assert [seconds for seconds, _, _ in log] == [5, 0.5, 0.5, 0.5]
