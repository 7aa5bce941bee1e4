"""Waiting for async code in plain tests: a trio run that goes on only during calls.

Trio runs in a thread of its own, and only while the test waits in a call: between calls
everything stands still, time too. So nothing happens behind the test's back, and what it
does is repeated exactly by the next run.
"""

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import attrs
import trio
from trio.testing import MockClock

from ..actors.errors import UnderstudyError
from .failures import is_cancelled, the_one_to_raise
from .virtual import advance

__all__ = ["Blocked", "Portal", "blocking", "entered"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

_END_LIMIT: Final = 30.0
"""Real seconds for which the end of the thread is waited for."""


@attrs.define(eq=False)
class _Call:
    """Something to await in trio's thread, and where its outcome goes."""

    awaitable: Awaitable[Any]
    outcome: "SimpleQueue[tuple[Any, BaseException | None]]" = attrs.field(factory=SimpleQueue)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Portal(Generic[T]):
    """A trio run around one async context manager, which takes one call after the other.

    `over` says that it takes no more.
    """

    def __init__(
        self, manager: AbstractAsyncContextManager[T], clock: trio.abc.Clock | None
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._entered: SimpleQueue[list[T]] = SimpleQueue()
        self._call: _Call | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.over = False
        self.failure: BaseException | None = None
        """What ended the run, and has not been raised in the test yet."""
        self._thread = threading.Thread(target=self._run, name="understudy-test", daemon=True)

    def start(self) -> T:
        self._thread.start()
        try:
            entered = self._entered.get()
        except BaseException:  # an interrupt
            self.end()
            raise
        if not entered:
            self._thread.join(_END_LIMIT)
            raise self.failure or RuntimeError("the block to wait in was not entered.")
        return entered[0]

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        __tracebackhide__ = True
        call = _Call(awaitable)
        if self.over:
            _forget(awaitable)
            raise UnderstudyError("the actor or service of this block has ended.")
        self._calls.put(call)
        try:
            value, error = call.outcome.get()
        except BaseException:  # an interrupt: the test does not wait any longer
            self._give_up(call)
            raise
        if error is not None:
            raise error
        return value

    def end(self) -> None:
        self.over = True
        if self._call is not None:
            self._give_up(self._call)
        self._calls.put(None)
        self._thread.join(_END_LIMIT)
        if self._thread.is_alive():
            raise RuntimeError(
                f"the trio run of this test did not end within {_END_LIMIT:g} s: something in "
                "it blocks, or shields itself from being cancelled."
            )

    def _give_up(self, call: _Call) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call.scope.cancel)

    # -- in the thread ------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._serve, clock=self._clock)
        except BaseException as ended:  # noqa: BLE001  # raised in the test's thread
            self.failure = ended
        self.over = True
        self._entered.put([])
        if self._call is not None:  # it was under way when the tree ended, and says why
            error, self.failure = self.failure, None
            self._call.outcome.put((None, error or UnderstudyError("the run has ended.")))

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._manager as subject:
            self._entered.put([subject])
            # Waiting here keeps the whole run from going on, which is the point.
            while (call := self._calls.get()) is not None:
                self._call = call
                outcome = await self._outcome(call)
                self._call = None
                call.outcome.put(outcome)

    async def _outcome(self, call: _Call) -> tuple[Any, BaseException | None]:
        __tracebackhide__ = True
        try:
            with call.scope:
                return await call.awaitable, None
        except BaseException as error:
            if is_cancelled(error):
                raise
            return None, error
        return None, UnderstudyError("the call was given up.")


class Blocked(Generic[T_co]):
    """What `blocking` entered, as `subject`, and how to wait for what is async about it."""

    def __init__(self, portal: Portal[Any], subject: T_co) -> None:
        self._subject = subject
        self._portal = portal

    @property
    def subject(self) -> T_co:
        """What the async block gave."""
        return self._subject

    @property
    def over(self) -> bool:
        """Whether what it waits in has ended, so that nothing can be waited for."""
        return self._portal.over

    def wait(self, awaitable: Awaitable[R]) -> R:
        """Let everything run until there is an outcome: `shop.wait(shop.subject.stop())`."""
        __tracebackhide__ = True
        result: R = self._portal.wait(awaitable)
        return result

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a plain function in the run, where it may tell and inject."""
        __tracebackhide__ = True

        async def called() -> R:
            return function(*arguments)

        return self.wait(called())

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and everything happen that is due by then; see `advance`."""
        __tracebackhide__ = True
        self.wait(advance(seconds))


@contextmanager
def blocking(
    manager: AbstractAsyncContextManager[T], *, virtual_time: bool = True
) -> Iterator[Blocked[T]]:
    """Enter an async context manager from a plain test: `with blocking(service(tree)) as shop`.

    What it gives is `shop.subject`; `shop.wait(...)` waits for what is async. In virtual
    time the clock jumps to the next deadline when all wait, and only during calls.
    """
    __tracebackhide__ = True
    with entered(manager, virtual_time) as (portal, subject):
        yield Blocked(portal, subject)


@contextmanager
def entered(
    manager: AbstractAsyncContextManager[T], virtual_time: bool
) -> Iterator[tuple[Portal[T], T]]:
    """Run an async block in a thread for as long as this one lasts; what it raises, this raises."""
    __tracebackhide__ = True
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "this would block the test's own trio run. In an async test use the async form: "
            "`async with isolated(...)` or `async with service(...)`."
        )
    clock = MockClock(autojump_threshold=0) if virtual_time else None
    portal = Portal(manager, clock)
    subject = portal.start()
    failure: BaseException | None = None
    try:
        yield portal, subject
    except BaseException as error:  # noqa: BLE001  # raised below, after the run has ended
        failure = error
    portal.end()
    failure = the_one_to_raise(failure, portal.failure)
    if failure is not None:
        raise failure


def _forget(awaitable: Awaitable[Any]) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
