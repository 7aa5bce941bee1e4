"""Handlers that take many events at once: when they run, and what becomes of each item."""

from math import log2
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import BatchFailure, DeclarationError, Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Crashed
from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import child
from understudy.testing import isolated

ONCE = RetryPolicy(attempts=1, delays=(0.0,))


@attrs.frozen
class Sale:
    number: int
    fate: str = ""


class Ledger(Actor[Any]):
    """Writes down its batches; some sales make it fail."""

    def __init__(self, runs: list[list[int]]) -> None:
        self.runs = runs

    @event_pattern("sold", batch=500, within=0.2)
    async def sold(self, sales: list[Sale]) -> None:
        self.runs.append([sale.number for sale in sales])
        for sale in sales:
            if sale.fate == "crash":
                raise ValueError("poison")
            if sale.fate == "refuse":
                raise RpcError("no such thing")
            if sale.fate == "slow":
                await trio.sleep(10)

    @message_pattern("runs")
    async def how_many(self, _: Any = None) -> int:
        return len(self.runs)


async def send(ledger: Any, numbers: range, **fates: str) -> list[Any]:
    """Sales as events from outside; `s7="crash"` says what the seventh does."""
    return [
        await ledger.event("sold", {"number": n, "fate": fates.get(f"s{n}", "")}) for n in numbers
    ]


# -- when a batch runs ------------------------------------------------------------------


