"""A record as it crosses to the trio half."""

from typing import Any

import msgspec

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
