"""Users' asyncio code: called from trio, calling back into trio, and whole actors of it.

`asyncio_call` runs a coroutine on the loop that a trio run has for users' code, and
`trio_call` runs something in trio from there. Handlers and actors with `loop="asyncio"`
are run by `Abroad`. Threads and crossing are asyncio_thread.py's and
asyncio_crossing.py's, which are loaded on first use: this file loads no asyncio.

Invariant: nothing of trio is touched on the loop. What runs there has an `AwayHand`
where a handler has its hand; it is fenced, so that `tell`, `ask` and whatever else acts
with a hand refuses, and names `trio_call`. Beyond the fence stands the real hand, which
`trio_call` works with: deadline, origin and fence are those of the message.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import Context, copy_context
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import trio

from .context import CURRENT, FENCE, Hand
from .envelope import Envelope
from .errors import UnderstudyError
from .streams import hand_out

if TYPE_CHECKING:
    from .asyncio_thread import AsyncioThread
    from .behavior import Handler
    from .envelope import Receipt

__all__ = ["Abroad", "AwayHand", "asyncio_call", "autojump_of", "trio_call"]

P = ParamSpec("P")
T = TypeVar("T")


async def asyncio_call(
    function: Callable[P, Awaitable[T]], *arguments: P.args, **keywords: P.kwargs
) -> T:
    """Run `await function(...)` on the users' asyncio loop and wait for its end; from trio.

    What it returns or raises comes out here. When this is cancelled so is it, and its
    end is waited for. Context variables go along; to send messages, it uses `trio_call`.
    The loop is one thread, made on first use, and ends with the trio run.

    Raises `AsyncioThreadEnded` if the loop ends first.
    """
    call = partial(function, *arguments, **keywords) if keywords else function
    rest = () if keywords else arguments
    return await Abroad().call(call, *rest)


@overload
async def trio_call(
    function: Callable[..., Awaitable[T]], /, *arguments: Any, **keywords: Any
) -> T: ...
@overload
async def trio_call(function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> T: ...
async def trio_call(function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Run `function(...)` in trio and wait for it; from code that `asyncio_call` runs.

    For what belongs to trio: `await trio_call(ref.ask, Get())`, `await trio_call(ref.tell,
    Hello())`. What it returns or raises comes out here, on behalf of the message in hand.
    When this is cancelled so is it, and its end is waited for; its value is lost then.
    Calls run side by side, in the order in which they are made until the first one waits.

    Raises `UnderstudyError` anywhere else, and `Fenced` in what is left of an ended handler.
    """
    away = CURRENT.get()
    if not isinstance(away, AwayHand):
        raise UnderstudyError(
            "trio_call is for code on the users' asyncio loop, run by asyncio_call or a handler "
            'with loop="asyncio". In trio, call and await it directly.'
        )
    if keywords:
        function = partial(function, **keywords)
    return await _crossing().Errand(away, function, arguments).run()


