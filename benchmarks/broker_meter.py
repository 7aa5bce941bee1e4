"""What every consumer of the broker benchmarks does, whoever it belongs to: the pattern, the count.

A consumer is a process that prints `ready`, counts the events that its handler was given,
prints `warm` when those of the warm-up have come and one line of JSON when all have: seconds
and CPU seconds between the first event after the warm-up and the last. The clock is the
consumer's own, so its start is not measured.

Invariant: a consumer ends with its parent, whose end closes its standard input.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["EVENT", "GROUP", "IN_HAND", "REQUEST", "Meter", "end_with_parent", "ready"]

EVENT = "bench.created"
REQUEST = "orders.place"
GROUP = "bench"
"""The group of a Redis stream, and the durable consumer of JetStream."""
IN_HAND = 256
"""Messages that are received and not acknowledged at most: the default of our bridges."""


class Meter:
    """Counts events; `full` is called when the last has come."""

    def __init__(self, warmup: int, messages: int, full: Callable[[], object]) -> None:
        self._count = 0
        self._first, self._last = warmup + 1, warmup + messages
        self._full = full
        self._began = self._cpu = 0.0
        self._found: dict[str, float] = {}

    def count(self) -> None:
        """An event was handled."""
        self._count += 1
        if self._count == self._first - 1:
            print("warm", flush=True)
        elif self._count == self._first:
            self._began, self._cpu = time.perf_counter(), time.process_time()
        elif self._count == self._last:
            seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
            self._found = {"seconds": seconds, "cpu": cpu}
            self._full()

    def tell(self) -> None:
        """Print what was measured: last of all, when everything is acknowledged."""
        print(json.dumps(self._found), flush=True)


def ready() -> None:
    """Tell the parent that events may come."""
    print("ready", flush=True)


def end_with_parent() -> None:
    """Have this process end when its standard input does."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
