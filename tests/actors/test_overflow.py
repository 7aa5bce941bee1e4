"""What a full mailbox does with one more message, for each policy and each kind of sender."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.envelope import Envelope
from understudy.actors.errors import ActorStopped, DeclarationError, MailboxFull, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Undelivered
from understudy.actors.mailbox import Mailbox, Overflow
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated
from understudy.testing.outside import OutsideRequest
from understudy.transports.bridge import serve
from understudy.transports.client import connect
from understudy.transports.request import deliver


class Clerk(Actor):
    """Takes one second for each number, and keeps what it did."""

    def __init__(self, done: list[int]) -> None:
        self.done = done

    @message_pattern("ask")
    async def ask(self, number: int) -> int:
        await trio.sleep(1)
        self.done.append(number)
        return number

    @event_pattern("event")
    async def on_event(self, number: int) -> None:
        await self.ask(number)

    @message_pattern("count")
    async def count(self, number: int) -> AsyncIterator[int]:
        yield number


@pytest.fixture
def done() -> list[int]:
    return []


async def fill(clerk: Ref[Any], count: int = 3) -> None:
    """One message in hand, the others wait."""
    for number in range(count):
        clerk.tell("event", number)
        await wait_all_tasks_blocked()


def undelivered(clerk: Isolated[Any]) -> list[str]:
    return [notice.why for notice in clerk.lifecycle.of(Undelivered)]


# -- drop


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [0, 2, 3]), ("drop_newest", [0, 1, 2])]
)
async def test_a_tell_too_many_drops_one_and_does_not_fail(
    overflow: Overflow, kept: list[int], done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow=overflow) as clerk:
        await fill(clerk, 4)
        assert undelivered(clerk) == [f"the mailbox is full ({overflow})"]

    assert done == kept


async def test_an_ask_that_is_dropped_is_told_at_once(done: list[int], clock: MockClock) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow="drop_newest") as clerk:
        await fill(clerk)
        with pytest.raises(MailboxFull):
            await clerk.ask("ask", 3)
        assert trio.current_time() == 0


async def test_an_ask_that_waits_is_told_when_newer_mail_drops_it(
    done: list[int], clock: MockClock
) -> None:
    dropped_at: list[float] = []

    async def ask(clerk: Ref[Clerk]) -> None:
        with pytest.raises(MailboxFull):
            await clerk.ask("ask", 9)
        dropped_at.append(trio.current_time())

    async with isolated(Clerk, done, mailbox=1, overflow="drop_oldest") as clerk:
        clerk.tell("event", 0)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, clerk)
            await wait_all_tasks_blocked()
            assert await clerk.ask("ask", 1) == 1

    assert dropped_at == [0]
    assert done == [0, 1]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_nobody_waits_for_room_where_it_is_dropped(
    overflow: Overflow, done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow=overflow) as clerk:
        for number in range(10):
            await clerk.tell_wait("event", number)
        assert trio.current_time() == 0
        assert len(undelivered(clerk)) >= 7


async def test_a_stream_that_is_dropped_fails(done: list[int], clock: MockClock) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow="drop_newest") as clerk:
        await fill(clerk)
        with pytest.raises(MailboxFull):
            await anext(clerk.stream(Clerk.count, 1))


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_dropped_event_is_settled_and_no_dead_letter(
    overflow: Overflow, done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow=overflow) as clerk:
        events = [await clerk.event("event", number) for number in range(5)]
        for event in events:
            assert await event.settled() == "acknowledged"
        assert len(done) < 5
        assert await clerk.dead_letters() == []


async def test_a_dropped_event_is_undelivered_once(done: list[int], clock: MockClock) -> None:
    async with isolated(Clerk, done, mailbox=1, overflow="drop_newest") as clerk:
        for number in range(3):
            await clerk.event("event", number)
            await wait_all_tasks_blocked()
        assert len(undelivered(clerk)) == 1


async def test_a_request_that_is_dropped_is_answered_at_once(
    done: list[int], clock: MockClock
) -> None:
    tree = Supervisor(
        "t", [child(Clerk, done, mailbox=1, overflow="drop_newest"), serve("memory://clerk")]
    )
    async with running(tree) as system, connect("memory://clerk") as client:
        await fill(system.ref("clerk"), 2)
        begin = trio.current_time()
        with pytest.raises(RpcError, match="Service unavailable"):
            await client.send("ask", 3)
        assert trio.current_time() - begin < 1


async def test_what_is_dropped_need_not_be_the_one_in_hand(
    done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=1, overflow="drop_oldest") as clerk:
        await fill(clerk, 20)

    assert done == [0, 19]


async def test_a_closed_mailbox_drops_nothing_but_is_closed(
    done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=1, overflow="drop_oldest") as clerk:
        pass
    clerk.tell("event", 1)
    with pytest.raises(ActorStopped):
        await clerk.ask("ask", 1)

    assert undelivered(clerk) == ["the actor has ended"]


def test_a_full_mailbox_with_nobody_to_tell_refuses() -> None:
    mailbox = Mailbox("m", 1, "drop_newest")
    mailbox.open()

    assert mailbox.put(Envelope(1))
    assert not mailbox.put(Envelope(2))


# -- reject and wait


async def test_an_ask_is_rejected_at_once(done: list[int], clock: MockClock) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow="reject") as clerk:
        await fill(clerk)
        with pytest.raises(MailboxFull):
            await clerk.ask("ask", 3)
        with pytest.raises(MailboxFull):
            clerk.tell("event", 3)
        assert trio.current_time() == 0


async def test_who_says_that_it_can_wait_is_not_rejected(done: list[int], clock: MockClock) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow="reject") as clerk:
        await fill(clerk)
        await clerk.tell_wait("event", 3)
        assert trio.current_time() > 0

    assert done == [0, 1, 2, 3]


async def test_an_ask_of_an_actor_that_has_ended_is_not_called_full(
    done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, overflow="reject") as clerk:
        pass
    with pytest.raises(ActorStopped):
        await clerk.ask("ask", 1)


@pytest.mark.parametrize(("overflow", "seconds"), [("reject", 0), ("wait", 1)])
async def test_a_request_waits_for_room_only_if_the_mailbox_does(
    overflow: Overflow, seconds: float, done: list[int], clock: MockClock
) -> None:
    async with isolated(Clerk, done, mailbox=2, overflow=overflow) as clerk:
        await fill(clerk)
        handler = clerk._cell.behavior.requests["ask"]
        request = OutsideRequest("ask", "1")
        await deliver(clerk._mailbox, Envelope(3, handler, request, request))
        assert trio.current_time() == seconds
        if overflow == "reject":
            with pytest.raises(ActorStopped, match="the mailbox is full"):
                await request.answer(1)
        else:
            assert await request.answer(10) == 3


async def test_an_ask_waits_for_room_no_longer_than_its_timeout(
    done: list[int], clock: MockClock
) -> None:
    class Slow(Clerk):
        @event_pattern("sleep")
        async def sleeps(self, seconds: float) -> None:
            await trio.sleep(seconds)

    async with isolated(Slow, done, mailbox=1, shutdown=100) as slow:
        slow.tell("sleep", 50)
        await wait_all_tasks_blocked()
        slow.tell("event", 1)
        with pytest.raises(MailboxFull):
            await slow.ask("ask", 2, timeout=3)
        assert trio.current_time() == 3
        assert slow._mailbox.statistics().senders_waiting == 0


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DeclarationError, match="overflow must be one of 'wait', 'reject'"):
        child(Clerk, [], overflow="drop")  # type: ignore[arg-type]
