"""Who is where: actors by path, name and class, handlers by route.

One per system, filled when the tree is built, so that two handlers for one
request pattern are found before anything starts. Bridges look routes up here;
`version` tells their caches when to forget, and is raised only when routes change.

Not every actor is seen by everybody. A `public` one is found by path, name and
class and handles its patterns; a `private` one (a child of an actor) is found, but
handles no messages from outside; a `member` of a pool is found by its whole path
only, for the pool stands for it.

Adding and removing cost the same however many there are, finding by path too;
by name or class it depends on how many share that name or class.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

import attrs
import trio

from ..actors.behavior import Behavior, Handler
from ..actors.cell import Cell, CellOptions
from ..actors.errors import DeclarationError
from ..actors.mailbox import Mailbox
from ..actors.ref import Ref
from ..actors.wildcard import Wildcards, is_wildcard

__all__ = ["Addressee", "Registry", "Target", "Visibility"]

K = TypeVar("K")

Visibility = Literal["public", "private", "member"]
"""Who finds an actor, and whether its patterns are served; see the head of this file."""


class Addressee(Protocol):
    """Who has a mailbox: the cell of an actor, or a pool that stands for several."""

    @property
    def path(self) -> str: ...

    @property
    def actor(self) -> type[Any]: ...

    @property
    def behavior(self) -> Behavior: ...

    @property
    def mailbox(self) -> Mailbox: ...

    @property
    def options(self) -> CellOptions: ...

    @property
    def ref(self) -> Ref[Any]: ...

    def undelivered(self, message: Any, why: str) -> None:
        """Tell that a message will not be handled."""

    def keep_order(self) -> None:
        """Handle messages with the same order key in the order in which they came."""


@attrs.frozen(eq=False)
class Target:
    """One handler of one addressee in the tree."""

    cell: Addressee
    handler: Handler


class Registry:
    """The actors that are in the tree just now, and their handlers."""

    def __init__(self) -> None:
        self.cells: dict[str, Addressee] = {}
        self.requests: dict[str, Target] = {}
        self.events: dict[str, list[Target]] = {}
        self.version = 0
        self._changed: trio.Event | None = None
        self._wild_requests: Wildcards[Target] = Wildcards()
        self._wild_events: Wildcards[Target] = Wildcards()
        self._by_name: _Index[str] = _Index()
        self._by_class: _Index[type[Any]] = _Index()

    # -- who is there -------------------------------------------------------------

    def add(self, cell: Addressee, visibility: Visibility = "public") -> None:
        """Raises `DeclarationError` when a request pattern of `cell` has a handler already."""
        if visibility == "public":
            self._route(cell)
        self.cells[cell.path] = cell
        if visibility != "member":
            self._by_name.add(_name(cell), cell)
            self._by_class.add(cell.actor, cell)

    def remove(self, cell: Addressee) -> None:
        if self.cells.get(cell.path) is not cell:
            return
        del self.cells[cell.path]
        self._by_name.remove(_name(cell), cell)
        self._by_class.remove(cell.actor, cell)
        self._unroute(cell)

    def address(self, actor: type[Any] | str) -> Addressee:
        """The one of a class, or with a path or name; raises `LookupError`."""
        return self._only(actor, self._candidates(actor))

    def find(self, actor: type[Any] | str) -> Cell:
        """The same, where it is a single actor; of a pool it is a `LookupError`."""
        found = self.address(actor)
        if not isinstance(found, Cell):
            raise LookupError(f"{found.path} is a pool; ask with the path of a member.")
        return found

    def lookup(self, wanted: type[Any] | str, near: str) -> Addressee:
        """The same as seen from the actor at `near`: what is nearest to it is meant.

        First its children, then its siblings, then those one floor up, and so on;
        then anybody, if there is only one. Raises `LookupError`.
        """
        if isinstance(wanted, str):
            place = near
            while place:
                found = self.cells.get(f"{place}/{wanted}")
                if found is not None:
                    return found
                place = place.rpartition("/")[0]
        return self._only(wanted, _nearest(self._candidates(wanted), near))

    def _candidates(self, actor: type[Any] | str) -> list[Addressee]:
        if not isinstance(actor, str):
            return self._by_class.all(actor)
        if actor in self.cells:
            return [self.cells[actor]]
        ending = f"/{actor}"
        named = self._by_name.all(actor.rpartition("/")[2])
        return [cell for cell in named if cell.path.endswith(ending)]

    def _only(self, actor: type[Any] | str, found: list[Addressee]) -> Addressee:
        if len(found) == 1:
            return found[0]
        wanted = actor if isinstance(actor, str) else actor.__name__
        if not found:
            raise LookupError(f"no actor {wanted!r} in this tree; there are: {_some(self.cells)}.")
        paths = _some(cell.path for cell in found)
        raise LookupError(f"{wanted!r} could be any of {paths}; ask with the whole path.")

    # -- who handles what ---------------------------------------------------------

    def request(self, route: str) -> Target | None:
        """The handler of a request: of its very pattern, else of the most specific wildcard."""
        target = self.requests.get(route)
        if target is None and self._wild_requests:
            found = self._wild_requests.matching(route)
            return found[0] if found else None
        return target

    def event(self, route: str) -> list[Target]:
        """All handlers of an event: those of its very pattern first, then of wildcards."""
        exact = self.events.get(route, [])
        if not self._wild_events:
            return exact
        return [*exact, *self._wild_events.matching(route)]

    async def change(self) -> None:
        """Wait until there are other routes than now."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        self.version += 1
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def routes(self) -> list[str]:
        """All routes that have a handler, wildcards among them, for who must subscribe to them."""
        wild = (*self._wild_requests.patterns, *self._wild_events.patterns)
        return list(dict.fromkeys((*self.requests, *self.events, *wild)))

    def _route(self, cell: Addressee) -> None:
        behavior = cell.behavior
        if not (behavior.requests or behavior.events):
            return
        for route, handler in behavior.requests.items():
            other = self._taken(route)
            if other is not None:
                raise DeclarationError(
                    f"the request pattern {route!r} has two handlers: "
                    f"{other.handler.name} in {other.cell.path} and {handler.name} in {cell.path}. "
                    "Keep one of them, or give several of one class one address with pool(...)."
                )
        for route, handler in behavior.requests.items():
            if is_wildcard(route):
                self._wild_requests.add(route, Target(cell, handler))
            else:
                self.requests[route] = Target(cell, handler)
        for route, handlers in behavior.events.items():
            for target in (Target(cell, handler) for handler in handlers):
                if is_wildcard(route):
                    self._wild_events.add(route, target)
                else:
                    self.events.setdefault(route, []).append(target)
        self._tell()

    def _taken(self, route: str) -> Target | None:
        if is_wildcard(route):
            return next(iter(self._wild_requests.at(route)), None)
        return self.requests.get(route)

    def _unroute(self, cell: Addressee) -> None:
        changed = False
        for route in cell.behavior.requests:
            target = self._taken(route)
            if target is None or target.cell is not cell:
                continue
            changed = True
            if is_wildcard(route):
                self._wild_requests.remove(target)
            else:
                del self.requests[route]
        for route in cell.behavior.events:
            changed = self._unroute_event(route, cell) or changed
        if changed:
            self._tell()

    def _unroute_event(self, route: str, cell: Addressee) -> bool:
        if is_wildcard(route):
            targets = [target for target in self._wild_events.at(route) if target.cell is cell]
            for target in targets:
                self._wild_events.remove(target)
            return bool(targets)
        targets = self.events.get(route, [])
        kept = [target for target in targets if target.cell is not cell]
        if kept:
            self.events[route] = kept
        else:
            self.events.pop(route, None)
        return len(kept) < len(targets)


