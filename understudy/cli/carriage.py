"""Which patterns of a tree its bridges cannot carry.

Bridges are built, as for a start, and asked what they would subscribe to, once for each
pattern; nothing is connected.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ..actors.errors import DeclarationError
from ..supervisors.keeper import Keeper
from ..supervisors.registry import Registry
from ..supervisors.running_child import Child
from ..supervisors.system import System
from ..transports.bridge import BridgeSpec
from ..transports.broker.connected import Connected
from .fault import Fault

__all__ = ["uncarried"]


class _Alone(Registry):
    """A registry that has all handlers, and names one route."""

    def __init__(self, whole: Registry, route: str) -> None:
        super().__init__()
        self.__dict__.update(whole.__dict__)
        self._route_shown = route

    def routes(self) -> list[str]:
        return [self._route_shown]


class _Heard:
    """Takes the complaints of a bridge instead of the log."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, kind: str, text: str) -> None:
        self.texts.append(text)


def uncarried(system: System) -> Iterator[Fault]:
    """Patterns that a bridge cannot serve, and those that none serves."""
    routes = system.registry.routes()
    bridges = [one for one in _children(system.root) if isinstance(one.spec, BridgeSpec)]
    left_out: list[tuple[str, str, str]] = []
    for child in bridges:
        bridge = child.runnable
        # By name: the module of a transport cannot be imported without its library.
        check = getattr(bridge, "check", None)
        refused: list[str] = []
        if isinstance(bridge, Connected):
            for route in routes:
                heard = _Heard()
                refused += _refusal(bridge, _Alone(system.registry, route), heard)
                left_out += [(child.path, route, text) for text in heard.texts]
            # Together they may still be more than each alone.
            refused = refused or _refusal(bridge, system.registry, _Heard())
        elif check is not None:
            refused = _raised(check)
        yield from (Fault(child.path, text) for text in refused)
    for path, route, text in left_out:
        alone = sum(route == other for _, other, _ in left_out) == len(bridges)
        advice = "Serve it by another transport, or remove it" if alone else "Others serve it"
        yield Fault(path, f"{text}. {advice}.", "fault" if alone else "doubt")


def _refusal(bridge: Connected, registry: Registry, heard: Any) -> list[str]:
    """Why a bridge will not begin with these routes; `heard` takes what it complains of."""
    bridge.registry, bridge.complaints = registry, heard
    return _raised(bridge.channels)


def _raised(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except DeclarationError as error:
        return [str(error)]
    return []


def _children(keeper: Keeper) -> Iterator[Child]:
    for child in keeper.children.values():
        yield child
        if isinstance(child.runnable, Keeper):
            yield from _children(child.runnable)
