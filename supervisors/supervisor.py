"""The supervisor at work: starts, watches, restarts and stops its children.

Erlang/OTP's `supervisor` on trio. All decisions are taken one after the other by
one loop over one inbox; what they are is in strategy.py. Children run in tasks of
their own under a shielded nursery, and report how they ended instead of raising,
so that nothing cancels a sibling by accident. A watcher outside the shield turns a
cancellation from outside into an ordered stop.

Invariant: at any time at most one incarnation of a child is alive, one that is
stuck and fenced aside.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from ..actors.cell import Cell
from ..actors.errors import DeclarationError, StartFailed, StartTimedOut, UnderstudyError
from ..actors.incarnation import Ending, Incarnation, SupervisorGaveUp
from ..actors.lifecycle import (
    Crashed,
    Escalated,
    GaveUp,
    Notice,
    Restarting,
    Started,
    Stopped,
    Stopping,
    Stuck,
)
from ..actors.sickness import outside_delay
from .child import ChildSpec, Supervisor
from .delivery.intake import IntakeServices
from .inbox import Command, Due, End, Inbox, Wake
from .running_child import Child
from .strategy import Window, group_of, is_restarted

__all__ = ["KILL_GRACE", "Supervision", "Tree"]

KILL_GRACE: Final = 5.0
"""Seconds a cancelled child has for its `finally` blocks before it is left behind."""


class Tree(IntakeServices, Protocol):
    """What supervisors need from the system: what children need, and a register of them."""

    def joined(self, child: "Child") -> None:
        """A child takes its place in the tree."""

    def left(self, child: "Child") -> None:
        """A child is gone from the tree, for good."""


class Supervision:
    """One supervisor, running; a `Runnable` for the supervisor above it."""

    def __init__(
        self, spec: Supervisor, path: str, tree: Tree, parent: "Supervision | None" = None
    ) -> None:
        self.spec = spec
        self.path = path
        self.tree = tree
        self.parent = parent
        self.window = Window(spec.max_restarts, spec.within)
        self.children: list[Child] = []
        self._build()
        # Kept for the life of the tree, so that references stay valid across rebuilds.
        self._own = tuple(self.children)
        self._inbox = Inbox()
        self._stop_asked = False
        self._cancelled = False
        self._fatal: BaseException | None = None
        self._over = True
        self._nursery: trio.Nursery
        self._incarnation: Incarnation

    # -- as a child ---------------------------------------------------------------

    async def run(self, incarnation: Incarnation) -> None:
        """Start the children, keep them running, stop them in reverse order.

        Raises `SupervisorGaveUp` after too many restarts, `StartFailed` when a child
        cannot be started, and the `KeyboardInterrupt` or `SystemExit` of a handler.
        """
        self._incarnation = incarnation
        self._begin()
        incarnation.on_stop(self._on_stop)
        self._stop_asked = incarnation.stopping
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as outside:
                outside.start_soon(self._watch)
                with trio.CancelScope(shield=True):
                    async with trio.open_nursery() as self._nursery:
                        failure = await self._main()
                outside.cancel_scope.cancel()
        except* trio.Cancelled:
            pass  # the ordered stop was the answer to it
        finally:
            self._finish()
        failure = self._fatal or failure
        if failure is not None:
            raise failure

    def open(self) -> None:
        for child in self.children:
            child.runnable.open()

    def close(self, why: str) -> None:
        for child in self.children:
            child.runnable.close(why)

    def offer(self, name: str, asker: str, number: int) -> Any:
        """What the child `name`, here or further up, offers just now."""
        for child in self.children:
            if child.spec.name != name:
                continue
            if isinstance(child.runnable, Cell):
                return child.runnable.ref
            if child.incarnation is not None and child.alive and child.incarnation.started:
                return child.incarnation.offer
            why = UnderstudyError(f"it needs {child.path}, which is not running")
            raise StartFailed(asker, number) from why
        if self.parent is not None:
            return self.parent.offer(name, asker, number)
        raise StartFailed(asker, number) from DeclarationError(
            f"it needs {name!r}, but no sibling of it or of a supervisor above it has that name"
        )

    # -- commands from other tasks ------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Child:
        """Add a child and start it; raises what its start raised.

        A child of the same name that has ended makes way.
        """
        self.spec.check_child(spec)
        started: list[Child] = []

        async def start() -> None:
            for child in self.children:
                if child.spec.name == spec.name:
                    if child.state != "ended":
                        raise DeclarationError(
                            f"{self.path} already has a child {spec.name!r}. Give the new one "
                            "another name=, or stop that child first."
                        )
                    self._remove(child)
                    break
            child = self._add(spec)
            child.runnable.open()
            started.append(child)
            failure = await self._start(child)
            if failure is not None:
                self._remove(child)
                child.runnable.close("its start failed")
                raise StartFailed(child.path, child.number) from failure.error

        await self._command(start)
        return started[0]

    async def stop_child(self, name: str) -> None:
        """Stop a child for good, in order; raises `KeyError` if there is none."""

        async def stop() -> None:
            for child in self.children:
                if child.spec.name == name:
                    await self._stop(child, "stop_child", drain=True)
                    child.runnable.close("it was stopped")
                    self._remove(child)
                    return
            raise KeyError(f"{self.path} has no child {name!r}.")

        await self._command(stop)

    async def _command(self, run: Callable[[], Any]) -> None:
        outcome: list[BaseException | None] = []
        finished = trio.Event()

        def done(error: BaseException | None) -> None:
            outcome.append(error)
            finished.set()

        if self._over:
            raise UnderstudyError(f"{self.path} is not running.")
        self._inbox.post(Command(run, done))
        await finished.wait()
        if outcome[0] is not None:
            raise outcome[0]

    # -- the loop -----------------------------------------------------------------

    def _begin(self) -> None:
        """A life begins with the children of the spec and an empty window, as in OTP."""
        for child in self.children:
            if child not in self._own:
                self._leave(child)
        self.children = list(self._own)
        for child in self.children:
            if not child.listed:
                self._join(child)
            child.failures = 0
            child.become("down")
        self.window.clear()
        self._stop_asked = self._cancelled = False
        self._fatal = None
        self._over = False
        self.open()

    def _finish(self) -> None:
        self._over = True
        for event in self._inbox.clear():
            if isinstance(event, Command):
                event.done(UnderstudyError(f"{self.path} has ended."))
        self.close(f"its supervisor {self.path} has ended")

    async def _watch(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._cancelled = True
            self._inbox.post(Wake())

    async def _main(self) -> BaseException | None:
        """Returns why the supervisor failed; None when it ended in order."""
        failure = await self._start_all()
        if failure is not None:
            return failure
        if not self._wants_stop():
            self._incarnation.announce(self)
        while not self._wants_stop():
            event = await self._inbox.next()
            if isinstance(event, Command):
                await self._obey(event)
            elif isinstance(event, Due):
                await self._start_group(event)
            elif isinstance(event, End):
                over, failure = await self._ended(event)
                if over:
                    return failure
        why = "its supervisor stops" if self._fatal is None else "the process ends"
        await self._stop_all(why, self._incarnation.draining)
        return None

    async def _obey(self, command: Command) -> None:
        error: BaseException | None = None
        try:
            await command.run()
        except Exception as caught:  # noqa: BLE001  # raised where the command came from
            error = caught
        command.done(error)

    async def _start_all(self) -> BaseException | None:
        for child in list(self.children):
            if self._wants_stop():
                return None
            failure = await self._start(child)
            if failure is None or self._wants_stop():
                continue
            await self._stop_all("a sibling could not be started", drain=False)
            error = StartFailed(child.path, child.number)
            error.__cause__ = failure.error
            return error
        return None

    # -- one child ----------------------------------------------------------------

    async def _start(self, child: Child) -> Ending | None:
        """Start one child and wait until it is up; returns how it failed, if it did."""
        child.number += 1
        child.up_since = math.inf
        child.become("starting")
        incarnation = Incarnation(child.path, child.number, lambda i: self._report(child, i))
        child.incarnation = incarnation
        incarnation.begin(self._nursery, child.runnable)
        limit = child.spec.start_timeout

        def settled() -> bool:
            return incarnation.started or incarnation.ending is not None or self._wants_stop()

        await self._inbox.until(settled, limit)
        if incarnation.started:
            # It may have crashed since: that is then a crash like any other, by message.
            child.up_since = trio.current_time()
            child.become("running")
            self._publish(
                Started(path=child.path, incarnation=child.number, address=incarnation.address)
            )
            return None
        if incarnation.ending is None:
            timed_out = not self._wants_stop()
            await self._kill(child, incarnation)
            if timed_out:
                error = StartTimedOut(child.path, child.number, limit)
                child.become("down")
                return Ending("crashed", error)
        child.become("down")
        ending = incarnation.ending or Ending("killed")
        if ending.error is None:
            text = f"it ended ({ending.kind}) before its start was complete"
            ending = Ending("crashed", UnderstudyError(text))
        return ending

    async def _stop(self, child: Child, why: str, *, drain: bool) -> None:
        """Stop one child: in order within its limit, then by cancelling it."""
        incarnation = child.incarnation
        if incarnation is None or incarnation.ending is not None:
            if incarnation is not None and incarnation.ending and child.state == "running":
                self._publish_end(child, incarnation.ending)  # nobody has told of it yet
            child.become("down")
            return
        child.become("stopping")
        self._publish(Stopping(path=child.path, incarnation=child.number, why=why))
        if child.spec.shutdown > 0 and not self._hurry():
            incarnation.stop(drain=drain)
            await self._inbox.until(
                lambda: incarnation.ending is not None or self._hurry(), child.spec.shutdown
            )
        await self._kill(child, incarnation)
        child.become("down")
        ending = incarnation.ending
        if ending is not None:
            if ending.error is not None:
                self._publish(self._crashed(child, ending))
            self._publish(Stopped(path=child.path, incarnation=child.number, how=ending.kind))

    async def _kill(self, child: Child, incarnation: Incarnation) -> None:
        if incarnation.ending is None:
            # Told to stop as well: a supervisor that is cancelled while it stops hurries.
            # Only after the cancellation: an actor must not wake up for its `stopping()`.
            incarnation.kill()
            incarnation.stop(drain=False)
            await self._inbox.until(lambda: incarnation.ending is not None, KILL_GRACE)
        if incarnation.ending is None:
            self._publish(Stuck(path=child.path, incarnation=child.number, after=KILL_GRACE))
            incarnation.end(Ending("stuck"))

    async def _stop_all(self, why: str, drain: bool) -> None:
        for child in reversed(self.children):
            await self._stop(child, why, drain=drain)
            child.runnable.close("it has stopped")

    # -- a child that ended by itself ---------------------------------------------

    async def _ended(self, end: End) -> tuple[bool, BaseException | None]:
        """Returns whether the supervisor is over, and its failure."""
        child, ending = end.child, end.ending
        if child.number != end.number or child.state != end.expected:
            return False, None  # somebody waited for this end already
        child.become("down")
        self._publish_end(child, ending)
        if ending.kind == "fatal":
            return False, None  # remembered when it was reported; the loop ends
        if is_restarted(child.spec.restart, ending):
            return await self._restart(child, ending)
        child.become("ended")
        child.runnable.close("it has ended")
        over = self._ends_supervisor(child)
        if child.spec.restart == "temporary":
            self._remove(child)
        if over:
            await self._stop_all("a significant sibling has ended", drain=True)
        return over, None

    def _ends_supervisor(self, child: Child) -> bool:
        if not child.spec.significant or self.spec.auto_shutdown == "never":
            return False
        others = (other for other in self.children if other.spec.significant and other is not child)
        return self.spec.auto_shutdown == "any" or not any(
            other.alive or other.state == "restarting" for other in others
        )

    async def _restart(self, child: Child, ending: Ending) -> tuple[bool, BaseException | None]:
        now = trio.current_time()
        if ending.origin is not None:
            # Blamed on a message from outside: this child alone, and nothing is counted.
            group: tuple[Child, ...] = (child,)
            delay, left = outside_delay(ending.streak), None
        elif not self.window.add(now):
            return True, await self._give_up(child, ending)
        else:
            group = await self._clear_group(child)
            delay, left = child.backoff_delay(child.spec.backoff), self.window.left(now)
        child.become("restarting")
        self._publish(
            Restarting(
                path=child.path,
                incarnation=child.number + 1,
                delay=delay,
                left=left,
                within=self.window.within,
                siblings=tuple(other.path for other in group if other is not child),
            )
        )
        due = Due(child, child.number, group)
        # Also without a delay by message: a stop is served before the next attempt.
        if delay > 0:
            self.tree.timers.call_at(now + delay, lambda: self._inbox.post(due))
        else:
            self._inbox.post(due)
        return False, None

    async def _clear_group(self, child: Child) -> tuple[Child, ...]:
        """Stop what the strategy restarts together with `child`; returns the group."""
        indices = group_of(self.spec.strategy, self.children.index(child), len(self.children))
        group = [self.children[index] for index in indices]
        for other in reversed(group):
            if other is not child:
                await self._stop(other, f"restarted with {child.spec.name}", drain=False)
                if other.spec.restart == "temporary":
                    other.runnable.close("its group was restarted")
                    self._remove(other)
        return tuple(other for other in group if other.spec.restart != "temporary")

    async def _start_group(self, due: Due) -> None:
        """The delay is over: start the group in order, up to the first that fails."""
        if due.child.state != "restarting" or due.child.number != due.number:
            return
        for child in due.group:
            gone = child not in self.children  # by `stop_child`, during the delay
            if gone or self._wants_stop() or child.state in ("starting", "running"):
                continue
            child.runnable.open()
            failure = await self._start(child)
            if failure is not None and not self._wants_stop():
                # By message, as an end of its own: it counts, and a stop is served first.
                child.become("restarting")
                self._inbox.post(End(child, child.number, failure, "restarting"))
                return

    async def _give_up(self, child: Child, ending: Ending) -> BaseException:
        self._publish(
            GaveUp(
                path=self.path,
                incarnation=self._incarnation.number,
                max_restarts=self.window.max_restarts,
                within=self.window.within,
                cause=ending.error,
            )
        )
        await self._stop_all("its supervisor gives up", drain=False)
        error = SupervisorGaveUp(
            self.path, child.path, self.window.max_restarts, self.window.within
        )
        error.__cause__ = ending.error
        return error

    # -- details ------------------------------------------------------------------

    def _build(self) -> None:
        try:
            for spec in self.spec.children:
                self._add(spec)
        except DeclarationError:
            for child in self.children:
                self._leave(child)
            raise

    def _add(self, spec: ChildSpec) -> Child:
        child = Child(spec, self, self.tree)
        child.runnable = (
            Supervision(spec, child.path, self.tree, self)
            if isinstance(spec, Supervisor)
            else spec.build(child)
        )
        try:
            self._join(child)
        except DeclarationError:
            self._leave(child)
            raise
        self.children.append(child)
        return child

    def _remove(self, child: Child) -> None:
        self.children.remove(child)
        self._leave(child)

    def _join(self, child: Child) -> None:
        self.tree.joined(child)
        child.listed = True

    def _leave(self, child: Child) -> None:
        if isinstance(child.runnable, Supervision):
            for grandchild in child.runnable.children:
                child.runnable._leave(grandchild)
        self.tree.left(child)
        child.listed = False

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

    def _report(self, child: Child, incarnation: Incarnation) -> None:
        if incarnation.ending is None:
            self._inbox.wake()  # it has started; `_start` waits for that
        else:
            if incarnation.ending.kind == "fatal":
                # Whatever the supervisor is at: nothing is started or restarted any more.
                self._fatal = incarnation.ending.error
            self._inbox.post(End(child, incarnation.number, incarnation.ending, "running"))

    def _on_stop(self) -> None:
        self._stop_asked = True
        self._inbox.post(Wake())

    def _wants_stop(self) -> bool:
        return self._stop_asked or self._cancelled or self._fatal is not None

    def _hurry(self) -> bool:
        """A cancellation while stopping means: do not wait any longer."""
        cancelled = self._cancelled or self._incarnation.killed
        return self._stop_asked and cancelled
