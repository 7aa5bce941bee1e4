"""Asks that wait for each other, found before they wait.

An actor that asks is busy until the answer comes, so a ring of asks ends by its
timeouts alone. Every lane says what it waits for (`Hand.waits_for`); before one more
does, the graph is walked from the actor to be asked. An actor can still answer if one
of its lanes is free, may yet be added, or waits for an actor that can; if there is
none of these, the ask is refused.

Invariant: no false alarm. Only asks awaited by the lane itself count (a task that a
handler has started may wait while the actor goes on), only while they are unanswered,
and only while the message is with the actor that was asked: one that it has put aside
or forwarded may be answered by anybody. A pool chooses who is asked when it is given the
message, so an ask of it is looked at only then.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from .errors import AskCycle

if TYPE_CHECKING:
    from .context import Hand
    from .mailbox import Mailbox

__all__ = ["Awaited", "chosen", "put_aside", "refuse_cycle"]


class Awaited(Protocol):
    """An ask that a lane waits for; `mailbox` is whose answer it wants."""

    open: bool
    aside: bool

    @property
    def mailbox(self) -> "Mailbox": ...

    @property
    def path(self) -> str: ...


def put_aside(receipt: Any) -> None:
    """The message of `receipt` was taken out of the hand of the actor that was asked."""
    if hasattr(receipt, "aside"):
        receipt.aside = True


def chosen(receipt: Any, mailbox: "Mailbox") -> None:
    """A pool has put the message of `receipt` into the mailbox of this member."""
    if hasattr(receipt, "member"):
        receipt.member = mailbox


def refuse_cycle(hand: "Hand", awaited: Awaited) -> None:
    """Note that `hand` waits for `awaited`; raises `AskCycle` if no answer could come."""
    hand.waits_for = awaited
    asked = awaited.mailbox
    if _has_free_lane(asked) or _can_answer(asked):
        return
    path = _ring(asked, hand)
    hand.waits_for = None
    raise AskCycle(path)


def _can_answer(asked: "Mailbox") -> bool:
    """Whether `asked` is live: the least fixed point over all that it waits for."""
    reached: dict[Mailbox, None] = {}
    todo = [asked]
    while todo:
        mailbox = todo.pop()
        if mailbox not in reached:
            reached[mailbox] = None
            todo.extend(_waited_for(mailbox))
    live = {mailbox for mailbox in reached if _has_free_lane(mailbox)}
    grown = True
    while grown and asked not in live:
        grown = False
        for mailbox in reached:
            if mailbox not in live and any(other in live for other in _waited_for(mailbox)):
                live.add(mailbox)
                grown = True
    return asked in live


def _has_free_lane(mailbox: "Mailbox") -> bool:
    """Also true while it sleeps or restarts: it has no lanes then, and will have."""
    if len(mailbox.hands) < mailbox.concurrency:
        return True
    return any(not _waits(hand.waits_for) for hand in mailbox.hands)


def _waits(awaited: Awaited | None) -> bool:
    # Answered: its task has not run since, but it will.
    return awaited is not None and awaited.open and not awaited.aside


def _waited_for(mailbox: "Mailbox") -> "Iterator[Mailbox]":
    for hand in mailbox.hands:
        awaited = hand.waits_for
        if awaited is not None and _waits(awaited):
            yield awaited.mailbox


def _ring(asked: "Mailbox", hand: "Hand") -> list[str]:
    """Paths from who asks, along the asks, back to it."""
    asker = hand.incarnation.path if hand.incarnation is not None else "?"
    ways: list[list[Mailbox]] = [[asked]]
    seen: set[Mailbox] = set()
    for way in ways:  # grows: the shortest way is found first
        mailbox = way[-1]
        if mailbox.path == asker:
            return [asker, *(one.path for one in way)]
        if mailbox not in seen:
            seen.add(mailbox)
            ways.extend([*way, following] for following in _waited_for(mailbox))
    return [asker, asked.path]
