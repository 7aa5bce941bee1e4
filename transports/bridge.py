"""Bridges: how messages come in. The contract, and `serve`.

A bridge is a child like any other. It receives from one broker or listener, finds
the handler in the system's registry, and puts the message into its mailbox: with
a receipt of its own for a request, through the system's intake for an event. What
it owes to its broker (acknowledge, give back) is asked of it by its deliveries.

A transport is a module that offers `bridge(url, options, wiring)` and
`client(url, options)`; it is found by URL scheme here, or by an entry point of
the group `understudy.transports`, and imported only when it is used.
"""

import math
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs

from ..actors.errors import DeclarationError
from ..actors.incarnation import Runnable
from ..supervisors.child import ChildSpec, Wiring, checked_name
from ..supervisors.strategy import Backoff
from .options import parse_url, shown

if TYPE_CHECKING:
    from .client import Client

__all__ = ["BridgeSpec", "Transport", "serve", "transport_of"]

_MODULES: Final = {
    "amqp": ".rabbitmq.transport",
    "amqps": ".rabbitmq.transport",
    "grpc": ".grpc.transport",
    "grpcs": ".grpc.transport",
    "kafka": ".kafka.transport",
    "kafkas": ".kafka.transport",
    "memory": ".memory",
    "mqtt": ".mqtt.transport",
    "mqtts": ".mqtt.transport",
    "nats": ".nats.transport",
    "redis": ".redis.transport",
    "rediss": ".redis.transport",
    "tcp": ".tcp.transport",
    "tcps": ".tcp.transport",
    "tls": ".nats.transport",
    "ws": ".websocket.transport",
    "wss": ".websocket.transport",
}


class Transport(Protocol):
    """What the module of a transport offers."""

    def check(self, url: str, options: Mapping[str, Any], *, serving: bool) -> None:
        """Raise `DeclarationError` for a URL or options that can never work."""

    def bridge(self, url: str, options: Mapping[str, Any], wiring: Wiring) -> Runnable:
        """The bridge for one place in one tree."""
        ...

    def client(self, url: str, options: Mapping[str, Any]) -> "Client":
        """A client, not yet connected."""
        ...


def transport_of(url: str) -> Transport:
    """The transport of a URL's scheme; raises `DeclarationError` if there is none."""
    scheme = parse_url(url).scheme
    if scheme in _MODULES:
        return cast(Transport, import_module(_MODULES[scheme], __package__))
    found = entry_points(group="understudy.transports", name=scheme)
    for entry in found:
        return cast(Transport, entry.load())
    known = ", ".join(
        sorted({*_MODULES, *(e.name for e in entry_points(group="understudy.transports"))})
    )
    raise DeclarationError(f"{shown(url)}: no transport for {scheme!r}. There are: {known}.")


@attrs.frozen(kw_only=True)
class BridgeSpec(ChildSpec):
    """A bridge: where it listens or connects to, and its options."""

    url: str = attrs.field(repr=shown)
    options: Mapping[str, Any] = attrs.field(repr=False)

    def build(self, wiring: Wiring) -> Runnable:
        return transport_of(self.url).bridge(self.url, self.options, wiring)


def serve(
    url: str,
    *,
    name: str | None = None,
    shutdown: float = 20.0,
    **options: Any,
) -> BridgeSpec:
    """Specify a bridge: `serve("tcp://127.0.0.1:3001")`.

    It serves all patterns of all actors in the tree. Options are those of the
    transport, here or in the URL's query. `shutdown` is how many seconds it may take
    to answer what it has in hand when it is told to stop.

    Raises `DeclarationError` for a URL or an option that can never work.
    """
    transport_of(url).check(url, options, serving=True)
    return BridgeSpec(
        name=checked_name(name or parse_url(url).scheme),
        url=url,
        options=dict(options),
        shutdown=shutdown,
        start_timeout=math.inf,
        backoff=Backoff(),
    )
