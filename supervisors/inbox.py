"""A supervisor's inbox: what happened and what is wanted, in order.

Filled from anywhere, taken by the supervisor's one loop. While that waits for one
particular thing, everything else keeps its turn.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

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


@attrs.frozen(eq=False)
class Command:
    """Something another task asks of the supervisor; it waits for `done`."""

    run: Callable[[], Any]
    done: Callable[[BaseException | None], None]


class Wake:
    """Look at the flags: a stop was asked for, or a cancellation came from outside."""


class Inbox:
    """Events of one supervisor; one task takes them."""

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
