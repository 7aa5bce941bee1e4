"""The dead-letter office: keeps letters in order, tells when they are durable, sends them again."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.lifecycle import Bus, DeadLettered, Notice, StateChanged, Undelivered
from understudy.supervisors.delivery.office import BACKLOG, DeadLetterOffice, describe_error
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store import MemoryStore

Letters = Callable[..., DeadLetter]


class Store(MemoryStore):
    """A store whose disk can be away for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.back = trio.Event()
        self.back.set()
        self.failures = 0

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        await self.back.wait()
        await super().put(letter, then=then)

    async def take_replays(self, limit: int = 16) -> Sequence[DeadLetter]:
        self._fail()
        return await super().take_replays(limit)

    async def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        self._fail()
        return await super().finish_replay(id, replayed=replayed, note=note)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("dead.sqlite: database is locked")


class Desk:
    """An office at work, and what it published."""

    def __init__(self) -> None:
        self.store = Store()
        self.notices: list[Notice] = []
        bus = Bus()
        bus.subscribe(self.notices.append)
        self.office = DeadLetterOffice(self.store, bus, Random(1), "top")
        self.delivered: list[str] = []

    async def deliver(self, letter: DeadLetter) -> None:
        self.delivered.append(letter.id)
        self.office.finish(letter.id, replayed=True, note="handled")


@asynccontextmanager
async def at_work() -> AsyncIterator[Desk]:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.store.run)
        nursery.start_soon(desk.office.run)
        yield desk
        nursery.cancel_scope.cancel()


async def test_a_letter_is_durable_before_anybody_is_told(
    letter: Letters, clock: MockClock
) -> None:
    told: list[str] = []

    async with at_work() as desk:
        desk.store.back = trio.Event()
        desk.office.take(letter(), lambda: told.append("durable"))
        await settled()
        assert (told, desk.notices) == ([], [])

        desk.store.back.set()
        await desk.office.flush()
        assert told == ["durable"]


async def test_a_durable_letter_is_published_with_reason_and_attempts(
    letter: Letters, clock: MockClock
) -> None:
    made = letter()

    async with at_work() as desk:
        desk.office.take(made)
        await desk.office.flush()

    assert desk.notices == [
        DeadLettered(
            path=made.actor,
            incarnation=made.incarnation,
            id=made.id,
            pattern=made.pattern,
            reason="crashed",
            attempts=5,
        )
    ]


async def test_letters_are_kept_in_the_order_they_came(letter: Letters, clock: MockClock) -> None:
    order: list[int] = []

    async with at_work() as desk:
        for number in range(5):
            desk.office.take(letter(), partial(order.append, number))
        await desk.office.flush()

    assert order == [0, 1, 2, 3, 4]


async def test_intake_waits_while_the_backlog_is_full_and_everybody_goes_on_then(
    letter: Letters, clock: MockClock
) -> None:
    let_in: list[int] = []

    async def wait_for_room(number: int) -> None:
        await desk.office.room()
        let_in.append(number)

    async with at_work() as desk, trio.open_nursery() as nursery:
        desk.store.back = trio.Event()
        for _ in range(BACKLOG):
            desk.office.take(letter())
        for number in range(3):
            nursery.start_soon(wait_for_room, number)
        await settled()
        assert let_in == []
        desk.store.back.set()

    assert sorted(let_in) == [0, 1, 2]


async def test_there_is_room_while_letters_go_through(letter: Letters, clock: MockClock) -> None:
    async with at_work() as desk:
        desk.office.take(letter())
        with trio.fail_after(1):
            await desk.office.room()


async def test_a_local_letter_beyond_the_backlog_is_told_as_undelivered(
    letter: Letters, clock: MockClock
) -> None:
    async with at_work() as desk:
        desk.store.back = trio.Event()
        for _ in range(BACKLOG + 1):
            desk.office.take_local(letter())
        (notice,) = desk.notices
        desk.store.back.set()

    assert isinstance(notice, Undelivered)
    assert notice.why == "dead letters cannot be stored and the backlog is full"


