"""What can be set on either end of a WebSocket, and TLS for both."""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, in_, instance_of, is_callable, optional

from ...actors.errors import DeclarationError
from ..direct.options import DirectClientOptions
from .clients import Clients

__all__ = [
    "Authorize",
    "WebSocketClientOptions",
    "WebSocketOptions",
    "client_tls",
    "server_tls",
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
class WebSocketOptions:
    """Options of a WebSocket bridge. Sizes in bytes, times in seconds.

    Browsers say which page a connection comes from: pages of the bridge's own host may
    connect, and those of `origins` (with commas; `*` for all). `authorize` decides by the
    handshake. Of `subprotocols` the first that the peer offers, too, is chosen.

    A message may have `max_message` bytes. One connection may have `in_flight` messages
    that are not finished; then it is not read any further. A peer that takes nothing of
    its answers for `write_deadline` is cut off, and one that has more than `write_limit`
    bytes waiting when `clients` send it more. One that is silent for `ping_interval` is
    sent a ping, and given up when nothing comes for `ping_timeout` more; one that sends
    no message for `idle` is let go (0: never).
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
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    tls_cert: str = ""
    tls_key: str = attrs.field(default="", repr=False)
    max_message: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    in_flight: int = attrs.field(default=1024, validator=gt(0))
    max_connections: int = attrs.field(default=10_000, validator=gt(0))
    handshake_deadline: float = attrs.field(default=10.0, validator=gt(0))
    write_deadline: float = attrs.field(default=30.0, validator=gt(0))
    write_limit: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    ping_interval: float = attrs.field(default=20.0, validator=gt(0))
    ping_timeout: float = attrs.field(default=20.0, validator=gt(0))
    idle: float = attrs.field(default=0.0, validator=ge(0))
    backlog: int = attrs.field(default=1024, validator=gt(0))


@attrs.frozen(kw_only=True)
class WebSocketClientOptions(DirectClientOptions):
    """Options of a WebSocket client, beside those of `DirectClientOptions`.

    `headers` and `subprotocols` (with commas) go into the handshake; `origin` is for
    services that demand one. `tls_ca` are the authorities to trust instead of the system's.
    An answer may have `max_message` bytes. A service that is silent for `ping_interval`
    seconds is sent a ping, and given up when nothing comes for `ping_timeout` more.
    """

    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_is_mapping, repr=False)
    origin: str = ""
    subprotocols: str = ""
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    tls_ca: str = ""
    max_message: int = attrs.field(default=64 * 1024 * 1024, validator=gt(0))
    write_deadline: float = attrs.field(default=30.0, validator=gt(0))
    ping_interval: float = attrs.field(default=20.0, validator=gt(0))
    ping_timeout: float = attrs.field(default=20.0, validator=gt(0))


def server_tls(options: WebSocketOptions, where: str, *, wanted: bool) -> ssl.SSLContext | None:
    """The context of a bridge; None without TLS.

    Raises `DeclarationError` for files that cannot be read, and for TLS without a
    certificate or a certificate without TLS.
    """
    given = options.tls is not None or options.tls_cert
    if bool(given) != wanted:
        raise DeclarationError(
            f"{where}: wss:// needs a certificate: tls_cert='server.pem', tls_key='server.key'."
            if wanted
            else f"{where}: a certificate is for wss://, not for ws://."
        )
    if options.tls is not None or not wanted:
        return options.tls
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(where, "tls_cert and tls_key name files", error) from error
    return context


def client_tls(
    options: WebSocketClientOptions, where: str, *, wanted: bool
) -> ssl.SSLContext | None:
    """The context of a client; None without TLS.

    Raises `DeclarationError` for a file that cannot be read, and for trust without TLS.
    """
    if not wanted:
        if options.tls is not None or options.tls_ca:
            raise DeclarationError(f"{where}: tls and tls_ca are for wss://, not for ws://.")
        return None
    if options.tls is not None:
        return options.tls
    try:
        return ssl.create_default_context(cafile=options.tls_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(where, "tls_ca names a file", error) from error


def _unusable(where: str, what: str, error: OSError) -> DeclarationError:
    reason = error.strerror or str(error)
    return DeclarationError(f"{where}: TLS cannot be set up: {reason}. {what} in PEM.")
