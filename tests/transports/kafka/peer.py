"""A stranger on Kafka: writes records byte by byte, reads them, looks at what a group has done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiokafka
import attrs
import trio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

__all__ = ["Peer", "Raw"]

T = TypeVar("T")


@attrs.frozen
class Raw:
    """A record as it is."""

    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes]] = attrs.field(factory=list)
    partition: int = 0


class Peer:
    """Speaks to the broker at `url` with aiokafka, each time anew, from trio."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._servers = f"{parts.hostname}:{parts.port}"

    async def make(self, topic: str, partitions: int = 1) -> None:
        await self._admin(lambda admin: admin.create_topics([NewTopic(topic, partitions, 1)]))

    async def remove(self, topic: str) -> None:
        await self._admin(lambda admin: admin.delete_topics([topic]))

    async def committed(self, group: str, topic: str, partition: int = 0) -> tuple[int, str]:
        """The offset that a group has committed, and what stands beside it; -1 for none."""
        place = TopicPartition(topic, partition)
        found = await self._admin(
            lambda a: a.list_consumer_group_offsets(group, partitions=[place])
        )
        return found[place].offset, found[place].metadata

    async def members(self, group: str) -> int:
        described = await self._admin(lambda admin: admin.describe_consumer_groups([group]))
        return len(described[0].groups[0][5])

    async def write(self, topic: str, *records: Raw, compression: str | None = None) -> None:
        """Write records, with no value and no key as well, which `send` would refuse."""

        async def write() -> None:
            async with aiokafka.AIOKafkaProducer(
                bootstrap_servers=self._servers, acks="all", compression_type=compression
            ) as producer:
                await producer.partitions_for(topic)
                for record in records:
                    batch = producer.create_batch()
                    batch.append(
                        key=record.key, value=record.value, timestamp=None, headers=record.headers
                    )
                    await (await producer.send_batch(batch, topic, partition=record.partition))

        await trio.to_thread.run_sync(asyncio.run, write())

    async def read(self, topic: str, count: int) -> list[Any]:
        """The first records of a topic, once there are so many."""

        async def read() -> list[Any]:
            async with aiokafka.AIOKafkaConsumer(
                bootstrap_servers=self._servers, auto_offset_reset="earliest"
            ) as consumer:
                partitions = await consumer._client._wait_on_metadata(topic)
                consumer.assign([TopicPartition(topic, number) for number in partitions])
                found: list[Any] = []
                async with asyncio.timeout(10):
                    while len(found) < count:
                        for some in (await consumer.getmany(timeout_ms=100)).values():
                            found += some
                return found

        return await trio.to_thread.run_sync(asyncio.run, read())

    async def count(self, topic: str) -> int:
        """How many records the topic's first partition has."""
        place = TopicPartition(topic, 0)

        async def count() -> int:
            async with aiokafka.AIOKafkaConsumer(bootstrap_servers=self._servers) as consumer:
                return int((await consumer.end_offsets([place]))[place])

        return await trio.to_thread.run_sync(asyncio.run, count())

    async def _admin(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async def run() -> T:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
            await admin.start()
            try:
                return await work(admin)
            finally:
                await admin.close()

        return await trio.to_thread.run_sync(asyncio.run, run())
