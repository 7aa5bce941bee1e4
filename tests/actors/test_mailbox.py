"""The mailbox: bound, order, back-pressure, and mail that outlives a crash."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.envelope import Envelope
from understudy.actors.errors import ActorStopped, MailboxFull, RpcError
from understudy.actors.lifecycle import Started, Undelivered
from understudy.actors.mailbox import Mailbox, MailboxStatistics, Overflow
from understudy.actors.ref import Ref
from understudy.testing import isolated


@attrs.frozen
class Add:
    by: int


class Total(Request[int]):
    pass


class Block:
    """Holds the actor up until its gate is opened."""


class Boom:
    pass


class Refuse:
    pass


class Counter(Actor[Add | Total | Block | Boom | Refuse]):
    def __init__(self, gate: trio.Event, added: list[int]) -> None:
        self.gate, self.added = gate, added

    async def receive(self, message: object) -> int | None:
        match message:
            case Add(by):
                self.added.append(by)
            case Total():
                return sum(self.added)
            case Block():
                await self.gate.wait()
            case Boom():
                raise ZeroDivisionError
            case Refuse():
                raise RpcError("no")
        return None


@pytest.fixture
def gate() -> trio.Event:
    return trio.Event()


@pytest.fixture
def added() -> list[int]:
    return []


async def test_a_full_mailbox_refuses_a_tell(gate: trio.Event, added: list[int]) -> None:
    async with isolated(Counter, gate, added, mailbox=2) as counter:
        counter.tell(Block())
        await wait_all_tasks_blocked()
        counter.tell(Add(1))
        counter.tell(Add(2))
        with pytest.raises(MailboxFull) as caught:
            counter.tell(Add(3))
        gate.set()

    assert added == [1, 2]
    assert str(caught.value) == (
        "isolated/counter: the mailbox is full (2 messages). Await tell_wait(...) to be slowed "
        "down with it, or raise mailbox= in its child()."
    )


async def test_tell_wait_waits_for_room_and_is_woken(gate: trio.Event, added: list[int]) -> None:
    async with isolated(Counter, gate, added, mailbox=1) as counter:
        counter.tell(Block())
        await wait_all_tasks_blocked()
        counter.tell(Add(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.tell_wait, Add(2))
            await wait_all_tasks_blocked()
            assert counter.system.registry.find(Counter).mailbox.statistics().senders_waiting == 1
            gate.set()

        assert await counter.ask(Total()) == 3


async def test_a_sender_is_woken_as_soon_as_its_room_is_free(
    gate: trio.Event, added: list[int]
) -> None:
    async with isolated(Counter, trio.Event(), added, mailbox=1) as counter:
        counter.tell(Block())
        with trio.fail_after(1):  # the actor never finishes what it has in hand
            await counter.tell_wait(Block())
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as third:
            await counter.tell_wait(Add(1))
        counter.system.kill()

    assert third.cancelled_caught


@pytest.mark.parametrize("last", [Boom(), Refuse()], ids=["crashes", "is refused"])
async def test_senders_are_woken_when_the_last_message_before_them(
    last: Boom | Refuse, added: list[int], clock: MockClock
) -> None:
    async with isolated(Counter, trio.Event(), added, mailbox=1) as counter:
        counter.tell(last)
        with trio.fail_after(1):
            await counter.tell_wait(Add(1))

        assert await counter.ask(Total()) == 1


async def test_senders_are_woken_when_nobody_waits_for_what_stood_before_them(
    gate: trio.Event, added: list[int], clock: MockClock
) -> None:
    async with isolated(Counter, gate, added, mailbox=1) as counter:
        counter.tell(Block())
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up_asking, counter)
            await wait_all_tasks_blocked()
            nursery.start_soon(counter.tell_wait, Add(1))
            await trio.sleep(2)
            gate.set()

    assert added == [1]


async def _give_up_asking(counter: Ref[Counter]) -> None:
    with trio.move_on_after(1):
        await counter.ask(Total())


async def test_one_sender_s_messages_keep_their_order(
    gate: trio.Event, added: list[int], clock: MockClock
) -> None:
    async def send(counter: Ref[Counter], start: int) -> None:
        for number in range(start, start + 50):
            await counter.tell_wait(Add(number))

    async with isolated(Counter, gate, added, mailbox=4) as counter:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, counter, 0)
            nursery.start_soon(send, counter, 100)

    assert [n for n in added if n < 100] == list(range(50))
    assert [n for n in added if n >= 100] == list(range(100, 150))


@pytest.mark.parametrize("waiting", [1, 64, 65], ids=["one", "a burst", "over a burst"])
async def test_mail_waiting_at_a_crash_reaches_the_next_incarnation(
    waiting: int, added: list[int], clock: MockClock
) -> None:
    async with isolated(Counter, trio.Event(), added) as counter:
        counter.tell(Boom())
        for _ in range(waiting):
            counter.tell(Add(1))

        assert await counter.ask(Total()) == waiting
        await counter.lifecycle.expect(Started)
        assert counter.lifecycle.kinds() == ["started", "crashed", "restarting", "started"]


async def test_a_cancelled_sender_leaves_nothing_behind(
    gate: trio.Event, added: list[int], clock: MockClock
) -> None:
    async with isolated(Counter, gate, added, mailbox=1) as counter:
        counter.tell(Block())
        await wait_all_tasks_blocked()
        counter.tell(Add(1))
        with trio.move_on_after(1):
            await counter.tell_wait(Add(10))
        gate.set()

        assert await counter.ask(Total()) == 1


async def test_closing_releases_what_waits_in_order_and_wakes_senders() -> None:
    mailbox = Mailbox("shop/orders", 2)
    mailbox.open()
    mailbox.put(Envelope("a"))
    mailbox.put(Envelope("b"))
    released: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put_wait, Envelope("c"))
        await wait_all_tasks_blocked()
        mailbox.close(lambda envelope: released.append(envelope.message))

    assert released == ["a", "b"]
    assert await mailbox.put_wait(Envelope("d")) is False


def test_a_reserved_place_is_room_that_others_do_not_get() -> None:
    mailbox = Mailbox("shop/orders", 4)
    mailbox.open()
    assert [mailbox.reserve() for _ in range(5)] == [True] * 4 + [False]
    assert mailbox.put(Envelope("a request")) is True
    assert mailbox.put(Envelope("one too many")) is False
    mailbox.free()
    mailbox.free()
    assert mailbox.put(Envelope("room again")) is True
    assert mailbox.statistics() == MailboxStatistics(
        waiting=2, capacity=4, senders_waiting=0, reserved=2, open=True
    )


def test_what_comes_back_has_its_room_past_the_limit() -> None:
    mailbox = Mailbox("shop/orders", 1)
    mailbox.open()
    mailbox.put(Envelope("waiting"))
    mailbox.readmit(Envelope("later"))
    mailbox.readmit(Envelope("first"), first=True)

    assert [envelope.message for envelope in mailbox.queue] == ["first", "waiting", "later"]


async def test_mail_that_waits_when_the_actor_is_killed_is_undelivered(
    added: list[int], clock: MockClock
) -> None:
    async with isolated(Counter, trio.Event(), added, shutdown=0) as counter:
        counter.tell(Block())
        await wait_all_tasks_blocked()
        counter.tell(Add(1))
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ActorStopped, match=r"isolated/counter will not answer: "):
                    await counter.ask(Total())

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            await counter.system.stop_child(counter.path)

    assert [notice.message for notice in counter.lifecycle.of(Undelivered)] == ["Block", "Add"]


# -- asleep, and full


def filled(capacity: int, overflow: Overflow) -> tuple[Mailbox, list[Any]]:
    """A full mailbox, and what it has dropped."""
    mailbox, dropped = Mailbox("m", capacity, overflow), list[Any]()
    mailbox.drop = lambda envelope: dropped.append(envelope.message)
    mailbox.open()
    for number in range(capacity):
        assert mailbox.put(Envelope(number))
    return mailbox, dropped


@pytest.mark.parametrize(
    ("overflow", "taken", "dropped", "kept"),
    [
        ("wait", False, [], [0, 1]),
        ("reject", False, [], [0, 1]),
        ("drop_oldest", True, [0], [1, 2]),
        ("drop_newest", True, [2], [0, 1]),
    ],
)
def test_a_full_mailbox_does_what_its_policy_says(
    overflow: Overflow, taken: bool, dropped: list[int], kept: list[int]
) -> None:
    mailbox, told = filled(2, overflow)

    assert mailbox.put(Envelope(2)) is taken
    assert told == dropped
    assert [envelope.message for envelope in mailbox.queue] == kept


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_comes_back_is_not_dropped(overflow: Overflow) -> None:
    mailbox, told = filled(2, overflow)
    mailbox.readmit(Envelope("back"), first=True)

    assert told == []
    assert [envelope.message for envelope in mailbox.queue] == ["back", 0, 1]


def test_a_closed_mailbox_drops_nothing() -> None:
    mailbox, told = filled(2, "drop_oldest")
    mailbox.close(lambda envelope: None)

    assert not mailbox.put(Envelope(2))
    assert told == []


@pytest.mark.parametrize("how", ["put", "readmit", "wake"])
def test_a_sleeper_is_called_once_for_mail_and_for_a_wake(how: str) -> None:
    calls: list[str] = []
    mailbox = Mailbox("m", 8)
    mailbox.open()
    mailbox.sleep(lambda: calls.append("called"))
    for number in range(2):
        if how == "put":
            assert mailbox.put(Envelope(number))
        elif how == "readmit":
            mailbox.readmit(Envelope(number))
        else:
            mailbox.wake()

    assert calls == ["called"]
    assert len(mailbox.queue) == (0 if how == "wake" else 2)
    assert mailbox.limit == 8


def test_a_mailbox_closed_in_its_sleep_wakes_nobody() -> None:
    calls: list[str] = []
    mailbox = Mailbox("m", 8)
    mailbox.open()
    mailbox.sleep(lambda: calls.append("called"))
    mailbox.close(lambda envelope: None)

    assert not mailbox.put(Envelope(1))
    mailbox.wake()
    assert calls == []
