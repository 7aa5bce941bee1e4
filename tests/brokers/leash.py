"""Processes on a leash: each leads a group of its own, and none outlives the tests.

Owns the start and the end of a process, and the guardian, one for the whole run, that
ends what is left if the tests are killed (`guardian.py`). Does not own what the process
says or when it is ready.

Invariant: a process is watched by the guardian from its start until it is reaped.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["Leash"]

GUARDIAN: Final = Path(__file__).with_name("guardian.py")
_lock: Final = threading.Lock()


class Leash:
    """One running process with its group, from `start` on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        _tell_guardian("watch", process.pid)

    @classmethod
    def start(cls, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> "Leash":
        """Start a program with no input, whose words go to the end of a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=log.parent,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id, which is the id of its group as well."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.poll()

    def freeze(self) -> None:
        """Stop the group where it stands; back once its leader has stopped."""
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def terminate(self, timeout: float) -> None:
        """Ask for an orderly end; raises `subprocess.TimeoutExpired`, and kills, if it is late."""
        try:
            with suppress(ProcessLookupError):
                # A frozen process would not notice the request.
                os.killpg(self.pid, signal.SIGCONT)
                os.kill(self.pid, signal.SIGTERM)
            self._process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the whole group as power would; back once the leader is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        _tell_guardian("forget", self.pid)


def _tell_guardian(word: str, group: int) -> None:
    with _lock:
        pipe = _guardian().stdin
        if pipe is None:
            raise RuntimeError("the guardian of the tests' brokers was started without a pipe")
        pipe.write(f"{word} {group}\n")
        pipe.flush()


@cache
def _guardian() -> subprocess.Popen[str]:
    """The guardian, in a session of its own, so that a Ctrl-C in the terminal spares it."""
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARDIAN)],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Closes its input and waits for it: the ordinary end of a run.
    atexit.register(guardian.communicate)
    return guardian