class _Index(Generic[K]):
    """Addressees by a key that several may share; one alone stands there without a dict."""

    def __init__(self) -> None:
        self._found: dict[K, Addressee | dict[str, Addressee]] = {}

    def add(self, key: K, cell: Addressee) -> None:
        there = self._found.get(key)
        if there is None:
            self._found[key] = cell
        elif isinstance(there, dict):
            there[cell.path] = cell
        else:
            self._found[key] = {there.path: there, cell.path: cell}

    def remove(self, key: K, cell: Addressee) -> None:
        there = self._found.get(key)
        if there is cell:
            del self._found[key]
        elif isinstance(there, dict) and there.get(cell.path) is cell:
            del there[cell.path]
            if not there:
                del self._found[key]

    def all(self, key: K) -> list[Addressee]:
        there = self._found.get(key)
        if there is None:
            return []
        return list(there.values()) if isinstance(there, dict) else [there]


def _nearest(found: list[Addressee], near: str) -> list[Addressee]:
    """Those of `found` that are closest to `near`: below it, below what is above it..."""
    place = near
    while place and len(found) > 1:
        below = [cell for cell in found if cell.path.startswith(f"{place}/")]
        if below:
            return below
        place = place.rpartition("/")[0]
    return found


def _name(cell: Addressee) -> str:
    return cell.path.rpartition("/")[2]


def _some(paths: Iterable[str] | Mapping[str, object]) -> str:
    """A list of paths for a person: there may be a hundred thousand."""
    listed = list(paths)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return (", ".join(listed[:20]) or "none") + more
