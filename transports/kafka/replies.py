"""Where a client's answers come: a partition of each reply topic, its own or shared.

Without a group the client reads one partition of every reply topic, from where it ends at
that moment; others may read the same one, and take only what is theirs. With a group it is
a member as NestJS's clients are, under their assignor's name: each member has a partition of
its own, so there may be no more members than partitions.

Source: @nestjs/microservices 12.1.1 (client-kafka, kafka-reply-partition-assigner), whose
recorded assignments are in the tests.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.structs import TopicPartition

from .connection import Library, begin, end, errors, meaning, meant
from .options import group_of

__all__ = ["ReplyAssignor", "ReplyReader", "assign"]

_POLL: Final = 500
"""Milliseconds that one question waits for records."""

_decode: Final = msgspec.json.Decoder(dict[str, dict[str, int]]).decode

Held = Mapping[str, int]
"""The partition that a member has of each topic."""


def assign(
    topics: Mapping[str, Iterable[int]], members: Mapping[str, Held]
) -> dict[str, dict[str, list[int]]]:
    """Who gets which partitions, as NestJS's assigner decides it.

    First everybody keeps the one it has, then those without one get one, then the rest goes
    round.
    """
    free = [(topic, partition) for topic in topics for partition in topics[topic]]
    names = sorted(members)
    given: dict[str, dict[str, list[int]]] = {
        name: {topic: [] for topic in topics} for name in names
    }
    for name in names:
        for topic in topics:
            held = members[name].get(topic)
            if held is not None:
                given[name][topic].append(held)
                if (topic, held) in free:
                    free.remove((topic, held))
    for name in names:
        for topic in topics:
            first = next((each for each in free if each[0] == topic), None)
            if not given[name][topic] and first is not None:
                given[name][topic].append(first[1])
                free.remove(first)
    for turn, (topic, partition) in enumerate(free):
        given[names[turn % len(names)]][topic].append(partition)
    return given


class ReplyAssignor:
    """NestJS's, for one client. An object where aiokafka has classes, since it remembers."""

    name = "NestReplyPartitionAssigner"

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.changed = asyncio.Event()

    def metadata(self, topics: Iterable[str]) -> Any:
        data = msgspec.json.encode({"previousAssignment": self.held})
        return ConsumerProtocolMemberMetadata(1, list(topics), data)

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        wanted = dict.fromkeys(topic for each in members.values() for topic in each.subscription)
        topics = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in wanted}
        given = assign(topics, {name: _held(each.user_data) for name, each in members.items()})
        return {
            name: ConsumerProtocolMemberAssignment(1, list(some.items()), b"")
            for name, some in given.items()
        }

    def on_assignment(self, assignment: Any) -> None:
        self.held = {topic: min(some) for topic, some in assignment.assignment if some}
        self.changed.set()


def _held(data: bytes) -> dict[str, int]:
    try:
        return _decode(data)["previousAssignment"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return {}


class ReplyReader:
    """Reads answers, of as many topics as were ever asked for."""

    def __init__(self, library: Library, take: Callable[[list[Any]], None]) -> None:
        self._library = library
        self._take = take
        self._group = group_of(library.options)
        self._assignor = ReplyAssignor()
        self._partitions: dict[str, int] = {}
        self._next: dict[Any, int] = {}
        self._adding = asyncio.Lock()
        self._some = asyncio.Event()
        self._consumer: Any = None

    async def end(self) -> None:
        if self._consumer is not None:
            await end(self._consumer.stop, self._consumer)

    def partition_of(self, topic: str) -> int | None:
        """The partition of a reply topic that is read; None while none is."""
        return self._partitions.get(topic)

    async def add(self, topic: str) -> int:
        """Read a topic too; returns its partition once nothing can be missed there."""
        async with self._adding:
            if topic not in self._partitions:
                await meant(self._add(topic))
            return self._partitions[topic]

    async def _add(self, topic: str) -> None:
        if self._consumer is None:
            settings: dict[str, Any] = {"group_id": self._group or None}
            if self._group:
                settings["partition_assignment_strategy"] = (self._assignor,)
            consumer = self._library.consumer(auto_offset_reset="latest", **settings)
            self._consumer = consumer
            await begin(consumer.start)
        if self._group:
            await self._join(topic)
        else:
            await self._assign(topic)
        self._some.set()

    async def _assign(self, topic: str) -> None:
        consumer = self._consumer
        known = await consumer._client._wait_on_metadata(topic)
        place = TopicPartition(topic, min(known))
        # Its end is asked for before it is read: what is written from now on is seen.
        ends = await consumer.end_offsets([place])
        consumer.assign([*self._next, place])
        self._next |= ends
        for each, offset in self._next.items():
            consumer.seek(each, offset)
        self._partitions[topic] = place.partition

    async def _join(self, topic: str) -> None:
        consumer = self._consumer
        consumer.subscribe(topics=sorted({*self._partitions, topic}))
        while topic not in self._assignor.held:
            await self._assignor.changed.wait()
            self._assignor.changed.clear()
        await consumer.position(TopicPartition(topic, self._assignor.held[topic]))
        self._partitions |= self._assignor.held

    async def read(self) -> None:
        """Hand on what comes, for ever."""
        await self._some.wait()
        while True:
            try:
                found = await self._consumer.getmany(timeout_ms=_POLL)
            except errors.KafkaError as error:
                raise meaning(error) from error
            for place, records in found.items():
                if not self._group:
                    self._next[place] = records[-1].offset + 1
                self._take(records)
            if self._group:
                self._partitions |= self._assignor.held
