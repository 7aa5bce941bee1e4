"""What can be set on either end of a TCP connection."""

from typing import Final

import attrs
from attrs.validators import gt

from ..direct.options import DirectClientOptions

__all__ = ["DEFAULT_PORT", "TcpClientOptions", "TcpOptions"]

DEFAULT_PORT: Final = 3000
"""NestJS's."""


@attrs.frozen(kw_only=True)
class TcpOptions:
    """Options of a TCP bridge. Sizes in bytes, times in seconds.

    A frame may have `frame_limit` bytes, and `frame_deadline` seconds from its first
    byte to its last. One connection may have `in_flight` messages that are not
    finished; then it is not read any further. A peer that takes nothing of its answers
    for `write_deadline` seconds is cut off.
    """

    frame_limit: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    frame_deadline: float = attrs.field(default=30.0, validator=gt(0))
    in_flight: int = attrs.field(default=1024, validator=gt(0))
    max_connections: int = attrs.field(default=10_000, validator=gt(0))
    write_deadline: float = attrs.field(default=30.0, validator=gt(0))
    backlog: int = attrs.field(default=1024, validator=gt(0))


@attrs.frozen(kw_only=True)
class TcpClientOptions(DirectClientOptions):
    """Options of a TCP client: those of `DirectClientOptions`, and the bytes in one answer."""

    frame_limit: int = attrs.field(default=64 * 1024 * 1024, validator=gt(0))
