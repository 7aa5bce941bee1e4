"""What the options have in common of all transports that connect directly."""

import ssl
from typing import Literal

import attrs
from attrs.validators import ge, gt, in_

__all__ = ["DirectClientOptions", "DirectOptions"]


@attrs.frozen(kw_only=True)
class DirectOptions:
    """Options of a bridge that listens itself. Times in seconds.

    One connection may have `in_flight` messages that are not finished; then it is not read
    any further. Of more than `max_connections` the further ones are refused. A peer that
    takes nothing of its answers for `write_deadline` is cut off; one that sends no message
    for `idle` and has none in flight is let go (0: never).

    TLS has a ready `tls` context, or a certificate and its key as files in PEM.
    """

    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    tls_cert: str = ""
    tls_key: str = attrs.field(default="", repr=False)
    in_flight: int = attrs.field(default=1024, validator=gt(0))
    max_connections: int = attrs.field(default=10_000, validator=gt(0))
    write_deadline: float = attrs.field(default=30.0, validator=gt(0))
    idle: float = attrs.field(default=0.0, validator=ge(0))
    backlog: int = attrs.field(default=1024, validator=gt(0))


@attrs.frozen(kw_only=True)
class DirectClientOptions:
    """Times in seconds.

    Calls are spread over `connections`, each with any number of calls in flight. A
    lost connection is made again after 0.1 s, then after twice as long each time, at most
    `reconnect_max`; of one client's connections one is being made at a time. The first one
    is tried for `patience` seconds. A service that takes nothing for `write_deadline`
    seconds is given up, and so is an event that could not be written in that time.

    TLS has a ready `tls` context, or the authorities to trust instead of the system's as a
    file in PEM.
    """

    dialect: Literal["nest", "nestrs"] = attrs.field(
        default="nest", validator=in_(("nest", "nestrs"))
    )
    connections: int = attrs.field(default=1, validator=gt(0))
    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    patience: float = attrs.field(default=0.0, validator=ge(0))
    reconnect_max: float = attrs.field(default=5.0, validator=gt(0))
    write_deadline: float = attrs.field(default=30.0, validator=gt(0))
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    tls_ca: str = ""
