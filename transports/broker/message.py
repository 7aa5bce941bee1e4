"""What crosses between a broker's session on the asyncio loop and its bridge in trio.

In comes a `Received`, out goes an `Outgoing` that answers or settles one. Both are
plain data made once per message, so they are msgspec structs outside of the garbage
collector's care: nothing they point to points back.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ...supervisors.delivery.intake import Inbound

__all__ = ["NO_HEADERS", "Outgoing", "Received"]

NO_HEADERS: Final[Mapping[str, str]] = {}


class Received(Inbound, gc=False):
    """One message as the broker gave it.

    `channel` is where it came on (subject, channel, routing key); `reply` where its answer
    is wanted, empty for nowhere. `token` is what the session numbered `session` settles
    it by, None where there is nothing to settle. `message_id` is the same for every
    delivery of it, empty where the broker has no such thing; `attempt` is the broker's
    own count of deliveries, `first_at` when it was sent, if that is known.

    Its bridge adds the rest, `id` being what the dialect found in the body. A message is
    itself what an event from it is settled by.
    """

    channel: str
    body: bytes
    reply: str = ""
    token: Any = None
    session: int = 0
    id: bytes = b""
    bridge: Any = None
    named: bool = False

    def facts(self) -> "Received":
        if not self.named:
            self.bridge.name_facts(self)
        return self

    def acknowledge(self) -> None:
        self.bridge.settle(self)

    def give_back(self) -> bool:
        given_back: bool = self.bridge.back(self, 0.0)
        return given_back


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
