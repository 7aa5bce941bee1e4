"""Streams of messages between trio and an asyncio loop, in bursts.

A deque each way and one wake-up per burst, because waking the other thread costs more than
handling a message. An inlet is bounded, and who fills it waits on the loop.

Invariant: whoever empties a deque first lowers the flag that says that it waits, and looks
again; whoever fills it looks at the flag last. So no wake-up is lost.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule

from .asyncio_thread import AsyncioThread
from .errors import AsyncioThreadEnded

__all__ = ["Inlet", "Outlet"]

T = TypeVar("T")


class Inlet(Generic[T]):
    """Messages from the loop to one trio task; it may hold `capacity` of them."""

    def __init__(self, thread: AsyncioThread, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self._thread = thread
        self._items: deque[T] = deque()
        self._reader: trio.lowlevel.Task | None = None
        self._parked = False
        self._writers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    # on the loop

    def offer(self, item: T) -> bool:
        """Hand `item` over if there is room; False if there is none, or nobody reads any more."""
        if len(self._items) >= self.capacity or self.closed:
            return False
        self._items.append(item)
        if self._parked:
            self._parked = False
            self._thread.back(self._wake)
        return True

    async def put(self, item: T) -> bool:
        """Hand `item` over, waiting for room; False if nobody reads any more."""
        while not self.offer(item):
            if self.closed:
                return False
            room = self._thread.loop.create_future()
            self._writers.append(room)
            try:
                if len(self._items) >= self.capacity and not self.closed:
                    await room
            finally:
                with suppress(ValueError):  # as a rule it was taken out to be let in
                    self._writers.remove(room)
        return True

    # in trio

    async def burst(self) -> list[T]:
        """All that has come, at least one item; for one task only.

        Raises `AsyncioThreadEnded` once the loop has ended and all was taken.
        """
        await trio.lowlevel.checkpoint()
        while not self._items:
            self._parked = True
            if self._items:
                self._parked = False
                break
            self._thread.waits(self)
            self._reader = current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        items = self._items
        burst = [items.popleft() for _ in range(len(items))]
        if self._writers:
            self._let_in()
        return burst

    def close(self) -> None:
        """Nobody reads any more: who waits for room is let go, with what it has in hand."""
        self.closed = True
        self._let_in()

    def lost(self) -> None:
        self._wake()  # and finds that the loop is over

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._thread.waits_no_more(self)
            reschedule(reader)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._thread.waits_no_more(self)
        self._reader = None
        self._parked = False
        return Abort.SUCCEEDED

    def _let_in(self) -> None:
        with suppress(AsyncioThreadEnded):  # then nobody waits there either
            self._thread.soon(self._make_way)

    def _make_way(self) -> None:
        while self._writers:
            room = self._writers.popleft()
            if not room.done():
                room.set_result(None)


class Outlet(Generic[T]):
    """Messages from trio to one task of the loop.

    Not bounded itself: what is sent here answers what came in through something bounded.
    """

    def __init__(self, thread: AsyncioThread) -> None:
        self._thread = thread
        self._items: deque[T] = deque()
        self._closed = False
        self._parked = False
        self._reader: asyncio.Future[None] | None = None
        self._emptied: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._items)

    # in trio

    def send(self, item: T) -> None:
        """Hand `item` over. Raises `AsyncioThreadEnded` if there is no loop any more."""
        if not self._thread.alive:
            raise AsyncioThreadEnded(self._thread.purpose)
        self._items.append(item)
        if self._parked:
            self._parked = False
            self._thread.later(self._wake)

    async def room(self, most: int) -> None:
        """Wait until fewer than `most` messages wait to be taken, or nothing more is sent.

        Raises `AsyncioThreadEnded` if the loop ends first.
        """
        while len(self._items) >= most and not self._closed:
            if self._emptied is None:
                self._emptied = trio.Event()
            emptied = self._emptied
            if len(self._items) < most:
                break
            self._thread.waits(self)
            await emptied.wait()
        await trio.lowlevel.checkpoint()

    def lost(self) -> None:
        self._tell_room()  # and finds that the loop is over

    def _tell_room(self) -> None:
        self._thread.waits_no_more(self)
        emptied, self._emptied = self._emptied, None
        if emptied is not None:
            emptied.set()

    def close(self) -> None:
        """Nothing more will be sent: `burst` gives what is there, then nothing."""
        self._closed = True
        self._tell_room()
        with suppress(AsyncioThreadEnded):
            self._thread.soon(self._wake)

    # on the loop

    async def burst(self) -> list[T]:
        """All that has been sent, at least one item; an empty list once it is closed."""
        items = self._items
        while not items and not self._closed:
            self._parked = True
            if items or self._closed:
                self._parked = False
                break
            self._reader = self._thread.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        burst = [items.popleft() for _ in range(len(items))]
        if self._emptied is not None:
            self._thread.back(self._tell_room)
        return burst

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
