"""The store under `kill -9` at every call that writes: what it confirmed is there, once."""

import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Final

import attrs
import pytest

from understudy.supervisors.delivery.store_file import StoreFile
from understudy.supervisors.delivery.store_schema import value

from .letter_writer import CALLS, letter_of
from .strace import ROOT, program, strace, writer

PROVE: Final = os.environ.get("HYPOTHESIS_PROFILE") == "prove"
BURSTS: Final = 4 if PROVE else 1
MOST: Final = 600 if PROVE else 200
WRITES: Final = ("pwrite64", "fdatasync", "ftruncate", "unlink", "openat")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "letters.db"


def check(path: Path, said: list[str]) -> None:
    """Every promise is kept, every letter whole, and the store works on."""
    with StoreFile(path, create=True) as file:
        found = {record.id: record for record in file.find(limit=1_000_000)}
        status = dict(line.split()[::-1] for line in said if line != "done")
        assert status.keys() <= found.keys()
        for id, last_word in status.items():
            # What comes after "stored" may have been written and not said.
            assert last_word == "stored" or found[id].status == last_word
        for id, record in found.items():
            whole = attrs.evolve(record, status="dead", replays=0, note="")
            assert whole == letter_of(id)
        assert value(file._db, "integrity_check") == "ok"
        file.write([letter_of("one more")])
        assert file.get("one more") == letter_of("one more")
    assert path.stat().st_mode & 0o777 == 0o600


def kill_everywhere(path: Path, call: str, before: Path | None = None) -> int:
    """Kill a writer at its first call, its second, ... until one ends by itself; how many."""
    folder = path.parent
    with writer(path, bursts=BURSTS, call=call, most=MOST) as writing:
        for number in range(1, MOST):
            for old in folder.glob("letters.db*"):
                old.unlink()
            if before is not None:
                shutil.copytree(before, folder, dirs_exist_ok=True)
            said, code = writing.run(number)
            check(path, said)
            if code == 0:
                assert said[-1] == "done"
                return number - 1
            assert code == -signal.SIGKILL
    pytest.fail(f"{call} was called more often than {MOST} times.")


@pytest.mark.parametrize("call", CALLS if PROVE else WRITES)
def test_a_writer_killed_at_any_call_has_kept_what_it_confirmed(path: Path, call: str) -> None:
    assert kill_everywhere(path, call) > 2


@pytest.fixture(params=["a log to recover", "an older version"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a store that takes work to open."""
    folder = tmp_path / "before"
    folder.mkdir()
    if request.param == "an older version":
        make_old_store(folder / "letters.db")
    else:
        with writer(folder / "letters.db", bursts=1, call="fdatasync", most=MOST) as writing:
            _, code = writing.run(12)
            assert code == -signal.SIGKILL
        assert (folder / "letters.db-wal").stat().st_size > 0
    return folder


@pytest.mark.parametrize("call", CALLS if PROVE else ["fdatasync", "ftruncate", "unlink"])
def test_a_writer_killed_while_it_opens_or_goes_on_loses_nothing_either(
    path: Path, before: Path, call: str
) -> None:
    assert kill_everywhere(path, call, before) > 0


def test_a_letter_is_confirmed_only_when_its_log_is_flushed(path: Path) -> None:
    """What a kill cannot show: the bytes would outlive the process, but not a power cut."""
    said = path.parent / "said"
    calls = ["-y", "-e", "trace=pwrite64,fdatasync,write", "-P", str(said)]
    command = strace(path, *calls) + program("letter_writer", str(path), "2", "fdatasync", "0")
    with said.open("w") as stdout:
        subprocess.run(command, input="0\n", stdout=stdout, text=True, check=True, cwd=ROOT)

    flushed, confirmed = False, 0
    for line in (path.parent / "strace.txt").read_text().splitlines():
        if "pwrite64" in line and "letters.db-wal>" in line:
            flushed = False
        elif "fdatasync" in line and "letters.db-wal>" in line:
            flushed = True
        elif "write(1<" in line and "stored" in line:
            assert flushed
            confirmed += 1
    assert confirmed == 6


def make_old_store(path: Path) -> None:
    """A store as the first version left it, with one letter discarded."""
    with StoreFile(path, create=True) as file:
        file.write([letter_of("0001a"), letter_of("0001b")])
        file.discard(["0001b"])
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX dead_letter_settled")
    connection.execute("ALTER TABLE dead_letter DROP COLUMN settled_at")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()
    path.chmod(0o600)
