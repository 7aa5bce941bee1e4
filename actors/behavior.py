"""From a class to its dispatch table, once per class.

The only file that sees both halves of the house's handler side: patterns and
payload types on one hand, the functions a cell runs on the other. Everything
that can be found out about a handler without a message is found out here.

What is wrong with a class is said here too, as a `DeclarationError`, before
anything starts.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from math import inf
from typing import Any, Literal

from .actor import Actor
from .classify import NO_TABLE, OnError, Verdict, checked_table
from .context import MessageContext
from .errors import DeclarationError, NoHandler
from .handlers import Loop, Mark, marks_of
from .keys import KeyOf, key_function
from .pattern import Pattern, route_of
from .payload import NO_DEFAULT, Payload
from .retry import RetryPolicy
from .wildcard import Wildcards, is_wildcard

__all__ = ["Behavior", "Handler"]

Mode = Literal["async", "sync", "thread", "stream"]


class Handler:
    """One method, compiled: how it is called, and what it takes."""

    __slots__ = (
        "abroad",
        "batch",
        "direct",
        "function",
        "is_async",
        "key",
        "kind",
        "mode",
        "name",
        "on_error",
        "payload",
        "retry",
        "route",
        "routes",
        "takes_context",
        "takes_payload",
        "void",
        "within",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        kind: Literal["request", "event", "receive"],
        routes: tuple[str, ...],
        mode: Mode,
        payload: Payload,
        parameters: int,
        void: bool,
        on_error: OnError = NO_TABLE,
        key: KeyOf | None = None,
        retry: RetryPolicy | None = None,
        loop: Loop = "trio",
        batch: int = 0,
        within: float = 0.0,
    ) -> None:
        self.name = name
        self.batch = batch  # 0: it takes one message at a time
        self.within = within
        self.retry = retry
        self.on_error = on_error
        self.key = key
        self.function = function
        self.kind = kind
        self.routes = routes
        self.route = routes[0] if routes else None
        self.mode: Mode = mode
        self.payload = payload
        self.takes_payload = parameters > 0
        self.takes_context = parameters > 1
        self.void = void
        # The lane of a cell calls direct handlers without a function in between.
        self.abroad = loop == "asyncio" and mode != "thread"
        plain = not self.abroad and not batch
        self.direct = mode in ("async", "sync") and parameters == 1 and plain
        self.is_async = mode == "async"

    def __repr__(self) -> str:
        return f"<Handler {self.name} {self.kind} {self.mode}>"


class Behavior:
    """All handlers of one actor class."""

    def __init__(self, actor: type[Actor[Any]]) -> None:
        self.actor = actor
        self.requests: dict[str, Handler] = {}
        self.events: dict[str, list[Handler]] = {}
        self.by_function: dict[Any, Handler] = {}
        self.on_error = _on_error(actor)
        self.loop: Loop = _loop(actor)
        self.receive = self._compile_receive()
        self.messages = {kind.__name__: kind for kind in _protocol_of(actor)}
        self._states: dict[Any, Handler] = {}
        self._wildcards: Wildcards[Handler] = Wildcards()
        for name, function in _methods(actor):
            marks = marks_of(function)
            if marks:
                self._add(name, function, marks)

    @property
    def keyed(self) -> bool:
        """Whether any handler keeps messages of one key in order."""
        return any(handler.key is not None for handler in self.by_function.values())

    @property
    def batched(self) -> int:
        """The most messages that any handler takes at once; 0 if each takes one."""
        return max((handler.batch for handler in self.by_function.values()), default=0)

    @classmethod
    def of(cls, actor: type[Actor[Any]]) -> "Behavior":
        """The dispatch table of a class; made once.

        Raises `DeclarationError` if the class can never work.
        """
        return _behavior_of(actor)  # type: ignore[arg-type]  # mypy loses type.__hash__ here

    def resolve(self, message: Any, data: Any, path: str) -> tuple[Handler, Any]:
        """The handler of a method or pattern, and the payload made from `data`.

        Raises `NoHandler`, or `PayloadError` when the data does not fit.
        """
        handler = self.by_function.get(message) if callable(message) else self._routed(message)
        if handler is None:
            name = getattr(message, "__qualname__", message)
            raise NoHandler(name, path)
        return handler, handler.payload.structure(data)

    def handler_named(self, name: str, message: str) -> Handler | None:
        """The handler a dead letter was meant for: by name, or the `receive` of a message type.

        `receive` gets its messages typed only if the class says which: `Actor[A | B]`.
        """
        for handler in self.by_function.values():
            if handler.name == name:
                return handler
        receive, kind = self.receive, self.messages.get(message)
        if receive is None or kind is None:
            return None
        return self._compile_plain(receive.name, receive.function, Payload(kind))

    def takes(self, kind: type) -> bool:
        """Whether `receive` may be given a message of this type.

        A class that does not say which types it takes is taken to handle all.
        """
        return self.receive is not None and (
            not self.messages or any(issubclass(kind, known) for known in self.messages.values())
        )

    def state(self, function: Callable[..., Any]) -> Handler:
        """The handler for a method that stands in for `receive`; `TypeError` for a generator."""
        if function not in self._states:
            where = f"{self.actor.__qualname__}.{getattr(function, '__name__', function)}"
            if _is_generator(function):
                raise TypeError(
                    f"{where} is a generator, which cannot stand in for receive: only handlers "
                    "with a pattern can stream. Give become a method that returns."
                )
            self._states[function] = self._compile_plain(where, function, Payload(Any))
        return self._states[function]

    def _routed(self, pattern: Pattern) -> Handler | None:
        route = route_of(pattern)
        handler = self.requests.get(route)
        if handler is None and route in self.events:
            return self.events[route][0]
        if handler is None:
            handler = next(iter(self._wildcards.matching(route)), None)
        return handler

    def _add(self, name: str, function: Callable[..., Any], marks: tuple[Mark, ...]) -> None:
        where = f"{self.actor.__qualname__}.{name}"
        kinds = {mark.kind for mark in marks}
        if len(kinds) > 1:
            raise DeclarationError(
                f"{where} is both a message and an event handler. Give each its own method."
            )
        routes = tuple(dict.fromkeys(mark.route for mark in marks))
        self._refuse_hiding(name, where)
        handler = _compile(where, function, marks, routes, self.loop)
        # A caller that knows only a base class names the method as it stands there.
        for base in self.actor.__mro__:
            if inspect.isfunction(vars(base).get(name)):
                self.by_function[vars(base)[name]] = handler
        for route in routes:
            if is_wildcard(route):
                self._wildcards.add(route, handler)
            if handler.kind == "event":
                self.events.setdefault(route, []).append(handler)
            elif route in self.requests:
                raise DeclarationError(
                    f"{where}: the pattern {route!r} already has the handler "
                    f"{self.requests[route].name}. One request pattern, one handler."
                )
            else:
                self.requests[route] = handler

    def _refuse_hiding(self, name: str, where: str) -> None:
        if hasattr(Actor, name):
            raise DeclarationError(
                f"{where} would hide Actor.{name}, which every actor has. Give the handler "
                "another name."
            )

    def _compile_receive(self) -> Handler | None:
        function = self.actor.receive
        if function is Actor.receive:
            return None
        where = f"{self.actor.__qualname__}.receive"
        if _is_generator(function):
            raise DeclarationError(
                f"{where} is a generator. Only handlers with a pattern can stream: "
                "decorate a method with @message_pattern."
            )
        return self._compile_plain(where, function, Payload(Any))

    def _compile_plain(self, where: str, function: Callable[..., Any], payload: Payload) -> Handler:
        """A handler that has no pattern, so nothing said about it but by its actor."""
        mode: Mode = "async" if inspect.iscoroutinefunction(function) else "sync"
        return Handler(where, function, "receive", (), mode, payload, 1, False, loop=self.loop)


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)


def _protocol_of(actor: type[Actor[Any]]) -> list[type]:
    """The message types in `class X(Actor[A | B])`."""
    for base in getattr(actor, "__orig_bases__", ()):
        if typing.get_origin(base) is Actor:
            (protocol,) = typing.get_args(base)
            members = typing.get_args(protocol) or (protocol,)
            # `Any` is a class to Python, and no message is of it.
            return [one for one in members if isinstance(one, type) and one is not Any]
    return []


@cache
def _behavior_of(actor: type[Actor[Any]]) -> Behavior:
    return Behavior(actor)


def _methods(actor: type[Actor[Any]]) -> list[tuple[str, Callable[..., Any]]]:
    """Methods by name, base classes first, overridden ones in their final form."""
    names = dict.fromkeys(name for base in reversed(actor.__mro__) for name in vars(base))
    found = ((name, inspect.getattr_static(actor, name)) for name in names)
    return [(name, value) for name, value in found if inspect.isfunction(value)]


def _on_error(actor: type[Actor[Any]]) -> OnError:
    """The table of a class: what it says itself goes before what its bases say."""
    table: dict[type[BaseException], Any] = {}
    for base in reversed(actor.__mro__):
        own = vars(base).get("on_error")
        if own is not None:
            table.update(checked_table(base.__qualname__, own))
    return table


def _loop(actor: type[Actor[Any]]) -> Loop:
    """Where an actor lives."""
    return _checked_loop(actor.__qualname__, actor.loop)


def _checked_loop(where: str, loop: Any) -> Loop:
    if loop == "asyncio":
        return "asyncio"
    if loop == "trio":
        return "trio"
    raise DeclarationError(f'{where}: loop is "trio" or "asyncio", got {loop!r}.')


def _loop_of_marks(where: str, mode: Mode, marks: tuple[Mark, ...]) -> Loop | None:
    """What a handler itself says about its loop."""
    said: set[Loop] = {_checked_loop(where, m.loop) for m in marks if m.loop is not None}
    if len(said) > 1:
        raise DeclarationError(f"{where}: its patterns name different loops. Name one.")
    if "asyncio" in said and mode in ("sync", "thread"):
        raise DeclarationError(
            f'{where}: loop="asyncio" is for `async def`, and this is a plain def. Make it '
            "async, or leave the loop out."
        )
    return said.pop() if said else None


def _compile(
    where: str,
    function: Callable[..., Any],
    marks: tuple[Mark, ...],
    routes: tuple[str, ...],
    loop: Loop,
) -> Handler:
    kind = marks[0].kind
    parameters = _parameters(where, function)
    hints = _hints(where, function)
    batch, within = _batch_of_marks(where, marks)
    mode = _mode(where, function, kind, any(mark.thread for mark in marks))
    takes_context_only = len(parameters) == 1 and hints.get(parameters[0].name) is MessageContext
    if takes_context_only:
        raise DeclarationError(
            f"{where}: the context comes second. Take the payload first: "
            "(self, payload, context: MessageContext)."
        )
    if parameters:
        first = parameters[0]
        default = NO_DEFAULT if first.default is inspect.Parameter.empty else first.default
        annotation = hints.get(first.name, Any)
        if batch:
            annotation, default = _item_type(where, first.name, annotation), NO_DEFAULT
        try:
            payload = Payload(annotation, default)
        except DeclarationError as error:
            raise DeclarationError(f"{where}: {error}") from error
    elif batch:
        raise DeclarationError(f"{where}: a batch needs a list to be given in: (self, items).")
    else:
        payload = Payload(Any)
    void = mode != "stream" and hints.get("return", Any) is type(None)
    on_error: dict[type[BaseException], Verdict] = {}
    for mark in marks:
        on_error.update(mark.on_error)
    key = key_function(next((mark.key for mark in marks if mark.key is not None), None), where)
    retry = next((mark.retry for mark in marks if mark.retry is not None), None)
    loop = _loop_of_marks(where, mode, marks) or loop
    takes = len(parameters)
    return Handler(
        where,
        function,
        kind,
        routes,
        mode,
        payload,
        takes,
        void,
        on_error,
        key,
        retry,
        loop,
        batch,
        within,
    )


def _batch_of_marks(where: str, marks: tuple[Mark, ...]) -> tuple[int, float]:
    """How many messages a handler takes at once, and how long the first waits for others."""
    said = {(mark.batch, mark.within) for mark in marks if mark.batch}
    if not said:
        return 0, 0.0
    if len(said) > 1 or not all(mark.batch for mark in marks):
        raise DeclarationError(f"{where}: its patterns say different things of batches. Say one.")
    ((batch, within),) = said
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise DeclarationError(
            f"{where}: batch is how many messages to take at once, from 1; got {batch!r}."
        )
    if isinstance(within, bool) or not isinstance(within, int | float) or not 0 <= within < inf:
        raise DeclarationError(
            f"{where}: within is how many seconds the first message of a batch waits for "
            f"others, from 0; got {within!r}."
        )
    if any(mark.key is not None for mark in marks):
        raise DeclarationError(
            f"{where}: batches run one after the other, so that a key would change nothing. "
            "Leave key out."
        )
    return batch, float(within)


def _item_type(where: str, name: str, annotation: Any) -> Any:
    """The type of one message, of a handler that takes a list of them."""
    if annotation is Any or annotation is list:
        return Any
    if typing.get_origin(annotation) is not list:
        raise DeclarationError(
            f"{where} takes batches, so that {name} is a list: write {name}: list[...]."
        )
    return typing.get_args(annotation)[0]


def _parameters(where: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    every = list(inspect.signature(function).parameters.values())[1:]
    positional = [p for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required_keywords = [p.name for p in every if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(positional) > 2 or required_keywords:
        raise DeclarationError(
            f"{where} takes more than a handler is given: (self), (self, payload) "
            "or (self, payload, context)."
        )
    return positional


def _hints(where: str, function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise DeclarationError(
            f"{where}: its type hints cannot be read ({error}). Types of handlers must "
            "be importable at run time, not only under TYPE_CHECKING."
        ) from error


def _mode(where: str, function: Callable[..., Any], kind: str, thread: bool) -> Mode:
    if inspect.isasyncgenfunction(function):
        if kind == "event":
            raise DeclarationError(f"{where}: an event has nobody to stream to; do not yield.")
        mode: Mode = "stream"
    elif inspect.iscoroutinefunction(function):
        mode = "async"
    elif inspect.isgeneratorfunction(function):
        raise DeclarationError(f"{where}: stream with `async def` and yield, not a plain def.")
    else:
        return "thread" if thread else "sync"
    if thread:
        raise DeclarationError(f"{where}: thread=True is for plain def; this one is async.")
    return mode
