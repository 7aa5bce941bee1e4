"""The file of the dead-letter store: every line of SQL, and nothing that waits on trio.

Used by the service (`SQLiteStore`, from its threads) and by the command line, which has
no trio and may work on the file while the service has it open.

Owns the states a letter may go through, and the transactions; the schema is that of
`store_schema.py`. A commit is on disk when it returns (WAL with synchronous=FULL). Not
for network file systems: WAL needs memory shared between the processes.

Invariant: a letter that waits for somebody is never deleted. Every failure of the file
itself is an `OSError` that names the path and says what to do; a file that can never be
used is a `DeclarationError`.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import attrs

from .record import DeadLetter, Status
from .store_schema import check_path, make_private, prepare, what_to_do

__all__ = ["StoreFile"]

_FIELDS: Final = tuple(field.name for field in attrs.fields(DeadLetter))
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM dead_letter"
_INSERT: Final = (
    f"INSERT INTO dead_letter ({', '.join(_FIELDS)}, settled_at)"
    f" VALUES ({', '.join('?' * len(_FIELDS))}, ?) ON CONFLICT (id) DO NOTHING"
)
_SETTLED: Final = ("replayed", "discarded")
_PURGED_AT_ONCE: Final = 500
_MOST_LOST_REPLAYS: Final = 3
_LONGEST_SALVAGED_TEXT: Final = 65_536
# What binding or inserting raises when the fault is in the values, not in the file.
_FAULTS_OF_A_ROW: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)


class StoreFile:
    """One connection to the file; used by one thread at a time. A context manager.

    Raises `DeclarationError` for a missing folder, for a missing file unless `create`,
    for a file of a newer version or of another program; `OSError` for a file that cannot
    be opened now. `max_bytes` bounds the file: beyond it, writing fails until something
    is purged. `lock_timeout` (seconds) is how long another process's write is waited for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        max_bytes: int | None = None,
        lock_timeout: float = 2.0,
    ) -> None:
        # Absolute, so that no name (":memory:") means anything else to SQLite.
        self.path = Path(path).absolute()
        check_path(self.path, create=create)
        with self._named():
            self._db = sqlite3.connect(
                self.path, timeout=lock_timeout, isolation_level=None, check_same_thread=False
            )
        try:
            with self._named():
                prepare(self._db, self.path, max_bytes)
            make_private(self.path)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, letters: Sequence[DeadLetter]) -> int:
        """Store all letters in one transaction; they are on disk when this returns.

        A letter whose id is stored already is that letter: the first one stays. A letter
        that cannot be written as it is (values SQLite refuses, over its size limit) is
        stored without payload, with a note; returns how many were.
        """
        with self._named():
            try:
                with self._transaction() as db:
                    db.executemany(_INSERT, map(_row, letters))
            except _FAULTS_OF_A_ROW:
                return self._write_one_by_one(letters)
        return 0

    def get(self, id: str) -> DeadLetter | None:
        """The letter with this id, or None."""
        with self._named():
            row = self._db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
        return None if row is None else self._letter(row)

    def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        """Up to `limit` letters, oldest first; `after` is the last id of the page before."""
        wanted, values = ("", ()) if status is None else ("status = ? AND ", (status,))
        query = f"{_SELECT} WHERE {wanted}id > ? ORDER BY id LIMIT ?"
        with self._named():
            return [self._letter(row) for row in self._db.execute(query, (*values, after, limit))]

    def request_replay(self, ids: Iterable[str] | None) -> int:
        """Mark dead letters for replay, every one if `ids` is None; returns how many were.

        The service does the replay. Letters without payload, and those not dead, stay.
        """
        change = "status = 'replay-asked', lost = 0"
        return self._mark(change, "status = 'dead' AND body IS NOT NULL", (), ids)

    def discard(self, ids: Iterable[str], note: str = "") -> int:
        """Give letters up that are dead or wait for a replay; returns how many were.

        They stay readable until they are purged.
        """
        change = "status = 'discarded', note = ?, settled_at = ?"
        return self._mark(change, "status IN ('dead', 'replay-asked')", (note, time.time()), ids)

    def take_replays(self, limit: int = 16) -> Sequence[DeadLetter]:
        """Take up to `limit` letters that were marked for replay, oldest first."""
        # Looked at first without a lock: this is polled, and mostly finds nothing.
        query = "SELECT id FROM dead_letter WHERE status = 'replay-asked' ORDER BY id LIMIT ?"
        with self._named():
            if self._db.execute(query, (1,)).fetchone() is None:
                return []
            with self._transaction() as db:
                ids = db.execute(query, (limit,)).fetchall()
                change = "status = 'replaying', replays = replays + 1"
                db.executemany(f"UPDATE dead_letter SET {change} WHERE id = ?", ids)
                taken = (db.execute(f"{_SELECT} WHERE id = ?", id).fetchone() for id in ids)
                return [self._letter(row) for row in taken]

    def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        """Record how a taken replay ended; False if the letter was not being replayed."""
        change = "status = ?, note = ?, lost = 0, settled_at = ?"
        values = ("replayed", note, time.time()) if replayed else ("dead", note, None)
        return self._mark(change, "status = 'replaying'", values, (id,)) == 1

    def recover(self) -> int:
        """Ask again for replays that an ended process left; returns how many.

        For the service alone, when it starts. A letter that was being replayed at the end
        of three processes in a row may be what ended them: it goes back to the dead.
        """
        note = f"the process ended during this replay, {_MOST_LOST_REPLAYS} times in a row"
        with self._named(), self._transaction() as db:
            db.execute("UPDATE dead_letter SET lost = lost + 1 WHERE status = 'replaying'")
            db.execute(
                "UPDATE dead_letter SET status = 'dead', note = ?"
                " WHERE status = 'replaying' AND lost >= ?",
                (note, _MOST_LOST_REPLAYS),
            )
            again = "UPDATE dead_letter SET status = 'replay-asked' WHERE status = 'replaying'"
            return db.execute(again).rowcount

    def purge(self, before: float, limit: int = _PURGED_AT_ONCE) -> int:
        """Delete letters that were replayed or discarded before `before` (unix seconds).

        At most `limit`, oldest first, so that nobody waits long for the file; returns how
        many. The file does not shrink, its pages are used again.
        """
        settled = "status IN ('replayed', 'discarded') AND settled_at < ?"
        chosen = f"SELECT id FROM dead_letter WHERE {settled} ORDER BY settled_at LIMIT ?"
        with self._named():
            # Looked at first without a lock: mostly there is nothing.
            if self._db.execute(chosen, (before, 1)).fetchone() is None:
                return 0
            with self._transaction() as db:
                delete = f"DELETE FROM dead_letter WHERE id IN ({chosen})"
                return db.execute(delete, (before, limit)).rowcount

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the file."""
        with self._named():
            self._db.close()

    def _write_one_by_one(self, letters: Sequence[DeadLetter]) -> int:
        salvaged = 0
        with self._transaction() as db:
            for letter in letters:
                try:
                    db.execute(_INSERT, _row(letter))
                except _FAULTS_OF_A_ROW as error:
                    db.execute(_INSERT, _row(_without_payload(letter, error)))
                    salvaged += 1
        return salvaged

    def _mark(
        self, change: str, condition: str, values: tuple[object, ...], ids: Iterable[str] | None
    ) -> int:
        update = f"UPDATE dead_letter SET {change} WHERE {condition}"
        with self._named(), self._transaction() as db:
            if ids is None:
                return db.execute(update, values).rowcount
            rows = [(*values, id) for id in ids]
            return db.executemany(f"{update} AND id = ?", rows).rowcount if rows else 0

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            # Some failures, a full disk among them, have rolled back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn SQLite's errors, which name no file, into one that does, with advice."""
        try:
            yield
        except (sqlite3.Error, MemoryError, UnicodeDecodeError) as error:
            # The last when SQLite quotes what it found in a damaged file.
            text = f"{self.path}: {error or 'out of memory'}. {what_to_do(error)}"
            raise OSError(text.rstrip()) from error

    def _letter(self, row: tuple[Any, ...]) -> DeadLetter:
        values = dict(zip(_FIELDS, row, strict=True))
        try:
            values["headers"] = dict(json.loads(values["headers"]))
        except (TypeError, ValueError) as error:
            raise OSError(
                f"{self.path}: the headers of the letter {values['id']} are damaged ({error}). "
                "Discard it, or save what can be read with: sqlite3 FILE .recover"
            ) from error
        return DeadLetter(**values)


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    fields = (
        json.dumps(dict(letter.headers)) if name == "headers" else getattr(letter, name)
        for name in _FIELDS
    )
    return (*fields, letter.at if letter.status in _SETTLED else None)


def _without_payload(letter: DeadLetter, error: Exception) -> DeadLetter:
    """What can be kept of a letter that SQLite refuses: its texts, made writable."""
    kept: dict[str, Any] = {
        field.name: _writable(getattr(letter, field.name))
        for field in attrs.fields(DeadLetter)
        if field.type is str and field.name != "id"
    }
    for name in ("incarnation", "attempts", "replays"):
        kept[name] = min(getattr(letter, name), 2**63 - 1)
    if letter.correlation_id is not None:
        kept["correlation_id"] = _writable(letter.correlation_id)
    kept["note"] = f"kept without payload, it could not be written: {type(error).__name__}"
    return attrs.evolve(letter, **kept, headers={}, body=None)


def _writable(text: object) -> str:
    return str(text)[:_LONGEST_SALVAGED_TEXT].encode("utf-8", "backslashreplace").decode()
