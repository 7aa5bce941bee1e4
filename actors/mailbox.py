"""One actor's mailbox: bounded, drained in bursts, outliving incarnations.

Owns order, bound, wake-up, and what happens to a message for which there is no
room. Does not own restarts (supervisors), or what a full mailbox means to a broker
(its bridge).

Invariant: an envelope is waiting, in hand, handled or set aside, exactly one of
these at any time, crashes included.

The queue and `limit` are open to the two hot paths (`Ref.tell`, the lane of a
cell), which work on them without a call in between: benchmarks/mailbox.py,
beside trio's memory channel. Whoever finds `len(queue) >= limit` calls `put`, which
knows why: full, closed, or asleep.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from .envelope import Envelope
from .errors import MailboxFull

if TYPE_CHECKING:
    from .context import Hand

__all__ = ["Mailbox", "MailboxStatistics", "Overflow"]

Overflow = Literal["wait", "reject", "drop_oldest", "drop_newest"]
"""What a full mailbox does with one more message.

`wait`: who can wait (asks, bridges, `tell_wait`) waits for room; `tell`, which cannot,
raises `MailboxFull`. `reject`: asks and requests are refused at once, too. `drop_oldest`
and `drop_newest`: nobody waits and nobody is refused; one message is undelivered.
"""

_NONE: Final = cast("deque[Envelope]", ())
"""Stands for a queue that nobody has needed yet: an empty deque takes 760 bytes."""


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
    a sick actor), 0 while the actor sleeps or has never had mail, and -1 while the
    mailbox is closed, so that senders need one comparison for all of these.

    `owner` is the cell behind it, `hands` what its lanes have in hand, and
    `concurrency` how many lanes there may be: for whoever looks for cycles of asks.
    """

    __slots__ = (
        "_low",
        "capacity",
        "concurrency",
        "drop",
        "hands",
        "limit",
        "overflow",
        "owner",
        "parked",
        "path",
        "queue",
        "reserved",
        "senders",
        "sleeper",
    )

    def __init__(self, path: str, capacity: int, overflow: Overflow = "wait") -> None:
        self.path = path
        self.capacity = capacity
        self.overflow: Overflow = overflow
        self.owner: Any = None
        self.hands: Sequence[Hand] = ()
        self.concurrency = 1
        self.drop: Callable[[Envelope], None] | None = None  # told of what `overflow` drops
        self.sleeper: Callable[[], None] | None = None
        self.limit = -1  # closed until `open`
        self.queue = _NONE
        self.parked: list[trio.lowlevel.Task] = []
        self.senders: list[trio.lowlevel.Task] = []
        self.reserved = 0
        # Senders are woken when half of the mailbox is free: one switch of tasks
        # then pays for hundreds of messages.
        self._low = capacity // 2

    @property
    def is_open(self) -> bool:
        return self.limit >= 0

    def open(self) -> None:
        """Take mail from now on."""
        self.limit = 0 if self.queue is _NONE else self._room()

    def close(self, release: Callable[[Envelope], None]) -> None:
        """Take no more mail; everything that waits goes to `release`, in order."""
        self.limit = -1
        self.sleeper = None
        queue = self.queue
        while queue:
            release(queue.popleft())
        self.wake_senders()

    def ready_queue(self) -> "deque[Envelope]":
        """The queue, made if nobody has needed it yet."""
        if self.queue is _NONE:
            self.queue = deque()
            if self.limit == 0 and self.sleeper is None:
                self.limit = self._room()
        return self.queue

    def put(self, envelope: Envelope) -> bool:
        """Take `envelope`, or deal with it by `overflow`; False if it is full or closed."""
        queue = self.queue
        if len(queue) >= self.limit:
            if self.limit != 0:
                return self.limit > 0 and self._overflowed(envelope)
            self._rouse()
            queue = self.queue
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
        if self.limit == 0:
            self._rouse()
        queue = self.ready_queue()
        if first:
            queue.appendleft(envelope)
        else:
            queue.append(envelope)
        if self.parked:
            reschedule(self.parked.pop())

    def reserve(self) -> bool:
        """Keep one place for an envelope that waits elsewhere; False if all are kept."""
        if self.reserved >= self.capacity:
            return False
        self.reserved += 1
        if self.limit > 0:
            self.limit = self._room()
        return True

    def keep(self, count: int = 1) -> None:
        """Reserve places for what has its room already, because it was in the queue."""
        self.reserved += count
        if self.limit > 0:
            self.limit = self._room()

    def free(self, count: int = 1) -> None:
        """Give up reserved places."""
        self.reserved -= count
        if self.limit > 0:
            self.limit = self._room()

    def _room(self) -> int:
        # A quarter is never reserved: requests go on being answered while every
        # event of a sick actor is held back.
        return max(self.capacity - self.reserved, self.capacity // 4, 1)

    def _overflowed(self, envelope: Envelope) -> bool:
        if self.drop is None or self.overflow in ("wait", "reject"):
            return False
        if self.overflow == "drop_oldest":
            self.queue.append(envelope)
            envelope = self.queue.popleft()
        self.drop(envelope)
        return True

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
        for task in self.senders:
            reschedule(task)
        self.senders.clear()

    async def mail(self) -> None:
        """Wait for the next envelope (or for `wake`); for the lanes of the actor only."""
        task = current_task()
        self.parked.append(task)

        def leave(_: RaiseCancelT) -> Abort:
            self.parked.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(leave)

    def sleep(self, sleeper: Callable[[], None]) -> None:
        """There is no lane just now: call `sleeper` when there is mail, or on `wake`."""
        self.sleeper = sleeper
        if not self.queue:
            self.queue = _NONE
        if self.limit > 0:
            self.limit = 0

    def wake(self) -> None:
        """Wake every lane: something other than mail wants its attention."""
        if self.sleeper is not None:
            self._rouse()
        while self.parked:
            reschedule(self.parked.pop())

    def _rouse(self) -> None:
        sleeper, self.sleeper = self.sleeper, None
        self.ready_queue()
        if self.limit == 0:
            self.limit = self._room()
        if sleeper is not None:
            sleeper()

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
