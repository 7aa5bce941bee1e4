"""An asyncio loop in a thread of its own, and how work crosses between it and trio.

The clients of most brokers know asyncio only, and so does much of what users call.
A trio run has up to two such threads, one for brokers and one for users' own code, so
that neither can stall the other; each is made on first use and ends with the run.

Two ways across. `AsyncioThread.call` runs one coroutine there: its result, exception
and cancellation cross. `Inlet` and `Outlet` carry streams of messages, in bursts: a
deque each way and one wake-up per burst, because waking the other thread costs more
than handling a message. An inlet is bounded, and who fills it waits on the loop.

Invariant: nothing of trio is touched in the thread, nothing of asyncio outside of it,
but for what is documented to be thread-safe: deques, `loop.call_soon_threadsafe` and
`TrioToken.run_sync_soon`. Whoever empties a deque first lowers the flag that says
somebody was woken, whoever fills it looks at the flag last, so that no wake-up is lost.
"""

import asyncio
import contextvars
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Generic, Literal, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, RaiseCancelT, RunVar, current_task, reschedule

from .errors import AsyncioThreadEnded

__all__ = ["AsyncioThread", "Inlet", "Outlet", "Purpose", "asyncio_thread"]

T = TypeVar("T")

Purpose = Literal["brokers", "users"]

GRACE: Final = 5.0
"""Seconds that tasks of the loop may take to end when the loop is closed."""

_log = logging.getLogger("understudy.asyncio")


class AsyncioThread:
    """A running asyncio loop. Made by `asyncio_thread`; used from trio."""

    def __init__(self, purpose: Purpose) -> None:
        self.purpose = purpose
        self.alive = True
        self.loop = asyncio.new_event_loop()
        self._token = trio.lowlevel.current_trio_token()
        self._there: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._here: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._there_woken = self._here_woken = False
        self._calls: dict[_Call, None] = {}
        name = f"understudy-asyncio-{purpose}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # -- from trio ----------------------------------------------------------------

    async def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run `function(*arguments)` as a task of the loop and wait for its end.

        What it returns or raises comes out here; context variables go along. When this is
        cancelled so is the task, and its end is waited for: nothing goes on unseen.

        Raises `AsyncioThreadEnded` if the loop ends first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(self, function, arguments)
        self._calls[call] = None
        self.soon(call.begin)

        def abort(raise_cancel: RaiseCancelT) -> Abort:
            call.raise_cancel = raise_cancel
            self.soon(call.cancel)
            return Abort.FAILED

        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._calls.pop(call, None)
        return result

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a plain function on the loop, after all that was handed over before.

        Nobody hears of its exceptions but asyncio's log.
        Raises `AsyncioThreadEnded` if there is no loop any more.
        """
        self._there.append((function, arguments))
        if not self._there_woken:
            self._there_woken = True
            try:
                self.loop.call_soon_threadsafe(self._run_there)
            except RuntimeError as error:
                self._over()
                raise AsyncioThreadEnded(self.purpose) from error

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

    def _run(self) -> None:
        """The life of the thread."""
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001  # a task's SystemExit ends its loop
            _log.error("the asyncio loop for %s ended: %r", self.purpose, error)
        finally:
            self.alive = False
            try:
                _end_tasks(loop)
            finally:
                asyncio.set_event_loop(None)
                loop.close()
                self.back(self._over)

    def _over(self) -> None:
        """Nothing runs there any more: whoever waits for it is told."""
        self.alive = False
        calls, self._calls = self._calls, {}
        for call in calls:
            call.lost()

    async def live_with_the_run(self) -> None:
        """Close the loop when the trio run ends, which is when this is cancelled."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._close()

    async def _close(self) -> None:
        with suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self.loop.stop)
        await trio.to_thread.run_sync(self._thread.join, GRACE + 1)
        if self._thread.is_alive():
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame else "unknown"
            _log.error(
                "the asyncio loop for %s does not end, and is left behind. It is at:\n%s",
                self.purpose,
                where,
            )


