"""The file of the dead-letter store, as the command line uses it."""

import errno
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import DeclarationError
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store_file import StoreFile
from understudy.supervisors.delivery.store_schema import value

from .letter_writer import letter_of

Make: TypeAlias = Callable[..., DeadLetter]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.db"


@pytest.fixture
def file(path: Path) -> Iterator[StoreFile]:
    with StoreFile(path, create=True) as opened:
        yield opened


def run_sql(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "tell", "transport": "local", "correlation_id": None},
        {"body": bytes(range(256)) * 300},
        {"body": b""},
        {"body": None},
        {"headers": {"Ż-Name": "a\x00b", "lone": "\ud800"}},
        {"status": "replayed", "replays": 2, "note": "went well"},
    ],
    ids=["plain", "tell", "every byte", "empty", "no payload", "odd headers", "replayed"],
)
def test_a_letter_is_read_back_exactly(
    file: StoreFile, letter: Make, changes: dict[str, object]
) -> None:
    stored = letter(**changes)

    file.write([stored])

    assert file.get(stored.id) == stored


def test_a_letter_written_twice_stays_the_first(file: StoreFile, letter: Make) -> None:
    first = letter(id="one")

    file.write([first])
    file.write([letter(id="one", body=b"other")])

    assert file.find() == [first]


def test_only_the_owner_may_read_the_file_and_its_wal(
    file: StoreFile, path: Path, letter: Make
) -> None:
    file.write([letter()])

    modes = {each.name: oct(each.stat().st_mode & 0o777) for each in path.parent.iterdir()}

    assert modes == dict.fromkeys(["letters.db", "letters.db-wal", "letters.db-shm"], "0o600")


def test_opening_a_file_that_others_may_read_closes_it_to_them(path: Path) -> None:
    StoreFile(path, create=True).close()
    path.chmod(0o644)

    StoreFile(path).close()

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"folder .*/nowhere does not exist\. Create it"):
        StoreFile(tmp_path / "nowhere" / "letters.db", create=True)


def test_a_missing_file_is_said_and_not_made(path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"letters\.db: there is no dead-letter store here"):
        StoreFile(path)

    assert not path.exists()


def test_a_folder_in_place_of_the_file_is_said_and_left_alone(tmp_path: Path) -> None:
    mode = tmp_path.stat().st_mode

    with pytest.raises(DeclarationError, match="this is a folder"):
        StoreFile(tmp_path, create=True)

    assert tmp_path.stat().st_mode == mode


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    StoreFile(path, create=True).close()
    run_sql(path, "PRAGMA user_version=99")

    with pytest.raises(DeclarationError, match=r"newer understudy \(schema 99; this one knows s"):
        StoreFile(path)


@pytest.mark.parametrize("kind", ["text", "database"])
def test_a_file_of_another_program_is_refused_and_left_alone(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("shopping list, long enough to be looked at\n" * 100)
    else:
        run_sql(path, "CREATE TABLE shopping (item)")
    path.chmod(0o644)
    before = path.read_bytes()

    with pytest.raises(DeclarationError, match="not a dead-letter store"):
        StoreFile(path, create=True)

    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o644)


def test_a_name_that_means_memory_to_sqlite_is_a_file_to_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: Make
) -> None:
    monkeypatch.chdir(tmp_path)
    with StoreFile(":memory:", create=True) as file:
        file.write([letter(id="one")])

    with StoreFile(tmp_path / ":memory:") as file:
        assert file.get("one") is not None


def test_a_commit_is_flushed_to_the_disk(file: StoreFile) -> None:
    assert (value(file._db, "journal_mode"), value(file._db, "synchronous")) == ("wal", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"error": "lone \ud800 surrogate"},
        {"source": ("not", "text")},
        {"attempts": 2**70},
        {"headers": {"x": b"bytes"}},
        {"body": bytes(200_000)},
    ],
    ids=["bad text", "wrong type", "huge number", "odd header", "too big"],
)
def test_a_letter_that_cannot_be_written_is_kept_without_payload_beside_the_others(
    file: StoreFile, letter: Make, changes: dict[str, object]
) -> None:
    file._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    before, bad, after = letter(), letter(**changes), letter()

    assert file.write([before, bad, after]) == 1

    kept = file.get(bad.id)
    assert kept is not None
    assert (kept.body, kept.headers, kept.pattern) == (None, {}, "orders.created")
    assert kept.note.startswith("kept without payload, it could not be written: ")
    assert [file.get(before.id), file.get(after.id)] == [before, after]


def test_a_failing_write_names_the_file_and_leaves_no_half_of_it(path: Path, letter: Make) -> None:
    with StoreFile(path, create=True, max_bytes=65_536) as file:
        with pytest.raises(OSError, match=r"letters\.db: database or disk is full"):
            file.write([letter(body=bytes(1000)) for _ in range(100)])

        assert file.find() == []


def test_a_lock_held_by_another_process_is_named(file: StoreFile, path: Path, letter: Make) -> None:
    with StoreFile(path, lock_timeout=0.01) as other, file._transaction():
        with pytest.raises(OSError, match=r"letters\.db: database is locked\. Another process is"):
            other.write([letter()])


