"""Records on their way to Kafka: a batch for each partition and burst, confirmed as a whole.

Every record tells whom it concerns once all replicas in sync have it, or why they do not.
Records for a topic that is not known yet wait for it apart, so that nobody else does.

Not owned here: what stands in a record (`values.py`), and what its end means.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
from aiokafka.partitioner import DefaultPartitioner

from ..broker.session import BrokerAway
from .connection import Library, begin, end, ends_within, errors, meaning

__all__ = ["Sent", "TooLong", "Writer"]

_OVERHEAD: Final = 100
"""Bytes of a record beside what it holds, at most."""

_partition_of: Final = DefaultPartitioner()


class TooLong(Exception):
    """A record that is not sent, since the broker would refuse it."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes; {limit} may be sent at most")


@attrs.define
class Sent:
    """A record to be sent; `then` is called with None once it is confirmed, or with why not."""

    topic: str
    value: bytes | None
    then: Callable[[Exception | None], object]
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = attrs.field(factory=list)
    partition: int | None = None

    @property
    def size(self) -> int:
        texts = sum(len(name) + len(text or b"") for name, text in self.headers)
        return len(self.value or b"") + len(self.key or b"") + texts + _OVERHEAD


class Writer:
    """One producer."""

    def __init__(self, library: Library, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self._library = library
        self._limit = library.options.message_limit
        self._spawn = spawn
        self._producer: Any = None
        self._unknown: dict[str, list[Sent]] = {}
        self._turn = random.randrange(1024)

    async def begin(self) -> None:
        self._producer = producer = self._library.producer()
        await begin(producer.start)

    async def end(self) -> None:
        """Send what was begun, and end; after that nothing is told to anybody."""
        if self._producer is not None:
            await end(self._producer.stop, self._producer)

    async def ask(self, within: float) -> None:
        """Ask the broker for a sign of life. Raises `BrokerAway` when none comes."""
        client = self._producer.client
        if not await ends_within(within, client.force_metadata_update()):
            raise BrokerAway("the broker cannot be reached")

    async def know(self, topics: Iterable[str], within: float) -> None:
        """Wait a little until the broker knows topics that were just made."""
        with suppress(TimeoutError, errors.KafkaError):
            async with asyncio.timeout(within):
                for topic in topics:
                    await self._producer.partitions_for(topic)

    async def send(self, records: Iterable[Sent]) -> None:
        """Send records, those of one partition in order."""
        batches: dict[tuple[str, int], list[Sent]] = {}
        cluster = self._producer.client.cluster
        for record in records:
            size = record.size
            if size > self._limit:
                record.then(TooLong(size, self._limit))
                continue
            topic = record.topic
            partitions = cluster.partitions_for_topic(topic)
            if not partitions or topic in self._unknown:
                self._put_by(record)
                continue
            partition = record.partition
            if partition is None:
                partition = self._choose(record.key, partitions)
            elif partition not in partitions:
                record.then(BrokerAway(f"the topic {topic} has no partition {partition}"))
                continue
            batches.setdefault((topic, partition), []).append(record)
        self._turn += 1
        for (topic, partition), some in batches.items():
            await self._send_to(topic, partition, some)

    def _choose(self, key: bytes | None, partitions: Iterable[int]) -> int:
        """As Java and kafkajs choose by key; without one, another for each burst."""
        known = sorted(partitions)
        if key is None:
            return known[self._turn % len(known)]
        chosen: int = _partition_of(key, known, known)
        return chosen

    async def _send_to(self, topic: str, partition: int, records: list[Sent]) -> None:
        producer = self._producer
        at = 0
        while at < len(records):
            batch = producer.create_batch()
            begin = at
            while at < len(records):
                record = records[at]
                room = batch.append(
                    key=record.key, value=record.value, timestamp=None, headers=record.headers
                )
                if room is None:
                    break
                at += 1
            batch.close()
            some = records[begin:at]
            try:
                future = await producer.send_batch(batch, topic, partition=partition)
            except errors.KafkaError as error:
                _tell(some, meaning(error))
            else:
                future.add_done_callback(lambda done, some=some: _tell_all(some, done))

    # -- topics that are not known ----------------------------------------------------

    def _put_by(self, record: Sent) -> None:
        waiting = self._unknown.get(record.topic)
        if waiting is None:
            self._unknown[record.topic] = [record]
            self._spawn(self._find(record.topic))
        else:
            waiting.append(record)

    async def _find(self, topic: str) -> None:
        """Wait for a topic, making it if that is wanted; then send what has waited."""
        why: Exception | None = None
        try:
            async with asyncio.timeout(self._library.options.connect_timeout):
                if self._library.options.create_topics:
                    await self._library.create([topic])
                await self._producer.partitions_for(topic)
        except (OSError, TimeoutError, errors.KafkaError, BrokerAway) as error:
            text = f"there is no topic {topic}"
            why = BrokerAway(f"{text}: {error}" if isinstance(error, BrokerAway) else text)
        waiting = self._unknown.pop(topic)
        if why is not None:
            _tell(waiting, why)
        else:
            await self.send(waiting)


def _tell_all(records: list[Sent], done: "asyncio.Future[Any]") -> None:
    if done.cancelled():
        return
    error = done.exception()
    _tell(records, meaning(error) if error is not None else None)


def _tell(records: list[Sent], error: Exception | None) -> None:
    for record in records:
        record.then(error)
