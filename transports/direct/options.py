"""What the options of all clients have in common that connect to a service directly."""

from typing import Literal

import attrs
from attrs.validators import ge, gt, in_

__all__ = ["DirectClientOptions"]


@attrs.frozen(kw_only=True)
class DirectClientOptions:
    """Times in seconds.

    Calls are spread over `connections`, each with any number of calls in flight. A
    lost connection is made again after 0.1 s, then after twice as long each time, at most
    `reconnect_max`. The first one is tried for `patience` seconds.
    """

    dialect: Literal["nest", "nestrs"] = attrs.field(
        default="nest", validator=in_(("nest", "nestrs"))
    )
    connections: int = attrs.field(default=1, validator=gt(0))
    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    patience: float = attrs.field(default=0.0, validator=ge(0))
    reconnect_max: float = attrs.field(default=5.0, validator=gt(0))
