"""The mailbox's rules one by one, without an actor: room, order, drops, waking, sleep."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.envelope import Envelope
from understudy.actors.mailbox import Mailbox, MailboxStatistics, Overflow


def opened(capacity: int, overflow: Overflow = "wait") -> Mailbox:
    mailbox = Mailbox("shop/orders", capacity, overflow)
    mailbox.open()
    return mailbox


def filled(mailbox: Mailbox, messages: str) -> Mailbox:
    for message in messages:
        assert mailbox.put(Envelope(message)) is True
    return mailbox


def messages(mailbox: Mailbox) -> str:
    return "".join(cast("str", envelope.message) for envelope in mailbox.queue)


class Woken:
    """A sleeper that remembers what the mailbox was like when it was called."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.calls: list[tuple[int, bool]] = []

    def __call__(self) -> None:
        self.calls.append((self.mailbox.limit, self.mailbox.sleeper is None))


# -- open and closed ------------------------------------------------------------


def test_a_new_mailbox_is_closed_and_has_nothing() -> None:
    mailbox = Mailbox("shop/orders", 3)

    assert mailbox.put(Envelope("a")) is False
    assert mailbox.statistics() == MailboxStatistics(0, 3, 0, 0, open=False)
    assert (mailbox.limit, mailbox.overflow, mailbox.concurrency) == (-1, "wait", 1)
    assert (mailbox.owner, mailbox.drop, mailbox.sleeper, mailbox.hands) == (None, None, None, ())


def test_an_open_mailbox_makes_its_queue_for_the_first_message() -> None:
    mailbox = opened(3)
    assert (mailbox.limit, mailbox.is_open) == (0, True)

    filled(mailbox, "a")

    assert (mailbox.limit, messages(mailbox)) == (3, "a")


def test_a_mailbox_opened_again_has_its_room_at_once() -> None:
    mailbox = filled(opened(3), "a")
    mailbox.close(lambda _: None)
    mailbox.open()

    assert mailbox.limit == 3


def test_a_closed_mailbox_takes_nothing_and_calls_nobody() -> None:
    mailbox = filled(opened(3), "ab")
    mailbox.sleep(woken := Woken(mailbox))
    released: list[Any] = []
    mailbox.close(lambda envelope: released.append(envelope.message))
    mailbox.wake()

    assert released == ["a", "b"]
    assert mailbox.put(Envelope("c")) is False
    assert (woken.calls, mailbox.sleeper, mailbox.is_open) == ([], None, False)


def test_what_is_sent_while_it_closes_is_refused() -> None:
    mailbox = filled(opened(3), "ab")
    taken: list[bool] = []
    mailbox.close(lambda _: taken.append(mailbox.put(Envelope("again"))))

    assert taken == [False, False]


def test_a_queue_made_before_it_opens_opens_nothing() -> None:
    mailbox = Mailbox("shop/orders", 3)
    mailbox.ready_queue()
    assert mailbox.is_open is False

    mailbox.open()
    assert mailbox.limit == 3


def test_the_consumer_s_queue_is_the_one_that_mail_goes_to() -> None:
    mailbox = opened(3)
    queue = mailbox.ready_queue()
    assert mailbox.limit == 3

    filled(mailbox, "ab")
    assert [envelope.message for envelope in queue] == ["a", "b"]
    assert mailbox.ready_queue() is queue


# -- room -----------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_a_mailbox_holds_its_capacity_and_not_one_more(capacity: int) -> None:
    mailbox = filled(opened(capacity), "x" * capacity)

    assert mailbox.put(Envelope("one more")) is False
    assert len(mailbox.queue) == capacity


@pytest.mark.parametrize(
    ("capacity", "reserved", "limit"),
    [(8, 1, 7), (8, 5, 3), (8, 6, 2), (8, 7, 2), (8, 8, 2), (2, 2, 1), (3, 3, 1), (1, 1, 1)],
)
def test_a_quarter_and_at_least_one_place_is_never_reserved(
    capacity: int, reserved: int, limit: int
) -> None:
    mailbox = filled(opened(capacity), "x")
    for _ in range(reserved):
        assert mailbox.reserve() is True

    assert (mailbox.limit, mailbox.reserved) == (limit, reserved)


def test_reserved_places_count_from_the_first_message_on() -> None:
    mailbox = opened(8)
    mailbox.reserve()
    mailbox.reserve()
    assert mailbox.limit == 0
    mailbox.free()
    assert mailbox.limit == 0

    filled(mailbox, "a")
    assert mailbox.limit == 7


