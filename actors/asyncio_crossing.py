"""What crosses between trio and users' asyncio code beside plain calls.

`Errand` is a call the other way, from the loop into trio: each runs in a trio task of
its own, so that several run side by side. `Steps` is an async generator on the loop,
stepped from trio: all of it is one asyncio task, because `asyncio.timeout`, task groups
and context variables must not change their task between two items.

Source: the semantics of `trio.from_thread.run`, and of `asyncio.Task.cancel`.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

import outcome
import trio

from .asyncio_thread import AsyncioThread, Waiter, result_of
from .context import CURRENT
from .errors import AsyncioThreadEnded

if TYPE_CHECKING:
    from .asyncio_code import AwayHand

__all__ = ["END", "Errand", "Steps"]

END: Final = object()
"""What a generator gives after its last item."""

_TURNS: Final = 10
"""Turns of the loop after which code that has been answered is taken to do no more by itself."""


class Errand:
    """One call into trio; made and awaited on the loop."""

    def __init__(
        self, away: "AwayHand", function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        self._away = away
        self._function, self._arguments = function, arguments
        self._context = copy_context()
        self._context.run(CURRENT.set, away.home)
        self._answer: asyncio.Future[outcome.Outcome[Any]] = away.thread.loop.create_future()
        self._scope: trio.CancelScope | None = None
        self._waited_for = self._ended = False

    async def run(self) -> Any:
        thread, answer = self._away.thread, self._answer
        cancelled: asyncio.CancelledError | None = None
        thread.back(self._begin)
        if self._away.pause is not None:
            self._later(_TURNS, self._only_waits)
        while not answer.done():
            try:
                await asyncio.shield(answer)
            except asyncio.CancelledError as error:
                cancelled = error
                thread.back(self._cancel)
        result = answer.result()
        # A value is lost rather than the cancellation, which asyncio says but once.
        if cancelled is not None and not _is_failure(result):
            raise cancelled
        return result.unwrap()

    def _answered(self, result: outcome.Outcome[Any]) -> None:
        if not self._answer.done():
            self._answer.set_result(result)
        if self._away.pause is not None:
            self._later(_TURNS, self._away.pause.hold, -1)

    def _later(self, turns: int, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in trio when whoever is ready to run on the loop had some turns."""
        if turns:
            self._away.thread.loop.call_soon(self._later, turns - 1, function, *arguments)
        else:
            self._away.thread.back(function, *arguments)

    # in trio

    def _only_waits(self) -> None:
        if not self._ended:
            self._waited_for = True
            self._away.errand(1)

    def _begin(self) -> None:
        home = self._away.home
        try:
            if home.fenced:
                raise home.refuse()
            value = self._context.run(self._function, *self._arguments)
            if inspect.isawaitable(value):
                self._spawn(value)
                return
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            self._finish(outcome.Error(error))
        else:
            self._finish(outcome.Value(value))

    def _spawn(self, awaitable: Awaitable[Any]) -> None:
        self._scope = trio.CancelScope()
        try:
            trio.lowlevel.spawn_system_task(
                self._work, awaitable, name=self._function, context=self._context
            )
        except RuntimeError:  # the run is at its very end
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise

    async def _work(self, awaitable: Awaitable[Any]) -> None:
        # If this is cancelled by its scope, or by the end of the run.
        result: outcome.Outcome[Any] = outcome.Error(asyncio.CancelledError())
        try:
            with self._scope or trio.CancelScope():
                result = outcome.Value(await awaitable)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            result = outcome.Error(error)
        finally:
            self._finish(result)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _finish(self, result: outcome.Outcome[Any]) -> None:
        self._ended = True
        if self._waited_for:
            self._away.errand(-1)
        with suppress(AsyncioThreadEnded):  # then nobody waits there any more
            self._away.thread.last_word(self._answered, result)
            if self._away.pause is not None:
                self._away.pause.hold(1)


def _is_failure(result: outcome.Outcome[Any]) -> bool:
    cancelled = asyncio.CancelledError
    return isinstance(result, outcome.Error) and not isinstance(result.error, cancelled)


class Steps(Waiter):
    """An async generator on the loop; made and stepped in trio, by one task."""

    __slots__ = ("_arguments", "_begun", "_context", "_function", "_on_loop", "_over", "_wanted")

    def __init__(
        self,
        thread: AsyncioThread,
        context: Context,
        function: Callable[..., AsyncGenerator[Any, None]],
        arguments: list[Any],
    ) -> None:
        super().__init__(thread)
        self._function, self._arguments, self._context = function, arguments, context
        self._begun = self._over = False
        self._on_loop: asyncio.Task[outcome.Outcome[Any]] | None = None
        self._wanted: asyncio.Future[bool] | None = None

    async def step(self) -> Any:
        """The next item, or `END`; raises what the generator raises.

        When this is cancelled so is the generator at its `await`, and its end is waited for.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._begun:
            self.thread.soon(self._go_on, True)
        else:
            self.thread.soon(self._begin)
            self._begun = True
        return await self.wait(self._cancel)

    async def end(self) -> None:
        """End the generator at its `yield`, unless it has ended; also in a cancelled task."""
        if not self._begun or self._over:
            return
        try:
            self.thread.soon(self._go_on, False)
        except AsyncioThreadEnded:
            return  # with everything on it
        await self.wait(self._cancel)

    def _ends(self, result: outcome.Outcome[Any]) -> None:
        self._over = True
        self.resume(result)

    # on the loop

    def _begin(self) -> None:
        if self.thread.alive:
            self._on_loop = self.thread.loop.create_task(self._drive(), context=self._context)
            self._on_loop.add_done_callback(self._done)

    def _go_on(self, wanted: bool) -> None:
        if self._on_loop is None:  # it was ended by something else, between two items
            self.thread.back(self._ends, outcome.Error(asyncio.CancelledError()))
        elif self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(wanted)

    def _cancel(self) -> None:
        if self._on_loop is not None:
            self._on_loop.cancel()

    async def _drive(self) -> outcome.Outcome[Any]:
        try:
            items = self._function(*self._arguments)
            try:
                async for item in items:
                    self._wanted = self.thread.loop.create_future()
                    self.thread.back(self.resume, outcome.Value(item))
                    if not await self._wanted:
                        break
            finally:
                await items.aclose()
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            return outcome.Error(error)
        return outcome.Value(END)

    def _done(self, task: "asyncio.Task[outcome.Outcome[Any]]") -> None:
        self._on_loop = None
        self.thread.back(self._ends, result_of(task))
