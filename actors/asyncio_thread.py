"""An asyncio loop in a thread of its own, and how work crosses between it and trio.

The clients of most brokers know asyncio only, and so does much of what users call.
A trio run has up to two such threads, one for brokers and one for users' own code, so
that neither can stall the other; each is made on first use and ends with the run.

`AsyncioThread.call` runs one coroutine there: its result, exception and cancellation cross.
Streams of messages cross by the queues of asyncio_queues.py.

Invariant: nothing of trio is touched in the thread, nothing of asyncio outside of it,
but for what is documented to be thread-safe: deques, `loop.call_soon_threadsafe` and
`TrioToken.run_sync_soon`. Whoever empties a deque first lowers the flag that says
somebody was woken, whoever fills it looks at the flag last, so that no wake-up is lost.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Final, Literal, Protocol, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, RaiseCancelT, RunVar, current_task, reschedule

from .errors import AsyncioThreadEnded

__all__ = ["AsyncioThread", "Purpose", "Waiter", "asyncio_thread", "result_of"]

T = TypeVar("T")

Purpose = Literal["brokers", "users"]

GRACE: Final = 5.0
"""Seconds that whatever is left on the loop may take to end when the loop is closed."""

_log = logging.getLogger("understudy.asyncio")


class _Waits(Protocol):
    """Something in trio that waits for the loop."""

    def lost(self) -> None:
        """The loop has ended, so that what this waits for will not come."""


class AsyncioThread:
    """A running asyncio loop. Made by `asyncio_thread`; used from trio."""

    def __init__(self, purpose: Purpose) -> None:
        self.purpose: Purpose = purpose
        self.alive = True
        self.over = False
        self.loop = asyncio.new_event_loop()
        name = f"understudy-asyncio-{purpose}"
        self._executor = ThreadPoolExecutor(thread_name_prefix=name)
        self.loop.set_default_executor(self._executor)
        self._token = trio.lowlevel.current_trio_token()
        # Woken by anybody, so in nobody's context.
        self._context = Context()
        self._there: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._here: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._there_woken = self._here_woken = False
        self._waiting: dict[_Waits, None] = {}
        self._closing = False
        self._ended = trio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, to be closed with the trio run."""
        try:
            name = f"asyncio loop for {self.purpose}"
            trio.lowlevel.spawn_system_task(self._live_with_the_run, name=name)
        except RuntimeError:  # the run is at its very end
            self.loop.close()
            raise
        self._thread.start()

    # -- from trio ----------------------------------------------------------------

    async def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run `function(*arguments)` as a task of the loop and wait for its end.

        What it returns or raises comes out here; context variables go along. When this is
        cancelled so is the task, and its end is waited for: nothing goes on unseen. A task
        that does not mind its cancellation gives its result all the same.

        Raises `AsyncioThreadEnded` if the loop ends first.
        """
        return await self.call_in(copy_context(), function, *arguments)

    async def call_in(
        self, context: Context, function: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """`call` with the context variables of `context`, which the task may change."""
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(self, context, function, arguments)
        self.soon(call.begin)
        result: T = await call.wait(call.cancel)
        return result

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a plain function on the loop, after all that was handed over before.

        Nobody hears of its exceptions but asyncio's log.
        Raises `AsyncioThreadEnded` if there is no loop any more.
        """
        if not self.alive:
            raise AsyncioThreadEnded(self.purpose)
        self.last_word(function, *arguments)

    def last_word(self, function: Callable[..., object], *arguments: Any) -> None:
        """`soon`, also while the tasks of the loop are being ended."""
        self._there.append((function, arguments))
        if not self._there_woken:
            self._there_woken = True
            try:
                self.loop.call_soon_threadsafe(self._run_there, context=self._context)
            except RuntimeError as error:
                raise AsyncioThreadEnded(self.purpose) from error

    def later(self, function: Callable[..., object]) -> None:
        """`soon`, but not before the trio task that runs now has had its turn.

        The other thread begins to run as soon as it is woken, at the expense of this one: so
        it is woken when there is a burst for it, not at the burst's first message.
        """
        self._token.run_sync_soon(self._soon_if_alive, function)

    def _soon_if_alive(self, function: Callable[..., object]) -> None:
        with suppress(AsyncioThreadEnded):  # whoever waits there is told of that
            self.soon(function)

    def waits(self, waiter: _Waits) -> None:
        """Let `waiter` be told if the loop ends. Raises `AsyncioThreadEnded` if it has already."""
        if self.over:
            raise AsyncioThreadEnded(self.purpose)
        self._waiting[waiter] = None

    def waits_no_more(self, waiter: _Waits) -> None:
        """Undo `waits`."""
        self._waiting.pop(waiter, None)

    # -- on the loop --------------------------------------------------------------

    def back(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a plain function, which must not raise, in trio's thread."""
        self._here.append((function, arguments))
        if not self._here_woken:
            self._here_woken = True
            with suppress(trio.RunFinishedError):  # then nobody waits there any more
                self._token.run_sync_soon(self._run_here)

    # -- how it crosses -----------------------------------------------------------

    def _run_there(self) -> None:
        self._there_woken = False
        jobs = self._there
        for _ in range(len(jobs)):
            function, arguments = jobs.popleft()
            try:
                function(*arguments)
            except Exception as error:  # noqa: BLE001  # the jobs after it are others' work
                self.loop.call_exception_handler(
                    {"message": f"{function!r} failed", "exception": error}
                )

    def _run_here(self) -> None:
        self._here_woken = False
        jobs = self._here
        for _ in range(len(jobs)):
            function, arguments = jobs.popleft()
            function(*arguments)

    # -- its life -----------------------------------------------------------------

    def _run(self) -> None:
        """The life of the thread."""
        loop = self.loop
        asyncio.set_event_loop(loop)
        why = "its loop was stopped by code that runs on it"
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001  # a task's SystemExit ends its loop
            why = f"{error!r} came out of one of its tasks"
        if not self._closing:
            _log.error("the asyncio loop for %s has ended: %s", self.purpose, why)
        self.alive = False
        try:
            _end_all(loop, self._executor, self.purpose)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            self.back(self._over)

    def _over(self) -> None:
        """Nothing runs there any more: whoever waits for it is told."""
        self.over = True
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.lost()
        self._ended.set()

    async def _live_with_the_run(self) -> None:
        """Close the loop when the trio run ends, which is when this is cancelled."""
        try:
            await self._ended.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _close(self) -> None:
        self._closing = True
        with suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self.loop.stop)
        # By a thread, because the clock may be a virtual one.
        await trio.to_thread.run_sync(self._thread.join, GRACE + 1)
        if self._thread.is_alive():
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame else "unknown"
            _log.error(
                "the asyncio loop for %s does not end, and is left behind. It is at:\n%s",
                self.purpose,
                where,
            )


