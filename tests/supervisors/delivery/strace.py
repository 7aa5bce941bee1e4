"""Running our programs under `strace`, which kills them at a system call or makes it fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from ...missing import missing
from .letter_writer import OTHER_FILE

__all__ = ["ROOT", "Writer", "program", "strace", "writer"]

ROOT: Final = Path(__file__).parents[3]


def strace(path: Path, *options: str) -> list[str]:
    """The command, so that it sees nothing but what is done to the store at `path`."""
    _needed()
    files = [f"{path}{end}" for end in ("", "-wal", "-shm", "-journal")]
    seen = [option for file in files for option in ("-P", file)]
    return ["strace", "-f", "-qq", "-o", str(path.parent / "strace.txt"), *seen, *options]


def program(name: str, *arguments: str) -> list[str]:
    """The command for one of the programs beside this file; to be run in `ROOT`."""
    return [sys.executable, "-m", f"tests.supervisors.delivery.{name}", *arguments]


@attrs.frozen
class Writer:
    """`letter_writer.py`, ready to be killed at a call."""

    process: subprocess.Popen[str]

    def run(self, number: int) -> tuple[list[str], int]:
        """What a child said until it was killed at its call `number`, and its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        said: list[str] = []
        for line in self.process.stdout:
            if line.startswith("ended "):
                return said, int(line.split()[1])
            said.append(line.strip())
        pytest.fail(f"{self.process.args!r} has ended.")


@contextmanager
def writer(path: Path, *, bursts: int, call: str, most: int) -> Iterator[Writer]:
    """A writer whose children can be killed at each of their first `most` calls of a kind."""
    other = ["-P", OTHER_FILE, "-P", str(path.parent / OTHER_FILE), "-P", "no-such-file"]
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={most}"]
    command = [*strace(path, *other, *inject)]
    command += program("letter_writer", str(path), str(bursts), call, str(most))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield Writer(process)
        finally:
            process.stdin.close()
            process.wait(timeout=30)


def _needed() -> None:
    why = _why_not()
    if why:
        missing(why)


def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed, so that no system call can be made to fail"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace may not be used here: {tried.stderr.strip()}" if tried.returncode else ""
