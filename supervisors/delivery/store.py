"""The dead-letter store: where messages wait durably for a person or a replay.

`DeadLetterStore` is what the house asks of a store. `SQLiteStore` is the durable one,
`MemoryStore` its twin for tests and virtual time: no thread, no file, no real clock.

Invariant: `then` is called once the letter is durable, never before, so a bridge may
acknowledge a message in it. A store that cannot write drops nothing: it raises its
alarm, tries again, and lets `put` wait once it holds as many letters as it may, which
pauses the intake behind it. Only letters that nobody waits for any more, replayed or
discarded long ago, are forgotten.

Speed: all letters that wait are written in one transaction in one hop to a thread. A
commit costs a flush of the disk, whether it holds one letter or five hundred.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import attrs
import trio

from ...actors.errors import DeclarationError
from .record import DeadLetter, Status
from .store_file import StoreFile

__all__ = ["KEEP_SETTLED", "DeadLetterStore", "MemoryStore", "SQLiteStore", "StoreStatistics"]

T = TypeVar("T")

KEEP_SETTLED: Final = 30 * 86_400.0
"""Seconds for which replayed and discarded letters stay readable: thirty days."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_PURGE_EVERY: Final = 3600.0
_PURGE_AGAIN: Final = 60.0
"""Seconds after which a purge that failed is tried again."""


@attrs.frozen(kw_only=True)
class StoreStatistics:
    """A store at one moment.

    `waiting` letters are accepted and not durable yet, at most `capacity`; `blocked` puts
    wait for room. `written`, `salvaged` (stored without their payload), `transactions` and
    `purged` (deleted, long after they were settled) count since the store was made.
    """

    waiting: int
    blocked: int
    capacity: int
    written: int
    salvaged: int
    transactions: int
    purged: int
    alarm: str | None


class DeadLetterStore(Protocol):
    """What the house asks of a store.

    The system starts `run` in its nursery and ends it with `close`. Reading and marking
    raise `OSError` when the file fails, `RuntimeError` when the store is not running.
    `on_alarm`, if set, is called with the reason when writing begins to fail and with
    None when it works again.
    """

    on_alarm: Callable[[str | None], object] | None

    @property
    def alarm(self) -> str | None:
        """Why letters cannot be written at present, or None."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the store, report started, and write until `close`.

        Replays that an ended process left unfinished are asked for again. Cancelled, it
        leaves the waiting letters unwritten, and their `then` uncalled.
        """
        ...

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        """Accept a letter, waiting for room; `then` is called when it is durable.

        `then` runs on the trio thread and must not raise. A letter whose id is stored
        already is that letter and is not stored again.
        """
        ...

    async def flush(self) -> None:
        """Wait until every letter accepted so far is durable."""
        ...

    async def close(self) -> None:
        """Accept no more, write what waits, and end `run`; bound it with a deadline."""
        ...

    async def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        """Up to `limit` letters, oldest first; `after` is the last id of the page before."""
        ...

    async def get(self, id: str) -> DeadLetter | None:
        """The letter with this id, or None."""
        ...

    async def request_replay(self, ids: Iterable[str] | None) -> int:
        """Mark dead letters for replay, every one if `ids` is None; how many were.

        Letters without payload, and those not dead, stay as they are.
        """
        ...

    async def discard(self, ids: Iterable[str], note: str = "") -> int:
        """Give letters up that are dead or wait for a replay; how many were."""
        ...

    async def take_replays(self, limit: int = 16) -> Sequence[DeadLetter]:
        """Take up to `limit` letters that were marked for replay, oldest first."""
        ...

    async def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        """Record how a taken replay ended; False if the letter was not being replayed."""
        ...

    def statistics(self) -> StoreStatistics:
        """The store at this moment."""
        ...


class _Alarm:
    """Why writing fails, told once when it begins and once when it ends."""

    on_alarm: Callable[[str | None], object] | None
    _alarm: str | None = None

    @property
    def alarm(self) -> str | None:
        return self._alarm

    def _set_alarm(self, alarm: str | None) -> None:
        changed = (alarm is None) is not (self._alarm is None)
        self._alarm = alarm
        if changed and self.on_alarm is not None:
            self.on_alarm(alarm)


