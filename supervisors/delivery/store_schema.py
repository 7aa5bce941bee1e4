"""Making a file a dead-letter store: its path, its tables, its version, its errors.

Owns what happens before the first letter: which files are refused, how a new one is laid
out, how one of an older version is brought up. `StoreFile` owns the letters and the
transactions; nothing here outlives the opening.

Invariant: a file that is not ours, or newer than we are, is left as it was. A change of
the schema is one transaction: a process that is killed in it leaves the old version.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from ...actors.errors import DeclarationError

__all__ = ["SCHEMA_VERSION", "check_path", "make_private", "prepare", "value", "what_to_do"]

SCHEMA_VERSION: Final = 2

_PROGRAM: Final = 0x756E6473  # "unds": tells our files from any other SQLite file

# Short columns first, so that a scan for states never reads a body's pages. `lost` counts
# the replays in a row whose process ended meanwhile.
_TABLE: Final = """
CREATE TABLE dead_letter (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, at REAL NOT NULL, first_at REAL NOT NULL,
    kind TEXT NOT NULL, attempts INTEGER NOT NULL, replays INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0, incarnation INTEGER NOT NULL, pattern TEXT NOT NULL,
    handler TEXT NOT NULL, actor TEXT NOT NULL, transport TEXT NOT NULL, source TEXT NOT NULL,
    message_id TEXT NOT NULL, correlation_id TEXT, reason TEXT NOT NULL, error TEXT NOT NULL,
    note TEXT NOT NULL, headers TEXT NOT NULL, traceback TEXT NOT NULL, body BLOB
)
"""
_BY_STATUS: Final = "CREATE INDEX dead_letter_by_status ON dead_letter (status, id)"

# When a letter was replayed or discarded; NULL while somebody may still want it.
_ADD_SETTLED_AT: Final = "ALTER TABLE dead_letter ADD COLUMN settled_at REAL"
_FILL_SETTLED_AT: Final = (
    "UPDATE dead_letter SET settled_at = ? WHERE status IN ('replayed', 'discarded')"
)
_BY_SETTLED_AT: Final = (
    "CREATE INDEX dead_letter_settled ON dead_letter (settled_at) WHERE settled_at IS NOT NULL"
)

_WHAT_TO_DO: Final = {
    sqlite3.SQLITE_FULL: "Make room on the disk, or raise max_bytes; writing goes on by itself.",
    sqlite3.SQLITE_BUSY: "Another process is writing to it; if it stays so, end that process.",
    sqlite3.SQLITE_READONLY: "Give this user the right to write to the file and its folder.",
    sqlite3.SQLITE_CANTOPEN: "Give this user the right to write to the file and its folder.",
    sqlite3.SQLITE_IOERR: "Look for the disk's errors in the system's log, and at the limit "
    "on file sizes (ulimit -f).",
    sqlite3.SQLITE_CORRUPT: "The file is damaged. Stop the service, move the file away (a new "
    "one is made at the next start) and save its letters with: sqlite3 FILE .recover",
    sqlite3.SQLITE_NOTADB: "The file was overwritten. Stop the service and put it back, or "
    "move it away: a new one is made at the next start.",
}


def check_path(path: Path, *, create: bool) -> None:
    """Refuse a path that cannot be used; create a missing file, for its owner's eyes only.

    An existing one must not be opened here: closing it would drop the locks of every
    other connection this process has to it. Raises `DeclarationError`, or `OSError` when
    the file cannot be created.
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
        try:
            # Left to SQLite, the umask would say who may read it; `-wal`, `-shm` follow it.
            path.touch(mode=0o600)
        except OSError as error:
            hint = _WHAT_TO_DO[sqlite3.SQLITE_CANTOPEN]
            raise OSError(f"{path}: cannot be created: {error.strerror}. {hint}") from error


def make_private(path: Path) -> None:
    """Take everybody else's rights to a file that was copied or restored."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.exists() and file.stat().st_mode & 0o077:
            file.chmod(0o600)


def prepare(db: sqlite3.Connection, path: Path, max_bytes: int | None) -> None:
    """Make the file behind `db` a store of this version, if it may be one.

    Raises `DeclarationError` for a file that can never be used, `sqlite3.Error` for one
    that cannot be used now.
    """
    try:
        version = _version(db, path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise DeclarationError(_foreign(path)) from error
    # Asked before it is set: setting it anew needs the file for itself.
    if value(db, "journal_mode") != "wal" and value(db, "journal_mode=WAL") != "wal":
        raise DeclarationError(
            f"{path}: the file system does not support SQLite's WAL mode. "
            "Keep the dead letters on a local disk."
        )
    value(db, "synchronous=FULL")
    if version < SCHEMA_VERSION:
        _bring_up(db, path)
    if max_bytes is not None:
        value(db, f"max_page_count={max(1, max_bytes // value(db, 'page_size'))}")


def value(db: sqlite3.Connection, pragma: str) -> Any:
    """What a pragma answers, or None."""
    row = db.execute(f"PRAGMA {pragma}").fetchone()
    return None if row is None else row[0]


def what_to_do(error: BaseException) -> str:
    """The advice for an error of SQLite; empty where there is none to give."""
    if isinstance(error, UnicodeDecodeError):
        return _WHAT_TO_DO[sqlite3.SQLITE_CORRUPT]
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return _WHAT_TO_DO.get(code & 0xFF, "")


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The schema's version, 0 for a new file; refuses files we cannot or must not use."""
    version = int(value(db, "user_version"))
    program = value(db, "application_id")
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if program != _PROGRAM and (program or version or tables):
        raise DeclarationError(_foreign(path))
    if version > SCHEMA_VERSION:
        raise DeclarationError(
            f"{path}: written by a newer understudy (schema {version}; this one knows "
            f"schema {SCHEMA_VERSION}). Upgrade understudy, or give another path."
        )
    return version


def _bring_up(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, path)  # another process may have been faster
        if version < 1:
            db.execute(_TABLE)
            db.execute(_BY_STATUS)
            db.execute(f"PRAGMA application_id={_PROGRAM}")
        if version < 2:
            db.execute(_ADD_SETTLED_AT)
            db.execute(_FILL_SETTLED_AT, (time.time(),))
            db.execute(_BY_SETTLED_AT)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _foreign(path: Path) -> str:
    return f"{path}: not a dead-letter store. Give the path of one, or of a new file."
