"""The dead-letter stores: one contract for both, then what the disk adds."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.errors import DeclarationError
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store import (
    DeadLetterStore,
    MemoryStore,
    SQLiteStore,
    StoreStatistics,
)
from understudy.supervisors.delivery.store_file import StoreFile

Make: TypeAlias = Callable[..., DeadLetter]

WRITER_UNTIL_KILLED = """
import random, sys, trio
from understudy.supervisors.delivery.record import DeadLetter, new_id
from understudy.supervisors.delivery.store import SQLiteStore

async def main():
    store, chance = SQLiteStore(sys.argv[1]), random.Random(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for at in range(1_000_000):
            id = new_id(at, chance)
            letter = DeadLetter(
                id=id, at=at, kind="event", pattern="p", handler="", actor="/a", incarnation=1,
                transport="nats", source="p", message_id="m", correlation_id=None, headers={},
                body=b"x" * 500, attempts=1, reason="crashed", error="", traceback="", first_at=at,
            )
            await store.put(letter, then=lambda id=id: print(id, flush=True))

trio.run(main)
"""

MARK_FOR_REPLAY = """
import sys
from understudy.supervisors.delivery.store_file import StoreFile

with StoreFile(sys.argv[1]) as file:
    print(file.request_replay(None))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.db"


@pytest.fixture(params=["sqlite", "memory"])
async def store(
    request: pytest.FixtureRequest, path: Path, nursery: trio.Nursery
) -> DeadLetterStore:
    made: DeadLetterStore = SQLiteStore(path) if request.param == "sqlite" else MemoryStore()
    await nursery.start(made.run)
    return made


@pytest.fixture
async def on_disk(path: Path, nursery: trio.Nursery) -> SQLiteStore:
    made = SQLiteStore(path)
    await nursery.start(made.run)
    return made


@pytest.fixture
def alarms() -> list[str | None]:
    return []


@pytest.fixture
async def full(
    path: Path, nursery: trio.Nursery, letter: Make, alarms: list[str | None]
) -> SQLiteStore:
    """A store that four letters wait in, since its file may not grow; more have to wait."""
    with StoreFile(path, create=True) as file:
        file.write([letter(id=f"old {n}", body=bytes(30_000)) for n in range(10)])
    raised = trio.Event()

    def note(alarm: str | None) -> None:
        alarms.append(alarm)
        raised.set()

    made = SQLiteStore(path, capacity=4, max_bytes=1, on_alarm=note)
    await nursery.start(made.run)
    for n in range(4):
        await made.put(letter(id=f"new {n}", body=bytes(30_000)))
    await raised.wait()
    return made


def make_room(path: Path) -> None:
    with StoreFile(path) as file:
        file.discard([record.id for record in file.find()])
        file.purge(before=float("inf"))


# -- the contract ----------------------------------------------------------------------


async def test_a_letter_put_is_found_again(store: DeadLetterStore, letter: Make) -> None:
    stored = letter()

    await store.put(stored)
    await store.flush()

    assert await store.get(stored.id) == stored


async def test_an_unknown_id_gives_none(store: DeadLetterStore) -> None:
    assert await store.get("nobody") is None


async def test_then_is_called_once_the_letter_is_durable(
    store: DeadLetterStore, letter: Make
) -> None:
    durable: list[str] = []
    await store.put(letter(), then=lambda: durable.append(trio.lowlevel.current_task().name))

    await store.flush()

    assert len(durable) == 1


async def test_letters_become_durable_in_the_order_they_were_put(
    store: DeadLetterStore, letter: Make
) -> None:
    durable: list[int] = []
    for number in range(20):
        await store.put(letter(), then=partial(durable.append, number))

    await store.flush()

    assert durable == list(range(20))


async def test_a_letter_put_twice_is_stored_once_and_reported_twice(
    store: DeadLetterStore, letter: Make
) -> None:
    durable: list[str] = []
    for body in [b"first", b"second"]:
        await store.put(letter(id="one", body=body), then=lambda: durable.append("durable"))
    await store.flush()

    assert [record.body for record in await store.find()] == [b"first"]
    assert durable == ["durable", "durable"]


async def test_letters_are_found_by_status_oldest_first(
    store: DeadLetterStore, letter: Make
) -> None:
    first, second, third = letter(id="a"), letter(id="b", status="replayed"), letter(id="c")
    for each in [third, second, first]:
        await store.put(each)
    await store.flush()

    assert await store.find("dead") == [first, third]
    assert await store.find() == [first, second, third]


async def test_letters_are_found_page_by_page(store: DeadLetterStore, letter: Make) -> None:
    for id in "abcde":
        await store.put(letter(id=id))
    await store.flush()

    page = await store.find("dead", limit=2, after="b")

    assert [record.id for record in page] == ["c", "d"]


async def test_a_replay_goes_from_asked_through_taken_to_replayed(
    store: DeadLetterStore, letter: Make
) -> None:
    await store.put(letter(id="one"))
    await store.flush()

    assert await store.request_replay(["one"]) == 1
    [taken] = await store.take_replays()
    assert (taken.id, taken.status, taken.replays) == ("one", "replaying", 1)
    assert await store.finish_replay("one", replayed=True, note="handled in 3 ms")

    after = await store.get("one")
    assert after is not None
    assert (after.status, after.replays, after.note) == ("replayed", 1, "handled in 3 ms")


async def test_a_failed_replay_is_dead_again_and_may_be_asked_for_again(
    store: DeadLetterStore, letter: Make
) -> None:
    await store.put(letter(id="one", status="replaying", replays=1))
    await store.flush()

    await store.finish_replay("one", replayed=False, note="ValueError: still no order")

    [dead] = await store.find("dead")
    assert dead.note == "ValueError: still no order"
    assert await store.request_replay(["one"]) == 1


@pytest.mark.parametrize(
    ("status", "asked", "discarded", "finished"),
    [
        ("dead", 1, 1, False),
        ("replay-asked", 0, 1, False),
        ("replaying", 0, 0, True),
        ("replayed", 0, 0, False),
        ("discarded", 0, 0, False),
    ],
)
async def test_a_letter_leaves_a_state_only_by_its_own_ways(
    store: DeadLetterStore, letter: Make, status: str, asked: int, discarded: int, finished: bool
) -> None:
    for id in ["a", "b", "c"]:
        await store.put(letter(id=id, status=status))
    await store.flush()

    assert await store.request_replay(["a"]) == asked
    assert await store.discard(["b"]) == discarded
    assert await store.finish_replay("c", replayed=True, note="") is finished


async def test_a_taken_replay_is_not_taken_again(store: DeadLetterStore, letter: Make) -> None:
    for id in ["a", "b", "c"]:
        await store.put(letter(id=id, status="replay-asked"))
    await store.flush()

    pages = [await store.take_replays(2) for _ in range(3)]

    assert [[record.id for record in page] for page in pages] == [["a", "b"], ["c"], []]


async def test_every_dead_letter_with_a_payload_can_be_asked_for_at_once(
    store: DeadLetterStore, letter: Make
) -> None:
    for id in ["a", "b"]:
        await store.put(letter(id=id))
    await store.put(letter(id="empty", body=None))
    await store.put(letter(id="done", status="replayed"))
    await store.flush()

    assert await store.request_replay(None) == 2
    assert {record.id for record in await store.take_replays()} == {"a", "b"}


async def test_marking_ids_nobody_knows_or_none_at_all_changes_nothing(
    store: DeadLetterStore, letter: Make
) -> None:
    await store.put(letter())
    await store.flush()

    assert await store.request_replay(["nobody"]) == 0
    assert await store.request_replay([]) == 0
    assert await store.discard(["nobody"]) == 0


async def test_discarding_keeps_the_letter_and_the_reason(
    store: DeadLetterStore, letter: Make
) -> None:
    await store.put(letter(id="one"))
    await store.flush()

    await store.discard(["one"], "test data")

    [record] = await store.find("discarded")
    assert (record.id, record.note) == ("one", "test data")


async def test_closing_writes_what_waits_and_ends_run(letter: Make, store: DeadLetterStore) -> None:
    durable: list[int] = []
    for number in range(5):
        await store.put(letter(), then=partial(durable.append, number))

    await store.close()

    assert durable == [0, 1, 2, 3, 4]


async def test_a_closed_store_says_so(store: DeadLetterStore, letter: Make) -> None:
    await store.close()

    with pytest.raises(RuntimeError, match="the dead-letter store is not running"):
        await store.put(letter())
    with pytest.raises(RuntimeError, match="the dead-letter store is not running"):
        await store.find()


async def test_letters_outlive_a_close_and_unfinished_replays_are_asked_for_again(
    store: DeadLetterStore, letter: Make, nursery: trio.Nursery
) -> None:
    await store.put(letter(id="a"))
    await store.put(letter(id="b", status="replaying"))
    await store.close()

    await nursery.start(store.run)

    assert [(one.id, one.status) for one in await store.find()] == [
        ("a", "dead"),
        ("b", "replay-asked"),
    ]


# -- the durable one -------------------------------------------------------------------


async def test_letters_are_there_for_the_next_process(
    on_disk: SQLiteStore, path: Path, letter: Make
) -> None:
    stored = [letter() for _ in range(3)]
    for each in stored:
        await on_disk.put(each)
    await on_disk.close()

    with StoreFile(path) as file:
        assert file.find() == stored


async def test_then_runs_on_the_trio_thread_after_the_commit(
    on_disk: SQLiteStore, path: Path, letter: Make
) -> None:
    seen: list[int] = []

    def look() -> None:
        trio.lowlevel.current_task()  # fails in any other thread
        with StoreFile(path) as file:
            seen.append(len(file.find()))

    await on_disk.put(letter(), then=look)
    await on_disk.flush()

    assert seen == [1]


def test_no_letter_whose_then_ran_is_lost_by_a_kill(path: Path) -> None:
    command = [sys.executable, "-c", WRITER_UNTIL_KILLED, str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    confirmed = [child.stdout.readline().strip() for _ in range(300)]

    child.kill()
    confirmed += child.stdout.read().split("\n")[:-1]  # the last line may be cut

    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    with StoreFile(path) as file:
        assert set(confirmed) <= {record.id for record in file.find(limit=1_000_000)}


async def test_letters_put_together_share_a_transaction(on_disk: SQLiteStore, letter: Make) -> None:
    async with trio.open_nursery() as putters:
        for _ in range(200):
            putters.start_soon(on_disk.put, letter())
    await on_disk.flush()

    statistics = on_disk.statistics()
    assert statistics.written == 200
    assert statistics.transactions <= 4


async def test_another_process_may_mark_letters_while_the_store_is_open(
    on_disk: SQLiteStore, path: Path, letter: Make
) -> None:
    await on_disk.put(letter(id="one"))
    await on_disk.flush()

    marked = await trio.run_process(
        [sys.executable, "-c", MARK_FOR_REPLAY, str(path)], capture_stdout=True
    )

    assert marked.stdout == b"1\n"
    assert [record.id for record in await on_disk.take_replays()] == ["one"]


async def test_a_full_disk_raises_the_alarm_once(
    full: SQLiteStore, alarms: list[str | None]
) -> None:
    assert full.alarm is not None
    assert "letters.db: database or disk is full. Make room on the disk" in full.alarm
    assert alarms == [full.alarm]


async def test_a_full_disk_pauses_those_who_put(
    full: SQLiteStore, letter: Make, nursery: trio.Nursery
) -> None:
    nursery.start_soon(full.put, letter())

    await wait_all_tasks_blocked()

    assert full.statistics().blocked == 1


async def test_no_letter_is_lost_by_a_full_disk(
    full: SQLiteStore, path: Path, letter: Make, alarms: list[str | None], nursery: trio.Nursery
) -> None:
    nursery.start_soon(full.put, letter(id="new 4"))
    await wait_all_tasks_blocked()

    await trio.to_thread.run_sync(make_room, path)
    await full.close()

    with StoreFile(path) as file:
        assert [record.id for record in file.find()] == [f"new {n}" for n in range(5)]
    assert alarms[1:] == [None]
    assert full.alarm is None


async def test_a_file_that_another_process_holds_is_an_alarm_until_it_lets_go(
    path: Path, nursery: trio.Nursery, letter: Make, alarms: list[str | None]
) -> None:
    raised, durable = trio.Event(), list[str]()
    store = SQLiteStore(path, lock_timeout=0.01)

    def note(alarm: str | None) -> None:
        alarms.append(alarm)
        raised.set()

    store.on_alarm = note
    await nursery.start(store.run)
    await store.flush()

    with StoreFile(path) as other, other._transaction():
        await store.put(letter(), then=lambda: durable.append("durable"))
        await raised.wait()
        assert durable == []
    await store.flush()

    assert alarms[0] is not None
    assert "database is locked. Another process is writing to it" in alarms[0]
    assert (alarms[1:], durable) == ([None], ["durable"])


async def test_statistics_tell_what_waits_and_who(
    full: SQLiteStore, letter: Make, nursery: trio.Nursery
) -> None:
    nursery.start_soon(full.put, letter())
    await wait_all_tasks_blocked()

    assert full.statistics() == StoreStatistics(
        waiting=4,
        blocked=1,
        capacity=4,
        written=0,
        salvaged=0,
        transactions=0,
        purged=0,
        alarm=full.alarm,
    )


async def test_a_letter_that_cannot_be_written_does_not_hold_up_the_others(
    on_disk: SQLiteStore, letter: Make
) -> None:
    durable: list[str] = []
    for id, error in [("a", "fine"), ("b", "\ud800"), ("c", "fine")]:
        await on_disk.put(letter(id=id, error=error), then=partial(durable.append, id))
    await on_disk.flush()

    assert durable == ["a", "b", "c"]
    assert [record.body is None for record in await on_disk.find()] == [False, True, False]
    assert (on_disk.statistics().salvaged, on_disk.alarm) == (1, None)


async def test_a_cancelled_store_confirms_nothing_and_says_that_it_has_ended(
    path: Path, letter: Make
) -> None:
    store, durable = SQLiteStore(path), list[str]()
    await store.put(letter(), then=partial(durable.append, "durable"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.run()

    with pytest.raises(RuntimeError, match="the dead-letter store is not running"):
        await store.flush()

    assert (durable, store.statistics().waiting) == ([], 1)


# -- forgetting ------------------------------------------------------------------------


async def purged(store: SQLiteStore, nursery: trio.Nursery) -> list[str]:
    """The ids that are left after a start."""
    await nursery.start(store.run)
    await store.flush()
    await wait_all_tasks_blocked(0.05)
    return [record.id for record in await store.find(limit=10_000)]


async def test_settled_letters_are_deleted_after_their_time_and_no_others(
    path: Path, nursery: trio.Nursery, letter: Make
) -> None:
    month = time.time() - 31 * 86_400
    states = ["dead", "replay-asked", "replaying", "replayed", "discarded"]
    with StoreFile(path, create=True) as file:
        file.write([letter(id=f"old {state}", status=state, at=month) for state in states])
        file.write([letter(id=f"{state}", status=state, at=time.time()) for state in states])

    left = await purged(SQLiteStore(path), nursery)

    assert {f"old {state}" for state in states} - set(left) == {"old replayed", "old discarded"}
    assert set(states) <= set(left)


async def test_more_than_a_batch_is_deleted_in_several(
    path: Path, nursery: trio.Nursery, letter: Make
) -> None:
    with StoreFile(path, create=True) as file:
        file.write([letter(status="replayed") for _ in range(1200)])
    store = SQLiteStore(path, keep_settled=0)

    async with trio.open_nursery() as readers:
        await readers.start(store.run)
        while store.statistics().purged < 1200:
            await trio.lowlevel.checkpoint()
        assert await store.find() == []
        await store.close()


async def test_letters_can_be_kept_for_ever(
    path: Path, nursery: trio.Nursery, letter: Make
) -> None:
    with StoreFile(path, create=True) as file:
        file.write([letter(id="a", status="replayed", at=0.0)])

    assert await purged(SQLiteStore(path, keep_settled=math.inf), nursery) == ["a"]


def test_a_time_to_keep_that_can_never_be_is_refused(path: Path) -> None:
    with pytest.raises(DeclarationError, match="keep_settled=-1: 0 seconds or more expected"):
        SQLiteStore(path, keep_settled=-1)


class Failing(SQLiteStore):
    """Cannot delete while `broken`."""

    broken = True

    async def _mark(self, work: Callable[[StoreFile], Any]) -> Any:
        if self.broken and work.__name__ == "<lambda>":
            raise OSError("letters.db: disk I/O error")
        return await super()._mark(work)


async def test_a_purge_that_fails_is_said_and_letters_are_written_all_the_same(
    path: Path, nursery: trio.Nursery, letter: Make, alarms: list[str | None]
) -> None:
    store = Failing(path, on_alarm=alarms.append)
    purge = store._purge_if_due
    store.broken = False
    await nursery.start(store.run)
    await store.flush()
    store.broken, store._purge_at = True, -math.inf

    await purge()
    assert alarms == ["letters.db: disk I/O error"]

    store.broken = False
    await store.put(letter(id="a"))
    await store.flush()
    assert (alarms[1:], [record.id for record in await store.find()]) == ([None], ["a"])


async def test_a_store_that_cannot_open_fails_its_start(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "nowhere" / "letters.db")

    with pytest.raises(ValueError, match=r"the folder .* does not exist"):
        await store.run()


# -- the twin in memory ----------------------------------------------------------------


async def test_in_memory_a_letter_is_durable_before_put_returns(
    nursery: trio.Nursery, letter: Make
) -> None:
    store, durable = MemoryStore(), list[str]()
    await nursery.start(store.run)

    await store.put(letter(), then=lambda: durable.append("durable"))

    assert durable == ["durable"]


async def test_a_full_memory_forgets_the_oldest_settled_letter_first(
    nursery: trio.Nursery, letter: Make
) -> None:
    store = MemoryStore(capacity=3)
    await nursery.start(store.run)
    for id, status in [("a", "dead"), ("b", "discarded"), ("c", "replayed")]:
        await store.put(letter(id=id, status=status))

    await store.put(letter(id="d"))

    assert [record.id for record in await store.find()] == ["a", "c", "d"]
    assert store.alarm is None


async def test_a_memory_full_of_dead_letters_pauses_and_says_so(
    nursery: trio.Nursery, letter: Make, alarms: list[str | None]
) -> None:
    store = MemoryStore(capacity=1, on_alarm=alarms.append)
    await nursery.start(store.run)
    await store.put(letter(id="a"))
    nursery.start_soon(store.put, letter(id="b"))
    await wait_all_tasks_blocked()
    assert store.statistics().blocked == 1

    await store.discard(["a"])
    await wait_all_tasks_blocked()

    assert [record.id for record in await store.find()] == ["b"]
    assert alarms == ["the store in memory is full (1 letters)", None]


async def test_the_alarm_of_a_full_memory_ends_when_nobody_waits_any_more(
    nursery: trio.Nursery, letter: Make, alarms: list[str | None]
) -> None:
    store = MemoryStore(capacity=2, on_alarm=alarms.append)
    await nursery.start(store.run)
    for id in ["a", "b"]:
        await store.put(letter(id=id))
        nursery.start_soon(store.put, letter(id=f"late {id}"))
    await wait_all_tasks_blocked()

    await store.discard(["a"])
    await wait_all_tasks_blocked()
    assert len(alarms) == 1

    await store.discard(["b"])
    await wait_all_tasks_blocked()
    assert alarms[1:] == [None]