@pytest.mark.parametrize("closed", [True, False])
def test_reserving_and_freeing_open_no_mailbox(closed: bool) -> None:
    mailbox = filled(opened(8), "a")
    if closed:
        mailbox.close(lambda _: None)
    mailbox.reserve()
    mailbox.free()

    assert mailbox.limit == (-1 if closed else 8)


def test_a_freed_place_is_room_again() -> None:
    mailbox = filled(opened(2), "a")
    mailbox.reserve()
    assert mailbox.put(Envelope("b")) is False
    mailbox.free()

    assert mailbox.put(Envelope("b")) is True


# -- overflow -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "dropped", "kept"), [("drop_oldest", "a", "bc"), ("drop_newest", "c", "ab")]
)
def test_a_full_mailbox_drops_one_message(overflow: Overflow, dropped: str, kept: str) -> None:
    mailbox = filled(opened(2, overflow), "ab")
    told: list[Any] = []
    mailbox.drop = lambda envelope: told.append(envelope.message)

    assert mailbox.put(Envelope("c")) is True
    assert (told, messages(mailbox)) == ([dropped], kept)


@pytest.mark.parametrize("overflow", ["wait", "reject"])
def test_who_waits_or_rejects_drops_nothing(overflow: Overflow) -> None:
    mailbox = filled(opened(1, overflow), "a")
    mailbox.drop = lambda envelope: pytest.fail(f"dropped {envelope}")

    assert mailbox.put(Envelope("b")) is False


def test_without_anybody_to_tell_nothing_is_dropped() -> None:
    assert filled(opened(1, "drop_newest"), "a").put(Envelope("b")) is False


def test_a_closed_mailbox_drops_nothing() -> None:
    mailbox = Mailbox("shop/orders", 1, "drop_newest")
    mailbox.drop = lambda envelope: pytest.fail(f"dropped {envelope}")

    assert mailbox.put(Envelope("a")) is False


# -- what comes back --------------------------------------------------------------


def test_what_comes_back_to_a_mailbox_without_a_queue_makes_one() -> None:
    mailbox = opened(3)
    mailbox.readmit(Envelope("a"))

    assert (messages(mailbox), mailbox.limit) == ("a", 3)


def test_what_comes_back_wakes_who_sleeps_once() -> None:
    mailbox = filled(opened(3), "a")
    mailbox.queue.clear()
    mailbox.sleep(woken := Woken(mailbox))
    mailbox.readmit(Envelope("a"))
    mailbox.readmit(Envelope("b"))

    assert (messages(mailbox), woken.calls) == ("ab", [(3, True)])


async def test_what_comes_back_wakes_one_lane() -> None:
    mailbox = filled(opened(3), "a")
    mailbox.queue.clear()
    async with Lanes(mailbox, 2) as woken:
        mailbox.readmit(Envelope("a"))
        await wait_all_tasks_blocked()
        assert len(woken) == 1
        mailbox.readmit(Envelope("b"), first=True)
        await wait_all_tasks_blocked()
        assert len(woken) == 2


# -- lanes and sleep --------------------------------------------------------------


class Lanes:
    """Tasks that wait for mail once, and who of them was woken."""

    def __init__(self, mailbox: Mailbox, number: int) -> None:
        self._wait: Callable[[], Awaitable[None]] = mailbox.mail
        self._number = number
        self._manager = trio.open_nursery()
        self.woken: list[int] = []

    async def __aenter__(self) -> list[int]:
        self.nursery = await self._manager.__aenter__()
        for number in range(self._number):
            self.nursery.start_soon(self._once, number)
            await wait_all_tasks_blocked()
        return self.woken

    async def __aexit__(self, *error: Any) -> bool | None:
        self.nursery.cancel_scope.cancel()
        return await self._manager.__aexit__(*error)

    async def _once(self, number: int) -> None:
        await self._wait()
        self.woken.append(number)


async def test_a_message_wakes_one_lane_and_a_wake_all_of_them() -> None:
    mailbox = opened(8)
    async with Lanes(mailbox, 3) as woken:
        filled(mailbox, "a")
        await wait_all_tasks_blocked()
        assert len(woken) == 1
        mailbox.wake()
        await wait_all_tasks_blocked()
        assert sorted(woken) == [0, 1, 2]
        assert mailbox.parked == []


async def test_a_lane_that_is_cancelled_while_it_waits_is_not_woken_any_more() -> None:
    mailbox = opened(8)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.mail)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert mailbox.parked == []

    filled(mailbox, "a")