class _Call:
    """One coroutine on the loop, and the trio task that waits for it."""

    __slots__ = (
        "_arguments",
        "_context",
        "_function",
        "_outcome",
        "_task",
        "_thread",
        "_waiter",
        "raise_cancel",
    )

    def __init__(
        self,
        thread: AsyncioThread,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
    ) -> None:
        self.raise_cancel: RaiseCancelT | None = None
        self._thread = thread
        self._function, self._arguments = function, arguments
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None
        self._waiter: trio.lowlevel.Task | None = current_task()

    def begin(self) -> None:
        self._task = self._thread.loop.create_task(self._run(), context=self._context)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        result: outcome.Outcome[Any]
        try:
            result = outcome.Value(await self._function(*self._arguments))
        except asyncio.CancelledError as error:
            if self.raise_cancel is not None:
                self._thread.back(self._cancelled)
                return
            # Nobody here asked for it: the loop ends, or the task cancelled itself.
            result = outcome.Error(_ended(self._thread, error))
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            result = outcome.Error(error)
        self._thread.back(self._resume, result)

    def _cancelled(self) -> None:
        if self.raise_cancel is not None:
            self._resume(outcome.capture(self.raise_cancel))

    def lost(self) -> None:
        self._resume(outcome.Error(AsyncioThreadEnded(self._thread.purpose)))

    def _resume(self, result: outcome.Outcome[Any]) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            reschedule(waiter, result)


class Inlet(Generic[T]):
    """Messages from the loop to one trio task; it may hold `capacity` of them."""

    def __init__(self, thread: AsyncioThread, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self._thread = thread
        self._items: deque[T] = deque()
        self._reader: trio.lowlevel.Task | None = None
        self._parked = False
        self._writers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    # on the loop

    def offer(self, item: T) -> bool:
        """Hand `item` over if there is room; False if there is none, or nobody reads any more."""
        if len(self._items) >= self.capacity or self.closed:
            return False
        self._items.append(item)
        if self._parked:
            self._parked = False
            self._thread.back(self._wake)
        return True

    async def put(self, item: T) -> bool:
        """Hand `item` over, waiting for room; False if nobody reads any more."""
        while not self.offer(item):
            if self.closed:
                return False
            room = self._thread.loop.create_future()
            self._writers.append(room)
            if len(self._items) >= self.capacity:
                await room
            else:
                self._writers.remove(room)
        return True

    # in trio

    async def burst(self) -> list[T]:
        """All that has come, at least one item; for one task only."""
        await trio.lowlevel.checkpoint()
        while not self._items:
            self._parked = True
            if self._items:
                self._parked = False
                break
            self._reader = current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)
        items = self._items
        burst = [items.popleft() for _ in range(len(items))]
        if self._writers:
            self._let_in()
        return burst

    def close(self) -> None:
        """Nobody reads any more: who waits for room is let go, with what it has in hand."""
        self.closed = True
        self._let_in()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reschedule(reader)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        self._parked = False
        return Abort.SUCCEEDED

    def _let_in(self) -> None:
        with suppress(AsyncioThreadEnded):  # then nobody waits there either
            self._thread.soon(self._make_way)

    def _make_way(self) -> None:
        while self._writers:
            room = self._writers.popleft()
            if not room.done():
                room.set_result(None)


class Outlet(Generic[T]):
    """Messages from trio to one task of the loop.

    Not bounded itself: what is sent here answers what came in through something bounded.
    """

    def __init__(self, thread: AsyncioThread) -> None:
        self._thread = thread
        self._items: deque[T] = deque()
        self._closed = False
        self._parked = False
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    # in trio

    def send(self, item: T) -> None:
        """Hand `item` over. Raises `AsyncioThreadEnded` if there is no loop any more."""
        self._items.append(item)
        if self._parked:
            self._parked = False
            self._thread.soon(self._wake)

    def close(self) -> None:
        """Nothing more will be sent: `burst` gives what is there, then nothing."""
        self._closed = True
        with suppress(AsyncioThreadEnded):
            self._thread.soon(self._wake)

    # on the loop

    async def burst(self) -> list[T]:
        """All that has been sent, at least one item; an empty list once it is closed."""
        items = self._items
        while not items and not self._closed:
            self._parked = True
            if items or self._closed:
                self._parked = False
                break
            self._reader = self._thread.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return [items.popleft() for _ in range(len(items))]

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


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
        thread = threads[purpose] = AsyncioThread(purpose)
        trio.lowlevel.spawn_system_task(
            thread.live_with_the_run, name=f"asyncio loop for {purpose}"
        )
    return thread


def _ended(thread: AsyncioThread, error: asyncio.CancelledError) -> BaseException:
    if not thread.alive:
        return AsyncioThreadEnded(thread.purpose)
    failure = RuntimeError("the asyncio task was cancelled by something on its own loop")
    failure.__cause__ = error
    return failure


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks of a loop that has stopped, and give them time to end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = loop.run_until_complete(asyncio.wait(tasks, timeout=GRACE))
        for task in stuck:
            _log.error("an asyncio task ignores its cancellation and is left behind: %r", task)
    loop.run_until_complete(loop.shutdown_asyncgens())
