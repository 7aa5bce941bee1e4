"""`understudy run --reload`: the service in a process of its own, begun again on changes.

A change stops the service in order and starts it anew. One that cannot start (a mistake in
a file, say) or that ends by itself is not begun again before the next change.

The service has a process group of its own, so that a Ctrl-C reaches it once, through this
process: every signal is passed on, and the service counts them as ever.
"""

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from ..actors.errors import DeclarationError

__all__ = ["run_again"]

LOOK: Final = 200
"""Milliseconds between two looks at what has changed; the library's own 5000 delay the end."""

GRACE: Final = 10.0
"""Seconds beyond its drain before a service that does not end is killed."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_again(arguments: argparse.Namespace) -> int:
    """Run the service until a signal ends it. Raises `DeclarationError`, also without watchfiles.

    Returns the exit code of the last service.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415
    except ImportError as error:
        raise DeclarationError(
            "--reload needs watchfiles, which is not installed: pip install 'understudy[reload]'"
        ) from error
    folders = [Path(folder) for folder in arguments.reload_dir] or [Path.cwd()]
    for folder in folders:
        if not folder.is_dir():
            raise DeclarationError(f"--reload-dir {folder}: there is no such folder.")
    service = _Service(_command(arguments), arguments.drain + GRACE)
    with service.receiving():
        service.start()
        for changes in watch(
            *folders,
            watch_filter=PythonFilter(),
            stop_event=service.over,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if service.over.is_set():
                break
            if changes:
                _say(f"{_named(sorted(path for _, path in changes))} changed, starting again")
                service.stop()
                service.start()
            elif service.has_ended():
                _say(f"the service has ended (exit code {service.code}); waiting for a change")
        return service.ended()


class _Service:
    """The process of the service, one after the other."""

    def __init__(self, command: list[str], patience: float) -> None:
        self.over = threading.Event()
        """Set by the first signal: nothing is started any more."""
        self.code = 0
        self._command = command
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if not self.over.is_set():
            # The pipe is its leash: see `leash.py`.
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, process_group=0)
            if self.over.is_set():  # a signal that came just now has found nobody
                self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it in order, or by force if that takes too long."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._wait(self._process)

    def has_ended(self) -> bool:
        """Whether it has ended since the last look; `code` is then its exit code."""
        if self._process is None or self._process.poll() is None:
            return False
        self._forget(self._process)
        return True

    def ended(self) -> int:
        """Wait for its end after a signal; returns the exit code."""
        if self._process is not None:
            self._wait(self._process)
        return self.code

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            process.wait(self._patience)
        except subprocess.TimeoutExpired:
            _say("the service does not end; it is killed")
            process.kill()
            process.wait()
        self._forget(process)

    def _forget(self, process: "subprocess.Popen[bytes]") -> None:
        self.code = process.returncode
        if process.stdin is not None:
            process.stdin.close()
        self._process = None

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Pass signals on, and kill what is left if this process fails."""
        before = {number: signal.signal(number, self._received) for number in _SIGNALS}
        try:
            yield
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._forget(self._process)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.over.set()
        if self._process is not None:
            self._process.send_signal(number)


def _command(arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", f"{__package__}.leash", "run", arguments.tree]
    command += ["--drain", str(arguments.drain)]
    for option in ("dead_letters", "control", "log_format"):
        value = getattr(arguments, option)
        if value is not None:
            command += [f"--{option.replace('_', '-')}", value]
    return command


def _named(paths: list[str]) -> str:
    names = [Path(path).name for path in paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _say(text: str) -> None:
    print(f"understudy: {text}", file=sys.stderr, flush=True)
