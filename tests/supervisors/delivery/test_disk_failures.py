"""A disk that is full or broken for a while: said, waited for, and nothing acknowledged."""

import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from understudy.supervisors.delivery.store_file import StoreFile

from .letter_office import BACKLOG, CAPACITY
from .letter_writer import letter_of
from .strace import ROOT, program, strace

EVENTS: Final = 40
LET_IN_AT_MOST: Final = BACKLOG + CAPACITY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.db"


def office(path: Path, *more: str) -> list[str]:
    return program("letter_office", str(path), str(EVENTS), *more)


@attrs.frozen
class Trouble:
    """What an office said before, during and after its alarm."""

    before: list[str]
    why: str
    during: list[str]
    after: list[str]


def trouble(said: list[str]) -> Trouble:
    begin = next(index for index, line in enumerate(said) if line.startswith("alarm "))
    end = said.index("alarm over")
    why = said[begin].removeprefix("alarm ")
    return Trouble(said[:begin], why, said[begin + 1 : end], said[end + 1 :])


def check(path: Path, told: Trouble) -> None:
    """Nothing was acknowledged meanwhile, intake paused, and all letters are there after."""
    assert [line for line in told.during if line.startswith("stored ")] == []
    let_in = sum(line.startswith("in ") for line in told.before + told.during)
    acknowledged = sum(line.startswith("stored ") for line in told.before)
    assert let_in - acknowledged <= LET_IN_AT_MOST
    everything = [f"{number:04}" for number in range(EVENTS)]
    said = [*told.before, *told.after]
    assert [line.split()[1] for line in said if line.startswith("stored ")] == everything
    assert said[-1] == "done"
    with StoreFile(path) as file:
        assert file.find() == [letter_of(id) for id in everything]


FAULTS = {
    "no space": ("pwrite64:error=ENOSPC", "database or disk is full. Make room on the disk"),
    "no space in the midst of a commit": ("pwrite64:error=ENOSPC", "database or disk is full"),
    "a failing write": ("pwrite64:error=EIO", "disk I/O error. Look for the disk's errors"),
    "a failing flush": ("fdatasync:error=EIO", "disk I/O error. Look for the disk's errors"),
}
WHEN = {"no space in the midst of a commit": "53..56", "a failing flush": "8..11"}


@pytest.mark.parametrize("fault", FAULTS)
def test_while_writing_fails_intake_pauses_and_goes_on_afterwards(path: Path, fault: str) -> None:
    call, why = FAULTS[fault]
    inject = f"inject={call}:when={WHEN.get(fault, '50..53')}"
    command = [*strace(path, "-e", f"trace={call.split(':')[0]}", "-e", inject), *office(path)]

    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)

    told = trouble(ended.stdout.splitlines())
    assert why in told.why
    assert str(path) in told.why
    assert "paused" in told.during
    check(path, told)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def until_paused(process: subprocess.Popen[str]) -> list[str]:
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line.strip())
        if line == "paused\n" and any(re.match("alarm /", earlier) for earlier in said):
            return said
    pytest.fail(f"the office never paused: {said}")


def test_a_file_that_may_not_grow_pauses_intake_until_it_may(path: Path) -> None:
    with running(office(path, "150000")) as process:
        said = until_paused(process)
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert process.stdout is not None
        said += process.stdout.read().splitlines()

    told = trouble(said)
    assert "disk I/O error. Look for the disk's errors" in told.why
    check(path, told)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, two megabytes in size; only some users may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command, so that no disk can be filled")
    if made.returncode:
        # The same with a limit on file sizes, above, runs everywhere.
        pytest.skip(f"no file system may be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_pauses_intake_until_there_is_room(small_disk: Path) -> None:
    path, filler = small_disk / "letters.db", small_disk / "filler"
    filler.write_bytes(bytes(1_900_000))

    with running(office(path)) as process:
        said = until_paused(process)
        filler.unlink()
        assert process.stdout is not None
        said += process.stdout.read().splitlines()

    told = trouble(said)
    assert "database or disk is full. Make room on the disk" in told.why
    check(path, told)
