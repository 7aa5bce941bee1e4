"""The file of the dead-letter store: every line of SQL, and nothing that waits on trio.

Used by the service (`SQLiteStore`, from its threads) and by the command line, which has
no trio and may work on the file while the service has it open.

Owns the schema, the states a letter may go through, and the transactions. A commit is
on disk when it returns (WAL with synchronous=FULL). Not for network file systems: WAL
needs memory shared between the processes.

Every failure of the file itself is an `OSError` that names the path; a file that can
never be used is a `DeclarationError`.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import attrs

from ...actors.errors import DeclarationError
from .record import DeadLetter, Status

__all__ = ["StoreFile"]

_PROGRAM: Final = 0x756E6473  # "unds": tells our files from any other SQLite file
_SCHEMA_VERSION: Final = 1
# Short columns first, so that a scan for states never reads a body's pages. `lost` counts
# the replays in a row whose process ended meanwhile.
_SCHEMA: Final = """
CREATE TABLE dead_letter (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, at REAL NOT NULL, first_at REAL NOT NULL,
    kind TEXT NOT NULL, attempts INTEGER NOT NULL, replays INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0, incarnation INTEGER NOT NULL, pattern TEXT NOT NULL,
    handler TEXT NOT NULL, actor TEXT NOT NULL, transport TEXT NOT NULL, source TEXT NOT NULL,
    message_id TEXT NOT NULL, correlation_id TEXT, reason TEXT NOT NULL, error TEXT NOT NULL,
    note TEXT NOT NULL, headers TEXT NOT NULL, traceback TEXT NOT NULL, body BLOB
);
CREATE INDEX dead_letter_by_status ON dead_letter (status, id);
"""
_FIELDS: Final = tuple(field.name for field in attrs.fields(DeadLetter))
_SELECT: Final = f"SELECT {', '.join(_FIELDS)} FROM dead_letter"
_INSERT: Final = (
    f"INSERT INTO dead_letter ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))})"
    " ON CONFLICT (id) DO NOTHING"
)
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
        _look_at(self.path, create=create)
        with self._named():
            self._db = sqlite3.connect(
                self.path, timeout=lock_timeout, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare(max_bytes)
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
        return None if row is None else _letter(row)

    def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        """Up to `limit` letters, oldest first; `after` is the last id of the page before."""
        wanted, values = ("", ()) if status is None else ("status = ? AND ", (status,))
        query = f"{_SELECT} WHERE {wanted}id > ? ORDER BY id LIMIT ?"
        with self._named():
            return [_letter(row) for row in self._db.execute(query, (*values, after, limit))]

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
        change, condition = "status = 'discarded', note = ?", "status IN ('dead', 'replay-asked')"
        return self._mark(change, condition, (note,), ids)

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
                return [_letter(db.execute(f"{_SELECT} WHERE id = ?", id).fetchone()) for id in ids]

    def finish_replay(self, id: str, *, replayed: bool, note: str) -> bool:
        """Record how a taken replay ended; False if the letter was not being replayed."""
        change = "status = ?, note = ?, lost = 0"
        values = ("replayed" if replayed else "dead", note)
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

    def purge(self, before: float) -> int:
        """Delete replayed and discarded letters older than `before` (unix seconds).

        Returns how many; the file does not shrink, its pages are used again.
        """
        query = "DELETE FROM dead_letter WHERE status IN ('replayed', 'discarded') AND at < ?"
        with self._named(), self._transaction() as db:
            return db.execute(query, (before,)).rowcount

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the file."""
        with self._named():
            self._db.close()

    def _prepare(self, max_bytes: int | None) -> None:
        with self._named():
            try:
                version = self._version()
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                    raise
                raise DeclarationError(self._foreign()) from error
            # Asked before it is set: setting it anew needs the file for itself.
            if self._value("journal_mode") != "wal" and self._value("journal_mode=WAL") != "wal":
                raise DeclarationError(
                    f"{self.path}: the file system does not support SQLite's WAL mode. "
                    "Keep the dead letters on a local disk."
                )
            self._value("synchronous=FULL")
            if version == 0:
                self._create_schema()
            if max_bytes is not None:
                self._value(f"max_page_count={max(1, max_bytes // self._value('page_size'))}")
        _make_private(self.path)

    def _version(self) -> int:
        """The schema's version, 0 for a new file; refuses files we cannot or must not use."""
        version = int(self._value("user_version"))
        program = self._value("application_id")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if program != _PROGRAM and (program or version or tables):
            raise DeclarationError(self._foreign())
        if version > _SCHEMA_VERSION:
            raise DeclarationError(
                f"{self.path}: written by a newer understudy (schema {version}; this one knows "
                f"schema {_SCHEMA_VERSION}). Upgrade understudy, or give another path."
            )
        return version

    def _create_schema(self) -> None:
        with self._transaction() as db:
            if self._version() == 0:  # another process may have been faster
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id={_PROGRAM}")
                db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _foreign(self) -> str:
        return f"{self.path}: not a dead-letter store. Give the path of one, or of a new file."

    def _value(self, pragma: str) -> Any:
        row = self._db.execute(f"PRAGMA {pragma}").fetchone()
        return None if row is None else row[0]

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
        self, change: str, condition: str, values: tuple[str, ...], ids: Iterable[str] | None
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
        """Turn SQLite's errors, which name no file, into one that does."""
        try:
            yield
        except (sqlite3.Error, MemoryError) as error:
            raise OSError(f"{self.path}: {error or 'out of memory'}") from error


def _look_at(path: Path, *, create: bool) -> None:
    """Refuse a path that cannot be used; create a missing file, for its owner's eyes only.

    An existing one must not be opened here: closing it would drop the locks of every
    other connection this process has to it.
    """
    if not path.parent.is_dir():
        raise DeclarationError(
            f"{path}: the folder {path.parent} does not exist. Create it, or give another path."
        )
    if path.is_dir():
        raise DeclarationError(f"{path}: this is a folder. Give the path of a file.")
    if not create and not path.exists():
        raise DeclarationError(f"{path}: there is no dead-letter store here. Check the path.")
    if not path.exists():
        # Left to SQLite, the umask would say who may read it; `-wal` and `-shm` follow it.
        path.touch(mode=0o600)


def _make_private(path: Path) -> None:
    """Take everybody else's rights to a file that was copied or restored."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.exists() and file.stat().st_mode & 0o077:
            file.chmod(0o600)


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    return tuple(
        json.dumps(dict(letter.headers)) if name == "headers" else getattr(letter, name)
        for name in _FIELDS
    )


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    values = dict(zip(_FIELDS, row, strict=True))
    values["headers"] = json.loads(values["headers"])
    return DeadLetter(**values)


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
