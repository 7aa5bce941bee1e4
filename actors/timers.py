"""One clock for everything that waits: ask deadlines, retries, back-offs.

A cancel scope per ask would cost more than the ask (about 2 µs against 2 µs), so
waiting asks are listed here and one task sweeps them. Time is trio's, so that
virtual clocks move all of it.

Invariant: nothing fires early; a deadline fires at most `GRAIN` seconds late
while many of them expire one after the other, and on time when it stands alone.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Protocol

import trio

__all__ = ["Expiring", "Timer", "Timers"]

GRAIN = 0.01
"""Seconds between two sweeps of the waiting asks: a sweep looks at each of them."""


class Expiring(Protocol):
    """Something that waits until `deadline` (trio time) at the latest."""

    @property
    def deadline(self) -> float: ...

    def expire(self) -> None: ...


class Timer:
    """A call planned for `when` (trio time); `cancel` forgets it."""

    __slots__ = ("function", "when")

    def __init__(self, when: float, function: Callable[[], None]) -> None:
        self.when = when
        self.function: Callable[[], None] | None = function

    def cancel(self) -> None:
        self.function = None


class Timers:
    """Fires planned calls and expires waiting asks; `run` is its one task."""

    def __init__(self) -> None:
        # The clock itself once it is known: half the price of `trio.current_time`.
        self.now: Callable[[], float] = trio.current_time
        # A dict, not a set: expiry in the order of asking keeps runs repeatable.
        self.waiting: dict[Expiring, None] = {}
        self._planned: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._scope = trio.CancelScope()
        self._wake_at = -math.inf
        self.next_sweep = math.inf

    def call_at(self, when: float, function: Callable[[], None]) -> Timer:
        """Call `function` at `when`, in the timers' own task; it must not raise or block."""
        timer = Timer(when, function)
        heapq.heappush(self._planned, (when, next(self._order), timer))
        self._wake_by(when)
        return timer

    def watch(self, waiting: Expiring) -> None:
        """Expire `waiting` at its deadline, unless it is taken out of `self.waiting` before."""
        self.waiting[waiting] = None
        if waiting.deadline < self.next_sweep:
            self.sweep_by(waiting.deadline)

    def sweep_by(self, deadline: float) -> None:
        """Look for expired ones at `deadline`, or before."""
        self.next_sweep = deadline
        self._wake_by(deadline)

    async def run(self) -> None:
        """Sleep and fire until cancelled."""
        self.now = trio.lowlevel.current_clock().current_time
        while True:
            now = trio.current_time()
            self._fire(now)
            if self.next_sweep <= now:
                self._sweep(now)
            planned = self._planned[0][0] if self._planned else math.inf
            self._wake_at = min(planned, self.next_sweep)
            with trio.CancelScope(deadline=self._wake_at) as self._scope:
                await trio.sleep_forever()
            self._wake_at = -math.inf

    def _wake_by(self, when: float) -> None:
        if when < self._wake_at:
            self._wake_at = when
            self._scope.deadline = when

    def _fire(self, now: float) -> None:
        while self._planned and self._planned[0][0] <= now:
            timer = heapq.heappop(self._planned)[2]
            if timer.function is not None:
                timer.function()

    def _sweep(self, now: float) -> None:
        following = math.inf
        for waiting in list(self.waiting):
            if waiting.deadline <= now:
                self.waiting.pop(waiting, None)
                waiting.expire()
            elif waiting.deadline < following:
                following = waiting.deadline
        self.next_sweep = max(following, now + GRAIN)
