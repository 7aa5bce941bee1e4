"""Pools: several actors of one class behind one reference.

A pool is a supervisor whose children (`shop/orders/1`, `shop/orders/2`...) share
the work: `pool(Orders, size=8)`. It has the path, the name, the patterns and the
reference that a single actor would have; its mailbox keeps nothing, but puts each
message into the mailbox of one member.

Which one is a plain choice: the next in turn, the one with the least to do, or
the one that owns the message's key. A key has the same member for as long as
the size is the same, in every process: the choice is made with a checksum, not with
`hash`, which differs from run to run.

Invariant: a message for the pool is in the mailbox of exactly one member, or refused.
"""

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import attrs

from ..actors.actor import Actor
from ..actors.behavior import Behavior
from ..actors.cell import Cell, CellOptions
from ..actors.context import is_outside
from ..actors.cycles import chosen
from ..actors.envelope import Envelope
from ..actors.errors import DeclarationError
from ..actors.incarnation import Incarnation, Runnable
from ..actors.keys import KeyOf, key_function
from ..actors.lifecycle import Undelivered
from ..actors.mailbox import Mailbox, MailboxStatistics
from ..actors.ref import Ref
from ..actors.watching import Terminated, Watches
from .child import ActorSpec, ChildSpec, Supervisor, Wiring, child
from .keeper import Keeper
from .running_child import Child
from .supervisor import Supervision

__all__ = ["Pool", "PoolMailbox", "PoolSpec", "pool"]

A = TypeVar("A", bound=Actor[Any])
A_co = TypeVar("A_co", covariant=True)


@attrs.frozen(kw_only=True)
class PoolSpec(ChildSpec, Generic[A_co]):
    """A pool: `size` times `member`, chosen `by`."""

    member: ActorSpec[A_co]
    size: int
    by: str | KeyOf
    max_restarts: int
    within: float

    def build(self, wiring: Wiring) -> Runnable:
        if not (isinstance(wiring, Child) and isinstance(wiring.above, Keeper)):
            raise TypeError("A pool is built by the supervisor above it.")
        return Pool(self, wiring.path, wiring.above)

    def supervisor(self) -> Supervisor:
        """The supervisor of the members, as data."""
        names = (str(number) for number in range(1, self.size + 1))
        return Supervisor(
            self.name,
            [attrs.evolve(self.member, name=name) for name in names],
            max_restarts=self.max_restarts,
            within=self.within,
        )

    def needed(self) -> Iterator[str]:
        return self.member.needed()

    @property
    def is_ready_before_start(self) -> bool:
        return True


def pool(
    actor: type[A],
    *arguments: Any,
    size: int,
    by: str | KeyOf = "round_robin",
    name: str | None = None,
    max_restarts: int = 3,
    within: float = 5.0,
    **options: Any,
) -> PoolSpec[A]:
    """Specify `size` actors of one class behind one reference: `pool(Mailer, size=4)`.

    `by` says who gets a message: `"round_robin"`, `"least_busy"`, or the name of a field
    or a function of the message that gives its key: messages of one key all go to one
    member, in order. If that has no room, the others are not asked. `options` are those
    of `child`, for each member; a member that crashes is restarted alone.

    Raises `DeclarationError` for what can never work.
    """
    where = f"pool({actor.__name__})"
    if size < 1:
        raise DeclarationError(f"{where}: size must be at least 1, got {size}.")
    if not (callable(by) or (isinstance(by, str) and by.isidentifier())):
        raise DeclarationError(
            f"{where}: by must be 'round_robin', 'least_busy', the name of a field or a "
            f"function of the message, got {by!r}."
        )
    if options.get("significant"):
        raise DeclarationError(f"{where}: members of a pool cannot be significant.")
    member = child(actor, *arguments, name=name, **options)
    return PoolSpec(
        name=member.name,
        member=member,
        size=size,
        by=by,
        max_restarts=max_restarts,
        within=within,
        shutdown=math.inf,
        start_timeout=math.inf,
    )


