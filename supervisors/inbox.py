"""A supervisor's inbox: what happened and what is wanted, in order.

Filled from anywhere, taken by the supervisor's one loop. While that waits for one
particular thing, everything else keeps its turn.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import attrs
import trio

from ..actors.incarnation import Ending
from .running_child import Child, State

__all__ = ["Command", "Due", "End", "Inbox", "Wake"]


@attrs.frozen(eq=False)
class Due:
    """A delay before a restart is over."""

    child: Child
    number: int
    group: tuple[Child, ...]


@attrs.frozen(eq=False)
class End:
    """An incarnation of a child ended by itself, or its restart failed."""

    child: Child
    number: int
    ending: Ending
    expected: State


class Command:
    """Something another task asks of the supervisor, and waits for.

    If that task is cancelled before its turn comes, nothing is done; what has begun by
    then is completed.
    """

    def __init__(self, run: Callable[[], Awaitable[None]]) -> None:
        self.run = run
        self.wanted = True
        self._error: BaseException | None = None
        self._finished = trio.Event()

    def done(self, error: BaseException | None) -> None:
        self._error = error
        self._finished.set()

    async def wait(self) -> None:
        """Return when it is done; raises what it raised."""
        try:
            await self._finished.wait()
        finally:
            self.wanted = False
        if self._error is not None:
            raise self._error


class Wake:
    """Look at the flags: a stop was asked for, or a cancellation came from outside."""


class Inbox:
    """Events of one supervisor; one task takes them."""

    __slots__ = ("_changed", "_events")

    def __init__(self) -> None:
        self._events: deque[object] = deque()
        self._changed = trio.Event()

    def post(self, event: object) -> None:
        self._events.append(event)
        self._changed.set()

    def wake(self) -> None:
        """Something that `until` may be waiting for has changed."""
        self._changed.set()

    async def next(self) -> object:
        while not self._events:
            await self._change()
        return self._events.popleft()

    async def until(self, happened: Callable[[], bool], limit: float) -> None:
        """Wait for `happened`, at most `limit` seconds, and take nothing meanwhile."""
        if limit == math.inf:
            while not happened():
                await self._change()
            return
        with trio.move_on_after(limit):
            while not happened():
                await self._change()

    def clear(self) -> Iterator[object]:
        """Take everything that is left."""
        while self._events:
            yield self._events.popleft()

    async def _change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()
