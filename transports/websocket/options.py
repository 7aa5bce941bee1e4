"""What can be set on either end of a WebSocket."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import attrs
from attrs.validators import gt, in_, instance_of, is_callable, optional

from ..direct.options import DirectClientOptions, DirectOptions
from .clients import Clients

__all__ = [
    "Authorize",
    "WebSocketClientOptions",
    "WebSocketOptions",
]

Admitted = bool | Mapping[str, str]

Authorize = Callable[[Mapping[str, str], str], Admitted | Awaitable[Admitted]]
"""Given the handshake's headers and its path with the query; says who may come in.

A mapping lets the peer in, and is what its messages' handlers find in `context.headers`.
"""


def _is_mapping(_: object, field: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{field.name!r} must be a mapping, got {type(value).__name__}")


@attrs.frozen(kw_only=True)
class WebSocketOptions(DirectOptions):
    """Options of a WebSocket bridge, beside those of `DirectOptions`. Sizes in bytes.

    Browsers say which page a connection comes from: pages of the bridge's own host may
    connect, and those of `origins` (with commas; `*` for all). `authorize` decides by the
    handshake. Of `subprotocols` the first that the peer offers, too, is chosen.

    A message may have `max_message` bytes. A peer is cut off that has more than
    `write_limit` bytes waiting when `clients` send it more. One that is silent for
    `ping_interval` seconds is sent a ping, and given up when nothing comes for
    `ping_timeout` more.
    """

    dialect: Literal["nest", "nestrs", "gateway"] = attrs.field(
        default="nest", validator=in_(("nest", "nestrs", "gateway"))
    )
    origins: str = ""
    authorize: Authorize | None = attrs.field(default=None, validator=optional(is_callable()))
    subprotocols: str = ""
    clients: Clients | None = attrs.field(
        default=None, validator=optional(instance_of(Clients)), repr=False
    )
    max_message: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    handshake_deadline: float = attrs.field(default=10.0, validator=gt(0))
    write_limit: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    ping_interval: float = attrs.field(default=20.0, validator=gt(0))
    ping_timeout: float = attrs.field(default=20.0, validator=gt(0))


@attrs.frozen(kw_only=True)
class WebSocketClientOptions(DirectClientOptions):
    """Options of a WebSocket client, beside those of `DirectClientOptions`.

    `headers` and `subprotocols` (with commas) go into the handshake; `origin` is for
    services that demand one. An answer may have `max_message` bytes. A service that is
    silent for `ping_interval` seconds is sent a ping, and given up when nothing comes for
    `ping_timeout` more.
    """

    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_is_mapping, repr=False)
    origin: str = ""
    subprotocols: str = ""
    max_message: int = attrs.field(default=64 * 1024 * 1024, validator=gt(0))
    ping_interval: float = attrs.field(default=20.0, validator=gt(0))
    ping_timeout: float = attrs.field(default=20.0, validator=gt(0))
