"""One life of a child, from its start to its end: whatever kind of child it is.

Actors, resources, bridges and supervisors are all run the same way: a `Runnable`
gets an `Incarnation`, announces when its start is complete, ends when it is
asked to, and its outcome is caught here and reported as data, so that a crash
never cancels a sibling.

Stop is a message, kill is a cancel: an ordered stop touches no cancel scope, so
that clean-up code needs no shield; the scope is cancelled only when the time for
that is over. Semantics: Erlang/OTP's `supervisor` and `gen_server`.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

import attrs
import trio

from .envelope import Origin
from .errors import UnderstudyError

__all__ = ["Crash", "Directive", "Ending", "Incarnation", "Runnable", "SupervisorGaveUp"]

Directive = Literal["", "stop", "escalate"]
Kind = Literal["normal", "shutdown", "killed", "crashed", "gave up", "stuck", "fatal"]


@attrs.frozen
class Ending:
    """How an incarnation ended.

    `origin` is the outside message whose handling crashed it, `pattern` what was
    being handled, `streak` how many such crashes there were in a row. A kind other
    than `normal` and `shutdown` is abnormal. A `directive` overrides restart type and
    strategy: end it for good, or make its failure the supervisor's.
    """

    kind: Kind
    error: BaseException | None = None
    origin: Origin | None = None
    pattern: str | None = None
    streak: int = 0
    directive: Directive = ""

    @property
    def clean(self) -> bool:
        return self.kind in ("normal", "shutdown")


class Crash(Exception):
    """Carries a handler's exception, and the message it is blamed on, out of a cell."""

    def __init__(
        self,
        error: BaseException,
        origin: Origin | None = None,
        pattern: str | None = None,
        streak: int = 0,
        directive: Directive = "",
    ) -> None:
        self.error, self.origin, self.pattern, self.streak = error, origin, pattern, streak
        self.directive: Directive = directive
        super().__init__(repr(error))


class SupervisorGaveUp(UnderstudyError):
    """More restarts than `max_restarts` in `within` seconds; `__cause__` is the last reason."""

    def __init__(self, path: str, child: str, max_restarts: int, within: float) -> None:
        self.path, self.child = path, child
        self.max_restarts, self.within = max_restarts, within
        super().__init__(
            f"{path} gave up: restarting {child} would have been more than "
            f"{max_restarts} restarts in {within:g} s."
        )


