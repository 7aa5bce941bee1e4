"""What is wrong with a tree, found before it starts.

Found from the specs alone: no connection is made, no actor and no resource comes to life.
What bridges make of the patterns is asked in `carriage.py`.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..actors.actor import Actor
from ..actors.errors import DeclarationError
from ..actors.wildcard import Wildcards, is_wildcard
from ..supervisors.child import ChildSpec, Needs, Supervisor
from ..supervisors.pool import PoolSpec
from ..supervisors.resource import ResourceSpec
from ..supervisors.system import System
from ..transports.bridge import BridgeSpec
from .carriage import uncarried
from .catalogue import Declared, actors_of, specs_of
from .fault import Fault

__all__ = ["faults_of"]

_CHILD: Final = 5.0
_BRIDGE: Final = 20.0
"""The limits for a stop that children and bridges have when nobody sets one."""

_FRESH: Final = "understudy-check"
"""A token that stands in no pattern."""


def faults_of(tree: Supervisor, drain: float) -> list[Fault]:
    """All that is wrong with a tree whose stop may take `drain` seconds."""
    actors = list(actors_of(tree))
    found = [
        *_missing(tree),
        *_calls(tree, actors),
        *_waits(tree),
        *_duplicates(actors),
        *_unreached(actors),
        *_misread(actors),
        *_deadlines(tree, drain),
    ]
    if any(fault.level == "fault" for fault in found):
        return found
    # Only of a tree that can be built can be asked what its bridges make of it.
    try:
        system = System(tree)
    except DeclarationError as error:
        return [*found, Fault(tree.name, str(error))]
    return [*found, *uncarried(system)]


# -- children -------------------------------------------------------------------------


def _missing(
    tree: Supervisor, above: str = "", known: frozenset[str] = frozenset()
) -> Iterator[Fault]:
    path = f"{above}{tree.name}"
    known |= {spec.name for spec in tree.children}
    for spec in tree.children:
        if isinstance(spec, Supervisor):
            yield from _missing(spec, f"{path}/", known)
            continue
        for name in spec.needed():
            if name not in known:
                yield Fault(
                    f"{path}/{spec.name}",
                    f"needs({name!r}), but no sibling of it or of a supervisor above it has that "
                    f"name. There are: {', '.join(sorted(known))}.",
                )


def _calls(tree: Supervisor, actors: list[Declared]) -> Iterator[Fault]:
    """Arguments that do not fit what they are for."""
    for one in actors:
        arguments, keywords = one.spec.arguments, dict(one.spec.keywords)
        what = f"{one.actor.__name__}.__init__"
        yield from _misfit(one.path, what, one.actor, arguments, keywords)
    for path, spec in specs_of(tree):
        if isinstance(spec, ResourceSpec):
            what = getattr(spec.factory, "__name__", "its factory")
            yield from _misfit(path, what, spec.factory, spec.arguments, {})


def _misfit(
    path: str,
    what: str,
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Iterator[Fault]:
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):
        return  # of a builtin it may not be known
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        shown = ", ".join(
            f"needs({value.name!r})" if isinstance(value, Needs) else repr(value)
            for value in (*arguments, *keywords.values())
        )
        yield Fault(
            path,
            f"{what} cannot be called with ({shown}): {error}. Give the child what it takes: "
            f"{signature}.",
        )


def _waits(tree: Supervisor) -> Iterator[Fault]:
    """Starts that may wait for what starts after them."""
    for path, spec in specs_of(tree):
        if not isinstance(spec, Supervisor):
            continue
        places = {one.name: index for index, one in enumerate(spec.children)}
        for index, one in enumerate(spec.children):
            if not _does_something_at_start(one):
                continue
            for name in one.needed():
                if places.get(name, -1) > index:
                    yield Fault(
                        f"{path}/{one.name}",
                        f"has a started() and needs({name!r}), which starts after it: to ask it "
                        f"there would wait for ever. Put {name!r} before {one.name!r}, or ask "
                        "later.",
                        "doubt",
                    )


def _does_something_at_start(spec: ChildSpec) -> bool:
    actor = getattr(spec.member if isinstance(spec, PoolSpec) else spec, "actor", None)
    return actor is not None and actor.started is not Actor.started


def _deadlines(tree: Supervisor, drain: float) -> Iterator[Fault]:
    alone = False
    for path, spec in specs_of(tree):
        limit = spec.member.shutdown if isinstance(spec, PoolSpec) else spec.shutdown
        if isinstance(spec, Supervisor) and math.isinf(limit):
            continue  # it has no work of its own, and waits for its children
        if limit > drain:
            alone = True
            yield Fault(
                path,
                f"may take {limit:g} s to stop, but the whole tree has {drain:g} s to "
                "drain, after which it is cancelled. Give it a smaller shutdown=, or the tree "
                f"more: run(tree, drain=...), --drain.",
            )
    together = _together(tree)
    if together > drain and not alone:
        yield Fault(
            tree.name,
            f"stops its children one after the other, which may take {together:g} s by their own "
            f"shutdown= alone, but has {drain:g} s to drain. Give them smaller ones, or the tree "
            "more: run(tree, drain=...), --drain.",
            "doubt",
        )


def _together(spec: ChildSpec) -> float:
    """Seconds for all stops below whose limits somebody has set; the usual ones do not count."""
    if isinstance(spec, PoolSpec):
        return _together(spec.supervisor())
    if not isinstance(spec, Supervisor):
        usual = _BRIDGE if isinstance(spec, BridgeSpec) else _CHILD
        return 0.0 if spec.shutdown == usual else spec.shutdown
    each = [_together(one) for one in spec.children]
    return min(spec.shutdown, max(each, default=0.0) if spec.stop_together else sum(each))


# -- patterns -------------------------------------------------------------------------


def _duplicates(actors: list[Declared]) -> Iterator[Fault]:
    first: dict[str, tuple[str, str]] = {}
    for one in actors:
        for route, handler in one.behavior.requests.items():
            path, name = first.setdefault(route, (one.path, handler.name))
            if path != one.path:
                yield Fault(
                    one.path,
                    f"{handler.name} handles requests on {route!r}, which {name} in {path} does "
                    "already. Keep one of them, or give several of one class one address with "
                    "pool(...).",
                )


def _unreached(actors: list[Declared]) -> Iterator[Fault]:
    """Wildcards of requests that never get one, since others are always more specific."""
    requests = {route for one in actors for route in one.behavior.requests}
    exact = {route for route in requests if not is_wildcard(route)}
    wild: Wildcards[str] = Wildcards()
    for route in sorted(requests - exact):
        wild.add(route, route)
    depth = 2 + max((len(_tokens(route)) for route in requests), default=0)
    for one in actors:
        for route, handler in one.behavior.requests.items():
            if not is_wildcard(route):
                continue
            takers = [
                sample if sample in exact else wild.matching(sample)[0]
                for sample in _samples(route, depth)
            ]
            if route not in takers:
                others = " and ".join(dict.fromkeys(map(repr, takers)))
                yield Fault(
                    one.path,
                    f"{handler.name} handles requests on {route!r}, but none reaches it: {others} "
                    "take all of them, being more specific. Remove it, or make it another one.",
                )


def _samples(pattern: str, depth: int) -> Iterator[str]:
    """Routes that a wildcard matches, with tokens that no other pattern has.

    They suffice: whoever else matches one of those matches every route of that length.
    """
    separator = "/" if "/" in pattern or pattern in ("+", "#") else "."
    *tokens, last = [_FRESH if token in ("*", "+") else token for token in _tokens(pattern)]
    if last not in (">", "#"):
        yield separator.join([*tokens, last])
        return
    if last == "#" and tokens:
        yield separator.join(tokens)
    for more in range(1, max(1, depth - len(tokens)) + 1):
        yield separator.join([*tokens, *[_FRESH] * more])


def _tokens(pattern: str) -> list[str]:
    return pattern.split("/" if "/" in pattern else ".")


def _misread(actors: list[Declared]) -> Iterator[Fault]:
    for one in actors:
        for route in (*one.behavior.requests, *one.behavior.events):
            if route.startswith("{"):
                continue
            tokens = _tokens(route)
            rest = next((token for token in tokens[:-1] if token in (">", "#")), None)
            if rest is not None:
                yield Fault(
                    one.path,
                    f"in the pattern {route!r} {rest!r} is no wildcard, since it does not stand at "
                    "the end: it means itself. For one level write '*' (or '+', with slashes).",
                    "doubt",
                )
