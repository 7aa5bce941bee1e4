"""Watching an actor, and being linked to one: how it is known that it ended.

`watch` is Erlang's monitor: one `Terminated` when the actor has ended for good, at
once if it had ended already. A restart is no end: mail and reference survive it. The
end of its supervisor is one.

`link` couples lives, as in Erlang: when the one ends abnormally, the other crashes
with it, unless it sets `trap_exits` and is told by a message instead. Unlike in
Erlang an ordered stop (`shutdown`) breaks no link: otherwise a tree could not be
stopped in its order.

Both belong to the incarnation that asked for them, and are signals: they come before
all mail, and also when the mailbox is full.
"""

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from .errors import LinkBroken
from .incarnation import Crash, Ending, Incarnation

if TYPE_CHECKING:
    from .cell import Cell
    from .mailbox import Mailbox
    from .ref import Ref

__all__ = ["Exited", "Links", "Terminated", "Watched", "Watches"]


@attrs.frozen
class Terminated:
    """A watched actor has ended, and its supervisor does not bring it back.

    When the supervisor itself has ended and is rebuilt, the reference comes alive again,
    without the mail it had: who still wants to know watches anew.

    `how` is the way its last incarnation ended: normal, shutdown, killed, crashed...,
    or "not running"; `error` is its exception, if there was one.
    """

    ref: "Ref[Any]"
    how: str
    error: BaseException | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Exited:
    """A linked actor's incarnation ended; only actors that set `trap_exits` are told."""

    ref: "Ref[Any]"
    how: str
    error: BaseException | None = attrs.field(default=None, eq=False)


class Watched(Protocol):
    """What has an end that can be watched: an actor, or a pool."""

    @property
    def path(self) -> str: ...

    @property
    def ref(self) -> "Ref[Any]": ...

    @property
    def mailbox(self) -> "Mailbox": ...

    def add_watcher(self, watcher: "Watches") -> None: ...

    def remove_watcher(self, watcher: "Watches") -> None: ...


class Watches:
    """What one incarnation watches."""

    def __init__(self, incarnation: Incarnation, wake: Any) -> None:
        self._incarnation = incarnation
        self._wake = wake
        self._watched: dict[Watched, None] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, cell: Watched) -> None:
        # Not `is_open`: a pool all of whose members have ended has not ended itself.
        if cell.mailbox.limit >= 0:
            self._watched[cell] = None
            cell.add_watcher(self)
        elif not any(self._waiting(cell)):
            self._tell(Terminated(cell.ref, "not running"))

    def unwatch(self, cell: Watched) -> None:
        """Forget `cell`; a `Terminated` of it that waits is taken back."""
        if self._watched.pop(cell, cell) is None:
            cell.remove_watcher(self)
        for signal in self._waiting(cell):
            if self._incarnation.signals:
                self._incarnation.signals.remove(signal)

    def ended(self, cell: Watched, terminated: Terminated) -> None:
        """Called by who is watched, which forgets its watchers then."""
        if self._watched.pop(cell, cell) is None:
            self._tell(terminated)

    def paths(self) -> list[str]:
        return [cell.path for cell in self._watched]

    def end(self) -> None:
        """The watching incarnation is over."""
        for cell in self._watched:
            cell.remove_watcher(self)
        self._watched.clear()

    def _waiting(self, cell: Watched) -> list[Terminated]:
        signals = self._incarnation.signals or ()
        return [one for one in signals if isinstance(one, Terminated) and one.ref is cell.ref]

    def _tell(self, terminated: Terminated) -> None:
        self._incarnation.signal(terminated)
        self._wake()


class Links:
    """What one incarnation is linked to; each link stands on both sides."""

    def __init__(self, cell: "Cell", incarnation: Incarnation) -> None:
        self._cell = cell
        self._incarnation = incarnation
        self._linked: dict[Cell, None] = {}

    def __len__(self) -> int:
        return len(self._linked)

    def link(self, other: "Cell") -> None:
        if other is self._cell or other in self._linked:
            return
        theirs = other.links()
        if theirs is None:
            self._broken(other, "not running", None)
            return
        self._linked[other] = theirs._linked[self._cell] = None

    def unlink(self, other: "Cell") -> None:
        if other in self._linked:
            del self._linked[other]
            theirs = other.links()
            if theirs is not None:
                theirs._linked.pop(self._cell, None)

    def paths(self) -> list[str]:
        return [cell.path for cell in self._linked]

    def end(self, ending: Ending) -> None:
        """This incarnation is over: the others are told, or crash with it."""
        linked, self._linked = self._linked, {}
        for other in linked:
            theirs = other.links()
            if theirs is not None and theirs._linked.pop(self._cell, theirs) is None:
                theirs._exited(self._cell, ending)

    def _exited(self, other: "Cell", ending: Ending) -> None:
        if self._cell.traps_exits or not ending.clean:
            self._broken(other, ending.kind, ending.error)

    def _broken(self, other: "Cell", how: str, error: BaseException | None) -> None:
        if self._cell.traps_exits:
            self._incarnation.signal(Exited(other.ref, how, error))
        else:
            broken = LinkBroken(self._cell.path, other.path, how)
            broken.__cause__ = error
            self._incarnation.signal(Crash(broken))
        self._cell.mailbox.wake()