class Pool(Supervision):
    """The members, supervised one for one, and what stands for them together."""

    def __init__(self, spec: PoolSpec[Any], path: str, above: Keeper) -> None:
        tree = above.tree
        super().__init__(spec.supervisor(), path, tree, above, "member")
        self.actor = spec.member.actor
        self.behavior = Behavior.of(self.actor)
        self.options: CellOptions = spec.member.options
        cells = [c.runnable for c in self.children.values() if isinstance(c.runnable, Cell)]
        self.mailbox = PoolMailbox(path, [cell.mailbox for cell in cells], spec.by)
        self.mailbox.owner = self
        self.ref: Ref[Any] = Ref(self.mailbox, self.behavior, tree.timers, self.undelivered)
        self.address = self
        self._life: Incarnation | None = None
        self._watchers: dict[Watches, None] = {}

    async def run(self, incarnation: Incarnation) -> None:
        self._life = incarnation
        incarnation.on_fence(self._tell_watchers)
        await super().run(incarnation)

    def open(self) -> None:
        super().open()
        self.mailbox.open()

    def close(self, why: str) -> None:
        self.mailbox.close(lambda _: None)  # it holds nothing itself
        super().close(why)
        if self._life is None or self._life.ending is not None:
            self._tell_watchers()

    def add_watcher(self, watcher: Watches) -> None:
        self._watchers[watcher] = None

    def remove_watcher(self, watcher: Watches) -> None:
        self._watchers.pop(watcher, None)

    def keep_order(self) -> None:
        """Give messages with the same order key to the same member, and have it keep their order.

        What the pool's own key says goes before that.
        """
        if not self.mailbox.orderly:
            self.mailbox.orderly = True
            for controlled in self.children.values():
                if isinstance(controlled.runnable, Cell):
                    controlled.runnable.keep_order()

    def undelivered(self, message: Any, why: str) -> None:
        """Tell that no member will handle a message."""
        notice = Undelivered(path=self.path, why=why, message=type(message).__name__)
        self.tree.bus.publish(notice)

    def _tell_watchers(self) -> None:
        """This life of the pool is over: mail and members with it, even if it is rebuilt."""
        watchers, self._watchers = self._watchers, {}
        ending = self._life.ending if self._life is not None else None
        how = ending.kind if ending is not None else "not running"
        error = ending.error if ending is not None else None
        for watcher in watchers:
            watcher.ended(self, Terminated(self.ref, how, error))