class AwayHand(Hand):
    """The hand of code that runs on the loop, on behalf of the hand at home, in trio.

    Only trio looks at `home`. A clock that jumps must not while the code works, but may
    while it does nothing but wait for what it has called in trio.
    """

    __slots__ = ("_errands", "_works", "home", "pause", "thread")

    def __init__(self, thread: "AsyncioThread", home: Hand) -> None:
        super().__init__(home.incarnation)
        self.thread = thread
        self.home = home
        self.envelope = Envelope(None, origin=FENCE, deadline=home.envelope.deadline)
        self.pause = _pause_of(trio.lowlevel.current_clock())
        self._works = False
        self._errands = 0

    def refuse(self) -> UnderstudyError:
        where = f"{self.incarnation.path}: " if self.incarnation is not None else ""
        return UnderstudyError(
            f"{where}this runs on the asyncio loop, and messages are trio's. Send and ask by "
            "`await trio_call(ref.ask, ...)`; so with all that acts on the message or the actor."
        )

    def context(self) -> Context:
        """The caller's context variables, with this hand."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return context

    # in trio

    def __enter__(self) -> None:
        """It begins to work."""
        self._works = True
        if not self._errands:
            self._hold(1)

    def __exit__(self, *_: object) -> None:
        """It is done; what it has left behind on the loop does not count."""
        if not self._errands:
            self._hold(-1)
        self._works = False

    def errand(self, count: int) -> None:
        """One more of its calls into trio for which it waits, or one less."""
        before, self._errands = self._errands, self._errands + count
        if self._works and not (before and self._errands):
            self._hold(-count)

    def _hold(self, count: int) -> None:
        if self.pause is not None:
            self.pause.hold(count)


class Abroad:
    """Where handlers and hooks of `loop="asyncio"` run: the loop at this moment, or one for good.

    An actor that lives there is bound to the loop it has started on: what it made there is
    of no use on another one, so it crashes with `AsyncioThreadEnded` when that has ended.
    """

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        if isinstance(CURRENT.get(), AwayHand):
            raise UnderstudyError(
                "asyncio_call is for code in trio. This runs on the asyncio loop already: await "
                "the coroutine."
            )
        self._thread: AsyncioThread = _asyncio_thread()("users")

    async def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """`asyncio_call`, on this loop."""
        away = AwayHand(self._thread, CURRENT.get())
        with away:
            return await self._thread.call_in(away.context(), function, *arguments)

    async def handle(
        self, handler: "Handler", arguments: list[Any], receipt: "Receipt | None"
    ) -> Any:
        """Run a handler there: its answer, or its items handed out one by one."""
        if handler.mode == "async":
            return await self.call(handler.function, *arguments)
        if handler.mode == "stream":
            return await hand_out(self._items(handler.function, arguments), receipt)
        return await self.call(_plainly, handler.function, arguments)

    async def _items(
        self, function: Callable[..., AsyncGenerator[Any, None]], arguments: list[Any]
    ) -> AsyncGenerator[Any, None]:
        away = AwayHand(self._thread, CURRENT.get())
        crossing = _crossing()
        steps = crossing.Steps(self._thread, away.context(), function, arguments)
        try:
            while True:
                with away:
                    item = await steps.step()
                if item is crossing.END:
                    break
                yield item
        finally:
            with away:
                await steps.end()


async def _plainly(function: Callable[..., Any], arguments: list[Any]) -> Any:
    return function(*arguments)


class _Pause:
    """Keeps a `trio.testing.MockClock` from jumping ahead while asyncio code works.

    Trio sees only that all tasks wait, and would let the deadline of whoever waits for
    that code come at once.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._count = 0
        self._threshold = math.inf

    @property
    def own_threshold(self) -> float:
        own: float = self._threshold if self._count else self._clock.autojump_threshold
        return own

    def hold(self, count: int) -> None:
        before, self._count = self._count, self._count + count
        if not before:
            self._threshold = self._clock.autojump_threshold
            self._clock.autojump_threshold = math.inf
        elif not self._count:
            self._clock.autojump_threshold = self._threshold


_PAUSE: trio.lowlevel.RunVar[_Pause] = trio.lowlevel.RunVar("understudy_pause")


def _pause_of(clock: Any) -> _Pause | None:
    if not hasattr(clock, "autojump_threshold"):
        return None
    try:
        return _PAUSE.get()
    except LookupError:
        pause = _Pause(clock)
        _PAUSE.set(pause)
        return pause


def autojump_of(clock: Any) -> float:
    """The threshold that a test gave to a clock, also while asyncio code keeps it from jumping."""
    pause = _pause_of(clock)
    return math.inf if pause is None else pause.own_threshold


@cache
def _asyncio_thread() -> Any:
    """`asyncio_thread.asyncio_thread`; its file and the next one load asyncio."""
    return import_module(".asyncio_thread", __package__).asyncio_thread


@cache
def _crossing() -> Any:
    return import_module(".asyncio_crossing", __package__)
