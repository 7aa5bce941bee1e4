"""One actor's mailbox: bounded, drained in bursts, outliving incarnations.

Owns order, bound and wake-up. Does not own restarts (supervisors), or what a
full mailbox means to a broker (its bridge).

Invariant: an envelope is waiting, in hand, handled or set aside, exactly one of
these at any time, crashes included.

The queue and `limit` are open to the two hot paths (`Ref.tell`, the lane of a
cell), which work on them without a call in between: benchmarks/mailbox.py,
beside trio's memory channel.
"""

from collections import deque
from collections.abc import Callable

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from .envelope import Envelope
from .errors import MailboxFull

__all__ = ["Mailbox", "MailboxStatistics"]


@attrs.frozen
class MailboxStatistics:
    """A reading of one mailbox."""

    waiting: int
    capacity: int
    senders_waiting: int
    reserved: int
    open: bool


class Mailbox:
    """A bounded queue of envelopes between many senders and one actor.

    `capacity` is the bound. `limit` is what the queue may hold just now: less than
    the capacity while messages wait elsewhere to come back (retries, events held for
    a sick actor), and -1 while the mailbox is closed, so that senders need one
    comparison for "full" and "closed" both.
    """

    __slots__ = ("_low", "capacity", "limit", "parked", "path", "queue", "reserved", "senders")

    def __init__(self, path: str, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        self.limit = -1  # closed until `open`
        self.queue: deque[Envelope] = deque()
        self.parked: list[trio.lowlevel.Task] = []
        self.senders: deque[trio.lowlevel.Task] = deque()
        self.reserved = 0
        # Senders are woken when half of the mailbox is free: one switch of tasks
        # then pays for hundreds of messages.
        self._low = capacity // 2

    @property
    def is_open(self) -> bool:
        return self.limit >= 0

    def open(self) -> None:
        """Take mail from now on."""
        self.limit = self._room()

    def close(self, release: Callable[[Envelope], None]) -> None:
        """Take no more mail; everything that waits goes to `release`, in order."""
        self.limit = -1
        queue = self.queue
        while queue:
            release(queue.popleft())
        self.wake_senders()

    def put(self, envelope: Envelope) -> bool:
        """Take `envelope`; False if the mailbox is full or closed."""
        queue = self.queue
        if len(queue) >= self.limit:
            return False
        queue.append(envelope)
        if self.parked:
            reschedule(self.parked.pop())
        return True

    async def put_wait(self, envelope: Envelope) -> bool:
        """Take `envelope`, waiting for room first; False if the mailbox is closed."""
        while not self.put(envelope):
            if not self.is_open:
                return False
            await self.room()
        return True

    def readmit(self, envelope: Envelope, *, first: bool = False) -> None:
        """Take back what had been taken already: it has its room, even past the limit."""
        if first:
            self.queue.appendleft(envelope)
        else:
            self.queue.append(envelope)
        if self.parked:
            reschedule(self.parked.pop())

    def reserve(self) -> bool:
        """Keep one place for an envelope that waits elsewhere; False if all are kept."""
        if self.reserved >= self.capacity:
            return False
        self.reserved += 1
        if self.is_open:
            self.limit = self._room()
        return True

    def free(self) -> None:
        """Give up one reserved place."""
        self.reserved -= 1
        if self.is_open:
            self.limit = self._room()

    def _room(self) -> int:
        # A quarter is never reserved: requests go on being answered while every
        # event of a sick actor is held back.
        return max(self.capacity - self.reserved, self.capacity // 4, 1)

    async def room(self) -> None:
        """Wait until half of the mailbox is free, or it closes."""
        task = current_task()
        self.senders.append(task)

        def leave(_: RaiseCancelT) -> Abort:
            self.senders.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)

    def drained(self) -> None:
        """Called by the consumer: wakes waiting senders if there is room enough."""
        if len(self.queue) <= self._low:
            self.wake_senders()

    def wake_senders(self) -> None:
        while self.senders:
            reschedule(self.senders.popleft())

    async def mail(self) -> None:
        """Wait for the next envelope (or for `wake`); for the lanes of the actor only."""
        task = current_task()
        self.parked.append(task)

        def leave(_: RaiseCancelT) -> Abort:
            self.parked.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)

    def wake(self) -> None:
        """Wake every parked lane: something other than mail wants its attention."""
        while self.parked:
            reschedule(self.parked.pop())

    def full(self) -> MailboxFull:
        return MailboxFull(self.path, self.capacity)

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(
            waiting=len(self.queue),
            capacity=self.capacity,
            senders_waiting=len(self.senders),
            reserved=self.reserved,
            open=self.is_open,
        )