class Waiter:
    """A trio task that waits for something on the loop, and is told if the loop ends.

    `raise_cancel` is set once the wait was cancelled, which is not its end.
    """

    __slots__ = ("_task", "raise_cancel", "thread")

    def __init__(self, thread: AsyncioThread) -> None:
        self.thread = thread
        self.raise_cancel: RaiseCancelT | None = None
        self._task: trio.lowlevel.Task | None = None

    async def wait(self, cancel: Callable[[], object]) -> Any:
        """Wait for `resume`; `cancel` is called on the loop when this is cancelled."""
        self.raise_cancel = None

        def abort(raise_cancel: RaiseCancelT) -> Abort:
            self.raise_cancel = raise_cancel
            with suppress(AsyncioThreadEnded):  # then `lost` is on its way
                self.thread.soon(cancel)
            return Abort.FAILED

        self.thread.waits(self)
        self._task = current_task()
        return await trio.lowlevel.wait_task_rescheduled(abort)

    def resume(self, result: outcome.Outcome[Any]) -> None:
        """End the wait, if there still is one. A cancelled asyncio task is no result of ours."""
        task, self._task = self._task, None
        if task is None:
            return
        self.thread.waits_no_more(self)
        if isinstance(result, outcome.Error) and isinstance(result.error, asyncio.CancelledError):
            if self.raise_cancel is not None:
                result = outcome.capture(self.raise_cancel)
            else:  # nobody here asked for it
                result = outcome.Error(_cancelled_there(self.thread, result.error))
        reschedule(task, result)

    def lost(self) -> None:
        self.resume(outcome.Error(AsyncioThreadEnded(self.thread.purpose)))


