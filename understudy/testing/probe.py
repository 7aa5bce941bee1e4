"""A stand-in for a collaborator: takes what an actor tells and asks it, and is scripted.

A `Probe` goes where the actor under test expects a reference. It remembers what
was sent in order, answers asks as it was told to, and lets the test expect what
must come. Given the class it stands for, it refuses what that class would refuse.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar, overload

import attrs
import trio

from ..actors.actor import Actor
from ..actors.behavior import Behavior
from ..actors.context import origin_now
from ..actors.errors import AskTimeout, NoHandler
from ..actors.handlers import marks_of
from ..actors.pattern import Pattern, route_of
from ..actors.ref import Ref
from .record import Record

__all__ = ["Probe", "Received"]

T = TypeVar("T")

_ABSENT: Final = object()

_PATIENCE: Final = 1.0
"""Seconds for which something is expected unless the test says otherwise."""


@attrs.frozen
class Received:
    """One thing that was sent to a probe.

    `message` is what was told, or the data where it was sent by method or pattern;
    `routes` are then the patterns it stands for, else empty.
    """

    how: Literal["tell", "ask", "stream"]
    message: Any
    routes: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        to = f" {' or '.join(sorted(self.routes))}" if self.routes else ""
        return f"{self.how}{to} {self.message!r}"


@attrs.define(eq=False)
class _Script:
    """One scripted answer, and how often it is still to be given; None for always."""

    matches: Callable[[Received], bool]
    outcome: Any
    left: int | None


class Probe(Ref[Any]):
    """Takes the place of a `Ref` in a test; `actor` is the class it stands for, if given."""

    def __init__(self, actor: type[Actor[Any]] | None = None, *, name: str = "") -> None:
        # Not Ref's own __init__: there is no mailbox behind a probe.
        self._name = name or (actor.__name__.lower() if actor is not None else "probe")
        self._class = Behavior.of(actor) if actor is not None else None
        self._record: Record[Received] = Record(self._name)
        self._script: list[_Script] = []
        self._deadline: float | None = None
        self._waited_out = False

    # -- what the test does with it

    @property
    def received(self) -> list[Received]:
        """Everything that was sent to it, oldest first."""
        return self._record.everything

    def answers(self, to: Any, outcome: Any, *, times: int | None = None) -> None:
        """Answer asks that match `to` from now on; what was scripted last comes first.

        `to` is as in `expect`. An exception is raised, a function is called with the
        message (and awaited if it is async), anything else is the answer itself. For
        `stream` it is an iterable of the items; an exception among them is raised there.
        After `times` answers, what was scripted before is looked at again.
        """
        if times is not None and times < 1:
            raise ValueError(f"answers(times={times}): 1 or more expected, or None for always.")
        self._script.insert(0, _Script(_matcher(to), outcome, times))

    def ignore(self, what: Any) -> None:
        """Let messages that match `what` be: they need not be expected, and are not missed.

        `what` is as in `expect`. They stay in `received`, and asks among them are answered.
        """
        self._record.ignore(_matcher(what))

    @overload
    async def expect(self, wanted: type[T], /, *, within: float | None = ...) -> T: ...
    @overload
    async def expect(self, wanted: Any, /, *, within: float | None = ...) -> Any: ...
    async def expect(self, wanted: Any, /, *, within: float | None = None) -> Any:
        """What was sent first of all that matches; each message is returned once.

        `wanted` is a type of messages, a pattern or a method (its data is returned then), a
        message to be equal to, or a function of the message that says yes or no.
        Raises `AssertionError` when nothing has come after `within` seconds: 1, or what
        is left of a `within` block.
        """
        __tracebackhide__ = True
        limit = self._limit(within)
        return (await self._record.take(_shown(wanted), _matcher(wanted), limit)).message

    @overload
    async def receive_n(
        self, count: int, wanted: type[T], /, *, within: float | None = ...
    ) -> list[T]: ...
    @overload
    async def receive_n(
        self, count: int, wanted: Any = ..., /, *, within: float | None = ...
    ) -> list[Any]: ...
    async def receive_n(
        self, count: int, wanted: Any = object, /, *, within: float | None = None
    ) -> list[Any]:
        """The next `count` messages (that match), in order; all of them `within` seconds.

        Raises `AssertionError` if there are fewer, and returns none of them then.
        """
        __tracebackhide__ = True
        what = "messages" if wanted is object else f"times {_shown(wanted)}"
        found = await self._record.take_some(
            count, f"{count} {what}", _matcher(wanted), self._limit(within)
        )
        return [received.message for received in found]

    async def expect_none(self, unwanted: Any, /, *, within: float | None = None) -> None:
        """Raises `AssertionError` for a message that matches, not expected yet or still to come.

        `unwanted` is as in `expect`. Waits for all of `within` seconds.
        """
        __tracebackhide__ = True
        what = f"no {_shown(unwanted).removeprefix('a ')}"
        await self._record.take_nothing(self._limit(within), what, _matcher(unwanted))
        self._waited()

    async def expect_nothing(self, *, within: float | None = None) -> None:
        """Raises `AssertionError` for anything not expected yet, or that comes `within` seconds."""
        __tracebackhide__ = True
        await self._record.take_nothing(self._limit(within))
        self._waited()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """The block must be done in `seconds`, all that is expected in it together.

        Raises `AssertionError` if it was not. `expect_nothing` and `expect_none` wait for
        what is left of the time.
        """
        __tracebackhide__ = True
        before, began = self._deadline, trio.current_time()
        ends = began + seconds
        self._deadline = ends if before is None else min(before, ends)
        self._waited_out = False
        try:
            yield
        finally:
            self._deadline = before
        took = trio.current_time() - began
        # Who waits until the end of the time is a little later than that.
        if took > seconds and not self._waited_out:
            raise AssertionError(
                f"{self._name}: expected the block to be done within {seconds:g} s, "
                f"but it took {took:g} s."
            )

    def _waited(self) -> None:
        self._waited_out = self._deadline is not None and trio.current_time() >= self._deadline

    def _limit(self, within: float | None) -> float:
        left = None if self._deadline is None else max(0.0, self._deadline - trio.current_time())
        if within is None:
            return _PATIENCE if left is None else left
        return within if left is None else min(within, left)

    # -- what the actor does with it

    @property
    def path(self) -> str:
        return f"probe/{self._name}"

    @property
    def alive(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Probe {self._name}>"

    def tell(self, message: Any, data: Any = _ABSENT, /) -> None:
        self._take("tell", message, data)

    async def tell_wait(self, message: Any, data: Any = _ABSENT, /) -> None:
        self._take("tell", message, data)

    async def ask(self, message: Any, data: Any = _ABSENT, /, *, timeout: float = 5.0) -> Any:
        received = self._take("ask", message, data)
        with trio.move_on_after(timeout):
            await trio.lowlevel.checkpoint()
            return await self._play(received)
        raise AskTimeout(self.path, timeout)

    def stream(self, message: Any, data: Any, /) -> AsyncIterator[Any]:
        return self._items(self._take("stream", message, data))

    # -- details

    async def _items(self, received: Received) -> AsyncIterator[Any]:
        for item in await self._play(received):
            await trio.lowlevel.checkpoint()
            if isinstance(item, Exception):
                raise item
            yield item

    def _take(self, how: Literal["tell", "ask", "stream"], message: Any, data: Any) -> Received:
        origin_now()  # leftovers of an ended incarnation are refused here as by a reference
        if self._class is not None:
            message, data = self._checked(self._class, message, data)
        if data is _ABSENT:
            received = Received(how, message)
        else:
            received = Received(how, data, _routes(message))
        self._record.add(received)
        return received

    def _checked(self, behavior: Behavior, message: Any, data: Any) -> tuple[Any, Any]:
        if data is _ABSENT:
            if behavior.receive is None:
                raise NoHandler(type(message).__name__, f"{self.path} (it has no receive method)")
            return message, data
        _, payload = behavior.resolve(message, data, self.path)
        return message, payload

    async def _play(self, received: Received) -> Any:
        outcome = self._scripted(received)
        if callable(outcome) and not isinstance(outcome, type):
            outcome = outcome(received.message)
            if inspect.isawaitable(outcome):
                outcome = await outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _scripted(self, received: Received) -> Any:
        for script in self._script:
            if script.matches(received):
                if script.left is not None:
                    script.left -= 1
                    if not script.left:
                        self._script.remove(script)
                return script.outcome
        raise AssertionError(
            f"{self._name} has no answer to: {received!r}. "
            "Script one with probe.answers(type, pattern or method, answer)."
        )


def _matcher(wanted: Any) -> Callable[[Received], bool]:
    if isinstance(wanted, type):
        return lambda received: isinstance(received.message, wanted)
    routes = _routes(wanted)
    if routes:
        return lambda received: bool(routes & received.routes)
    if callable(wanted):
        return lambda received: bool(wanted(received.message))
    return lambda received: bool(received.message == wanted)


def _routes(message: Pattern | Callable[..., Any]) -> frozenset[str]:
    """The routes that a pattern or a handler method stands for; empty for anything else."""
    if callable(message):
        return frozenset(mark.route for mark in marks_of(message))
    if isinstance(message, str | int | float | dict) and not isinstance(message, bool):
        return frozenset([route_of(message)])
    return frozenset()


def _shown(wanted: Any) -> str:
    if isinstance(wanted, type):
        return f"a {wanted.__name__}"
    name = getattr(wanted, "__qualname__", None)
    return name if callable(wanted) and isinstance(name, str) else repr(wanted)