class Incarnation:
    """The life line between a supervisor and what runs under it.

    `interrupt` is what busy loops look at: it is True once there is any reason not
    to simply take the next message.

    A life may be *asleep*: its task has ended because there was nothing to do, and is
    begun again by `wake`. To its supervisor that makes no difference.
    """

    __slots__ = (
        "_nursery",
        "_on_fence",
        "_on_stop",
        "_report",
        "_runnable",
        "_stop_event",
        "address",
        "asleep",
        "draining",
        "ending",
        "interrupt",
        "killed",
        "number",
        "offer",
        "path",
        "scope",
        "signals",
        "started",
        "stopping",
    )

    def __init__(self, path: str, number: int, report: "Callable[[Incarnation], None]") -> None:
        self.path = path
        self.number = number
        self.scope: trio.CancelScope | None = None
        self.started = False
        self.asleep = False
        self.killed = False
        self.ending: Ending | None = None
        self.draining = False
        self.stopping = False
        self.interrupt = False
        self.signals: deque[Any] | None = None
        self.offer: Any = None
        self.address: str | None = None
        self._report = report
        # Most lives have one listener or none, so tuples take the least memory.
        self._on_stop: tuple[Callable[[], None], ...] = ()
        self._on_fence: tuple[Callable[[], None], ...] = ()
        self._stop_event: trio.Event | None = None
        self._nursery: trio.Nursery | None = None
        self._runnable: Runnable | None = None

    def begin(self, nursery: trio.Nursery, runnable: "Runnable") -> None:
        """Run `runnable` to its end in a task of `nursery`."""
        self._nursery, self._runnable = nursery, runnable
        nursery.start_soon(self.live, runnable, name=self.path)

    def announce(self, offer: Any, address: str | None = None) -> None:
        """The start is complete. `offer` is what `needs` injects; `address` where it listens."""
        self.offer, self.address = offer, address
        self.started = True
        self._report(self)

    def on_stop(self, function: Callable[[], None]) -> None:
        """Call `function` when the stop is asked for; it must not raise."""
        self._on_stop = (*self._on_stop, function)

    def on_fence(self, function: Callable[[], None]) -> None:
        """Call `function` when this life is over, whatever is left of it; it must not raise.

        The last registered is called first.
        """
        self._on_fence = (*self._on_fence, function)

    def signal(self, signal: Any) -> None:
        """Leave something for the runnable that comes before all mail."""
        if self.signals is None:
            self.signals = deque()
        self.signals.append(signal)
        self.interrupt = True

    def stop(self, *, drain: bool) -> None:
        """Ask for an ordered end; with `drain`, after what waits has been handled."""
        if self.stopping:
            return
        self.stopping = self.interrupt = True
        self.draining = drain
        if self._stop_event is not None:
            self._stop_event.set()
        for function in self._on_stop:
            function()

    async def stop_asked(self) -> None:
        """Wait until the stop is asked for."""
        if self._stop_event is None:
            self._stop_event = trio.Event()
            if self.stopping:
                self._stop_event.set()
        await self._stop_event.wait()

    def kill(self) -> None:
        """Cancel it; nothing but `finally` blocks and shielded code runs any more."""
        self.killed = self.interrupt = True
        if self.asleep:
            self.end(Ending("killed"))
        elif self.scope is not None:
            self.scope.cancel()

    def sleep(self) -> None:
        """Let the task end and the life go on; for runnables, just before they return."""
        self.asleep = True

    def wake(self) -> None:
        """Begin a task again, unless there is one or the life is over."""
        if not self.asleep or self.ending is not None:
            return
        nursery, runnable = self._nursery, self._runnable
        if nursery is None or runnable is None:
            raise UnderstudyError(f"{self.path}: only what `begin` has begun can sleep")
        self.asleep = False
        # Not in the context of whoever happens to send the mail that wakes it.
        context = nursery.parent_task.context.copy()
        context.run(self.begin, nursery, runnable)

    def end(self, ending: Ending) -> None:
        """It is over: fence what is left of it and report, the first time this is called."""
        if self.ending is not None:
            return
        self.ending = ending
        self.interrupt, self.draining = True, False
        for function in reversed(self._on_fence):
            function()
        self._report(self)

    def forget(self) -> None:
        """Keep how it ended, but not its error, once nobody will ask for that any more.

        An error holds frames, and those the message that was in hand with all it came from:
        messages are unknown to the garbage collector, which could then never free the tree.
        """
        if self.ending is not None and self.ending.error is not None:
            self.ending = attrs.evolve(self.ending, error=None, origin=None)

    async def live(self, runnable: "Runnable") -> None:
        """Run `runnable` to its end, whatever that is, and report it; raises nothing."""
        error: BaseException | None = None
        self.scope = trio.CancelScope()
        if self.killed:
            self.scope.cancel()
        try:
            with self.scope:
                await runnable.run(self)
        # A group that a kill leaves behind leaves the scope as an exception, too:
        # everything that comes out is the outcome of this child and of nobody else.
        except BaseException as caught:  # noqa: BLE001
            error = caught
        self.scope = None
        if self.asleep and error is None and not self.killed:
            return
        self.asleep = False
        ending, error = self._outcome(error), None
        self.end(ending)
        del ending  # this frame is in the traceback of its error, which would keep itself

    def _outcome(self, error: BaseException | None) -> Ending:
        fatal = _fatal(error.error if isinstance(error, Crash) else error)
        if fatal is not None:
            return Ending("fatal", fatal)
        # A Cancelled that comes out is somebody else's cancellation, never a crash.
        if self.killed or isinstance(error, trio.Cancelled):
            return Ending("killed", error)
        if error is None:
            return Ending("shutdown" if self.stopping else "normal")
        if isinstance(error, SupervisorGaveUp):
            return Ending("gave up", error)
        if isinstance(error, Crash):
            return Ending(
                "crashed", error.error, error.origin, error.pattern, error.streak, error.directive
            )
        return Ending("crashed", error)


def _fatal(error: BaseException | None) -> BaseException | None:
    """What must end the process, also out of the groups that nurseries wrap it in."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_fatal, error.exceptions)), None)
    return error if isinstance(error, KeyboardInterrupt | SystemExit) else None


class Runnable(Protocol):
    """What a supervisor can run, again and again, one incarnation at a time."""

    async def run(self, incarnation: Incarnation) -> None:
        """Start, `announce`, work until the stop is asked for, end. An exception is a crash."""

    def open(self) -> None:
        """The supervisor is about to start its children: whatever is sent may wait now."""

    def close(self, why: str) -> None:
        """No further incarnation will come: let go of what survives restarts."""
