"""Running a tree as a process: signals in, an exit code out.

`run(tree)` owns the process: it configures the log, receives SIGINT and SIGTERM, and
tells the outcome by the exit code.

The first signal stops the tree in order (drain), the second cancels what is left, the
third ends the process on the spot. Signals are counted in plain Python handlers, not
in trio, so that the third works even while the event loop is blocked; for the same
reason a thread watches that a stop, once begun, comes to an end. Another one names the
handler that blocks the loop (`loop_watch.py`).

Exit codes (sysexits.h): 0 clean; 70 the root gave up or could not start; 75 the drain
was cut short; 78 the tree or its options are wrong; 128 + n ended by a third signal n. A
handler's `SystemExit` keeps its own.
"""

import faulthandler
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Final, cast

import trio

from ..actors.errors import DeclarationError
from ..actors.lifecycle import GaveUp, Notice
from ..actors.retry import DEFAULT_POLICY, RetryPolicy
from .child import Supervisor
from .control import Control
from .control_socket import ControlSocket
from .delivery.location import DEFAULT_FILE, VARIABLE, default_path
from .delivery.store import DeadLetterStore, MemoryStore, SQLiteStore
from .delivery.store_file import StoreFile
from .log_text import chain_of, describe, explain, seconds
from .logs import LOGGER, LogFormat, configure, log_lifecycle
from .loop_watch import LoopWatch
from .supervisor import KILL_GRACE
from .system import System

__all__ = ["CUT_SHORT", "FAILED", "WRONG", "run"]

FAILED: Final = 70
CUT_SHORT: Final = 75
WRONG: Final = 78
"""Exit codes: the root failed, the drain was cut short, the declaration is wrong."""

LAST_GRACE: Final = KILL_GRACE + 1.0
"""Seconds a cancelled tree has before the process ends without it: enough to report one
stuck child."""


def run(
    tree: Supervisor,
    *,
    dead_letters: str | Path | DeadLetterStore | None = DEFAULT_FILE,
    drain: float = 30.0,
    logs: bool | LogFormat = True,
    events: RetryPolicy = DEFAULT_POLICY,
    seed: int | None = None,
    blocked_after: float | None = 1.0,
    control: bool | str | Path = True,
    on_ready: Callable[[System], object] | None = None,
) -> None:
    """Run a tree as this process, until a signal stops it or it ends by itself.

    Returns after a clean end; any other ends the process by `SystemExit` with one of the
    exit codes above, and the reason in the log. Belongs into the main thread, since
    signals arrive there; embedded in another program, use `running`.

    `dead_letters` is the store, or its file; the environment variable
    `UNDERSTUDY_DEAD_LETTERS` names another default, None keeps them in memory. `drain`
    is how many seconds an ordered stop may take. `logs` configures the log (see
    `configure`) unless the program has done so already or it is False; "text" or "json"
    do so in any case. `events` says how often events are tried; `seed` makes what is
    random repeat itself. A handler that keeps the event loop from running for
    `blocked_after` seconds is named in the log; None does not watch for it. `control` gives
    the service a socket by which the command line finds it, at the usual place or at a path
    of its own; False gives none. `on_ready` is called with the system once all of it is up.
    """
    if threading.current_thread() is not threading.main_thread():
        raise DeclarationError(
            "run(tree) receives signals, so it must be called in the main thread. "
            "Anywhere else use `async with running(tree)`."
        )
    name = tree.name if isinstance(tree, Supervisor) else "understudy"
    try:
        _configure(logs)
        _check(drain, blocked_after)
        system = _system(tree, _store(dead_letters), events, seed)
        with _control(control, name) as place:
            service = _Service(system, drain, blocked_after, on_ready, place)
            failure, cut_short = service.run()
        causes = service.causes
    except DeclarationError as error:
        failure, cut_short, causes = error, False, []
    if isinstance(failure, SystemExit):
        raise failure
    code = _exit_code(failure, cut_short)
    if code == WRONG:
        LOGGER.critical("%s cannot run: %s", name, explain(cast(BaseException, failure)))
    elif code == FAILED:
        LOGGER.critical("%s", _told(name, causes or _chain(cast(BaseException, failure))))
    if code:
        sys.exit(code)


