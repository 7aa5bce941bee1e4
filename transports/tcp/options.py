"""What can be set on either end of a TCP connection."""

from typing import Final

import attrs
from attrs.validators import ge, gt

from ..direct.options import DirectClientOptions, DirectOptions

__all__ = ["DEFAULT_PORT", "TcpClientOptions", "TcpOptions"]

DEFAULT_PORT: Final = 3000
"""NestJS's."""


@attrs.frozen(kw_only=True)
class TcpOptions(DirectOptions):
    """Options of a TCP bridge, beside those of `DirectOptions`. Sizes in bytes, times in seconds.

    A frame may have `frame_limit` bytes, and `frame_deadline` from its first byte to its
    last. All connections together may have `in_flight_total` messages that are not finished;
    then none is read. `write_limit` bytes of answers may wait for peers that do not read;
    above that the one that has most is cut off. One that is silent for `keepalive` is asked by the
    system whether it is still there, and given up when it is not (0: never asked).

    TLS has to be agreed on within `handshake_deadline`. With `tls_ca` every peer has to show
    a certificate of one of these authorities.
    """

    frame_limit: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    frame_deadline: float = attrs.field(default=30.0, validator=gt(0))
    in_flight_total: int = attrs.field(default=65_536, validator=gt(0))
    write_limit: int = attrs.field(default=128 * 1024 * 1024, validator=gt(0))
    keepalive: float = attrs.field(default=60.0, validator=ge(0))
    tls_ca: str = ""
    handshake_deadline: float = attrs.field(default=10.0, validator=gt(0))


@attrs.frozen(kw_only=True)
class TcpClientOptions(DirectClientOptions):
    """Options of a TCP client, beside those of `DirectClientOptions`.

    One answer may have `frame_limit` bytes. A service that is silent for `keepalive` seconds
    is asked by the system whether it is still there (0: never). `tls_cert` and `tls_key` are
    shown to services that ask for them.
    """

    frame_limit: int = attrs.field(default=64 * 1024 * 1024, validator=gt(0))
    keepalive: float = attrs.field(default=60.0, validator=ge(0))
    tls_cert: str = ""
    tls_key: str = attrs.field(default="", repr=False)
