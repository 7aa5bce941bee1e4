"""Sending lanes that have nothing to do to sleep.

A parked lane keeps a task, whose stack takes several kilobytes; to begin another one
costs some microseconds. So a lane that has been idle for a while ends its task, and its
actor sleeps until there is mail (cell.py). Nobody has a timer of its own for that: lanes
that went idle stand on one list, and a look at it from time to time finds those that
have not moved since the look before.

Nothing looks while nobody is listed.
"""

from typing import Final, Protocol

from .timers import Timers

__all__ = ["LOOK", "Resting", "Rests"]

LOOK: Final = 10.0
"""Seconds between two looks: an idle lane sleeps after one to two of them."""


class Resting(Protocol):
    """A lane, as this list sees it. `touched` is set whenever it goes idle."""

    touched: bool
    listed: bool

    def rest(self) -> None:
        """It has been idle since the look before; end its task if nothing speaks against it."""


class Rests:
    """The lanes of one system that may be idle."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lanes: list[Resting] = []
        self._planned = False

    def add(self, lane: Resting) -> None:
        """List a lane that has just gone idle."""
        lane.listed = True
        self._lanes.append(lane)
        if not self._planned:
            self._plan()

    def _plan(self) -> None:
        self._planned = True
        self._timers.call_at(self._timers.now() + LOOK, self._look)

    def _look(self) -> None:
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            if lane.touched:
                lane.touched = False
                self._lanes.append(lane)
            else:
                lane.listed = False
                lane.rest()
        self._planned = False
        if self._lanes:
            self._plan()
