"""Asks that wait for each other, found before they wait.

An actor that asks is busy until the answer comes, so a ring of asks ends by its
timeouts alone. Every lane says which mailbox it waits for (`Hand.waits_for`); before
one more does, the graph is walked from the actor to be asked. An actor can still
answer if one of its lanes is free, may yet be added, or waits for an actor that
can; if there is none of these, the ask is refused.

Only asks awaited by the lane itself count: a task that a handler has started may
wait while the actor goes on.
"""

from typing import TYPE_CHECKING

from .errors import AskCycle

if TYPE_CHECKING:
    from .context import Hand
    from .mailbox import Mailbox

__all__ = ["refuse_cycle"]


def refuse_cycle(hand: "Hand", asked: "Mailbox") -> None:
    """Note that `hand` waits for `asked`; raises `AskCycle` if no answer could come."""
    hand.waits_for = asked
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
            todo.extend(hand.waits_for for hand in mailbox.hands if hand.waits_for is not None)
    live = {mailbox for mailbox in reached if _has_free_lane(mailbox)}
    grown = True
    while grown and asked not in live:
        grown = False
        for mailbox in reached:
            if mailbox not in live and any(hand.waits_for in live for hand in mailbox.hands):
                live.add(mailbox)
                grown = True
    return asked in live


def _has_free_lane(mailbox: "Mailbox") -> bool:
    """Also true while it sleeps or restarts: it has no lanes then, and will have."""
    if len(mailbox.hands) < mailbox.concurrency:
        return True
    return any(hand.waits_for is None for hand in mailbox.hands)


def _ring(asked: "Mailbox", hand: "Hand") -> list[str]:
    """Paths from who asks, along the asks, until one comes again."""
    asker = hand.incarnation.path if hand.incarnation is not None else "?"
    paths = [asker]
    mailbox: Mailbox | None = asked
    while mailbox is not None:
        paths.append(mailbox.path)
        if mailbox.path in paths[:-1]:
            break
        mailbox = next((h.waits_for for h in mailbox.hands if h.waits_for is not None), None)
    return paths
