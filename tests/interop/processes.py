"""Programs that the interop tests run beside themselves: NestJS peers, and our own."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from ..missing import missing

__all__ = ["INTEROP", "PEERS", "Program", "call", "free_port", "nest_folder", "started"]

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = ROOT / "tests" / "peers" / "nest"
INTEROP: Final = [sys.executable, str(ROOT / "examples" / "interop.py")]


@attrs.frozen
class Program:
    """A service that has said it is ready; `said` is what it printed before that."""

    process: subprocess.Popen[str]
    said: list[str]


def nest_folder() -> Path:
    """The folder of the NestJS peers, with its packages installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("node and npm are not installed, so that no NestJS peer can run")
    # npm writes the second file last, so an older one is from before the list was changed.
    asked, installed = PEERS / "package-lock.json", PEERS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < asked.stat().st_mtime:
        subprocess.run(["npm", "ci"], cwd=PEERS, check=True, timeout=240)
    return PEERS


@contextmanager
def started(command: list[str], log: Path) -> Iterator[Program]:
    """Run a service from when it is ready until SIGTERM, which must end it with 0."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    with process:
        try:
            yield Program(process, _until_ready(process, log))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert code == 0, f"{command} ended with {code}: {log.read_text()}"


def _until_ready(process: subprocess.Popen[str], log: Path) -> list[str]:
    said: list[str] = []
    for line in process.stdout or ():
        if line == "ready\n":
            return said
        said.append(line.strip())
    pytest.fail(f"{process.args!r} ended before it was ready: {log.read_text()}")


def call(command: list[str], cwd: Path = ROOT) -> tuple[int, list[dict[str, Any]]]:
    """Run a client to its end: its exit code, and its cases."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    # Not `splitlines`: node leaves U+2028 in its JSON, which that takes for the end of a line.
    cases = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert cases, f"{command} ran no case: {done.stderr}"
    return done.returncode, cases


def free_port() -> int:
    """A TCP port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