class SQLiteStore(_Alarm):
    """The durable store: one SQLite file, one writer task, one transaction a burst.

    `capacity` letters may wait for the disk, of which up to `burst` go into one
    transaction. `max_bytes` bounds the file; see `StoreFile` for the errors of `run`.
    Letters that were replayed or discarded more than `keep_settled` seconds ago are
    deleted now and then; those that still wait for somebody never are.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        capacity: int = 1024,
        burst: int = 512,
        max_bytes: int | None = None,
        keep_settled: float = KEEP_SETTLED,
        lock_timeout: float = 2.0,
        on_alarm: Callable[[str | None], object] | None = None,
    ) -> None:
        self.on_alarm = on_alarm
        self._capacity, self._burst = capacity, burst
        self._open_file = partial(StoreFile, path, lock_timeout=lock_timeout)
        self._max_bytes = max_bytes
        if not keep_settled >= 0:
            raise DeclarationError(
                f"keep_settled={keep_settled}: 0 seconds or more expected; math.inf keeps all."
            )
        self._keep_settled = keep_settled
        self._purge_at = -math.inf if keep_settled < math.inf else math.inf
        self._queue: deque[tuple[DeadLetter, Callable[[], object] | None]] = deque()
        # A place is held from `put` until the commit; waiting for one is first come, first served.
        self._room = trio.Semaphore(capacity, max_value=capacity)
        self._arrived = trio.lowlevel.ParkingLot()
        self._committed = trio.lowlevel.ParkingLot()
        self._writer: StoreFile | None = None
        self._reader: StoreFile | None = None
        # SQLite connections are for one thread at a time.
        self._write_limit, self._read_limit = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
        self._running = self._closing = False
        self._written = self._salvaged = self._transactions = self._purged = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._closing = False
        try:
            await _in_thread(self._open, self._write_limit)
            self._running = True
            task_status.started()
            while self._waiting or not self._closing:
                if self._queue:
                    await self._write_burst()
                else:
                    await self._wait_for_work()
                await self._purge_if_due()
        finally:
            self._closing = True
            await self._close_files()
            self._running = False
            self._committed.unpark_all()

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        if self._closing:
            raise _not_running()
        await self._room.acquire()
        self._queue.append((letter, then))
        self._arrived.unpark()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        goal = self._written + self._waiting
        while self._written < goal:
            if not self._running:
                raise _not_running()
            await self._committed.park()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closing = True
        self._arrived.unpark()
        while self._running:
            await self._committed.park()

    async def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        return await self._read(lambda file: file.find(status, limit=limit, after=after))

    async def get(self, id: str) -> DeadLetter | None:
        return await self._read(lambda file: file.get(id))

    async def request_replay(self, ids: Iterable[str] | None) -> int:
        return await self._mark(lambda file: file.request_replay(ids))

    async def discard(self, ids: Iterable[str], note: str = "") -> int:
        return await self._mark(lambda file: file.discard(ids, note))

    async def take_replays(self, limit: int = 16) -> Sequence[DeadLetter]:
        return await self._mark(lambda file: file.take_replays(limit))

    async def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        return await self._mark(lambda file: file.finish_replay(id, replayed=replayed, note=note))

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            waiting=self._waiting,
            blocked=self._room.statistics().tasks_waiting,
            capacity=self._capacity,
            written=self._written,
            salvaged=self._salvaged,
            transactions=self._transactions,
            purged=self._purged,
            alarm=self._alarm,
        )

    @property
    def _waiting(self) -> int:
        # Counted by places, not by the queue: a put may hold one and not have run yet.
        return self._capacity - self._room.value

    def _open(self) -> None:
        self._writer = self._open_file(create=True, max_bytes=self._max_bytes)
        self._writer.recover()
        self._reader = self._open_file()

    async def _close_files(self) -> None:
        reader, writer = self._reader, self._writer
        self._reader = self._writer = None
        with trio.CancelScope(shield=True):
            if reader is not None:
                await _in_thread(reader.close, self._read_limit)
            if writer is not None:
                await _in_thread(writer.close, self._write_limit)

    async def _wait_for_work(self) -> None:
        due = math.inf if self._closing else self._purge_at
        with trio.move_on_at(due):
            await self._arrived.park()

    async def _write_burst(self) -> None:
        burst = list(islice(self._queue, self._burst))
        self._salvaged += await self._write([letter for letter, _ in burst])
        self._transactions += 1
        self._written += len(burst)
        for _ in burst:
            self._queue.popleft()
            self._room.release()
        self._committed.unpark_all()
        for _, then in burst:
            if then is not None:
                then()

    async def _write(self, letters: Sequence[DeadLetter]) -> int:
        """Write until it succeeds: the letters have nowhere else to go."""
        pause = _FIRST_PAUSE
        while True:
            try:
                salvaged = await self._mark(lambda file: file.write(letters))
            except OSError as error:
                self._set_alarm(str(error))
                await self._purge_if_due()  # it may make the room that is missing
                await trio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._set_alarm(None)
                return salvaged

    async def _purge_if_due(self) -> None:
        """Delete a batch of what was settled long ago; due again at once if it was not all."""
        now = trio.current_time()
        if now < self._purge_at or self._closing:
            return
        before = time.time() - self._keep_settled
        try:
            purged = await self._mark(lambda file: file.purge(before))
        except OSError as error:
            self._purge_at = now + _PURGE_AGAIN
            self._set_alarm(str(error))
            return
        self._purged += purged
        if not purged:
            self._purge_at = now + _PURGE_EVERY
        if not self._queue:  # else the next write says how things are
            self._set_alarm(None)

    async def _mark(self, work: Callable[[StoreFile], T]) -> T:
        if self._writer is None:
            raise _not_running()
        return await _in_thread(partial(work, self._writer), self._write_limit)

    async def _read(self, work: Callable[[StoreFile], T]) -> T:
        if self._reader is None:
            raise _not_running()
        return await _in_thread(partial(work, self._reader), self._read_limit)


class MemoryStore(_Alarm):
    """The twin in memory: a letter is "durable" before `put` returns.

    Holds `capacity` letters. Room is made by forgetting the oldest replayed or discarded
    one; if there is none, the alarm is raised and `put` waits until there is.
    """

    def __init__(
        self,
        *,
        capacity: int = 10_000,
        on_alarm: Callable[[str | None], object] | None = None,
    ) -> None:
        self.on_alarm = on_alarm
        self._capacity = capacity
        self._letters: dict[str, DeadLetter] = {}
        self._settled = trio.lowlevel.ParkingLot()
        self._running = False
        self._closing = trio.Event()
        self._written = self._purged = self._blocked = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        for letter in list(self._in_state("replaying")):
            self._change(letter, status="replay-asked")
        self._running, self._closing = True, trio.Event()
        task_status.started()
        try:
            await self._closing.wait()
        finally:
            self._running = False
            self._settled.unpark_all()

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        await self._checkpoint()
        if letter.id not in self._letters and not self._make_room():
            await self._wait_for_room()
        self._letters.setdefault(letter.id, letter)
        self._written += 1
        if then is not None:
            then()

    async def flush(self) -> None:
        await self._checkpoint()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closing.set()
        while self._running:
            await self._settled.park()

    async def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        await self._checkpoint()
        return [letter for letter in self._in_state(status) if letter.id > after][:limit]

    async def get(self, id: str) -> DeadLetter | None:
        await self._checkpoint()
        return self._letters.get(id)

    async def request_replay(self, ids: Iterable[str] | None) -> int:
        await self._checkpoint()
        dead = [letter for letter in self._among(ids, "dead") if letter.body is not None]
        for letter in dead:
            self._change(letter, status="replay-asked")
        return len(dead)

    async def discard(self, ids: Iterable[str], note: str = "") -> int:
        await self._checkpoint()
        given_up = self._among(ids, "dead", "replay-asked")
        for letter in given_up:
            self._change(letter, status="discarded", note=note)
        return len(given_up)

    async def take_replays(self, limit: int = 16) -> Sequence[DeadLetter]:
        await self._checkpoint()
        return [
            self._change(letter, status="replaying", replays=letter.replays + 1)
            for letter in self._in_state("replay-asked")[:limit]
        ]

    async def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        await self._checkpoint()
        taken = self._among([id], "replaying")
        for letter in taken:
            self._change(letter, status="replayed" if replayed else "dead", note=note)
        return bool(taken)

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            waiting=0,
            blocked=self._blocked,
            capacity=self._capacity,
            written=self._written,
            salvaged=0,
            transactions=self._written,
            purged=self._purged,
            alarm=self._alarm,
        )

    async def _checkpoint(self) -> None:
        if not self._running:
            raise _not_running()
        await trio.lowlevel.checkpoint()

    async def _wait_for_room(self) -> None:
        self._set_alarm(f"the store in memory is full ({self._capacity} letters)")
        self._blocked += 1
        try:
            while not self._make_room():
                await self._settled.park()
                if not self._running:
                    raise _not_running()
        finally:
            self._blocked -= 1
        if not self._blocked:
            self._set_alarm(None)

    def _make_room(self) -> bool:
        if len(self._letters) < self._capacity:
            return True
        for letter in self._in_state(None):
            if letter.status in ("replayed", "discarded"):
                del self._letters[letter.id]
                self._purged += 1
                return True
        return False

    def _in_state(self, status: Status | None) -> Sequence[DeadLetter]:
        letters = [one for one in self._letters.values() if status in (None, one.status)]
        return sorted(letters, key=lambda letter: letter.id)

    def _among(self, ids: Iterable[str] | None, *states: Status) -> Sequence[DeadLetter]:
        chosen = self._in_state(None) if ids is None else map(self._letters.get, dict.fromkeys(ids))
        return [letter for letter in chosen if letter is not None and letter.status in states]

    def _change(self, letter: DeadLetter, **changes: Any) -> DeadLetter:
        changed = self._letters[letter.id] = attrs.evolve(letter, **changes)
        if changed.status in ("replayed", "discarded"):
            self._settled.unpark_all()
        return changed


async def _in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    return await trio.to_thread.run_sync(work, limiter=limiter, thread_name="dead letters")


def _not_running() -> RuntimeError:
    return RuntimeError("the dead-letter store is not running: start run() before, close() after.")