def test_mail_calls_the_sleeper_once_when_there_is_room_and_before_it_is_queued() -> None:
    mailbox = opened(2)
    mailbox.sleep(woken := Woken(mailbox))
    assert mailbox.limit == 0
    filled(mailbox, "ab")

    assert (woken.calls, mailbox.limit) == ([(2, True)], 2)
    assert mailbox.put(Envelope("c")) is False


def test_who_sleeps_with_mail_waiting_keeps_it() -> None:
    mailbox = filled(opened(3), "a")
    mailbox.sleep(Woken(mailbox))
    filled(mailbox, "b")

    assert messages(mailbox) == "ab"


def test_who_sleeps_without_mail_lays_down_its_queue() -> None:
    mailbox = filled(opened(3), "a")
    queue = mailbox.queue
    queue.clear()
    mailbox.sleep(Woken(mailbox))

    assert mailbox.queue is not queue
    assert mailbox.statistics() == MailboxStatistics(0, 3, 0, 0, open=True)


def test_a_wake_calls_the_sleeper_without_any_mail() -> None:
    mailbox = opened(2)
    mailbox.sleep(woken := Woken(mailbox))
    mailbox.wake()
    mailbox.wake()

    assert (woken.calls, mailbox.sleeper) == ([(2, True)], None)


def test_a_wake_of_nobody_changes_nothing() -> None:
    mailbox = opened(2)
    mailbox.wake()

    assert mailbox.limit == 0


def test_sleep_opens_no_closed_mailbox_and_neither_does_waking() -> None:
    mailbox = Mailbox("shop/orders", 2)
    mailbox.sleep(woken := Woken(mailbox))
    mailbox.wake()

    assert (woken.calls, mailbox.put(Envelope("a"))) == ([(-1, True)], False)


def test_a_queue_asked_for_while_it_sleeps_wakes_nobody() -> None:
    mailbox = opened(2)
    mailbox.sleep(woken := Woken(mailbox))
    mailbox.ready_queue()
    assert (woken.calls, mailbox.limit) == ([], 0)

    filled(mailbox, "a")
    assert woken.calls == [(2, True)]


# -- senders that wait --------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "left", "woken"), [(4, 3, False), (4, 2, True), (5, 2, True), (1, 0, True)]
)
async def test_senders_are_woken_when_half_of_the_mailbox_is_free(
    capacity: int, left: int, woken: bool
) -> None:
    mailbox = filled(opened(capacity), "x" * capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.put_wait, Envelope("y"))
        await wait_all_tasks_blocked()
        assert mailbox.statistics().senders_waiting == 1
        while len(mailbox.queue) > left:
            mailbox.queue.popleft()
        mailbox.drained()
        assert mailbox.statistics().senders_waiting == (0 if woken else 1)
        mailbox.wake_senders()

    assert messages(mailbox) == "x" * left + "y"


async def test_all_senders_are_woken_and_those_without_room_wait_again() -> None:
    mailbox = filled(opened(2), "ab")
    async with trio.open_nursery() as nursery:
        for message in "cde":
            nursery.start_soon(mailbox.put_wait, Envelope(message))
        await wait_all_tasks_blocked()
        mailbox.queue.clear()
        mailbox.drained()
        await wait_all_tasks_blocked()
        first = messages(mailbox)
        assert (len(first), mailbox.statistics().senders_waiting) == (2, 1)
        mailbox.queue.clear()
        mailbox.drained()

    assert sorted(first + messages(mailbox)) == ["c", "d", "e"]


async def test_senders_hear_that_the_mailbox_has_closed() -> None:
    mailbox = filled(opened(1), "a")
    taken: list[bool] = []

    async def send() -> None:
        taken.append(await mailbox.put_wait(Envelope("b")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        mailbox.close(lambda _: None)

    assert taken == [False]


async def test_a_cancelled_sender_is_woken_no_more() -> None:
    mailbox = filled(opened(1), "a")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailbox.put_wait, Envelope("b"))
            await wait_all_tasks_blocked()
            scope.cancel()
    mailbox.wake_senders()

    assert (messages(mailbox), mailbox.senders) == ("a", [])


def test_a_mailbox_of_one_place_wakes_its_sleeper_as_any_other() -> None:
    mailbox = opened(1)
    mailbox.ready_queue()
    roused: list[bool] = []
    mailbox.sleep(lambda: roused.append(True))
    mailbox.put(Envelope("a"))

    assert roused == [True]