class _Service:
    """One run of one system: counts the signals and sees to it that a stop ends."""

    def __init__(
        self,
        system: System,
        drain: float,
        blocked_after: float | None,
        on_ready: Callable[[System], object] | None,
        control: ControlSocket | None,
    ) -> None:
        self.causes: list[str] = []
        """What led to the end of the tree if it failed, the root first."""
        self._system = system
        self._drain = drain
        self._blocked_after = blocked_after
        self._on_ready = on_ready
        self._control = control
        self._watchdog = _Watchdog()
        self._token: trio.lowlevel.TrioToken | None = None
        self._signals: list[int] = []
        self._cut_short = False
        self._failure: BaseException | None = None

    def run(self) -> tuple[BaseException | None, bool]:
        """Returns the failure, if there was one, and whether the drain was cut short."""
        with self._watchdog.watching(), self._receiving():
            try:
                trio.run(self._main)
            except Exception as error:  # noqa: BLE001  # a defect of ours: children raise nothing
                LOGGER.critical("%s: the system itself failed", self._system.name, exc_info=error)
                self._failure = error
        return self._failure, self._cut_short

    async def _main(self) -> None:
        end_log = log_lifecycle(self._system.bus, self._system.timers)
        self._system.bus.subscribe(self._noticed)
        # From here on signals come by the token; those that came before are in the list.
        self._token = trio.lowlevel.current_trio_token()
        for count, number in enumerate(self._signals, 1):
            self._signalled(number, count)
        try:
            with self._loop_watch():
                async with trio.open_nursery() as nursery:
                    if self._control is not None:
                        nursery.start_soon(Control(self._system).run, self._control)
                    await self._live(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            end_log()
            self.causes = self._story()

    async def _live(self, nursery: trio.Nursery) -> None:
        system = self._system
        if self._signals:
            return  # it was stopped before it began
        try:
            await system.run(nursery)
            if self._on_ready is not None:
                self._on_ready(system)
            await system.stopped()
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
            self._failure = error  # told by the exit code
        finally:
            with trio.CancelScope(shield=True):
                await system.finish()

    def _story(self) -> list[str]:
        """How the root failed; empty if it did not, whatever else did."""
        causes = self._system.why(self._system.name).causes
        failed = bool(causes) and causes[0].what in ("gave up", "crashed")
        return [cause.text for cause in causes] if failed else []

    def _loop_watch(self) -> AbstractContextManager[None]:
        if self._blocked_after is None:
            return nullcontext()
        system = self._system
        return LoopWatch(system.bus.publish, system.name, self._blocked_after).watching()

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        """Our signal handlers, for SIGINT and SIGTERM as far as they are not ignored."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # A shell ignores SIGINT for what it starts in the background.
        ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in ours:
            signal.signal(number, self._received)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])

    def _received(self, number: int, frame: FrameType | None) -> None:
        # Runs between two byte codes of anything: nothing here takes a lock.
        self._signals.append(number)
        count = len(self._signals)
        if count > 2:
            os._exit(128 + number)
        self._watchdog.arm((self._drain if count == 1 else 0.0) + LAST_GRACE, CUT_SHORT)
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # then the tree has ended already
                self._token.run_sync_soon(self._signalled, number, count)

    def _signalled(self, number: int, count: int) -> None:
        name = signal.Signals(number).name
        system = self._system
        if count == 1:
            limit = seconds(self._drain)
            system.timers.call_at(trio.current_time() + self._drain, self._late)
            system.stop(f"{name}, at most {limit} to drain; another signal cancels")
        else:
            self._cut(f"{system.name}: {name} again, what is still running is cancelled")

    def _late(self) -> None:
        limit = seconds(self._drain)
        self._cut(
            f"{self._system.name} did not drain in {limit}, what is still running is cancelled"
        )

    def _cut(self, why: str) -> None:
        if self._cut_short:
            return
        LOGGER.error("%s", why)
        self._cut_short = True
        self._system.kill()

    def _noticed(self, notice: Notice) -> None:
        if isinstance(notice, GaveUp) and notice.path == self._system.name:
            self._watchdog.arm(self._drain + LAST_GRACE, FAILED)


class _Watchdog:
    """A thread that ends the process if a stop does not end in time."""

    def __init__(self) -> None:
        # A SimpleQueue may be put to from a signal handler; an Event must not be set there.
        self._orders: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()

    def arm(self, limit: float, code: int) -> None:
        """From now on: end the process with `code` in `limit` seconds."""
        self._orders.put((limit, code))

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, name="understudy-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._orders.put(None)
            thread.join()

    def _watch(self) -> None:
        order = self._orders.get()
        while order is not None:
            limit, code = order
            try:
                order = self._orders.get(timeout=min(limit, threading.TIMEOUT_MAX))
            except queue.Empty:
                _end_process(code)


def _end_process(code: int) -> None:
    # Neither the log nor stderr's own buffer: what hangs may hold their locks.
    text = f"understudy: the tree has not ended; the process ends without it, exit code {code}.\n"
    os.write(2, text.encode())
    faulthandler.dump_traceback(2, all_threads=True)
    os._exit(code)


# -- before and after -----------------------------------------------------------------


def _configure(logs: bool | LogFormat) -> None:
    if logs is True:
        if not LOGGER.hasHandlers():
            configure()
    elif logs is not False:
        configure(logs)


def _check(drain: float, blocked_after: float | None) -> None:
    if not drain >= 0:
        raise DeclarationError(f"drain={drain}: zero or more seconds expected.")
    if blocked_after is not None and not blocked_after > 0:
        raise DeclarationError(
            f"blocked_after={blocked_after}: seconds expected, or None to switch it off."
        )


@contextmanager
def _control(control: bool | str | Path, tree: str) -> Iterator[ControlSocket | None]:
    """The control socket, if there is to be one; only one that was asked for must be there."""
    place: ControlSocket | None = None
    if control is True:
        try:
            place = ControlSocket.of(tree)
        except OSError as error:
            LOGGER.warning("%s: `understudy status` will not find it: %s", tree, error)
    elif control is not False:
        place = ControlSocket.at(Path(control))
    try:
        yield place
    finally:
        if place is not None:
            place.close()


def _system(
    tree: Supervisor, store: DeadLetterStore, events: RetryPolicy, seed: int | None
) -> System:
    if not isinstance(tree, Supervisor):
        raise DeclarationError(
            f"run() takes a Supervisor, got {type(tree).__name__}. "
            'Wrap the children: run(Supervisor("shop", [child(Orders)])).'
        )
    return System(tree, dead_letters=store, events=events, seed=seed)


def _store(dead_letters: str | Path | DeadLetterStore | None) -> DeadLetterStore:
    """The store; a file is opened once beforehand, so that the tree never starts without."""
    if dead_letters is None:
        return MemoryStore()
    if not isinstance(dead_letters, str | Path):
        return dead_letters
    path = default_path() if dead_letters == DEFAULT_FILE else dead_letters
    try:
        StoreFile(path, create=True).close()
    except OSError as error:
        raise DeclarationError(
            f"the dead letters cannot be kept: {error}. Give another path by dead_letters= "
            f"or {VARIABLE}; with dead_letters=None they stay in memory."
        ) from error
    return SQLiteStore(path)


def _exit_code(failure: BaseException | None, cut_short: bool) -> int:
    if failure is None:
        return 0
    if isinstance(failure, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if cut_short:
        return CUT_SHORT
    wrong = any(isinstance(cause, DeclarationError) for cause in chain_of(failure))
    return WRONG if wrong else FAILED


def _chain(failure: BaseException) -> list[str]:
    """The causes of a failure that the tree did not tell of: its exceptions alone."""
    return [describe(cause) for cause in chain_of(failure)]


def _told(name: str, causes: list[str]) -> str:
    """What led to the end of the tree, from the root down to the first exception."""
    return "\n    ".join([f"{name} has failed (exit code {FAILED}), because", *causes])
