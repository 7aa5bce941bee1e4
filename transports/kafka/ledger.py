"""What is in hand of each partition, and how far it may be committed. Pure: no clock, no client.

A commit says: everything below is done. So an offset is committed only when it and all
before it are settled, in whatever order that happens. What a commit cannot say, what was
taken beyond it, stands in the text that Kafka keeps beside each offset: while somebody
reads the partition it has a mark with the offset up to which records may have been run,
and how often reading began at this very place; whoever comes next flags those as
redelivered, and takes one at a time if that is how far several got. A partition that was
left with nothing in hand has no mark.

Invariant: a record is taken only below the `limit` of a mark that is committed.
Touched on the brokers' loop only.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["CAREFUL", "Mark", "Partition", "Place"]

CAREFUL: Final = 3
"""Beginnings at one place after which its records are taken one at a time."""

_MARK: Final = "understudy"


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Mark(NamedTuple):
    """What stands beside a committed offset while its partition is read."""

    limit: int
    """Records below it may have been run."""
    begun: int
    """How often reading began at this offset, and did not get further."""

    def __str__(self) -> str:
        return f"{_MARK} {self.limit} {self.begun}"

    @classmethod
    def read(cls, text: str | None) -> "Mark | None":
        """The mark in a text; None for other programs' words, and where there are none."""
        parts = (text or "").split(" ")
        if len(parts) != 3 or parts[0] != _MARK or not all(map(str.isdecimal, parts[1:])):
            return None
        return cls(int(parts[1]), int(parts[2]))


class Partition:
    """One partition, for as long as it is ours without a break."""

    __slots__ = (
        "ahead",
        "begun",
        "committed",
        "done",
        "dropped",
        "first",
        "identity",
        "limit",
        "next",
        "pending",
        "place",
        "suspect",
    )

    def __init__(
        self, place: Place, begin: int, mark: Mark | None, ahead: int, *, ours: bool = False
    ) -> None:
        self.place = place
        self.identity = f"{place.topic}:{place.partition}:"
        self.ahead = ahead
        self.first = begin
        """Where reading began."""
        self.begun = 1 if mark is None else mark.begun + (not ours)
        """How often it began there, this time included.

        Not counted is going on after our own mark (`ours`): what we have in hand has not
        killed us, only the connection was lost.
        """
        self.suspect = 0 if mark is None else mark.limit
        """Records below it may have been run before."""
        self.next = begin
        """The record that comes next."""
        self.committed = -1
        self.limit = begin
        self.pending: dict[int, None] = {}
        """In hand, in the order in which they came."""
        self.done: deque[int] = deque()
        """Finished, as trio says: the only thing here that is touched from there."""
        self.dropped = False

    @property
    def position(self) -> int:
        """How far all is done."""
        self.settle_done()
        return min(next(iter(self.pending), self.next), self.next)

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be taken before something is committed."""
        return self.next >= self.limit

    @property
    def is_due(self) -> bool:
        """Whether a commit should not wait."""
        return self.limit - self.next < self.ahead // 2 and self.position > self.committed

    @property
    def is_careful(self) -> bool:
        """Whether one record at a time is to be taken: something here may kill the process."""
        return self.begun >= CAREFUL and self.next < self.suspect

    def take(self, offset: int) -> None:
        self.next = offset + 1
        self.pending[offset] = None

    def take_all(self, offsets: Sequence[int]) -> None:
        self.next = offsets[-1] + 1
        self.pending.update(dict.fromkeys(offsets))

    def settle(self, offset: int) -> None:
        self.pending.pop(offset, None)

    def settle_done(self) -> None:
        """Settle what trio has finished."""
        done, pending = self.done, self.pending
        while done:
            pending.pop(done.popleft(), None)

    def settle_not(self, offset: int) -> None:
        """It is left to whoever comes next, and all after it with it."""
        self.pending.pop(offset, None)
        self.next = min(self.next, offset)

    def attempt(self, offset: int) -> int:
        """Which attempt at a record this is, as far as it is known."""
        return self.begun if offset == self.first else 1

    def to_commit(self, *, clean: bool = False) -> tuple[int, str] | None:
        """The offset and the mark to commit now; None if nothing has changed.

        With `clean`, nobody will read on: without anything in hand there is no mark, unless
        not all was passed that was doubtful from the beginning.
        """
        position = self.position  # and so all that trio has finished is settled
        if clean and not self.pending:
            if self.next >= self.suspect:
                return position, ""
            # To have begun here and to have ended well does not count.
            return position, str(
                Mark(self.suspect, self.begun - 1 if position == self.first else 0)
            )
        if position == self.committed:
            return None
        return position, str(self._mark_at(position))

    def was_committed(self, offset: int) -> None:
        self.committed = offset
        self.limit = max(self.limit, self._mark_at(offset).limit)

    def _mark_at(self, position: int) -> Mark:
        return Mark(
            max(position + self.ahead, self.suspect), self.begun if position == self.first else 1
        )


def in_hand(partitions: Iterable[Partition]) -> int:
    """How many records are in hand in all."""
    held = 0
    for partition in partitions:
        partition.settle_done()
        held += len(partition.pending)
    return held
