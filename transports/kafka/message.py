"""A record as it crosses to the trio half."""

from collections.abc import Callable
from typing import Any

import msgspec

from ...supervisors.delivery.intake import Inbound
from ...supervisors.delivery.record import DeadLetter
from ..broker.message import Received

__all__ = ["KafkaReceived"]


class KafkaReceived(Received, gc=False):
    """One record; its `token` is the `Partition` that it belongs to, which is ours, or was.

    `id` is the correlation id as it came; the answer goes to `reply_partition` of the topic
    `reply`, or to any without one. One without a value `is_null`. `headers` are made when
    somebody asks for the facts.
    """

    offset: int = 0
    key: bytes | None = None
    reply_partition: int | None = None
    is_null: bool = False
    raw_headers: Any = msgspec.field(default=())

    @property
    def came_from(self) -> tuple[str, int, int]:
        """The topic, the partition and the offset that it came from first."""
        topic, partition = self.token.place
        return topic, partition, self.offset

    def bury(self, letter: DeadLetter, then: Callable[[], object]) -> None:
        self.bridge.aside.bury(self, letter, then)

    def postpone(self, inbound: Inbound, delay: float) -> bool:
        postponed: bool = self.bridge.aside.postpone(self, inbound, delay, self.acknowledge)
        return postponed
