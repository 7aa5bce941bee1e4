"""What crosses between a broker's session on the asyncio loop and its bridge in trio.

In comes a `Received`, out goes an `Outgoing` that answers or settles one. Both are
plain data made once per message, so they are msgspec structs outside of the garbage
collector's care: nothing they point to points back.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

__all__ = ["NO_HEADERS", "Outgoing", "Received"]

NO_HEADERS: Final[Mapping[str, str]] = {}


class Received(msgspec.Struct, gc=False):
    """One message as the broker gave it.

    `channel` is where it came on (subject, channel, routing key); `reply` where its answer
    is wanted, empty for nowhere. `token` is what the session numbered `session` settles
    it by, None where there is nothing to settle. `message_id` is the same for every
    delivery of it, empty where the broker has no such thing. `attempt` is the broker's
    own count of deliveries, `at` the unix time it was sent, 0 if that is not known; `id`
    is what the dialect found in the body.
    """

    channel: str
    body: bytes
    reply: str = ""
    headers: Mapping[str, str] = NO_HEADERS
    token: Any = None
    session: int = 0
    message_id: str = ""
    correlation_id: str = ""
    attempt: int = 1
    redelivered: bool = False
    at: float = 0.0
    id: bytes = b""


class Outgoing(msgspec.Struct, gc=False):
    """What is to be done about a received message.

    `item` and `answer` send `body` to its `reply`, and an answer ends it, as `done` does
    without one; `back` gives it back to the broker, to be delivered again after `delay`
    seconds.
    """

    verb: Literal["item", "answer", "done", "back"]
    received: Received
    body: bytes = b""
    delay: float = 0.0
