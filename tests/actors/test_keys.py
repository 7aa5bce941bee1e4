"""Order within a key, concurrency across keys, through crashes, retries and full lines."""

import json
from collections import Counter
from collections.abc import Hashable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.envelope import Envelope
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    DeclarationError,
    Retry,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.keys import Keys, key_function
from understudy.actors.mailbox import Mailbox
from understudy.actors.ref import Ref
from understudy.actors.retry import RetryPolicy
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import one_for_all
from understudy.supervisors.system import running
from understudy.testing import isolated


@attrs.define
class Job:
    """One message: its key, its number, and what the handler shall do with it."""

    key: Any
    number: int
    seconds: float = 0.0
    fate: str = ""
    tries: int = 0


class Till(Actor[Job]):
    """Serves jobs and writes down when each began and ended."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    async def receive(self, job: Job) -> int:
        return await self.serve(job)

    @message_pattern("ask")
    async def serve(self, job: Job) -> int:
        job.tries += 1
        self.log.append(("begin", job.key, job.number))
        try:
            await trio.sleep(job.seconds)
            if job.fate == "retry" and job.tries == 1:
                raise Retry(after=5)
            if job.fate == "crash":
                raise ZeroDivisionError
            if job.fate == "reject":
                raise RpcError("no")
            if job.fate == "change":
                job.key = "another"
        finally:
            self.log.append(("end", job.key, job.number))
        self.log.append(("done", job.key, job.number))
        return job.number

    @event_pattern("event")
    async def on_event(self, job: Job) -> None:
        self.log.append(("begin", job.key, job.number))
        if job.fate == "crash":
            raise ZeroDivisionError


def begun(log: list[Any], key: Any = None) -> list[int]:
    """Numbers in the order in which they were begun."""
    return [n for what, k, n in log if what == "begin" and key in (None, k)]


@pytest.fixture
def log() -> list[Any]:
    return []


# -- order and concurrency


async def test_one_key_is_served_in_order_one_at_a_time(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, concurrency=4, key="key", shutdown=100) as till:
        for number in range(3):
            till.tell(Job("a", number, seconds=1))

    assert trio.current_time() == 3
    assert [entry[0] for entry in log] == ["begin", "end", "done"] * 3
    assert begun(log) == [0, 1, 2]


async def test_different_keys_are_served_side_by_side(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, concurrency=4, key="key", shutdown=100) as till:
        for number in range(4):
            till.tell(Job(number, number, seconds=1))

    assert trio.current_time() == 1


async def test_a_key_of_none_waits_for_nobody(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, concurrency=4, key="key", shutdown=100) as till:
        for number in range(4):
            till.tell(Job(None, number, seconds=1))

    assert trio.current_time() == 1


async def test_a_key_that_is_false_is_a_key(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, concurrency=4, key="key", shutdown=100) as till:
        for number in range(3):
            till.tell(Job(0, number, seconds=1))

    assert trio.current_time() == 3


async def test_a_busy_key_does_not_take_lanes_from_others(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, concurrency=2, key="key", shutdown=100) as till:
        for number in range(5):
            till.tell(Job("slow", number, seconds=10))
        assert await till.ask("ask", Job("quick", 9)) == 9
        assert trio.current_time() == 0


async def test_the_key_may_be_a_field_of_a_mapping_or_a_function(clock: MockClock) -> None:
    class Mapped(Actor):
        @event_pattern("by field", key="id")
        async def by_field(self, data: dict[str, int]) -> None:
            await trio.sleep(1)

        @event_pattern("by function", key=lambda data: data["id"] % 2)
        async def by_function(self, data: dict[str, int]) -> None:
            await trio.sleep(1)

        @event_pattern("without")
        async def without(self, data: dict[str, int]) -> None:
            await trio.sleep(1)

    for pattern, seconds in (("by field", 2), ("by function", 2), ("without", 1)):
        begin = trio.current_time()
        async with isolated(Mapped, concurrency=4, shutdown=100) as mapped:
            mapped.tell(pattern, {"id": 1})
            mapped.tell(pattern, {"id": 1 if pattern == "by field" else 3})
            mapped.tell(pattern, {"id": 2})
        assert trio.current_time() - begin == seconds


async def test_the_key_of_a_handler_goes_before_that_of_its_actor(clock: MockClock) -> None:
    class Both(Actor):
        @event_pattern("own", key=lambda job: job.number)
        async def own(self, job: Job) -> None:
            await trio.sleep(1)

    async with isolated(Both, concurrency=4, key="key", shutdown=100) as both:
        for number in range(3):
            both.tell("own", Job("same", number))

    assert trio.current_time() == 1


@pytest.mark.parametrize("key", [5, "", b"id", ["id"]], ids=["number", "empty", "bytes", "list"])
def test_what_cannot_be_a_key_is_refused_at_declaration(key: Any) -> None:
    with pytest.raises(DeclarationError, match=r"shop/till: key=.* is no key. Name a field"):
        key_function(key, "shop/till")


# -- key functions that fail


@pytest.mark.parametrize("bad", [["unhashable"], {}], ids=["list", "dict"])
async def test_an_unhashable_key_crashes_its_message_alone(
    bad: Any, log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, concurrency=2, key="key", crash_grace=9) as till:
        till.tell(Job("a", 1, seconds=1))
        with pytest.raises(ActorCrashed) as caught:
            await till.ask("ask", Job(bad, 2))
        assert isinstance(caught.value.__cause__, TypeError)
        assert await till.ask("ask", Job("a", 3)) == 3

    assert begun(log) == [1, 3]


async def test_a_key_function_that_raises_crashes_its_message_and_no_key_stays_busy(
    log: list[Any], clock: MockClock
) -> None:
    def key(job: Job) -> Hashable:
        return 1 // job.number

    async with isolated(Till, log, concurrency=2, key=key) as till:
        till.tell(Job("a", 0))
        assert await till.ask("ask", Job("a", 1)) == 1
        (letter,) = await till.dead_letters()
        assert "ZeroDivisionError" in letter.error


async def test_a_handler_may_change_what_its_key_was_made_from(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key") as till:
        till.tell(Job("a", 1, fate="change"))
        assert await till.ask("ask", Job("a", 2)) == 2


async def test_a_key_function_that_changes_its_mind_keeps_no_key_busy(
    log: list[Any], clock: MockClock
) -> None:
    answers = iter(["a", "b", "a", "b", "a", "b"])
    async with isolated(Till, log, key=lambda _: next(answers)) as till:
        for number in range(3):
            till.tell(Job("x", number))
        await wait_all_tasks_blocked()
        assert begun(log) == [0, 1, 2]


# -- retries


async def test_a_message_that_waits_for_its_retry_keeps_its_key_and_no_other(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key") as till:
        till.tell(Job("a", 1, fate="retry"))
        till.tell(Job("a", 2))
        till.tell(Job("b", 3))
        await trio.sleep(1)
        assert begun(log) == [1, 3]
        await trio.sleep(5)
        assert begun(log) == [1, 3, 1, 2]


async def test_an_event_that_crashed_comes_again_before_later_ones_of_its_key(
    log: list[Any], clock: MockClock
) -> None:
    policy = RetryPolicy(attempts=3, delays=(2.0,), jitter=0)
    async with isolated(Till, log, key="key", events=policy, concurrency=2) as till:
        first = await till.event("event", {"key": "a", "number": 1, "fate": "crash"})
        second = await till.event("event", {"key": "a", "number": 2})
        third = await till.event("event", {"key": "b", "number": 3})
        await third.settled()
        assert second.outcome is None
        await second.settled()
        assert first.outcome == "acknowledged"
        assert trio.current_time() == pytest.approx(4, abs=0.1)

    assert begun(log, "a") == [1, 1, 1, 2]


async def test_a_message_that_is_refused_lets_the_next_of_its_key_go_on(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key") as till:
        till.tell(Job("a", 1, fate="reject"))
        till.tell(Job("a", 2))
        assert await till.ask("ask", Job("a", 3)) == 3

    assert begun(log) == [1, 2, 3]


async def test_an_event_in_hand_is_not_too_old_because_the_next_of_its_key_comes(
    log: list[Any], clock: MockClock
) -> None:
    class Slow(Actor):
        @event_pattern("slow", key=lambda _: "same")
        async def slow(self, number: int) -> None:
            log.append(("begin", "same", number))
            await trio.sleep(5)

    async with isolated(Slow, concurrency=2, events=RetryPolicy(stale_after=3)) as slow:
        await slow.event("slow", 1)
        await trio.sleep(4)
        second = await slow.event("slow", 2)
        await second.settled()
        assert await slow.dead_letters() == []


async def test_equal_messages_are_not_taken_for_each_other(
    log: list[Any], clock: MockClock
) -> None:
    class Equals(Actor[Job]):
        def receive(self, job: Job) -> None:
            log.append(("begin", job.key, job.number))
            raise Retry(after=len(log)) if len(log) < 3 else RpcError("no")

    keys = iter("ab")
    async with isolated(Equals, key=lambda job: job.fate or next(keys)) as equals:
        equals.tell(Job("x", 1))
        equals.tell(Job("x", 1))
        await trio.sleep(1.5)  # the first was set aside, while the second waits for its turn
        equals.tell(Job("y", 2, fate="a"))
        await wait_all_tasks_blocked()
        assert log[-1] == ("begin", "y", 2)


# -- askers that leave, crashes, stops


async def test_an_asker_that_left_while_it_waited_in_line_is_passed_over(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", concurrency=2, shutdown=100) as till:
        till.tell(Job("a", 1, seconds=10))
        with pytest.raises(AskTimeout):
            await till.ask("ask", Job("a", 2), timeout=1)
        till.tell(Job("a", 3))
        await trio.sleep(20)

    assert begun(log) == [1, 3]


async def test_a_crash_lets_the_next_of_its_key_be_served_by_the_next_life(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", concurrency=2, shutdown=100) as till:
        till.tell(Job("a", 1, seconds=1, fate="crash"))
        till.tell(Job("a", 2))
        assert await till.ask("ask", Job("a", 3)) == 3

    assert begun(log) == [1, 2, 3]


async def test_a_crash_beside_a_key_in_hand_keeps_its_order(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", concurrency=2, crash_grace=1, shutdown=100) as till:
        till.tell(Job("a", 1, seconds=10))
        till.tell(Job("a", 2))
        till.tell(Job("b", 3, seconds=1, fate="crash"))
        await trio.sleep(30)

    assert begun(log, "a") == [1, 1, 2]  # cancelled after the grace, begun again, then its next


async def test_the_line_of_an_ask_that_was_cancelled_by_a_crash_goes_on(
    log: list[Any], clock: MockClock
) -> None:
    async def ask(till: Ref[Till]) -> None:
        with pytest.raises(ActorStopped):
            await till.ask("ask", Job("a", 1, seconds=100), timeout=200)

    async with isolated(Till, log, key="key", concurrency=2) as till, trio.open_nursery() as n:
        n.start_soon(ask, till)
        await wait_all_tasks_blocked()
        till.tell(Job("a", 2))
        till.tell(Job("b", 3, fate="crash"))
        await trio.sleep(30)
        assert begun(log, "a") == [1, 2]


async def test_a_leftover_of_an_ended_life_keeps_no_key(log: list[Any], clock: MockClock) -> None:
    class Shielded(Actor[Job]):
        async def receive(self, job: Job) -> None:
            log.append(("begin", job.key, job.number))
            if job.fate == "shield":
                with trio.CancelScope(shield=True):
                    await trio.sleep(60)

    shielded = child(Shielded, key="key", shutdown=1)
    spec = Supervisor("s", [shielded, child(Till, [])], strategy=one_for_all)
    async with running(spec) as system:
        system.ref("shielded").tell(Job("a", 1, fate="shield"))
        system.ref("till").tell(Job("b", 3, fate="crash"))
        await trio.sleep(20)  # the first life was left behind as stuck, with its message
        system.ref("shielded").tell(Job("a", 2))
        await trio.sleep(1)
        assert begun(log, "a") == [1, 2]


async def test_an_ordered_stop_serves_what_waits_in_lines(log: list[Any], clock: MockClock) -> None:
    async with isolated(Till, log, key="key", concurrency=3, shutdown=100) as till:
        for number in range(6):
            till.tell(Job(number % 2, number, seconds=1))

    assert sorted(begun(log)) == [0, 1, 2, 3, 4, 5]
    assert begun(log, 0) == [0, 2, 4]


async def test_asks_in_line_are_told_when_the_actor_ends(log: list[Any], clock: MockClock) -> None:
    failed: list[BaseException] = []

    async def ask(till: Ref[Till], job: Job) -> None:
        try:
            await till.ask("ask", job, timeout=1000)
        except ActorStopped as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        async with isolated(Till, log, key="key", concurrency=2, shutdown=1) as till:
            for number in range(3):
                nursery.start_soon(ask, till, Job("a", number, seconds=100))
            await wait_all_tasks_blocked()

    assert len(failed) == 3
    assert len(begun(log)) == 1


async def test_a_forwarded_message_lets_go_of_its_key(log: list[Any], clock: MockClock) -> None:
    class Front(Actor):
        @message_pattern("front", key="key")
        async def front(self, job: Job) -> None:
            log.append(("begin", job.key, job.number))
            self.forward(self.lookup("till"), "ask", job)
            if job.fate == "crash":
                raise ZeroDivisionError

    tree = Supervisor("shop", [child(Till, []), child(Front, concurrency=2)])
    async with running(tree) as system, trio.open_nursery() as nursery:
        front = system.ref("front")
        job = Job("a", 1, seconds=3, fate="crash")
        nursery.start_soon(_ignore_crash, front, job)
        await wait_all_tasks_blocked()
        assert await front.ask("front", Job("a", 2)) == 2
        assert begun(log) == [1, 2]


async def _ignore_crash(ref: Ref[Any], job: Job) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask("front", job)


# -- full lines


async def test_full_lines_let_messages_of_free_keys_overtake(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", concurrency=3, mailbox=8, shutdown=100) as till:
        for number in range(10):  # one in hand, eight in its line, one in the mailbox
            till.tell(Job("slow", number, seconds=1))
            await wait_all_tasks_blocked()
        for number in range(2):
            assert await till.ask("ask", Job("quick", number)) == number
        assert trio.current_time() == 0

    assert begun(log, "slow") == list(range(10))


async def test_full_lines_do_not_keep_a_retry_from_coming_back(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", mailbox=4) as till:
        till.tell(Job("a", 0, fate="retry"))
        await wait_all_tasks_blocked()
        for number in range(1, 5):
            till.tell(Job("a", number))
            await wait_all_tasks_blocked()
        assert begun(log) == [0]
        await trio.sleep(6)
        assert begun(log) == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_ordered_stop_ends_when_all_that_waits_waits_for_a_retry(
    concurrency: int, log: list[Any], clock: MockClock
) -> None:
    async with isolated(Till, log, key="key", mailbox=4, concurrency=concurrency) as till:
        till.tell(Job("a", 0, fate="retry"))
        await wait_all_tasks_blocked()
        for number in range(1, 5):
            till.tell(Job("a", number))
            await wait_all_tasks_blocked()

    assert trio.current_time() == 0


async def test_what_a_full_mailbox_drops_keeps_no_key(log: list[Any], clock: MockClock) -> None:
    options: dict[str, Any] = {"mailbox": 1, "overflow": "drop_oldest"}
    async with isolated(Till, log, key="key", **options) as till:
        till.tell(Job("a", 1, fate="retry"))
        await trio.sleep(1)
        till.tell(Job("b", 2, seconds=10))
        await trio.sleep(6)  # the first has come back by now
        till.tell(Job("b", 3))
        till.tell(Job("a", 4))
        await trio.sleep(10)

    assert begun(log) == [1, 2, 4]


# -- what is not mail


async def test_notices_of_ends_have_no_key(log: list[Any], clock: MockClock) -> None:
    class Watcher(Actor[Job | Terminated]):
        async def started(self) -> None:
            self.watch(self.lookup("short"))

        async def receive(self, message: Job | Terminated) -> None:
            log.append(message)

    class Short(Actor):
        async def started(self) -> None:
            self.after(1, Short.end, None)

        @event_pattern("end")
        async def end(self, _: None) -> None:
            self.stop()

    tree = Supervisor("w", [child(Short, restart="temporary"), child(Watcher, key="key")])
    async with running(tree):
        await trio.sleep(2)

    assert [type(message) for message in log] == [Terminated]


def test_what_waits_in_lines_is_released_at_the_end() -> None:
    mailbox = Mailbox("m", 8)
    mailbox.open()
    keys = Keys(mailbox, key_function("key", "m"))
    envelopes = [Envelope(Job("a", number)) for number in range(3)]
    assert [keys.begin(envelope) for envelope in envelopes] == [True, False, False]
    assert len(keys) == mailbox.reserved == 2
    released: list[Envelope] = []
    keys.release(released.append)

    assert [envelope.message.number for envelope in released] == [1, 2]
    assert len(keys) == mailbox.reserved == 0
    assert keys.begin(Envelope(Job("a", 9)))


class Delivery:
    """The receipt of an event that may end while it waits for its next attempt."""

    def __init__(self) -> None:
        self.open = True


def keyed() -> Keys:
    mailbox = Mailbox("m", 8)
    mailbox.open()
    return Keys(mailbox, key_function("key", "m"))


def attempt(delivery: Any) -> Envelope:
    return Envelope(Job("a", 1), None, delivery)


def test_a_key_is_free_when_its_event_has_ended_while_it_waited_to_come_again() -> None:
    keys, delivery = keyed(), Delivery()
    assert keys.begin(attempt(delivery))
    keys.done(attempt(delivery), again=True)
    delivery.open = False

    assert keys.begin(Envelope(Job("a", 2)))


def test_a_key_is_not_free_while_its_event_is_in_hand_again() -> None:
    keys, delivery = keyed(), Delivery()
    assert keys.begin(attempt(delivery))
    keys.done(attempt(delivery), again=True)
    assert keys.begin(attempt(delivery))
    delivery.open = False

    assert not keys.begin(Envelope(Job("a", 2)))


@pytest.mark.parametrize("end", ["done", "release"])
def test_an_event_that_ended_away_is_not_taken_to_be_away_later(end: str) -> None:
    keys, delivery = keyed(), Delivery()
    assert keys.begin(attempt(delivery))
    keys.done(attempt(delivery), again=True)
    if end == "done":
        keys.done(attempt(delivery), again=False)
    else:
        keys.release(lambda envelope: None)
    assert keys.begin(attempt(delivery))
    delivery.open = False

    assert not keys.begin(Envelope(Job("a", 2)))


# -- random schedules

FATES = st.sampled_from(["", "", "", "crash", "reject", "retry"])
JOBS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0, 0.3, 1, 7]), FATES), max_size=16
)


@given(jobs=JOBS, concurrency=st.integers(1, 4), mailbox=st.sampled_from([2, 4, 64]))
def test_each_key_keeps_its_order_through_crashes_and_retries(
    jobs: list[tuple[str, float, str]], concurrency: int, mailbox: int
) -> None:
    log: list[Any] = []
    trio.run(_play, jobs, concurrency, mailbox, log, clock=MockClock(autojump_threshold=0))
    in_hand: Counter[str] = Counter()
    for what, key, _ in log:
        in_hand[key] += {"begin": 1, "end": -1, "done": 0}[what]
        assert 0 <= in_hand[key] <= 1
    for key in "abc":
        sent = [n for n, job in enumerate(jobs) if job[0] == key]
        assert list(dict.fromkeys(begun(log, key))) == sent
        assert begun(log, key) == sorted(begun(log, key))


async def _play(
    jobs: list[tuple[str, float, str]], concurrency: int, mailbox: int, log: list[Any]
) -> None:
    options: dict[str, Any] = {"concurrency": concurrency, "mailbox": mailbox, "crash_grace": 2}
    async with isolated(Till, log, key="key", max_restarts=100, **options) as till:
        for number, (key, seconds, fate) in enumerate(jobs):
            await till.tell_wait(Job(key, number, seconds, fate))
        await trio.sleep(500)
        letters = await till.dead_letters()
        assert till._mailbox.reserved == len(till._mailbox.queue) == 0
    aside = [json.loads(letter.body or b"")["number"] for letter in letters]
    done = [number for what, _, number in log if what == "done"]
    assert sorted(aside + done) == list(range(len(jobs)))
