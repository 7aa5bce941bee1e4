"""What found no room in an inlet at first: handed on in the order in which it came.

When very much waits, nothing more is read: mosquitto 2.0 sends all that a resumed session has
waiting at once, whatever credit it was given.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ...actors.asyncio_queues import Inlet

__all__ = ["Held"]

T = TypeVar("T")


class Held(Generic[T]):
    """Before an inlet, on the loop, as long as the inlet; full with `most` messages.

    It is emptied while a session lives: what is handled without one cannot be acknowledged.
    """

    def __init__(self, inlet: Inlet[T], most: int) -> None:
        self._inlet = inlet
        self._most = most
        self._full: Callable[[bool], object] = bool
        self._is_full = False
        self._items: deque[T] = deque()
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def give(self, item: T) -> None:
        """Hand `item` over now, if there is room, or else later."""
        if self._items or not self._inlet.offer(item):
            self._items.append(item)
            self._some.set()
            if len(self._items) >= self._most and not self._is_full:
                self._is_full = True
                self._full(True)

    async def feed(self, full: Callable[[bool], object]) -> None:
        """Hand on what waits, for as long as a session lives.

        `full(True)` is called when very much waits, `full(False)` when it is little again.
        """
        self._full = full
        if self._is_full:
            full(True)
        while True:
            await self._some.wait()
            while self._items:
                await self._inlet.put(self._items[0])
                self._items.popleft()
                if self._is_full and len(self._items) < self._most // 2:
                    self._is_full = False
                    self._full(False)
            self._some.clear()
