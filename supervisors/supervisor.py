"""The supervisor at work: what it does when a child ends, and when it ends itself.

Erlang/OTP's `supervisor` on trio. All decisions are taken one after the other by
one loop over one inbox; what they are is in strategy.py, what is done to single
children in keeper.py. Children run in tasks of their own under a shielded nursery,
and report how they ended instead of raising, so that nothing cancels a sibling by
accident. A watcher outside the shield turns a cancellation from outside into an
ordered stop.

Invariant: at any time at most one incarnation of a child is alive, one that is
stuck and fenced aside.
"""

from collections.abc import Awaitable, Callable

import trio

from ..actors.errors import DeclarationError, StartFailed, UnderstudyError
from ..actors.incarnation import Ending, Incarnation, SupervisorGaveUp
from ..actors.lifecycle import Escalated, GaveUp, Restarting
from ..actors.sickness import outside_delay
from .child import ChildSpec, Supervisor
from .inbox import Command, Due, End, Wake
from .keeper import KILL_GRACE, Keeper
from .registry import Visibility
from .running_child import Child, Tree
from .strategy import Strategy, Window, group_of, is_restarted

__all__ = ["KILL_GRACE", "ChildEscalated", "Supervision", "Tree"]


class ChildEscalated(UnderstudyError):
    """A child's failure was declared to be its supervisor's; `__cause__` is that failure."""

    def __init__(self, path: str, child: str) -> None:
        self.path, self.child = path, child
        super().__init__(f"{path} ended with its child {child}, whose failure is to be escalated.")