async def test_a_replay_is_delivered_once_and_its_end_is_written(
    letter: Letters, clock: MockClock
) -> None:
    made = letter()

    async with at_work() as desk, trio.open_nursery() as nursery:
        desk.office.take(made)
        await desk.office.flush()
        nursery.start_soon(desk.office.run_replays, desk.deliver)
        assert await desk.office.replay(made.id) == 1
        await trio.sleep(5)
        after = await desk.store.get(made.id)
        nursery.cancel_scope.cancel()

    assert desk.delivered == [made.id]
    assert after is not None
    assert (after.status, after.note) == ("replayed", "handled")


async def test_a_replay_asked_for_here_needs_no_poll(letter: Letters, clock: MockClock) -> None:
    made = letter()

    async with at_work() as desk, trio.open_nursery() as nursery:
        desk.office.take(made)
        await desk.office.flush()
        nursery.start_soon(lambda: desk.office.run_replays(desk.deliver, poll=3600))
        await settled()
        await desk.office.replay(made.id)
        await settled()
        nursery.cancel_scope.cancel()

    assert (desk.delivered, trio.current_time()) == ([made.id], 0)


async def test_a_replay_asked_for_in_the_file_is_found_at_the_next_look(
    letter: Letters, clock: MockClock
) -> None:
    made = letter()

    async with at_work() as desk, trio.open_nursery() as nursery:
        desk.office.take(made)
        await desk.office.flush()
        nursery.start_soon(desk.office.run_replays, desk.deliver)
        await settled()
        await desk.store.request_replay([made.id])
        await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert desk.delivered == [made.id]


async def test_a_file_that_fails_for_a_while_delays_replays_and_ends_nothing(
    letter: Letters, clock: MockClock
) -> None:
    made = letter()

    async with at_work() as desk, trio.open_nursery() as nursery:
        desk.office.take(made)
        await desk.office.flush()
        await desk.store.request_replay([made.id])
        desk.store.failures = 3
        nursery.start_soon(desk.office.run_replays, desk.deliver)
        await trio.sleep(10)
        after = await desk.store.get(made.id)
        nursery.cancel_scope.cancel()

    alarms = [(n.state, n.why) for n in desk.notices if isinstance(n, StateChanged)]
    assert alarms == [("failing", "dead.sqlite: database is locked"), ("ready", "")]
    assert desk.delivered == [made.id]
    assert after is not None
    assert after.status == "replayed"


async def test_the_end_of_a_replay_is_written_again_until_it_is_written(
    letter: Letters, clock: MockClock
) -> None:
    made = letter()

    async with at_work() as desk:
        desk.office.take(made)
        await desk.office.flush()
        await desk.store.request_replay([made.id])
        await desk.store.take_replays()
        desk.store.failures = 2
        desk.office.finish(made.id, replayed=False, note="again")
        await desk.office.flush()
        after = await desk.store.get(made.id)

    assert after is not None
    assert (after.status, after.note) == ("dead", "again")


@pytest.mark.parametrize(
    ("alarm", "state", "why"),
    [("disk full", "failing", "disk full"), (None, "ready", "")],
    ids=["it fails", "it works again"],
)
def test_the_state_of_the_store_is_published(alarm: str | None, state: str, why: str) -> None:
    desk = Desk()

    desk.office.alarmed(alarm)

    assert desk.notices == [StateChanged(path="top/dead-letters", state=state, why=why)]


def test_an_error_is_kept_as_one_line_and_as_its_traceback() -> None:
    try:
        raise ValueError("no such order")
    except ValueError as error:
        text, trace = describe_error(error)

    assert text == "ValueError: no such order"
    assert trace.startswith("Traceback")
    assert 'raise ValueError("no such order")' in trace


def test_an_error_without_text_is_named() -> None:
    assert describe_error(KeyError())[0] == "KeyError"


def test_ids_repeat_themselves_with_the_seed_but_for_the_time() -> None:
    one, other = Desk().office.new_id(), Desk().office.new_id()

    assert one[-15:] == other[-15:]
