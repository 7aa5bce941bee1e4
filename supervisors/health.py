"""Health: how a tree and each of its children are, as a record that can be written as JSON.

Read when somebody asks: from the children's states, their statistics, and what bridges and
resources last said of their connections (`Conditions`, a subscriber of the lifecycle bus).
Messages cost nothing here.

A service is *live* while its root has not ended. It is *ready* while every child runs (or
has ended for good), no actor is sick or suspended, every bridge has its connection, nothing
drains, and dead letters can be written. The command line and the control socket show these
same records.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import attrs
import trio

from ..actors.cell import Cell
from ..actors.lifecycle import Crashed, Notice, Started, StateChanged, Stopped
from ..actors.mailbox import MailboxStatistics
from .delivery.store import StoreStatistics
from .keeper import address_of
from .log_text import one_line, printable, without_logins
from .running_child import Child

__all__ = [
    "ChildHealth",
    "Conditions",
    "Health",
    "health_of",
    "kind_of",
    "numbers_of",
]

TROUBLES: Final = 20
"""Reasons against readiness that are told; of more, how many."""

_WELL: Final = frozenset({"running", "ended"})
_MENDED: Final = frozenset({"connected", "ready"})


@attrs.frozen(kw_only=True)
class ChildHealth:
    """One child. `seconds` is how long it has been in its `state`, `why` the reason if known.

    The state is that of its supervisor (down, starting, running, restarting, stopping,
    ended), or what is more than that: waiting (for a broker, or whatever it connects to),
    draining, sick, suspended. `restarts` are its starts after the first. Of what has no
    mailbox `waiting` and `capacity` are None.
    """

    path: str
    kind: str
    state: str
    why: str = ""
    seconds: float
    restarts: int = 0
    waiting: int | None = None
    capacity: int | None = None
    address: str | None = None


@attrs.frozen(kw_only=True)
class Health:
    """A whole service. `seconds` is how long it has been up; of `total` children, the first.

    `troubles` say why it is not `ready`, or will not be for long: at most 20, the last
    one a count of the others.
    """

    name: str
    pid: int
    live: bool
    ready: bool
    state: str
    seconds: float
    troubles: tuple[str, ...]
    children: tuple[ChildHealth, ...]
    total: int
    dead_letters: StoreStatistics


@attrs.frozen
class _Condition:
    state: str
    why: str
    since: float


class Conditions:
    """What bridges and resources last said of themselves; `bus.subscribe(conditions.take)`.

    Bounded: one for each that waits or drains just now.
    """

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._told: dict[str, _Condition] = {}

    def take(self, notice: Notice) -> None:
        """Remember a change for the worse, forget it when it is over."""
        if isinstance(notice, StateChanged) and notice.state not in _MENDED:
            self._told[notice.path] = _Condition(notice.state, notice.why, self._now())
        elif isinstance(notice, StateChanged | Started | Stopped | Crashed):
            self._told.pop(notice.path, None)

    def of(self, child: Child) -> tuple[str, str, float]:
        """The state of a child, why it is in it, and since when (trio time)."""
        state, runnable = child.state, child.runnable
        if state in ("starting", "running", "stopping") and child.path in self._told:
            told = self._told[child.path]
            return told.state, told.why, told.since
        if state != "running":
            return state, "", child.since
        if isinstance(runnable, Cell):
            if runnable.sickness.sick:
                return "sick", "messages from outside keep crashing it", child.since
            if runnable.suspended:
                return "suspended", "", child.since
        elif not getattr(_statistics(runnable), "connected", True):
            return "waiting", "not connected", child.since
        return state, "", child.since

    def well(self, child: Child) -> bool:
        """Whether a child does not keep its tree from being ready."""
        return self.of(child)[0] in _WELL


def health_of(
    name: str,
    state: str,
    since: float,
    children: Iterable[Child],
    conditions: Conditions,
    store: StoreStatistics,
    *,
    why: Callable[[str], str],
    limit: int,
) -> Health:
    """The record of a tree; `why` is asked for the reason of a child that says none itself."""
    now = trio.current_time()
    every = list(children)
    troubles = _root_troubles(name, state, store)
    for child in every:
        condition, reason, _ = conditions.of(child)
        if condition in _WELL:
            continue
        if not reason and len(troubles) < TROUBLES:
            reason = why(child.path)
        troubles.append(f"{_shown(child.path)} is {condition}" + (f": {reason}" if reason else ""))
    shown = troubles[:TROUBLES]
    if len(troubles) > TROUBLES:
        shown[-1:] = [f"and {len(troubles) - TROUBLES + 1} more"]
    return Health(
        name=name,
        pid=os.getpid(),
        live=state != "down",
        ready=not troubles,
        state=state,
        seconds=_past(now, since),
        troubles=tuple(map(one_line, shown)),
        children=tuple(_child(child, conditions, now) for child in islice(every, limit)),
        total=len(every),
        dead_letters=store,
    )


def kind_of(child: Child) -> str:
    """What it is: actor, supervisor, pool, resource, bridge..."""
    return type(child.spec).__name__.removesuffix("Spec").lower()


def _root_troubles(name: str, state: str, store: StoreStatistics) -> list[str]:
    troubles = [] if state == "running" else [f"{name} is {state}"]
    if store.alarm is not None:
        troubles.append(f"dead letters cannot be written: {store.alarm}")
    return troubles


def _child(child: Child, conditions: Conditions, now: float) -> ChildHealth:
    state, why, since = conditions.of(child)
    address, life = address_of(child), child.incarnation
    mailbox: MailboxStatistics | None = None if address is None else address.mailbox.statistics()
    where = life.address if life is not None and life.ending is None else None
    return ChildHealth(
        path=_shown(child.path),
        kind=kind_of(child),
        state=state,
        why=one_line(why),
        seconds=_past(now, since),
        restarts=max(0, child.number - 1),
        waiting=None if mailbox is None else mailbox.waiting,
        capacity=None if mailbox is None else mailbox.capacity,
        address=None if where is None else without_logins(where),
    )


def numbers_of(children: Iterable[Child]) -> Iterator[tuple[str, Any]]:
    """The statistics of every child that has some, by path."""
    for child in children:
        numbers = _statistics(child.runnable)
        if numbers is not None:
            yield child.path, numbers


def _statistics(runnable: object) -> Any:
    # By name: what keeps numbers is on every floor, and resources are anybody's.
    statistics = getattr(runnable, "statistics", None)
    return None if statistics is None else statistics()


def _shown(path: str) -> str:
    # Programs name children after what strangers sent, and paths are shown on terminals.
    return printable(path).replace("\n", "\\n")


def _past(now: float, since: float) -> float:
    return round(max(0.0, now - since), 3) if math.isfinite(since) else 0.0
