"""Measurements in processes of their own: what one leaves in the memory meets no other.

A worker is a module of this package started with `--worker`; it prints one line of JSON
for each reading. `reading` takes one reading from a fresh process, `Worker` keeps a
process that takes one whenever it is asked, so that trees of several sizes stand side by
side and are measured in turns.

Invariant: a worker ends with its parent (its standard input closes), or at its limit.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["Worker", "reading"]

_ROOT = Path(__file__).parent.parent


def reading(module: str, *arguments: str, limit: float) -> dict[str, float] | None:
    """What a fresh process reads; None if it took more than `limit` seconds.

    Raises `SystemExit` if the worker failed; its own words are on the terminal.
    """
    command = _command(module, *arguments)
    try:
        done = subprocess.run(
            command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}.")
    found: dict[str, float] = json.loads(done.stdout)
    return found


class Worker:
    """A process that reads when it is asked to; a context manager that ends it."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join([module, *arguments])
        self._process = subprocess.Popen(
            _command(module, *arguments),
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, question: str) -> Any:
        """One reading: what the worker prints next. Raises `SystemExit` if it has ended."""
        # Both are pipes, since they were asked for.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended before it answered {question!r}.")
        return json.loads(line)


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{module}", "--worker", *arguments]
