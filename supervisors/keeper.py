"""The children of one supervisor, and how one of them is started, stopped or killed.

Owns the children in start order and tells the bus what becomes of them. Decides
nothing: who is restarted and when is supervisor.py's business.

Invariant: whatever happens to one child costs the same, however many there are;
only what concerns all of them (a stop, a group that is restarted) looks at all.
"""

import math
from typing import Any, Final

import trio

from ..actors.cell import Cell
from ..actors.errors import (
    DeclarationError,
    Ignore,
    StartFailed,
    StartTimedOut,
    UnderstudyError,
)
from ..actors.incarnation import Ending, Incarnation
from ..actors.lifecycle import Crashed, Escalated, Notice, Started, Stopped, Stopping, Stuck
from .inbox import End, Inbox
from .registry import Addressee, Visibility
from .running_child import UP, Child, State, Tree

__all__ = ["KILL_GRACE", "Keeper", "address_of", "offer_of"]

KILL_GRACE: Final = 5.0
"""Seconds a cancelled child has for its `finally` blocks before it is left behind."""


class Keeper:
    """Children by name, in start order, each in one life at a time."""

    address: Addressee | None = None
    """What stands for all of the children together, where something does: a pool."""

    _nursery: trio.Nursery
    _incarnation: Incarnation
    _significant_up: int
    _stop_asked: bool
    _cancelled: bool
    _fatal: BaseException | None

    def __init__(
        self, path: str, tree: Tree, parent: "Keeper | None", visibility: Visibility
    ) -> None:
        self.path = path
        self.tree = tree
        self.parent = parent
        self.visibility: Visibility = visibility
        self.children: dict[str, Child] = {}
        self._inbox = Inbox()
        # One for all children; a bound method each would be bytes for nothing.
        self._reporter = self._reported

    def open(self) -> None:
        for child in self.children.values():
            child.runnable.open()

    def close(self, why: str) -> None:
        for child in self.children.values():
            self._close(child, why)

    def offer(self, name: str, asker: str, number: int) -> Any:
        """What the child `name`, here or further up, offers just now."""
        child = self.children.get(name)
        if child is not None:
            if address_of(child) is None and not _is_up(child):
                why = UnderstudyError(f"it needs {child.path}, which is not running")
                raise StartFailed(asker, number) from why
            return offer_of(child)
        if self.parent is not None:
            return self.parent.offer(name, asker, number)
        raise StartFailed(asker, number) from DeclarationError(
            f"it needs {name!r}, but no sibling of it or of a supervisor above it has that name"
        )

    # -- places -------------------------------------------------------------------

    def _put(self, child: Child) -> None:
        self._join(child)
        self.children[child.spec.name] = child

    def _remove(self, child: Child) -> None:
        del self.children[child.spec.name]
        self._leave(child)

    def _join(self, child: Child) -> None:
        self.tree.joined(child, self.visibility)
        child.listed = True

    def _leave(self, child: Child) -> None:
        if isinstance(child.runnable, Keeper):
            child.runnable.leave()
        self.tree.left(child)
        child.listed = False

    def leave(self) -> None:
        """The whole subtree gives up its places in the tree."""
        for child in self.children.values():
            self._leave(child)

    def _become(self, child: Child, state: State) -> None:
        if child.spec.significant:
            self._significant_up += (state in UP) - (child.state in UP)
        child.become(state)

    # -- start --------------------------------------------------------------------

    async def _start(self, child: Child) -> Ending | None:
        """Start one child and wait until it is up; returns how it failed, if it did."""
        child.number += 1
        child.up_since = math.inf
        self._become(child, "starting")
        incarnation = Incarnation(child.path, child.number, self._reporter)
        self._forget(child)
        child.incarnation = incarnation
        incarnation.begin(self._nursery, child.runnable)
        limit = child.spec.start_timeout

        def settled() -> bool:
            return incarnation.started or incarnation.ending is not None or self._wants_stop()

        await self._inbox.until(settled, limit)
        if incarnation.started:
            # It may have crashed since: that is then a crash like any other, by message.
            self._become(child, "running")
            child.up_since = child.since
            address = incarnation.address
            self._publish(Started(path=child.path, incarnation=child.number, address=address))
            return None
        if incarnation.ending is None:
            timed_out = not self._wants_stop()
            await self._kill(child, incarnation)
            if timed_out:
                self._become(child, "down")
                return Ending("crashed", StartTimedOut(child.path, child.number, limit))
        return self._not_up(child, incarnation.ending or Ending("killed"))

    def _not_up(self, child: Child, ending: Ending) -> Ending | None:
        if isinstance(ending.error, Ignore):
            # As OTP's `ignore`: it wants not to run, and that is no failure.
            self._become(child, "ended")
            self._close(child, "it has nothing to do")
            self._publish(Stopped(path=child.path, incarnation=child.number, how="ignored"))
            if child.spec.restart == "temporary":
                self._remove(child)
            return None
        self._become(child, "down")
        if ending.error is None:
            text = f"it ended ({ending.kind}) before its start was complete"
            return Ending("crashed", UnderstudyError(text))
        return ending

    def _close(self, child: Child, why: str) -> None:
        """There will be no other life at this place."""
        child.runnable.close(why)
        self._forget(child)

    def _forget(self, child: Child) -> None:
        """Nobody will ask any more why the last life of `child` ended."""
        if child.incarnation is not None:
            child.incarnation.forget()

    # -- stop ---------------------------------------------------------------------

    async def _stop(self, child: Child, why: str, *, drain: bool) -> None:
        """Stop one child: in order within its limit, then by cancelling it."""
        incarnation = self._ask_to_stop(child, why, drain=drain)
        if incarnation is None:
            return
        await self._until_ended(incarnation, child.spec.shutdown)
        await self._kill(child, incarnation)
        self._told_stopped(child, incarnation)

    async def _stop_all(self, why: str, *, drain: bool, together: bool) -> None:
        children = list(reversed(self.children.values()))
        if together:
            await self._stop_together(children, why, drain=drain)
        for child in children:
            await self._stop(child, why, drain=drain)
            self._close(child, "it has stopped")

    async def _stop_together(self, children: list[Child], why: str, *, drain: bool) -> None:
        """Tell all at once, and let their limits run side by side."""
        now = trio.current_time()
        told: list[tuple[float, Child, Incarnation]] = []
        for child in children:
            incarnation = self._ask_to_stop(child, why, drain=drain)
            if incarnation is not None:
                told.append((now + child.spec.shutdown, child, incarnation))
        # One after the other is enough: all of them have been told, the clock runs for all.
        for deadline, _, incarnation in sorted(told, key=lambda one: one[0]):
            await self._until_ended(incarnation, deadline - trio.current_time())
            if incarnation.ending is None:
                self._cancel(incarnation)
        grace = trio.current_time() + KILL_GRACE
        for _, child, incarnation in told:
            await self._wait_killed(child, incarnation, grace - trio.current_time())
            self._told_stopped(child, incarnation)

    def _ask_to_stop(self, child: Child, why: str, *, drain: bool) -> Incarnation | None:
        """Tell a child to stop; None if it does not live."""
        incarnation = child.incarnation
        if incarnation is None or incarnation.ending is not None:
            if incarnation is not None and incarnation.ending and child.state == "running":
                self._publish_end(child, incarnation.ending)  # nobody has told of it yet
            self._become(child, "down")
            return None
        self._become(child, "stopping")
        self._publish(Stopping(path=child.path, incarnation=child.number, why=why))
        if child.spec.shutdown > 0 and not self._hurry():
            incarnation.stop(drain=drain)
        else:
            self._cancel(incarnation)
        return incarnation

    async def _until_ended(self, incarnation: Incarnation, limit: float) -> None:
        def over() -> bool:
            return incarnation.ending is not None or self._hurry()

        await self._inbox.until(over, max(0.0, limit))

    def _cancel(self, incarnation: Incarnation) -> None:
        # Told to stop as well: a supervisor that is cancelled while it stops hurries.
        # Only after the cancellation: an actor must not wake up for its `stopping()`.
        incarnation.kill()
        incarnation.stop(drain=False)

    async def _kill(self, child: Child, incarnation: Incarnation) -> None:
        if incarnation.ending is None:
            self._cancel(incarnation)
            await self._wait_killed(child, incarnation, KILL_GRACE)

    async def _wait_killed(self, child: Child, incarnation: Incarnation, grace: float) -> None:
        if incarnation.ending is None:
            await self._inbox.until(lambda: incarnation.ending is not None, max(0.0, grace))
        if incarnation.ending is None:
            self._publish(Stuck(path=child.path, incarnation=child.number, after=KILL_GRACE))
            incarnation.end(Ending("stuck"))

    def _told_stopped(self, child: Child, incarnation: Incarnation) -> None:
        self._become(child, "down")
        ending = incarnation.ending
        if ending is not None:
            if ending.error is not None:
                self._publish(self._crashed(child, ending))
            self._publish(Stopped(path=child.path, incarnation=child.number, how=ending.kind))

    # -- what children report -----------------------------------------------------

    def _reported(self, incarnation: Incarnation) -> None:
        ending = incarnation.ending
        if ending is not None:
            if ending.kind == "fatal":
                # Whatever the supervisor is at: nothing is started or restarted any more.
                self._fatal = ending.error
            child = self.children.get(incarnation.path.rpartition("/")[2])
            # What was left behind as stuck is nobody's child any more.
            if child is not None and child.incarnation is incarnation:
                self._inbox.post(End(child, incarnation.number, ending, "running"))
        self._inbox.wake()

    def _wants_stop(self) -> bool:
        return self._stop_asked or self._cancelled or self._fatal is not None

    def _hurry(self) -> bool:
        """A cancellation while stopping means: do not wait any longer."""
        return self._stop_asked and (self._cancelled or self._incarnation.killed)

    def _publish(self, notice: Notice) -> None:
        self.tree.bus.publish(notice)

    def _publish_end(self, child: Child, ending: Ending) -> None:
        if ending.clean or ending.kind == "fatal":
            notice = Stopped(path=child.path, incarnation=child.number, how=ending.kind)
            self._publish(notice)
        elif ending.kind == "gave up":
            number = self._incarnation.number
            self._publish(Escalated(path=self.path, incarnation=number, child=child.path))
        else:
            self._publish(self._crashed(child, ending))

    def _crashed(self, child: Child, ending: Ending) -> Crashed:
        return Crashed(
            path=child.path,
            incarnation=child.number,
            error=ending.error or UnderstudyError(f"it ended: {ending.kind}"),
            pattern=ending.pattern,
            origin=ending.origin.message_id if ending.origin is not None else None,
        )


def address_of(child: Child) -> Addressee | None:
    """Who takes mail at the place of a child, if anybody does."""
    runnable = child.runnable
    if isinstance(runnable, Cell):
        return runnable
    return runnable.address if isinstance(runnable, Keeper) else None


def offer_of(child: Child) -> Any:
    """A reference for who has a mailbox, running or not; else what the present life offers."""
    address = address_of(child)
    if address is not None:
        return address.ref
    return child.incarnation.offer if child.incarnation is not None and _is_up(child) else None


def _is_up(child: Child) -> bool:
    life = child.incarnation
    return life is not None and life.ending is None and life.started
