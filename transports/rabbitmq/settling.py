"""Which deliveries are not settled yet, and how few acknowledgements settle them.

AMQP can acknowledge everything up to a tag at once. That is right only if nothing before
it is still in hand, so the tags are kept in the order in which they came.
"""

from collections.abc import Iterable

from .frames import ack

__all__ = ["Unsettled"]


class Unsettled:
    """The deliveries of one channel that are not settled."""

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, tag: int) -> None:
        """A delivery came."""
        self._tags[tag] = None

    def drop(self, tag: int) -> bool:
        """It is settled otherwise; False if it was settled before."""
        return self._tags.pop(tag, tag) is None

    def acks(self, channel: int, tags: Iterable[int]) -> bytes:
        """What acknowledges these deliveries; nothing for those that are settled already.

        A second acknowledgement would end the channel.
        """
        found = [tag for tag in tags if self.drop(tag)]
        if not found:
            return b""
        first = next(iter(self._tags), None)
        below = [tag for tag in found if first is None or tag < first]
        parts = [ack(channel, tag) for tag in found if first is not None and tag > first]
        if below:
            parts.append(ack(channel, max(below), multiple=len(below) > 1))
        return b"".join(parts)