async def test_a_full_batch_runs_at_once_and_the_rest_after_a_while(
    mock_clock: MockClock,
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        deliveries = await send(ledger, range(700))
        await wait_all_tasks_blocked()
        assert [len(run) for run in runs] == [500]
        mock_clock.jump(0.25)
        await wait_all_tasks_blocked()

        assert [number for run in runs for number in run] == list(range(700))
        assert len(runs) == 2
        assert all(delivery.outcome == "acknowledged" for delivery in deliveries)


async def test_what_waits_for_a_batch_hinders_no_other_message(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        await send(ledger, range(3))
        assert await ledger.request("runs") == 0
        await trio.sleep(0.3)
        assert runs == [[0, 1, 2]]


async def test_a_stop_runs_what_waits(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        deliveries = await send(ledger, range(3))
        began = trio.current_time()

    assert runs == [[0, 1, 2]]
    assert trio.current_time() - began < 0.2
    assert all(delivery.outcome == "acknowledged" for delivery in deliveries)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_batches_of_one_handler_run_one_after_the_other_and_in_order(
    autojump_clock: MockClock, concurrency: int
) -> None:
    running: list[int] = []

    class Slow(Actor[Any]):
        @event_pattern("sold", batch=10, within=0.01)
        async def sold(self, numbers: list[int]) -> None:
            running.append(1)
            assert len(running) == 1
            await trio.sleep(1)
            running.pop()
            seen.extend(numbers)

        @message_pattern("hello")
        async def hello(self) -> str:
            return "hello"

    seen: list[int] = []
    async with isolated(Slow, concurrency=concurrency, shutdown=100) as slow:
        for number in range(95):
            await slow.event("sold", number)
        if concurrency > 1:
            await trio.sleep(0.5)
            assert await slow.request("hello", timeout=0.1) == "hello"
            assert running

    assert seen == list(range(95))


async def test_no_more_wait_than_the_mailbox_holds(autojump_clock: MockClock) -> None:
    class Stuck(Actor[Any]):
        @event_pattern("sold", batch=4, within=0.01)
        async def sold(self, numbers: list[int]) -> None:
            await gate.wait()
            seen.extend(numbers)

    seen: list[int] = []
    gate = trio.Event()
    sent: list[int] = []
    async with isolated(Stuck, concurrency=3, mailbox=8, shutdown=100) as stuck:

        async def produce() -> None:
            for number in range(100):
                await stuck.event("sold", number)
                sent.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            await trio.sleep(1)
            # A batch in hand, as many as the mailbox holds, and the quarter that it keeps free.
            assert len(sent) <= 4 + 8 + 2 + 1
            gate.set()

    assert seen == list(range(100))


# -- what becomes of its items ----------------------------------------------------------


@pytest.mark.parametrize("poison", [0, 1, 249, 250, 498, 499])
async def test_one_poison_item_in_500_is_a_dead_letter_and_all_others_are_handled(
    autojump_clock: MockClock, poison: int
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        deliveries = await send(ledger, range(500), **{f"s{poison}": "crash"})
        await trio.sleep(60)
        dead = await ledger.dead_letters()

        assert len(runs) <= 2 * log2(500)
        assert len(dead) == 1
        assert dead[0].message_id == deliveries[poison].message_id
        assert "poison" in dead[0].error
        handled = [number for run in runs if poison not in run for number in run]
        assert handled == [number for number in range(500) if number != poison]
        assert all(delivery.outcome == "acknowledged" for delivery in deliveries)


async def test_every_crash_of_a_batch_is_a_restart(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs, events=ONCE) as ledger:
        await send(ledger, range(4), s0="crash")
        await trio.sleep(1)

        assert runs == [[0, 1, 2, 3], [0, 1], [0], [1, 2, 3]]
        assert ledger.incarnation == 4
        assert len(ledger.lifecycle.of(Crashed)) == 3


async def test_a_poison_item_has_all_its_attempts(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    five = RetryPolicy(attempts=5, delays=(0.0, 1.0))
    async with isolated(Ledger, runs, events=five) as ledger:
        await send(ledger, range(2), s1="crash")
        await trio.sleep(60)
        (dead,) = await ledger.dead_letters()

        # Found in its second run; three attempts are left to it, alone.
        assert runs == [[0, 1], [0], [1], [1], [1], [1]]
        assert dead.attempts == 5


async def test_a_refused_item_is_found_without_a_restart(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        await send(ledger, range(100), s42="refuse")
        await trio.sleep(1)
        (dead,) = await ledger.dead_letters()

        assert (dead.reason, ledger.incarnation) == ("rejected", 1)
        assert sorted({number for run in runs for number in run}) == list(range(100))


async def test_a_handler_may_say_which_items_failed(autojump_clock: MockClock) -> None:
    class Choosy(Actor[Any]):
        @event_pattern("sold", batch=4, within=0.01)
        async def sold(self, numbers: list[int], contexts: list[MessageContext]) -> None:
            runs.append([(n, c.attempt) for n, c in zip(numbers, contexts, strict=True)])
            failed: dict[int, Exception] = {}
            for index, number in enumerate(numbers):
                if number == 1:
                    failed[index] = RpcError("no such thing")
                if number == 2 and contexts[index].attempt < 3:
                    failed[index] = OSError("the disk is full")
                if number == 3 and not contexts[index].redelivered:
                    failed[index] = Retry(after=0.5)
            if failed:
                raise BatchFailure(failed)

    runs: list[Any] = []
    quick = RetryPolicy(attempts=3, delays=(0.0,))
    async with isolated(Choosy, events=quick) as choosy:
        deliveries = [await choosy.event("sold", number) for number in range(4)]
        await trio.sleep(2)
        (dead,) = await choosy.dead_letters()

        assert runs[0] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        assert sorted(one for run in runs[1:] for one in run) == [(2, 2), (2, 3), (3, 1)]
        assert (dead.message_id, dead.reason) == (deliveries[1].message_id, "rejected")
        assert all(delivery.outcome == "acknowledged" for delivery in deliveries)
        assert choosy.incarnation == 1


async def test_an_index_that_is_none_of_the_batch_hides_no_failure(
    autojump_clock: MockClock,
) -> None:
    class Wrong(Actor[Any]):
        @event_pattern("sold", batch=2, within=0.01)
        async def sold(self, numbers: list[int]) -> None:
            raise BatchFailure({2: RpcError("there is no third")})

    async with isolated(Wrong) as wrong:
        for number in range(2):
            await wrong.event("sold", number)
        await trio.sleep(1)

        assert [letter.reason for letter in await wrong.dead_letters()] == ["rejected"] * 2


async def test_a_retry_brings_all_of_them_back_later(autojump_clock: MockClock) -> None:
    class Waiting(Actor[Any]):
        @event_pattern("sold", batch=3, within=0.01)
        async def sold(self, numbers: list[int]) -> None:
            runs.append((trio.current_time(), numbers))
            if len(runs) == 1:
                raise Retry(after=5)

    runs: list[Any] = []
    async with isolated(Waiting) as waiting:
        for number in range(3):
            await waiting.event("sold", number)
        await trio.sleep(6)

        assert [numbers for _, numbers in runs] == [[0, 1, 2], [0, 1, 2]]
        assert runs[1][0] - runs[0][0] >= 5


async def test_local_messages_are_batched_with_those_from_outside(
    autojump_clock: MockClock,
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs, events=ONCE) as ledger:
        ledger.tell(Ledger.sold, Sale(0))
        await send(ledger, range(1, 2))
        ledger.tell(Ledger.sold, Sale(2, "crash"))
        ledger.tell(Ledger.sold, Sale(3))
        await trio.sleep(1)
        (dead,) = await ledger.dead_letters()

        assert (dead.kind, runs[0]) == ("tell", [0, 1, 2, 3])
        assert {number for run in runs if 2 not in run for number in run} == {0, 1, 3}


async def test_what_was_cancelled_in_hand_is_run_by_the_next_life_in_order(
    autojump_clock: MockClock,
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs, concurrency=2, crash_grace=0.1) as ledger:
        deliveries = await send(ledger, range(2), s0="slow")
        await trio.sleep(1)
        assert runs == [[0, 1]]
        await ledger.crash()
        await trio.sleep(15)

        assert runs == [[0, 1], [0, 1]]
        assert all(delivery.outcome == "acknowledged" for delivery in deliveries)


async def test_what_waits_outlives_a_crash(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        deliveries = await send(ledger, range(2))
        await ledger.crash()
        await trio.sleep(1)

        assert runs == [[0, 1]]
        assert all(delivery.outcome == "acknowledged" for delivery in deliveries)


async def test_what_waits_when_the_actor_ends_for_good_is_given_back(
    autojump_clock: MockClock,
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs, restart="temporary") as ledger:
        deliveries = await send(ledger, range(2))
        await ledger.crash()
        await wait_all_tasks_blocked()

        assert runs == []
        assert {delivery.outcome for delivery in deliveries} == {"given back"}


async def test_a_sick_actor_tries_one_at_a_time(autojump_clock: MockClock) -> None:
    runs: list[list[int]] = []
    fates = {f"s{number}": "crash" for number in range(20)}
    async with isolated(Ledger, runs, events=ONCE, sick_after=3) as ledger:
        await send(ledger, range(40), **fates)
        await trio.sleep(0.9)
        ran = len(runs)
        await trio.sleep(100)

        assert all(len(run) == 1 for run in runs[ran:-1])
        await trio.sleep(1000)
        handled = {number for run in runs for number in run}
        assert handled == set(range(40))
        assert len(await ledger.dead_letters()) == 20


async def test_an_item_that_does_not_fit_is_a_dead_letter_and_in_no_batch(
    autojump_clock: MockClock,
) -> None:
    runs: list[list[int]] = []
    async with isolated(Ledger, runs) as ledger:
        await send(ledger, range(2))
        await ledger.event("sold", {"number": "three"})
        await trio.sleep(1)
        (dead,) = await ledger.dead_letters()

        assert (dead.reason, runs) == ("does not fit", [[0, 1]])


async def test_a_thread_may_take_a_batch(autojump_clock: MockClock) -> None:
    class Blocking(Actor[Any]):
        @event_pattern("sold", batch=2, thread=True)
        def sold(self, numbers: list[int]) -> None:
            seen.append(numbers)

    seen: list[Any] = []
    async with isolated(Blocking) as blocking:
        await blocking.event("sold", 1)
        await blocking.event("sold", 2)
        await wait_all_tasks_blocked()

        assert seen == [[1, 2]]


# -- declarations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": -1}, "batch is how many messages to take at once, from 1; got -1"),
        ({"batch": 2.5}, "got 2.5"),
        ({"batch": 2, "within": -1}, "within is how many seconds"),
        ({"batch": 2, "within": float("inf")}, "within is how many seconds"),
        ({"batch": 2, "key": "number"}, "Leave key out"),
    ],
)
def test_options_that_can_never_work_fail_the_declaration(
    options: dict[str, Any], text: str
) -> None:
    class Wrong(Actor[Any]):
        @event_pattern("sold", **options)  # type: ignore[untyped-decorator]
        async def sold(self, sales: list[int]) -> None: ...

    with pytest.raises(DeclarationError, match=text):
        child(Wrong)


def test_a_batch_comes_as_a_list() -> None:
    class Wrong(Actor[Any]):
        @event_pattern("sold", batch=5)  # type: ignore[arg-type]
        async def sold(self, sale: int) -> None: ...

    with pytest.raises(DeclarationError, match=r"write sale: list\[...\]"):
        child(Wrong)


def test_a_batch_must_fit_into_the_mailbox() -> None:
    with pytest.raises(DeclarationError, match="can never fill with mailbox=100"):
        child(Ledger, [], mailbox=100)
