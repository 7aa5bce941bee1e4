"""What belongs to one incarnation and is gone with it.

Timers, watches, links, stashed messages, replies still to be given, states and
children. Each part is made when it is first used: most actors have none of them, and
an idle actor should cost next to nothing.
"""

from collections import deque
from typing import TYPE_CHECKING

import trio

from .deferred import Replies
from .envelope import Envelope
from .incarnation import Ending, Incarnation
from .schedule import Schedule
from .watching import Links, Watches

if TYPE_CHECKING:
    from .behavior import Handler
    from .cell import Cell, Offspring

__all__ = ["Belongings"]


class Belongings:
    """Of one incarnation of one cell."""

    __slots__ = (
        "_links",
        "_replies",
        "_schedule",
        "_watches",
        "cell",
        "incarnation",
        "offspring",
        "stash",
        "states",
    )

    def __init__(self, cell: "Cell", incarnation: Incarnation) -> None:
        self.cell = cell
        self.incarnation = incarnation
        self.stash: deque[Envelope] = deque()
        self.states: list[Handler] = []
        self.offspring: Offspring | None = None
        self._schedule: Schedule | None = None
        self._watches: Watches | None = None
        self._links: Links | None = None
        self._replies: Replies | None = None

    @property
    def schedule(self) -> Schedule:
        if self._schedule is None:
            self._schedule = Schedule(self.cell)
        return self._schedule

    @property
    def watches(self) -> Watches:
        if self._watches is None:
            self._watches = Watches(self.incarnation, self.cell.mailbox.wake)
        return self._watches

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = Links(self.cell, self.incarnation)
        return self._links

    @property
    def replies(self) -> Replies:
        if self._replies is None:
            self._replies = Replies(self.cell, self.incarnation)
        return self._replies

    def __bool__(self) -> bool:
        """Whether there is anything that would be lost with the incarnation."""
        parts = (self._schedule, self._watches, self._links, self._replies, self.stash)
        children = self.offspring is not None and bool(self.offspring.children)
        return children or any(part is not None and len(part) > 0 for part in parts)

    def end(self, ending: Ending) -> None:
        """The incarnation is over. Its children have ended before."""
        if self._schedule is not None:
            self._schedule.end()
        if self._watches is not None:
            self._watches.end()
        if self._replies is not None:
            self._replies.end()
        self.unstash(len(self.stash))
        if self._links is not None:
            self._links.end(ending)

    def unstash(self, count: int) -> None:
        """Put the `count` oldest stashed messages to the front of the mailbox."""
        mailbox = self.cell.mailbox
        oldest = [self.stash.popleft() for _ in range(min(count, len(self.stash)))]
        for envelope in reversed(oldest):
            mailbox.free()
            if mailbox.is_open:
                mailbox.readmit(envelope, first=True)
            else:
                self.cell.release(envelope, "the actor has ended")

    def stashed(self, envelope: Envelope) -> bool:
        return any(one is envelope for one in self.stash)

    def retake(self, envelope: Envelope) -> bool:
        """Take a message back that its handler had stashed or left to be answered later.

        For a handler that fails after that: its message fails with it. False if the message
        is somebody else's by now, or answered.
        """
        if self.stashed(envelope):
            # By identity: envelopes of equal messages are equal.
            self.stash = deque(one for one in self.stash if one is not envelope)
            self.cell.mailbox.free()
            return True
        return self._replies is not None and self._replies.retake(envelope)

    async def end_children(self) -> None:
        """Stop the children in order; when that is cancelled, cancel them."""
        if self.offspring is None:
            return
        try:
            await self.offspring.end(kill=False)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self.offspring.end(kill=True)
            raise