class _Call(Waiter):
    """One coroutine on the loop, and the trio task that waits for it."""

    __slots__ = ("_arguments", "_context", "_function", "_on_loop")

    def __init__(
        self,
        thread: AsyncioThread,
        context: Context,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
    ) -> None:
        super().__init__(thread)
        self._function, self._arguments, self._context = function, arguments, context
        self._on_loop: asyncio.Task[outcome.Outcome[Any]] | None = None

    def begin(self) -> None:
        if self.thread.alive:
            self._on_loop = self.thread.loop.create_task(self._run(), context=self._context)
            # Not at the end of `_run`, which never begins if it is cancelled before.
            self._on_loop.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._on_loop is not None:
            self._on_loop.cancel()

    async def _run(self) -> outcome.Outcome[Any]:
        try:
            return outcome.Value(await self._function(*self._arguments))
        # Also what would end the loop: it is raised where it is waited for.
        except BaseException as error:  # noqa: BLE001
            return outcome.Error(error)

    def _done(self, task: "asyncio.Task[outcome.Outcome[Any]]") -> None:
        self._on_loop = None
        self.thread.back(self.resume, result_of(task))


_THREADS: Final[RunVar[dict[Purpose, AsyncioThread]]] = RunVar("understudy_asyncio_threads")


def asyncio_thread(purpose: Purpose) -> AsyncioThread:
    """This trio run's loop for brokers' clients, or for users' code; made on first use."""
    try:
        threads = _THREADS.get()
    except LookupError:
        threads = {}
        _THREADS.set(threads)
    thread = threads.get(purpose)
    if thread is None or not thread.alive:
        thread = AsyncioThread(purpose)
        thread.start()
        threads[purpose] = thread
    return thread


def result_of(task: "asyncio.Task[outcome.Outcome[Any]]") -> outcome.Outcome[Any]:
    """What a task came to that gives its outcome as a value; it may have been cancelled before."""
    return outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result()


def _cancelled_there(thread: AsyncioThread, error: BaseException) -> BaseException:
    if not thread.alive:
        return AsyncioThreadEnded(thread.purpose)
    failure = RuntimeError("the asyncio task was cancelled by something on its own loop")
    failure.__cause__ = error
    return failure


def _end_all(
    loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor, purpose: Purpose
) -> None:
    """Cancel all tasks of a loop that has stopped, and give them and its threads time to end."""
    until = loop.time() + GRACE
    asked: set[asyncio.Task[Any]] = set()
    closing = False
    # Again and again: what ends may start something, and may end the loop once more.
    while (left := until - loop.time()) > 0:
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            if closing:
                break
            closing = True
            task = loop.create_task(loop.shutdown_asyncgens())
            tasks, asked = {task}, {task}
        for task in tasks - asked:
            task.cancel()
        asked = tasks
        try:
            loop.run_until_complete(asyncio.wait(tasks, timeout=left))
        except BaseException as error:  # noqa: BLE001
            _log.error("a task of the asyncio loop for %s ended by %r", purpose, error)
    for task in asyncio.all_tasks(loop):
        _log.error("an asyncio task ignores its cancellation and is left behind: %r", task)
    # Not `loop.shutdown_default_executor`, which waits without a limit.
    end = threading.Thread(target=executor.shutdown, daemon=True)
    end.start()
    end.join(max(0.0, until - loop.time()))
    if end.is_alive():
        _log.error("a function that runs in the executor of the loop for %s does not end", purpose)