class PoolMailbox(Mailbox):
    """Puts every message into the mailbox of a member.

    Its own queue stays empty and its limit 0, so that every sender comes to `put`.
    """

    __slots__ = ("_choose", "_keyed", "_members", "_next", "orderly")

    def __init__(self, path: str, members: Sequence[Mailbox], by: str | KeyOf) -> None:
        super().__init__(path, sum(member.capacity for member in members))
        self.queue = deque()
        self.overflow = members[0].overflow
        # One list for all: whoever waits for room is woken by the first member that has some.
        for member in members:
            member.senders = self.senders
        self._members = tuple(members)
        self._next = 0
        self._keyed = by not in ("round_robin", "least_busy")
        self.orderly = False
        self._choose = self._chooser(by)

    @property
    def is_open(self) -> bool:
        return self.limit >= 0 and any(member.is_open for member in self._members)

    def open(self) -> None:
        self.limit = 0

    def put(self, envelope: Envelope) -> bool:
        """Give `envelope` to a member; False if there is no room there, or nobody."""
        if self.limit < 0:
            return False
        candidates = self._candidates(envelope)
        if candidates is None:
            return True
        for member in candidates:
            if _has_room(member) and member.put(envelope):
                chosen(envelope.receipt, member)
                return True
        # Nobody has room: the first choice says what that means to the sender.
        for member in candidates[:1]:
            if member.put(envelope):
                chosen(envelope.receipt, member)
                return True
        return False

    async def put_wait(self, envelope: Envelope) -> bool:
        """Give `envelope` to a member, waiting for room first; False if nobody is there."""
        while not self.put(envelope):
            candidates = self._candidates(envelope) or ()
            if self.limit < 0 or not any(member.is_open for member in candidates):
                return False
            await self.room()
        return True

    def readmit(self, envelope: Envelope, *, first: bool = False) -> None:
        """What comes back goes to whose turn it is, or where its key waits, past the limit."""
        for member in self._members:
            if member.is_open and _keeps_key_of(member, envelope):
                member.readmit(envelope, first=first)
                return
        candidates = self._candidates(envelope)
        if candidates is None:
            return
        there = [member for member in candidates if member.is_open]
        if there:
            there[0].readmit(envelope, first=first)
        elif envelope.receipt is not None:
            envelope.receipt.released("no member of the pool is there any more")

    def reserve(self) -> bool:
        """Keep one place for an envelope that waits elsewhere; False if all are kept."""
        if self.reserved >= self.capacity:
            return False
        self.reserved += 1
        return True

    def free(self, count: int = 1) -> None:
        self.reserved -= count

    def statistics(self) -> MailboxStatistics:
        readings = [member.statistics() for member in self._members]
        return MailboxStatistics(
            waiting=sum(reading.waiting for reading in readings),
            capacity=self.capacity,
            senders_waiting=sum(reading.senders_waiting for reading in readings),
            reserved=self.reserved + sum(reading.reserved for reading in readings),
            open=self.is_open,
        )

    # -- who is chosen ------------------------------------------------------------

    def _candidates(self, envelope: Envelope) -> Sequence[Mailbox] | None:
        """Who may have it, the first choice first; None if its key cannot be told."""
        if self.orderly and not self._keyed and is_outside(envelope):
            key = envelope.origin.order_key if envelope.origin is not None else None
            if key is not None:
                return (self._owner_of(key),)
        try:
            return self._choose(envelope.message)
        except Exception as error:
            # A key function is user code: what a peer sent must not crash its bridge.
            if envelope.receipt is None or not is_outside(envelope):
                raise
            envelope.receipt.crashed(error, self.path, 0)
            return None

    def _chooser(self, by: str | KeyOf) -> "Callable[[Any], Sequence[Mailbox]]":
        if by == "round_robin":
            return self._in_turn
        if by == "least_busy":
            return self._least_busy
        key = key_function(by)
        if key is None:
            raise TypeError("a pool is keyed by a field or a function")

        def owner(message: Any) -> Sequence[Mailbox]:
            return (self._owner_of(key(message)),)

        return owner

    def _owner_of(self, key: object) -> Mailbox:
        return self._members[zlib.crc32(repr(key).encode()) % len(self._members)]

    def _in_turn(self, _: Any) -> Sequence[Mailbox]:
        at, self._next = self._next, (self._next + 1) % len(self._members)
        return self._members[at:] + self._members[:at]

    def _least_busy(self, message: Any) -> Sequence[Mailbox]:
        # In turn among equals: the sort keeps the order of those.
        return sorted(self._in_turn(message), key=_busy)


def _keeps_key_of(member: Mailbox, envelope: Envelope) -> bool:
    """Whether other messages of its key wait there until this one has come again."""
    keys = member.owner.keys
    return keys is not None and keys.owns(envelope)


def _busy(member: Mailbox) -> int:
    """What waits, and what is in hand: a parked or sleeping actor has nothing."""
    idle = bool(member.parked) or member.sleeper is not None
    return len(member.queue) + (not idle)


def _has_room(member: Mailbox) -> bool:
    # A limit of 0 is a mailbox that sleeps: it wakes up at `put`.
    return member.limit == 0 or len(member.queue) < member.limit
