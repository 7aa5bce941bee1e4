"""Retry topics on the way in: records whose time has not come, and what they are then.

A record that is not due is not taken: its partition is paused and read again from there when
it is. So it costs no credit and no memory, and is in nobody's hand when partitions move.
A retry topic is read in order: who is due early waits for who stands before it.

To its broker a retry is the record that it is, in the retry topic. Its handler sees the message
that came first: `Retried.facts`.
"""

import time
from typing import Any, Final

import msgspec

from .message import KafkaReceived
from .trail import Trail, not_before, without_trail

__all__ = ["LONGEST", "Held", "Retried"]

LONGEST: Final = 86_400.0
"""Seconds that a retry may wait in a topic; who says more is not believed."""

_TICK: Final = 0.05
"""Seconds between two looks at a partition, at least."""


class Held:
    """The partitions of retry topics that wait for their first record's time.

    Places are the client's own. Touched on the brokers' loop only.
    """

    def __init__(self) -> None:
        self._until: dict[Any, float] = {}

    def due(self, place: Any, records: list[Any]) -> list[Any]:
        """The records that may be taken; if not all, the partition is held from there on."""
        now = time.time()
        for at, record in enumerate(records):
            due = not_before(record.headers)
            if now < due <= now + LONGEST:
                self._until[place] = max(due, now + _TICK)
                return records[:at]
        return records

    def over(self) -> list[Any]:
        """The partitions that need be held no longer."""
        now = time.time()
        over = [place for place, until in self._until.items() if until <= now]
        for place in over:
            del self._until[place]
        return over

    def pause(self, most: float) -> float:
        """How long to wait for records, so that nobody is held for much too long."""
        if not self._until:
            return most
        return min(most, max(_TICK, min(self._until.values()) - time.time()))

    def clear(self) -> None:
        """The partitions are no longer ours."""
        self._until.clear()


class Retried(KafkaReceived, gc=False):
    """A record of a retry topic: its identity is that record's, its channel the first one's.

    `deliveries` is how often reading began at it, as far as is known; `attempt` counts from
    the first record on.
    """

    trail: Trail | None = None
    deliveries: int = 1
    shown: KafkaReceived | None = None

    @classmethod
    def of(cls, received: KafkaReceived, trail: Trail) -> "Retried":
        """What a record stands for."""
        found = cls(**{name: getattr(received, name) for name in received.__struct_fields__})
        found.trail, found.deliveries = trail, received.attempt
        found.channel = trail.topic
        found.first_at = trail.first_at
        # Died of here, it was run more often than it says.
        found.attempt = trail.attempt + received.attempt - 1
        found.redelivered = True
        found.order_key = None
        found.raw_headers = without_trail(received.raw_headers)
        return found

    @property
    def came_from(self) -> tuple[str, int, int]:
        assert self.trail is not None
        return self.trail.topic, self.trail.partition, self.trail.offset

    def facts(self) -> KafkaReceived:
        if self.shown is None:
            assert self.trail is not None
            KafkaReceived.facts(self)
            self.shown = msgspec.structs.replace(self, message_id=self.trail.message_id)
        return self.shown
