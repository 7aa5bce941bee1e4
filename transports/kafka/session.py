"""One session of a Kafka bridge: a member of the group, and a producer for answers.

Lives on the brokers' loop. Not owned here: what may be committed and when (`reader.py`,
`ledger.py`), and what a record means (`bridge.py`).
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ..broker.channels import Channels
from ..broker.message import Outgoing, Received
from ..broker.session import BrokerAway, Session
from . import values
from .chunk import Chunk
from .connection import Library, meant
from .ledger import Partition
from .message import KafkaReceived
from .reader import Reader
from .writer import Sent, TooLong, Writer

if TYPE_CHECKING:
    from .bridge import KafkaBridge

__all__ = ["KafkaSession"]

_KNOWN: Final = 1.0
"""Seconds to wait for new topics; what comes later is read from when it is there."""

_decode_id: Final = msgspec.json.Decoder(str).decode


class KafkaSession(Session[Received, Outgoing]):
    """One member of the group, and one producer for answers."""

    def __init__(
        self,
        bridge: "KafkaBridge",
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._number = number
        self._topics = bridge.topics()
        self._library: Library
        self._writer: Writer | None = None
        self._reader: Reader | None = None

    async def connect(self) -> None:
        bridge, options = self._bridge, self._bridge.options
        self._library = library = Library(bridge.url, options, bridge.complaints.where)
        await library.reach()
        self._writer = writer = Writer(library, self.spawn)
        await meant(writer.begin())
        await self._have_topics([*self._topics, *bridge.aside.dead])
        self._reader = reader = Reader(
            library,
            options,
            self.inlet,
            bridge.memory,
            self._received,
            lose=self.lose,
            say=self._say,
            made_anew=lambda: self.thread.back(bridge.forget),
            is_retry=lambda topic: topic in bridge.aside.retries,
            chunk=self._chunked if bridge.takes_chunks else None,
        )
        await meant(reader.begin())
        self.spawn(reader.read())
        await reader.join(self._topics)
        self.spawn(reader.keep_committing())
        self.spawn(bridge.aside.posts.keep_sending(writer, self.thread.back, self._say))
        self.spawn(self._watch())

    async def _have_topics(self, topics: list[str]) -> None:
        if self._bridge.options.create_topics:
            try:
                self._bridge.memory.fresh.update(await meant(self._library.create(topics)))
            except BrokerAway as error:
                # Whoever may not make topics can read those of others; what is missing may come.
                self._say("topics that cannot be made", str(error))
        if self._writer is not None:
            await self._writer.know(topics, _KNOWN)

    async def _watch(self) -> None:
        """See again and again whether the broker answers, and has our topics."""
        every, reader = self._bridge.options.heartbeat, self._reader
        assert reader is not None
        while True:
            missing = await reader.look(every)
            if missing:
                await self._have_topics(missing)
            await asyncio.sleep(every)

    # -- in -------------------------------------------------------------------------

    def _chunked(self, partition: Partition, records: list[Any]) -> Chunk:
        reader = self._reader
        assert reader is not None
        make = partial(self._made, partition)
        return Chunk(partition, records, make, reader.settled)

    def _made(self, partition: Partition, record: Any) -> KafkaReceived:
        return self._received(record, partition, False)

    def _received(self, record: Any, partition: Partition, again: bool) -> KafkaReceived:
        offset, value, key = record.offset, record.value, record.key
        received = KafkaReceived(record.topic, value or b"", "", partition, self._number)
        received.offset = offset
        received.first_at = record.timestamp / 1000
        received.message_id = f"{partition.identity}{offset}"
        received.key = key
        received.order_key = self._bridge.order_key(record, partition)
        if record.headers:
            received.raw_headers = record.headers
            if not self._bridge.nestrs:
                _address(received, record.headers)
        if value is None:
            received.is_null = True
        if again:
            received.redelivered = True
            received.attempt = partition.attempt(offset)
        return received

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Outgoing]) -> None:
        reader, writer = self._reader, self._writer
        assert reader is not None
        assert writer is not None
        answers: list[Sent] = []
        for outgoing in burst:
            received = outgoing.received
            if outgoing.body and received.reply:
                answers.append(self._answer(outgoing))
            elif outgoing.verb == "back":
                reader.again(received, outgoing.delay)
            elif outgoing.verb != "item":
                received.token.settle(received.offset)  # type: ignore[attr-defined]
        reader.settled()
        if answers:
            await writer.send(answers)

    def _answer(self, outgoing: Outgoing) -> Sent:
        bridge, received, body = self._bridge, outgoing.received, outgoing.body
        then = partial(self._answered, outgoing)
        if bridge.nestrs:
            return Sent(received.reply, body, then, key=_decode_id(received.id).encode())
        options = bridge.options
        record = values.reply_of(
            received.id, body, records=options.records, as_json=options.values == "json"
        )
        assert isinstance(received, KafkaReceived)
        to = received.reply_partition
        partition = to if to is not None else record.partition
        return Sent(received.reply, record.value, then, record.key, record.headers, partition)

    def _answered(self, outgoing: Outgoing, error: Exception | None) -> None:
        """An answer is with Kafka, or never will be: its request is done."""
        if isinstance(error, TooLong):
            limit = self._bridge.options.message_limit
            self.thread.back(self._bridge.unsendable, outgoing, limit)
        elif error is not None:
            text = f"an answer on {outgoing.received.reply}: {error}"
            self._say("answers that could not be sent", text)
        if outgoing.verb != "item" and self._reader is not None:
            received = outgoing.received
            received.token.settle(received.offset)  # type: ignore[attr-defined]
            self._reader.settled()

    # -- its life -------------------------------------------------------------------

    async def follow(self, channels: Channels) -> None:
        self._topics = list(channels.subscribed)
        await self._have_topics(self._topics)
        if self._reader is not None:
            await self._reader.follow(self._topics)

    async def stop(self) -> None:
        if self._reader is not None:
            await self._reader.stop()

    async def close(self) -> None:
        ends = [thing.end() for thing in (self._reader, self._writer) if thing is not None]
        await asyncio.gather(*ends)

    def _say(self, kind: str, text: str) -> None:
        self.thread.back(self._bridge.complaints.say, kind, text)


def _address(received: KafkaReceived, headers: Any) -> None:
    """Where the answer goes; who names only the half of it wants none."""
    found = dict(headers)
    id, reply = found.get(values.CORRELATION_ID), found.get(values.REPLY_TOPIC)
    if id:
        received.correlation_id = id.decode(errors="replace")
    if id and reply:
        received.id, received.reply = bytes(id), reply.decode(errors="replace")
        partition = (found.get(values.REPLY_PARTITION) or b"").decode(errors="replace")
        if partition.isdecimal():
            received.reply_partition = int(partition)
