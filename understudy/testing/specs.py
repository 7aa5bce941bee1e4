"""Child specs as a test runs them: the same kinds, with something done before the start.

What a test wants to hear of or to break before an actor's first start has to be said when
its place in the tree is made. The names are those of the kinds they stand for, which is
what the running tree shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from ..actors.cell import Cell
from ..actors.errors import DeclarationError
from ..actors.incarnation import Runnable
from ..actors.lifecycle import Bus
from ..supervisors import child
from ..transports import bridge
from .faults import Fault
from .injection import arm

__all__ = ["ActorSpec", "BridgeSpec", "prepared", "served_at", "with_faults"]

_PATIENCE: Final = 1.0
"""Seconds a bridge has at its end for what is not answered: what a test drops never is."""


@attrs.frozen(kw_only=True)
class ActorSpec(child.ActorSpec[Any]):
    """An actor, and what is done with its cell before it starts."""

    prepare: Callable[[Cell], object]

    def build(self, wiring: child.Wiring) -> Cell:
        cell = super().build(wiring)
        self.prepare(cell)
        return cell


@attrs.frozen(kw_only=True)
class BridgeSpec(bridge.BridgeSpec):
    """A bridge; `listen` gets the bus of its tree before anything has started."""

    listen: Callable[[Bus], object]

    def build(self, wiring: child.Wiring) -> Runnable:
        self.listen(wiring.services.bus)
        return super().build(wiring)


def prepared(spec: child.ActorSpec[Any], prepare: Callable[[Cell], object]) -> ActorSpec:
    same = {field.name: getattr(spec, field.name) for field in attrs.fields(type(spec))}
    if isinstance(spec, ActorSpec):
        earlier = spec.prepare
        same["prepare"] = lambda cell: (earlier(cell), prepare(cell))
        return ActorSpec(**same)
    return ActorSpec(**same, prepare=prepare)


def with_faults(tree: child.Supervisor, faults: Mapping[str, Sequence[Fault]]) -> child.Supervisor:
    """The tree, with faults in its actors from their first start on: by path or by name.

    Raises `DeclarationError` for an actor that is not there, or of whose name are several.
    """
    for where, wanted in faults.items():
        found = [path for path, _ in _actors(tree, "") if _is(path, where)]
        if len(found) != 1:
            paths = ", ".join(path for path, _ in _actors(tree, "")) or "none"
            what = f"{len(found)} actors are called {where!r}" if found else f"no actor {where!r}"
            raise DeclarationError(f"faults in {tree.name}: {what}. There are: {paths}.")
        tree = _replaced(tree, "", found[0], wanted)
    return tree


def served_at(
    tree: child.Supervisor,
    url: str,
    options: Mapping[str, Any],
    listen: Callable[[Bus], object],
) -> tuple[child.Supervisor, str]:
    """The tree with one bridge, at `url`, and the path of that.

    It stands where the first bridge of the tree did, and has its name; else it is the last
    child of the root.
    """
    paths: list[str] = []

    def own(name: str) -> BridgeSpec:
        spec = bridge.serve(url, name=name, shutdown=_PATIENCE, **options)
        same = {field.name: getattr(spec, field.name) for field in attrs.fields(type(spec))}
        return BridgeSpec(**same, listen=listen)

    def below(tree: child.Supervisor, above: str) -> child.Supervisor:
        here = f"{above}{tree.name}/"
        children: list[child.ChildSpec] = []
        for spec in tree.children:
            if isinstance(spec, child.Supervisor):
                children.append(below(spec, here))
            elif not isinstance(spec, bridge.BridgeSpec):
                children.append(spec)
            elif not paths:
                paths.append(f"{here}{spec.name}")
                children.append(own(spec.name))
        return attrs.evolve(tree, children=children)

    tree = below(tree, "")
    if not paths:
        paths.append(f"{tree.name}/test-bridge")
        room = None if tree.max_children is None else tree.max_children + 1
        children = [*tree.children, own("test-bridge")]
        tree = attrs.evolve(tree, children=children, max_children=room)
    return tree, paths[0]


def _replaced(
    tree: child.Supervisor, above: str, path: str, faults: Sequence[Fault]
) -> child.Supervisor:
    here = f"{above}{tree.name}/"
    children: list[child.ChildSpec] = []
    for spec in tree.children:
        if isinstance(spec, child.Supervisor):
            spec = _replaced(spec, here, path, faults)
        elif isinstance(spec, child.ActorSpec) and f"{here}{spec.name}" == path:
            spec = prepared(spec, lambda cell: arm(cell, faults))
        children.append(spec)
    return attrs.evolve(tree, children=children)


def _actors(tree: child.Supervisor, above: str) -> list[tuple[str, child.ActorSpec[Any]]]:
    here, found = f"{above}{tree.name}/", []
    for spec in tree.children:
        if isinstance(spec, child.Supervisor):
            found += _actors(spec, here)
        elif isinstance(spec, child.ActorSpec):
            found.append((f"{here}{spec.name}", spec))
    return found


def _is(path: str, where: str) -> bool:
    return path == where or path.endswith(f"/{where}")