def test_a_replay_left_by_an_ended_process_is_asked_for_again(
    file: StoreFile, letter: Make
) -> None:
    file.write([letter(id="one", status="replaying")])

    assert file.recover() == 1

    assert [taken.id for taken in file.take_replays()] == ["one"]


def test_a_letter_that_ends_three_processes_in_a_row_goes_back_to_the_dead(
    file: StoreFile, letter: Make
) -> None:
    file.write([letter(id="killer", status="replaying")])
    for _ in range(2):
        file.recover()
        file.take_replays()

    assert file.recover() == 0

    [record] = file.find("dead")
    assert record.note == "the process ended during this replay, 3 times in a row"


def test_a_person_may_ask_for_such_a_letter_again(file: StoreFile, letter: Make) -> None:
    file.write([letter(id="killer", status="replaying")])
    for _ in range(3):
        file.recover()
        file.take_replays()

    file.request_replay(["killer"])
    file.take_replays()

    assert file.recover() == 1


# -- forgetting -------------------------------------------------------------------------

STATES = ["dead", "replay-asked", "replaying", "replayed", "discarded"]


def test_purging_deletes_only_old_letters_that_are_settled(file: StoreFile, letter: Make) -> None:
    file.write([letter(id=f"old {status}", status=status, at=10.0) for status in STATES])
    file.write([letter(id="new replayed", status="replayed", at=20.0)])

    assert file.purge(before=20.0) == 2

    left = {record.id for record in file.find()}
    assert left == {"old dead", "old replay-asked", "old replaying", "new replayed"}


@pytest.mark.parametrize("end", ["replayed", "discarded"])
def test_a_letter_is_kept_for_its_time_after_it_was_settled_however_old_it_is(
    file: StoreFile, letter: Make, end: str
) -> None:
    file.write([letter(id="old", at=10.0)])
    before = time.time()
    if end == "replayed":
        file.request_replay(["old"])
        file.take_replays()
        file.finish_replay("old", replayed=True, note="")
    else:
        file.discard(["old"])

    assert file.purge(before) == 0
    assert file.purge(time.time() + 1) == 1


def test_a_replay_that_failed_waits_for_somebody_again(file: StoreFile, letter: Make) -> None:
    file.write([letter(id="old", at=10.0, status="replaying")])
    file.finish_replay("old", replayed=False, note="")

    assert file.purge(before=math.inf) == 0


def test_purging_takes_the_oldest_first_and_no_more_than_it_is_told(
    file: StoreFile, letter: Make
) -> None:
    file.write([letter(id=f"at {at}", status="replayed", at=float(at)) for at in (3, 1, 2)])

    assert file.purge(before=math.inf, limit=2) == 2

    assert [record.id for record in file.find()] == ["at 3"]


# -- other versions, broken files -------------------------------------------------------


def test_a_file_of_the_first_version_is_brought_up_and_keeps_its_letters(
    path: Path, letter: Make
) -> None:
    letters = [letter(id=status, status=status, at=10.0) for status in STATES]
    with StoreFile(path, create=True) as file:
        file.write(letters)
    run_sql(path, "DROP INDEX dead_letter_settled")
    run_sql(path, "ALTER TABLE dead_letter DROP COLUMN settled_at")
    run_sql(path, "PRAGMA user_version=1")

    with StoreFile(path) as file:
        assert sorted(file.find(), key=lambda one: STATES.index(one.status)) == letters
        # When they were settled nobody knows: their time begins now.
        assert file.purge(before=time.time() - 3600) == 0
        assert file.purge(before=math.inf) == 2


def test_a_file_that_cannot_be_created_is_said_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)

    with pytest.raises(OSError, match=r"letters\.db: cannot be created: Permission denied\. Give"):
        StoreFile(path, create=True)


def test_a_damaged_letter_is_named_and_can_be_discarded(file: StoreFile, letter: Make) -> None:
    file.write([letter(id="broken"), letter(id="whole")])
    file._db.execute("UPDATE dead_letter SET headers = '{' WHERE id = 'broken'")

    with pytest.raises(OSError, match=r"the headers of the letter broken are damaged .*Discard it"):
        file.get("broken")

    assert file.discard(["broken"]) == 1
    assert file.find("dead") == [file.get("whole")]


@given(st.data())
def test_of_a_file_full_of_garbage_every_error_names_the_file(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "letters.db"
        with StoreFile(path, create=True) as file:
            file.write([letter_of(f"{number:04}") for number in range(8)])
        garbage = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(garbage) - 1))
            piece = data.draw(st.binary(min_size=1, max_size=300))
            garbage[at : at + len(piece)] = piece
        path.write_bytes(garbage)

        error = failure_of(path)

        assert error is None or str(path) in str(error)


def failure_of(path: Path) -> Exception | None:
    try:
        use(path)
    except (OSError, DeclarationError) as error:
        return error
    return None


def use(path: Path) -> None:
    with StoreFile(path) as file:
        file.recover()
        file.find()
        file.request_replay(None)
        for taken in file.take_replays():
            file.finish_replay(taken.id, replayed=True, note="")
        file.discard(["0001"])
        file.purge(before=math.inf)
        file.write([letter_of("one more")])


def test_a_store_made_under_a_loose_umask_is_private(path: Path) -> None:
    before = os.umask(0)
    try:
        StoreFile(path, create=True).close()
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600
