"""One member of a consumer group: what it reads, what it has in hand, what it commits.

The client is asked again and again, whether there is room or not, so that the group never
takes a member for dead whose handlers are slow. When partitions are taken away, nothing more
is read, what is in hand is waited for as long as `grace` says, all is committed at once, and
the rest is forgotten: whoever has the partition now reads it again.

Not owned here: what may be committed (`ledger.py`), and what a record means (`bridge.py`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from ...actors.asyncio_queues import Inlet
from ..broker.message import Received
from ..broker.session import BrokerAway
from .chunk import Chunk
from .connection import Library, begin, end, ends_within, errors, meaning
from .ledger import Mark, Partition, Place, in_hand
from .message import KafkaReceived
from .options import KafkaOptions, group_of
from .retrying import Held

__all__ = ["Memory", "Reader"]

_NOBODY: Final = TopicPartition("", 0)
"""A partition that nobody has: asking for its records takes none, and shows that we live."""

_POLL: Final = 0.5
"""Seconds that one question waits for records, at most."""

_MOMENT: Final = 0.005
"""Seconds without anything settled after which what room there is has to do."""

Make = Callable[[Any, Partition, bool], KafkaReceived]
"""Makes a message of a record; the last is whether it may have been run before."""

Say = Callable[[str, str], object]


class RoundRobin(RoundRobinPartitionAssignor):  # type: ignore[misc]  # it has no types
    """aiokafka's, under the name that kafkajs has for it, so that NestJS's members join, too."""

    name = "RoundRobinAssigner"


class Memory:
    """What a bridge knows of its topics from one session to the next."""

    def __init__(self) -> None:
        self.highest: dict[Place, int] = {}
        """The record after the last one that was taken, by partition that was begun."""
        self.marks: dict[Place, tuple[int, str]] = {}
        """What we have committed last of a partition that we read: the offset and its text."""
        self.member = ""
        """Our name in the group."""
        self.fresh: set[str] = set()
        """Topics that were missing: all that is written there comes after our start."""

    @property
    def topics(self) -> set[str]:
        return {place.topic for place in self.highest}


@ConsumerRebalanceListener.register
class Reader:
    """A consumer, from its beginning to its end. `lose(error)` ends its session."""

    def __init__(
        self,
        library: Library,
        options: KafkaOptions,
        inlet: Inlet[Any],
        memory: Memory,
        make: Make,
        *,
        lose: Callable[[BaseException], None],
        say: Say,
        made_anew: Callable[[], object],
        is_retry: Callable[[str], bool],
        chunk: Callable[[Partition, list[Any]], Chunk] | None,
    ) -> None:
        self._options = options
        self._inlet = inlet
        self._memory = memory
        self._make = make
        self._lose = lose
        self._say = say
        self._made_anew = made_anew
        self._is_retry = is_retry
        self._not_due = Held()
        self._chunk = chunk
        self._within = options.heartbeat * 2
        self._poll = min(_POLL, options.max_poll_interval / 4)
        self._partitions: dict[Place, Partition] = {}
        self._paused: set[Place] = set()
        self._held: deque[Received | Chunk] = deque()
        self._stopping = False
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._due = asyncio.Event()
        self._committing = asyncio.Lock()
        self._topics: frozenset[str] = frozenset()
        self._consumer: Any = library.consumer(
            group_id=group_of(options),
            group_instance_id=options.member or None,
            # Wherever it does not know better: the other way, records would be left out.
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=round(1000 * options.session_timeout),
            heartbeat_interval_ms=round(1000 * min(3.0, options.session_timeout / 3)),
            max_poll_interval_ms=round(1000 * options.max_poll_interval),
            rebalance_timeout_ms=round(1000 * (options.rebalance_grace + options.session_timeout)),
            partition_assignment_strategy=(RoundRobin,),
        )

    # -- its life -------------------------------------------------------------------

    async def begin(self) -> None:
        """Connect."""
        await begin(self._consumer.start)
        if self._memory.member:
            # Under a new name we would have to wait until the group gives up the old one.
            self._consumer._coordinator.member_id = self._memory.member

    async def join(self, topics: Iterable[str]) -> None:
        """Join the group; returns when the first partitions are there, or soon."""
        await self.follow(topics)
        with suppress(TimeoutError):  # others may take their time to let a new member in
            async with asyncio.timeout(self._options.connect_timeout * 0.6):
                await self._ready.wait()

    async def follow(self, topics: Iterable[str]) -> None:
        """Read these topics, and no others."""
        wanted = frozenset(topics)
        if wanted != self._topics:
            self._topics = wanted
            # Once there is another subscription, aiokafka commits nothing for the one before.
            await self.on_partitions_revoked(self._partitions)
            if wanted:
                self._consumer.subscribe(topics=sorted(wanted), listener=self)
            else:
                self._consumer.unsubscribe()

    async def stop(self) -> None:
        """Take nothing more; what found no room is left to whoever comes next."""
        self._stopping = True
        self._let_go()
        self._room.set()

    async def end(self) -> None:
        """Commit what is done, and leave the group."""
        try:
            if self._partitions:
                with suppress(BrokerAway):
                    await self._commit(clean=True, within=0.7)
        finally:  # whatever happens: a member that is left behind would keep its partitions
            coordinator = self._consumer._coordinator
            if coordinator is not None:
                self._memory.member = coordinator.member_id
            await end(self._consumer.stop, self._consumer)

    # -- reading --------------------------------------------------------------------

    async def read(self) -> None:
        """Ask for records for ever, for as many as there is room."""
        consumer = self._consumer
        while True:
            room = await self._credit()
            before = self._partitions
            try:
                if room:
                    self._hold_no_longer()
                    wait = round(1000 * self._not_due.pause(self._poll))
                    found = await consumer.getmany(timeout_ms=wait, max_records=room)
                else:
                    found = await consumer.getmany(_NOBODY)
            except errors.RecordTooLargeError as error:
                self._say("records that are too long", str(error))
                continue
            except errors.KafkaError as error:
                raise meaning(error) from error
            if self._stopping:
                continue  # left to whoever comes next, as nothing of it is in the ledger
            if found and self._partitions is not before:
                # They were asked for, or came, before it was known where to begin.
                await self._ready.wait()
                for place, partition in self._partitions.items():
                    consumer.seek(TopicPartition(*place), partition.next)
                continue
            for place, records in found.items():
                partition = self._partitions[Place(*place)]
                if records[0].offset < partition.next:
                    await self._begin_again(place, records[0].offset)
                due = self._due_now(place, records) if self._is_retry(place.topic) else records
                if due:
                    self._take(partition, place, due)

    def _due_now(self, place: Any, records: list[Any]) -> list[Any]:
        """Of a retry topic, what may be taken; the rest is left where it is until it may be."""
        due = self._not_due.due(place, records)
        if len(due) < len(records):
            self._consumer.seek(place, records[len(due)].offset)
            self._consumer.pause(place)
        return due

    def _hold_no_longer(self) -> None:
        for place in self._not_due.over():
            if Place(*place) not in self._paused:
                self._consumer.resume(place)

    async def _credit(self) -> int:
        """How many records may be taken, 0 for none yet; waits a moment for it to be some."""
        while self._held and self._inlet.offer(self._held[0]):
            self._held.popleft()
        half = max(1, self._options.in_flight // 2)
        free = self._free()
        while free < half:
            self._room.clear()
            try:
                async with asyncio.timeout(_MOMENT if free > 0 else self._poll):
                    await self._room.wait()
            except TimeoutError:
                break
            free = self._free()
        return max(0, free)

    def _free(self) -> int:
        if self._stopping or self._held or not self._ready.is_set():
            return 0
        held = in_hand(self._partitions.values())
        if any(partition.is_careful for partition in self._partitions.values()):
            return 0 if held or any(map(_owes, self._partitions.values())) else 1
        return self._options.in_flight - held

    def _take(self, partition: Partition, place: Any, records: list[Any]) -> None:
        make, offer, held, highest = self._make, self._inlet.offer, self._held, self._memory.highest
        if partition.next == partition.first:
            self._look_for_a_new_topic(partition, place)
        limit = partition.limit
        # Below it, we or others may have run it before.
        doubtful = max(partition.suspect, highest.get(partition.place, 0))
        last = records[-1].offset
        if self._chunk is not None and records[0].offset >= doubtful and last < limit and not held:
            chunk = self._chunk(partition, records)
            partition.take_all([record.offset for record in records])
            if not offer(chunk):
                held.append(chunk)
            records = []
        for record in records:
            offset = record.offset
            if offset >= limit:
                # Nothing lies between: once it is committed that far, reading goes on here.
                partition.next = offset
                self._consumer.seek(place, offset)
                break
            received = make(record, partition, offset < doubtful)
            partition.take(offset)
            if held or not offer(received):
                held.append(received)
        highest[partition.place] = max(partition.next, highest.get(partition.place, 0))
        if partition.is_full:
            self._consumer.pause(place)
            self._paused.add(partition.place)
        if partition.is_due:
            self._due.set()

    async def _begin_again(self, place: Any, offset: int) -> None:
        """What was committed is not there any more, and neither is what comes after it."""
        self._memory.highest[Place(*place)] = 0
        self._made_anew()
        within = self._within
        await ends_within(within, self._consumer.commit({place: OffsetAndMetadata(offset, "")}))
        raise BrokerAway(f"the records of {place.topic} begin anew, at {offset}")

    def _look_for_a_new_topic(self, partition: Partition, place: Any) -> None:
        """Offsets that go back are those of another topic of the same name."""
        end = self._consumer.highwater(place)
        if end is not None and end < self._memory.highest.get(partition.place, 0):
            self._memory.highest[partition.place] = 0
            self._made_anew()

    # -- settling -------------------------------------------------------------------

    def settled(self) -> None:
        """Something was settled: there may be room, and something to commit."""
        if any(each.is_due or each.is_careful for each in self._partitions.values()):
            self._due.set()
        self._room.set()

    def again(self, received: Received, delay: float) -> None:
        """Nobody has handled it: give it out again, unless that is no longer for us."""
        if self._stopping or received.token.dropped:
            return
        asyncio.get_running_loop().call_later(delay, self._once_more, received)

    def _once_more(self, received: Received) -> None:
        if not self._stopping and not received.token.dropped:
            self._held.append(received)
            self._room.set()

    async def keep_committing(self) -> None:
        """Commit at intervals, and sooner where much is done."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.commit_interval):
                    await self._due.wait()
            self._due.clear()
            if self._ready.is_set():
                await self._commit(within=self._within)
                self._room.set()

    async def _commit(self, *, within: float, clean: bool = False) -> None:
        async with self._committing:
            offsets: dict[Any, Any] = {}
            for partition in self._partitions.values():
                found = partition.to_commit(clean=clean)
                if found is not None:
                    offsets[TopicPartition(*partition.place)] = OffsetAndMetadata(*found)
            if not offsets:
                return
            partitions = dict(self._partitions)
            try:
                async with asyncio.timeout(within):
                    await self._consumer.commit(offsets)
            except (errors.CommitFailedError, errors.IllegalStateError):
                return  # the partitions are no longer ours: whoever has them reads on from before
            except (OSError, TimeoutError, errors.KafkaError) as error:
                raise meaning(error) from error
            for place, committed in offsets.items():
                partition = partitions[Place(*place)]
                partition.was_committed(committed.offset)
                # A mark that was left at a clean end does not count its own beginning.
                if not clean:
                    self._memory.marks[partition.place] = (committed.offset, committed.metadata)
                if partition.place in self._paused and not partition.is_full:
                    self._paused.discard(partition.place)
                    if not partition.dropped:
                        self._consumer.resume(place)

    # -- the group ------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """All partitions are given back, to be shared out anew. Must not raise."""
        self._ready.clear()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.rebalance_grace):
                    await self._finished()
            await self._commit(clean=True, within=min(2.0, self._within))
        except BrokerAway:
            pass  # it is noticed elsewhere, too; what was not committed is read again
        finally:
            for partition in self._partitions.values():
                partition.dropped = True
            self._partitions = {}
            self._paused.clear()
            self._not_due.clear()
            self._held.clear()
            self._room.set()

    async def _finished(self) -> None:
        """What was handed over is settled; what was not is no longer waited for."""
        self._let_go()
        while in_hand(self._partitions.values()):
            self._room.clear()
            await self._room.wait()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """These partitions are ours: find out where to begin, and say so. Must not raise."""
        try:
            found = await ends_within(self._within, self._beginnings(sorted(assigned)))
            self._partitions = found
            await self._commit(within=self._within)
            for place in found:
                self._memory.highest.setdefault(place, 0)
        except Exception as error:  # noqa: BLE001  # aiokafka would only log it
            self._lose(error)
        else:
            self._ready.set()
            self._room.set()

    async def _beginnings(self, places: list[Any]) -> dict[Place, Partition]:
        consumer, options = self._consumer, self._options
        coordinator = consumer._coordinator
        committed = await coordinator.fetch_committed_offsets(places) if places else {}
        new = [place for place in places if place not in committed]
        memory = self._memory
        known = memory.topics | memory.fresh | {place.topic for place in committed}
        # Of a topic that the group reads already, a new partition is read from its start.
        unread = [
            place for place in new if not (place.topic in known or self._is_retry(place.topic))
        ]
        begins: dict[Any, int] = {}
        if new:
            begins = await consumer.beginning_offsets(new)
        if unread and options.start == "latest":
            begins |= await consumer.end_offsets(unread)
        found: dict[Place, Partition] = {}
        for place in places:
            key, ours = Place(*place), False
            if place in begins:
                consumer.seek(place, begins[place])
                begin, mark = begins[place], None
            else:
                begin, text = committed[place].offset, committed[place].metadata
                mark, ours = Mark.read(text), memory.marks.pop(key, None) == (begin, text)
            found[key] = Partition(key, begin, mark, options.ahead, ours=ours)
        return found

    def _let_go(self) -> None:
        """What was not handed over is not in hand either."""
        while self._held:
            held = self._held.pop()
            if isinstance(held, Chunk):
                held.let_go()
            else:
                held.token.settle_not(_offset(held))

    async def look(self, within: float) -> list[str]:
        """Ask the broker what it knows: the topics that are missing.

        Raises `BrokerAway` if it does not answer, or if we still read what is no longer there.
        """
        client = self._consumer._client
        if not await ends_within(within, client.force_metadata_update()):
            raise BrokerAway("the broker cannot be reached")
        for place in self._partitions:
            known = client.cluster.partitions_for_topic(place.topic)
            if known is None or place.partition not in known:
                raise BrokerAway(f"the topic {place.topic} was deleted")
        missing = [t for t in self._topics if not client.cluster.partitions_for_topic(t)]
        self._memory.fresh.update(missing)
        return missing


def _offset(received: Received) -> int:
    assert isinstance(received, KafkaReceived)
    return received.offset


def _owes(partition: Partition) -> bool:
    return partition.position != partition.committed
