"""Who is where: children by path, actors by class, handlers by route.

One per system, filled when the tree is built, so that two handlers for one
request pattern are found before anything starts. Bridges look routes up here;
`version` tells their caches when to forget.
"""

from typing import Any

import attrs

from ..actors.behavior import Handler
from ..actors.cell import Cell
from ..actors.errors import DeclarationError

__all__ = ["Registry", "Target"]


@attrs.frozen(eq=False)
class Target:
    """One handler of one actor in the tree."""

    cell: Cell
    handler: Handler


class Registry:
    """The handlers of all actors that are in the tree just now."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.requests: dict[str, Target] = {}
        self.events: dict[str, list[Target]] = {}
        self.version = 0

    def add(self, cell: Cell) -> None:
        """Raises `DeclarationError` when a request pattern of `cell` has a handler already."""
        for route, handler in cell.behavior.requests.items():
            other = self.requests.get(route)
            if other is not None:
                raise DeclarationError(
                    f"the request pattern {route!r} has two handlers: "
                    f"{other.handler.name} in {other.cell.path} and {handler.name} in {cell.path}. "
                    "Keep one of them."
                )
        self.cells[cell.path] = cell
        for route, handler in cell.behavior.requests.items():
            self.requests[route] = Target(cell, handler)
        for route, handlers in cell.behavior.events.items():
            self.events.setdefault(route, []).extend(Target(cell, h) for h in handlers)
        self.version += 1

    def remove(self, cell: Cell) -> None:
        if self.cells.get(cell.path) is not cell:
            return
        del self.cells[cell.path]
        self.requests = {r: t for r, t in self.requests.items() if t.cell is not cell}
        kept = {r: [t for t in ts if t.cell is not cell] for r, ts in self.events.items()}
        self.events = {route: targets for route, targets in kept.items() if targets}
        self.version += 1

    def find(self, actor: type[Any] | str) -> Cell:
        """The one actor of a class, or with a path or name; raises `LookupError`."""
        if isinstance(actor, str):
            found = [
                cell
                for path, cell in self.cells.items()
                if path == actor or path.endswith(f"/{actor}")
            ]
        else:
            found = [cell for cell in self.cells.values() if cell.actor is actor]
        wanted = actor if isinstance(actor, str) else actor.__name__
        if not found:
            known = ", ".join(self.cells) or "none"
            raise LookupError(f"no actor {wanted!r} in this tree; there are: {known}.")
        if len(found) > 1:
            paths = ", ".join(cell.path for cell in found)
            raise LookupError(f"{wanted!r} could be any of {paths}; ask with the whole path.")
        return found[0]