class Supervision(Keeper):
    """One supervisor, running; a `Runnable` for the supervisor above it."""

    def __init__(
        self,
        spec: Supervisor,
        path: str,
        tree: Tree,
        parent: Keeper | None = None,
        visibility: Visibility = "public",
    ) -> None:
        super().__init__(path, tree, parent, visibility)
        self.spec = spec
        self.window = Window(spec.max_restarts, spec.within)
        self._build()
        # Kept for the life of the tree, so that references stay valid across rebuilds.
        self._own = dict(self.children)
        self.over = trio.Event()
        """Set while it does not live; new for each life."""
        self.over.set()

    # -- as a child ---------------------------------------------------------------

    async def run(self, incarnation: Incarnation) -> None:
        """Start the children, keep them running, stop them in reverse order.

        Raises `SupervisorGaveUp` after too many restarts, `ChildEscalated`, `StartFailed`
        when a child cannot be started, and the `KeyboardInterrupt` or `SystemExit` of a
        handler.
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
                    # Of what is stuck this waits for the end; nobody else need wait for that.
                    async with trio.open_nursery() as self._nursery:
                        try:
                            failure = await self._main()
                        finally:
                            self._finish()
                outside.cancel_scope.cancel()
        except* trio.Cancelled:
            pass  # the ordered stop was the answer to it
        failure = self._fatal or failure
        if failure is not None:
            raise failure

    # -- commands from other tasks ------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Child:
        """Add a child and start it; raises what its start raised.

        A child of the same name that has ended makes way.
        """
        self.spec.check_child(spec)
        started: list[Child] = []

        async def start() -> None:
            self._make_way(spec)
            child = self._add(spec)
            child.runnable.open()
            started.append(child)
            failure = await self._start(child)
            if failure is not None:
                self._remove(child)
                self._close(child, "its start failed")
                raise StartFailed(child.path, child.number) from failure.error

        await self._command(start)
        return started[0]

    async def stop_child(self, name: str) -> None:
        """Stop a child for good, in order; raises `KeyError` if there is none."""

        async def stop() -> None:
            child = self.children.get(name)
            if child is None:
                raise KeyError(f"{self.path} has no child {name!r}.")
            await self._stop(child, "stop_child", drain=True)
            self._close(child, "it was stopped")
            self._remove(child)

        await self._command(stop)

    def _make_way(self, spec: ChildSpec) -> None:
        there = self.children.get(spec.name)
        if there is not None:
            if there.state not in ("ended", "down"):
                raise DeclarationError(
                    f"{self.path} already has a child {spec.name!r}. Give the new one "
                    "another name=, or stop that child first."
                )
            self._remove(there)
        most = self.spec.max_children
        if most is not None and len(self.children) >= most:
            error = StartFailed(f"{self.path}/{spec.name}", 1)
            raise error from UnderstudyError(
                f"{self.path} has {len(self.children)} children, and max_children={most}. "
                "Stop one of them first, or allow more."
            )

    async def _command(self, run: Callable[[], Awaitable[None]]) -> None:
        if self.over.is_set():
            raise UnderstudyError(f"{self.path} is not running.")
        command = Command(run)
        self._inbox.post(command)
        await command.wait()

    # -- the loop -----------------------------------------------------------------

    def _begin(self) -> None:
        """A life begins with the children of the spec and an empty window, as in OTP."""
        for name, child in self.children.items():
            if self._own.get(name) is not child:
                self._leave(child)
        self.children = dict(self._own)
        for child in self.children.values():
            if not child.listed:
                self._join(child)
            child.failures = 0
        self.window.clear()
        self._significant_up = 0
        self._stop_asked = self._cancelled = False
        self._fatal = None
        self.over = trio.Event()
        self.open()

    def _finish(self) -> None:
        self.over.set()
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

    def _on_stop(self) -> None:
        self._stop_asked = True
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
            del event  # an end has its error, which would be kept until the next event
        why = "its supervisor stops" if self._fatal is None else "the process ends"
        await self._stop_others(why, drain=self._incarnation.draining)
        return None

    async def _obey(self, command: Command) -> None:
        if not command.wanted:
            return
        error: BaseException | None = None
        try:
            await command.run()
        except Exception as caught:  # noqa: BLE001  # raised where the command came from
            error = caught
        command.done(error)

    async def _start_all(self) -> BaseException | None:
        for child in list(self.children.values()):
            if self._wants_stop():
                return None
            failure = await self._start(child)
            if failure is None or self._wants_stop():
                continue
            await self._stop_others("a sibling could not be started", drain=False)
            error = StartFailed(child.path, child.number)
            error.__cause__ = failure.error
            return error
        return None

    async def _stop_others(self, why: str, *, drain: bool) -> None:
        """Stop all children that still live: this supervisor is about to end."""
        await self._stop_all(why, drain=drain, together=self.spec.stop_together)

    # -- a child that ended by itself ---------------------------------------------

    async def _ended(self, end: End) -> tuple[bool, BaseException | None]:
        """Returns whether the supervisor is over, and its failure."""
        child, ending = end.child, end.ending
        if child.number != end.number or child.state != end.expected:
            return False, None  # somebody waited for this end already
        self._publish_end(child, ending)
        if ending.kind == "fatal":
            self._become(child, "down")
            return False, None  # remembered when it was reported; the loop ends
        if ending.directive == "escalate":
            self._become(child, "down")
            return True, await self._escalate(child, ending)
        if ending.directive != "stop" and is_restarted(child.spec.restart, ending):
            return await self._restart(child, ending)
        return await self._let_go(child, for_good=ending.directive == "stop"), None

    async def _let_go(self, child: Child, *, for_good: bool) -> bool:
        """A child is not restarted; returns whether the supervisor ends with it."""
        self._become(child, "ended")
        self._close(child, "it has ended")
        over = self._ends_supervisor(child)
        if for_good or child.spec.restart == "temporary":
            self._remove(child)
        if over:
            await self._stop_others("a significant sibling has ended", drain=True)
        return over

    def _ends_supervisor(self, child: Child) -> bool:
        if not child.spec.significant:
            return False
        return self.spec.auto_shutdown == "any" or self._significant_up == 0

    async def _restart(self, child: Child, ending: Ending) -> tuple[bool, BaseException | None]:
        now = trio.current_time()
        self._become(child, "restarting")
        if ending.origin is not None:
            # Blamed on a message from outside: this child alone, and nothing is counted.
            group: tuple[Child, ...] = (child,)
            delay, left = outside_delay(ending.streak), None
        elif not self.window.add(now):
            return True, await self._give_up(child, ending)
        else:
            group = await self._clear_group(child)
            delay, left = child.backoff_delay(child.spec.backoff), self.window.left(now)
        self._publish(
            Restarting(
                path=child.path,
                incarnation=child.number + 1,
                delay=delay,
                left=left,
                max_restarts=self.window.max_restarts,
                within=self.window.within,
                siblings=tuple(other.path for other in group if other is not child),
            )
        )
        due = Due(child, child.number, group)
        if delay > 0:
            self.tree.timers.call_at(now + delay, lambda: self._inbox.post(due))
        else:
            # In the same turn: what has queued up meanwhile finds the group restarted.
            await self._start_group(due)
        return False, None

    async def _clear_group(self, child: Child) -> tuple[Child, ...]:
        """Stop what the strategy restarts together with `child`; returns the group."""
        if self.spec.strategy is Strategy.ONE_FOR_ONE:
            return (child,)
        children = list(self.children.values())
        indices = group_of(self.spec.strategy, children.index(child), len(children))
        group = [children[index] for index in indices]
        for other in reversed(group):
            if other is not child:
                await self._stop(other, f"restarted with {child.spec.name}", drain=False)
                if other.spec.restart == "temporary":
                    self._close(other, "its group was restarted")
                    self._remove(other)
        return tuple(other for other in group if other.spec.restart != "temporary")

    async def _start_group(self, due: Due) -> None:
        """The delay is over: start the group in order, up to the first that fails."""
        if due.child.state != "restarting" or due.child.number != due.number:
            return
        for child in due.group:
            gone = self.children.get(child.spec.name) is not child  # by `stop_child` meanwhile
            if gone or self._wants_stop() or child.state in ("starting", "running"):
                continue
            child.runnable.open()
            failure = await self._start(child)
            if failure is not None and not self._wants_stop():
                # By message, as an end of its own: it counts, and a stop is served first.
                if due.child.state == "restarting":
                    self._become(due.child, "down")  # the retry is of the one that failed
                self._become(child, "restarting")
                self._inbox.post(End(child, child.number, failure, "restarting"))
                return

    async def _give_up(self, child: Child, ending: Ending) -> BaseException:
        self._become(child, "down")
        most, within = self.window.max_restarts, self.window.within
        self._publish(
            GaveUp(
                path=self.path,
                incarnation=self._incarnation.number,
                max_restarts=most,
                within=within,
                cause=ending.error,
            )
        )
        await self._stop_others("its supervisor gives up", drain=False)
        error = SupervisorGaveUp(self.path, child.path, most, within)
        error.__cause__ = ending.error
        return error

    async def _escalate(self, child: Child, ending: Ending) -> BaseException:
        number = self._incarnation.number
        self._publish(Escalated(path=self.path, incarnation=number, child=child.path))
        await self._stop_others("a sibling's failure is escalated", drain=False)
        error = ChildEscalated(self.path, child.path)
        error.__cause__ = ending.error
        return error

    # -- places -------------------------------------------------------------------

    def _build(self) -> None:
        try:
            for spec in self.spec.children:
                self._add(spec)
        except DeclarationError:
            self.leave()
            raise

    def _add(self, spec: ChildSpec) -> Child:
        child = Child(spec, self)
        child.runnable = (
            Supervision(spec, child.path, self.tree, self, self.visibility)
            if isinstance(spec, Supervisor)
            else spec.build(child)
        )
        try:
            self._put(child)
        except DeclarationError:
            self._leave(child)
            raise
        return child
