"""What a tree declares, read from its specs before anything runs: actors and their routes.

Children that actors start at run time are not in it, nor what they handle: nobody outside
is served by them.
"""

from collections.abc import Iterator
from typing import Any

import attrs

from ..actors.actor import Actor
from ..actors.behavior import Behavior, Handler
from ..actors.cell import CellOptions
from ..actors.payload_types import type_name
from ..actors.retry import RetryPolicy
from ..supervisors.child import ActorSpec, ChildSpec, Supervisor
from ..supervisors.pool import PoolSpec

__all__ = ["Declared", "Route", "actors_of", "routes_of", "specs_of"]


@attrs.frozen
class Declared:
    """An actor or a pool of them, as it stands in the tree."""

    path: str
    actor: type[Actor[Any]]
    spec: ActorSpec[Any]
    size: int
    behavior: Behavior

    @property
    def options(self) -> CellOptions:
        return self.spec.options


@attrs.frozen
class Route:
    """One pattern and what is known of its handler. `kind`: request, stream or event."""

    pattern: str
    kind: str
    path: str
    handler: str
    payload: str
    answer: str
    runs: str
    policies: str


def specs_of(tree: ChildSpec, above: str = "") -> Iterator[tuple[str, ChildSpec]]:
    """Every spec of a tree with its path, parents before children, in start order."""
    path = f"{above}{tree.name}"
    yield path, tree
    if isinstance(tree, Supervisor):
        for spec in tree.children:
            yield from specs_of(spec, f"{path}/")


def actors_of(tree: Supervisor) -> Iterator[Declared]:
    """The actors whose patterns are served."""
    for path, spec in specs_of(tree):
        size = spec.size if isinstance(spec, PoolSpec) else 1
        one = spec.member if isinstance(spec, PoolSpec) else spec
        if isinstance(one, ActorSpec):
            yield Declared(path, one.actor, one, size, Behavior.of(one.actor))


def routes_of(tree: Supervisor) -> list[Route]:
    """Every pattern that the tree handles, by pattern."""
    found = [
        _route(route, handler, declared)
        for declared in actors_of(tree)
        for route, handlers in _handlers(declared.behavior)
        for handler in handlers
    ]
    return sorted(found, key=lambda one: (one.pattern, one.path, one.handler))


def _handlers(behavior: Behavior) -> Iterator[tuple[str, list[Handler]]]:
    for route, handler in behavior.requests.items():
        yield route, [handler]
    yield from behavior.events.items()


def _route(route: str, handler: Handler, declared: Declared) -> Route:
    stream = handler.mode == "stream"
    return Route(
        pattern=route,
        kind="stream" if stream else handler.kind,
        path=declared.path,
        handler=handler.name,
        payload=_payload(handler),
        answer="" if handler.kind == "event" else _answer(handler, stream),
        runs=", ".join(_runs(handler, declared)),
        policies=", ".join(_policies(handler, declared)),
    )


def _payload(handler: Handler) -> str:
    if not handler.takes_payload:
        return "-"
    name = type_name(handler.payload.annotation)
    return f"list[{name}]" if handler.batch else name


def _answer(handler: Handler, stream: bool) -> str:
    hints = getattr(handler.function, "__annotations__", {})
    if "return" not in hints:
        return "Any"
    answer = hints["return"]
    # Of a stream the items count, not what holds them.
    arguments = getattr(answer, "__args__", ())
    name = answer if isinstance(answer, str) else type_name(answer)
    return type_name(arguments[0]) if stream and arguments else name


def _runs(handler: Handler, declared: Declared) -> Iterator[str]:
    """How it runs, as far as that is not one at a time in the event loop."""
    if declared.size > 1:
        yield f"pool of {declared.size}"
    if declared.options.concurrency > 1 and not handler.batch:
        yield f"{declared.options.concurrency} at a time"
    if handler.batch:
        yield f"batches of {handler.batch} within {handler.within:g} s"
    if handler.mode == "thread":
        yield "in a thread"
    if handler.abroad:
        yield "on asyncio"
    if handler.key is not None or declared.options.key is not None:
        yield "in order by key"


def _policies(handler: Handler, declared: Declared) -> Iterator[str]:
    if handler.kind == "event":
        policy = handler.retry or declared.options.retry
        yield "tried as the system says" if policy is None else _tried(policy)
    named = [kind.__name__ for kind in (*handler.on_error, *declared.behavior.on_error)]
    if named:
        yield f"on_error for {', '.join(dict.fromkeys(named))}"
    if declared.options.overflow != "wait":
        yield f"overflow {declared.options.overflow}"


def _tried(policy: RetryPolicy) -> str:
    if policy.attempts == 1:
        return "tried once"
    waits = ", ".join(f"{delay:g}" for delay in policy.delays[: policy.attempts - 1]) or "0"
    return f"tried {policy.attempts} times ({waits} s apart)"
