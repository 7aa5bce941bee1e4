"""Declaring handlers: the decorators, and the marks they leave on a method.

A decorated method stays the function it was, so that `Orders.find_one` is at
once the handler, the typed message of `ask` and `tell`, and a plain method that
a unit test may call.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, overload

import attrs

from .classify import NO_TABLE, OnError, checked_table
from .context import MessageContext
from .keys import KeyOf
from .pattern import Pattern, route_of
from .retry import RetryPolicy

__all__ = ["BatchMethod", "Loop", "Mark", "event_pattern", "marks_of", "message_pattern"]

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R")
A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Loop = Literal["trio", "asyncio"]

_MARKS = "__understudy_marks__"


@attrs.frozen
class Mark:
    """One pattern that a method handles."""

    kind: Literal["request", "event"]
    pattern: Pattern
    route: str
    thread: bool
    on_error: OnError = NO_TABLE
    key: str | KeyOf | None = None
    retry: RetryPolicy | None = None
    loop: Loop | None = None
    batch: int = 0
    within: float = 0.0


class BatchMethod(Protocol[A_contra, T, R_co]):
    """How type checkers see a method with `batch=`: it is sent one item, and called with a list."""

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Callable[[A_contra, T], R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any], /) -> Callable[[list[T]], R_co]: ...


class _BatchDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[[A, list[T], list[MessageContext]], R], /
    ) -> BatchMethod[A, T, R]: ...
    @overload
    def __call__(self, function: Callable[[A, list[T]], R], /) -> BatchMethod[A, T, R]: ...


def message_pattern(
    pattern: Pattern,
    *,
    thread: bool = False,
    on_error: OnError = NO_TABLE,
    key: str | KeyOf | None = None,
    loop: Loop | None = None,
) -> Callable[[F], F]:
    """Handle requests on `pattern`: the caller gets what the method returns.

    The method may be `async def`, `def` (quick work only: it holds up the event
    loop), `def` with `thread=True` (blocking work, run in a worker thread) or an
    async generator, whose items are streamed to the caller. Its first parameter is
    the payload, typed; a second one gets the `MessageContext`.

    A pattern with wildcards (`orders.*`, `orders.>`, `orders/+`, `orders/#`) takes what
    no exact pattern takes, the most specific one first. `on_error` says what exceptions
    mean here (see `classify.Word`), before the actor's own `on_error`; `key`, a field of
    the payload or a function of it, keeps messages of one key in order while those of
    others run side by side (`concurrency=`). `loop="asyncio"` runs an async method
    on the users' asyncio loop, where it reaches trio by `trio_call`; without `loop` the
    actor's own holds.

    Raises `DeclarationError` for a pattern that can never match, or a bad `on_error`.
    """
    return _marking("request", pattern, thread, on_error, key, loop=loop)


@overload
def event_pattern(
    pattern: Pattern,
    *,
    thread: bool = False,
    on_error: OnError = NO_TABLE,
    key: str | KeyOf | None = None,
    retry: RetryPolicy | None = None,
    loop: Loop | None = None,
) -> Callable[[F], F]: ...
@overload
def event_pattern(
    pattern: Pattern,
    *,
    batch: int,
    within: float = ...,
    thread: bool = False,
    on_error: OnError = NO_TABLE,
    retry: RetryPolicy | None = None,
    loop: Loop | None = None,
) -> _BatchDecorator: ...
def event_pattern(
    pattern: Pattern,
    *,
    thread: bool = False,
    on_error: OnError = NO_TABLE,
    key: str | KeyOf | None = None,
    retry: RetryPolicy | None = None,
    loop: Loop | None = None,
    batch: int = 0,
    within: float = 0.1,
) -> Any:
    """Handle events on `pattern`: no answer; settled when the method has returned.

    All handlers of a pattern get the event, wildcards included. `retry` says how often
    and when it is tried, before what its actor and the system say. Kinds of methods,
    parameters, options and errors are those of `message_pattern`, but for generators:
    an event has nobody to stream to.

    With `batch=N` the method takes a list of up to N payloads (and of contexts), as many
    as come within `within` seconds of the first. Each is settled on its own: a run that
    fails is repeated with fewer of them until the one is found that makes it fail; what
    the method raises as `BatchFailure` is said of some of them only. An actor runs one
    batch of a method at a time, in order.
    """
    return _marking("event", pattern, thread, on_error, key, retry, loop, batch, within)


def _marking(
    kind: Literal["request", "event"],
    pattern: Pattern,
    thread: bool,
    on_error: OnError,
    key: str | KeyOf | None,
    retry: RetryPolicy | None = None,
    loop: Loop | None = None,
    batch: int = 0,
    within: float = 0.0,
) -> Callable[[F], F]:
    table = checked_table(f"the {kind} pattern {pattern!r}", on_error)
    mark = Mark(kind, pattern, route_of(pattern), thread, table, key, retry, loop, batch, within)

    def decorate(function: F) -> F:
        setattr(function, _MARKS, (*marks_of(function), mark))
        return function

    return decorate


def marks_of(function: object) -> tuple[Mark, ...]:
    """The marks on a method, in the order in which its decorators were applied."""
    marks: tuple[Mark, ...] = getattr(function, _MARKS, ())
    return marks
