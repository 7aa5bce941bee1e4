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
from typing import Any, Literal

from .actor import Actor
from .context import MessageContext
from .errors import DeclarationError, NoHandler
from .handlers import Mark, marks_of
from .pattern import Pattern, route_of
from .payload import NO_DEFAULT, Payload

__all__ = ["Behavior", "Handler"]

Mode = Literal["async", "sync", "thread", "stream"]


class Handler:
    """One method, compiled: how it is called, and what it takes."""

    __slots__ = (
        "direct",
        "function",
        "is_async",
        "kind",
        "mode",
        "name",
        "payload",
        "route",
        "routes",
        "takes_context",
        "takes_payload",
        "void",
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
    ) -> None:
        self.name = name
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
        self.direct = mode in ("async", "sync") and parameters == 1
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
        self.receive = self._compile_receive()
        self.messages = {kind.__name__: kind for kind in _protocol_of(actor)}
        for name, function in _methods(actor):
            marks = marks_of(function)
            if marks:
                self._add(name, function, marks)

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
        return Handler(
            receive.name, receive.function, "receive", (), receive.mode, Payload(kind), 1, False
        )

    def _routed(self, pattern: Pattern) -> Handler | None:
        route = route_of(pattern)
        handler = self.requests.get(route)
        if handler is None and route in self.events:
            return self.events[route][0]
        return handler

    def _add(self, name: str, function: Callable[..., Any], marks: tuple[Mark, ...]) -> None:
        where = f"{self.actor.__qualname__}.{name}"
        kinds = {mark.kind for mark in marks}
        if len(kinds) > 1:
            raise DeclarationError(
                f"{where} is both a message and an event handler. Give each its own method."
            )
        routes = tuple(dict.fromkeys(mark.route for mark in marks))
        handler = _compile(where, function, marks[0].kind, routes, any(m.thread for m in marks))
        # A caller that knows only a base class names the method as it stands there.
        for base in self.actor.__mro__:
            if inspect.isfunction(vars(base).get(name)):
                self.by_function[vars(base)[name]] = handler
        for route in routes:
            if handler.kind == "event":
                self.events.setdefault(route, []).append(handler)
            elif route in self.requests:
                raise DeclarationError(
                    f"{where}: the pattern {route!r} already has the handler "
                    f"{self.requests[route].name}. One request pattern, one handler."
                )
            else:
                self.requests[route] = handler

    def _compile_receive(self) -> Handler | None:
        function = self.actor.receive
        if function is Actor.receive:
            return None
        where = f"{self.actor.__qualname__}.receive"
        if inspect.isasyncgenfunction(function):
            raise DeclarationError(
                f"{where} is a generator. Only handlers with a pattern can stream: "
                "decorate a method with @message_pattern."
            )
        mode: Mode = "async" if inspect.iscoroutinefunction(function) else "sync"
        return Handler(where, function, "receive", (), mode, Payload(Any), 1, False)


def _protocol_of(actor: type[Actor[Any]]) -> list[type]:
    """The message types in `class X(Actor[A | B])`."""
    for base in getattr(actor, "__orig_bases__", ()):
        if typing.get_origin(base) is Actor:
            (protocol,) = typing.get_args(base)
            members = typing.get_args(protocol) or (protocol,)
            return [member for member in members if isinstance(member, type)]
    return []


@cache
def _behavior_of(actor: type[Actor[Any]]) -> Behavior:
    return Behavior(actor)


def _methods(actor: type[Actor[Any]]) -> list[tuple[str, Callable[..., Any]]]:
    """Methods by name, base classes first, overridden ones in their final form."""
    names = dict.fromkeys(name for base in reversed(actor.__mro__) for name in vars(base))
    found = ((name, inspect.getattr_static(actor, name)) for name in names)
    return [(name, value) for name, value in found if inspect.isfunction(value)]


def _compile(
    where: str,
    function: Callable[..., Any],
    kind: Literal["request", "event"],
    routes: tuple[str, ...],
    thread: bool,
) -> Handler:
    parameters = _parameters(where, function)
    hints = _hints(where, function)
    mode = _mode(where, function, kind, thread)
    takes_context_only = len(parameters) == 1 and hints.get(parameters[0].name) is MessageContext
    if takes_context_only:
        raise DeclarationError(
            f"{where}: the context comes second. Take the payload first: "
            "(self, payload, context: MessageContext)."
        )
    if parameters:
        first = parameters[0]
        default = NO_DEFAULT if first.default is inspect.Parameter.empty else first.default
        try:
            payload = Payload(hints.get(first.name, Any), default)
        except DeclarationError as error:
            raise DeclarationError(f"{where}: {error}") from error
    else:
        payload = Payload(Any)
    void = mode != "stream" and hints.get("return", Any) is type(None)
    return Handler(where, function, kind, routes, mode, payload, len(parameters), void)


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
