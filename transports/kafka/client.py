"""The Kafka client: many calls in flight, answers on a reply topic, events confirmed.

An event is done when every replica in sync has it. A request goes to its topic, and its
answer comes on `<topic>.reply`, to the partition that the request names; the first request
of a pattern waits until that is read. Kafka does not say whether anybody listens.
"""

import asyncio
import os
from functools import partial
from typing import Any, Final

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from ...actors.pattern import Pattern, route_of
from ...actors.payload import Payload
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import BrokerAway, Session
from ..client import Headers
from ..codec import nestrs_wire
from ..options import shown
from . import values
from .bridge import NESTRS
from .connection import Library, meant
from .options import KafkaClientOptions, check_topic
from .replies import ReplyReader
from .values import KEY, PARTITION, Record
from .writer import Sent, TooLong, Writer

__all__ = ["KafkaClient"]

_REPLY: Final = ".reply"
"""What NestJS appends to a topic for the answers to what is sent on it."""


class KafkaClient(BrokerClient):
    """Calls services through Kafka."""

    options: KafkaClientOptions

    def __init__(self, url: str, options: KafkaClientOptions) -> None:
        nestrs = options.dialect == "nestrs"
        super().__init__(shown(url), options, nestrs_wire if nestrs else values)
        self.url = url
        self.nestrs = nestrs
        self._may_be_text = not nestrs and options.values == "nest"
        self._dotted = f"{options.prefix}." if options.prefix else ""
        name = options.prefix or NESTRS
        self.requests = f"{name}.requests"
        self.replies = f"{name}.replies.{os.urandom(8).hex()}"

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        return KafkaClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        """The topic."""
        if self.nestrs:
            return self.requests
        return check_topic(self._dotted + route_of(pattern), self.where)

    def reply_topic(self, route: str) -> str:
        return self.replies if self.nestrs else route + _REPLY

    def request(self, id: str, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("send", pattern, data, self.replies, id)
        return data

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        return nestrs_wire.wire_request("emit", pattern, data) if self.nestrs else data

    def _decode(self, answer: Payload, raw: bytes) -> Any:
        """As NestJS writes them, a number and its text are the same: the type decides."""
        if raw[:1] == b'"' and self._may_be_text and not values.takes_text(answer.annotation):
            raw = values.untexted(raw)
        return super()._decode(answer, raw)

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        try:
            await super()._emit(pattern, data, headers)
        except RequestTimeout as error:
            why = f"{pattern!r} was not confirmed within {self.options.connect_timeout:g} s"
            raise ConnectionLost(self.where, why) from error

    def _check_headers(self, headers: Headers) -> None:
        partition = headers.get(PARTITION, "0")
        if not partition.isdecimal():
            raise DeclarationError(
                f"{self.where}: the header {PARTITION!r} is a number, not {partition!r}."
            )


class KafkaClientSession(Session[Reply, Sending]):
    """One connection of a Kafka client."""

    def __init__(
        self,
        client: KafkaClient,
        thread: AsyncioThread,
        inlet: Inlet[Reply],
        outlet: Outlet[Sending],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=client.options.connect_timeout)
        self._client = client
        self._as_json = client.options.values == "json"
        self._library: Library
        self._writer: Writer | None = None
        self._replies: ReplyReader | None = None
        # Requests whose reply topic is not read yet.
        self._waiting: dict[str, list[Sending]] = {}

    async def connect(self) -> None:
        client = self._client
        self._library = library = Library(client.url, client.options, "understudy-client")
        await library.reach()
        self._writer = writer = Writer(library, self.spawn)
        await meant(writer.begin())
        self._replies = ReplyReader(library, self._answered)
        self.spawn(self._replies.read())
        self.spawn(self._watch(writer))

    async def _watch(self, writer: Writer) -> None:
        every = self._client.options.heartbeat
        while True:
            await asyncio.sleep(every)
            await writer.ask(every)

    # -- in -------------------------------------------------------------------------

    def _answered(self, records: list[Any]) -> None:
        nestrs = self._client.nestrs
        for record in records:
            if nestrs:
                id, body = (record.key or b"").decode(errors="replace"), record.value or b""
            else:
                id, body = values.answer_of(record.value, record.headers, as_json=self._as_json)
            if id:
                self._give(Reply(id, body))

    def _give(self, reply: Reply) -> None:
        if not self.inlet.offer(reply):
            self.spawn(self._put(reply))

    async def _put(self, reply: Reply) -> None:
        await self.inlet.put(reply)

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Sending]) -> None:
        writer, replies, client = self._writer, self._replies, self._client
        assert writer is not None
        assert replies is not None
        ready: list[Sent] = []
        for sending in burst:
            if not sending.answered:
                ready.append(self._sent(sending))
                continue
            topic = client.reply_topic(sending.route)
            partition = replies.partition_of(topic)
            if partition is not None and topic not in self._waiting:
                ready.append(self._request(sending, topic, partition))
            elif topic in self._waiting:
                self._waiting[topic].append(sending)
            else:
                self._waiting[topic] = [sending]
                self.spawn(self._listen(topic))
        if ready:
            await writer.send(ready)

    async def _listen(self, topic: str) -> None:
        """Read a reply topic, making it if that is wanted; then send what waits for it."""
        writer, replies, options = self._writer, self._replies, self._client.options
        assert writer is not None
        assert replies is not None
        try:
            async with asyncio.timeout(options.connect_timeout):
                if options.create_topics:
                    await meant(self._library.create([topic]))
                partition = await replies.add(topic)
        except (BrokerAway, TimeoutError) as error:
            why = f"the topic {topic} for answers cannot be read"
            more = "it has no partition for this client" if options.group else "nobody knows it"
            why = f"{why}: {str(error) or more}"
            failure = ConnectionLost(self._client.where, why, sent=False)
            for sending in self._waiting.pop(topic):
                self._give(Reply(sending.id, error=failure))
            return
        waiting = self._waiting.pop(topic)
        await writer.send([self._request(sending, topic, partition) for sending in waiting])

    def _request(self, sending: Sending, topic: str, partition: int) -> Sent:
        if self._client.nestrs:
            return self._sent(sending)
        return self._sent(
            sending,
            (
                (values.CORRELATION_ID, sending.id.encode()),
                (values.REPLY_TOPIC, topic.encode()),
                (values.REPLY_PARTITION, b"%d" % partition),
            ),
        )

    def _sent(self, sending: Sending, address: tuple[tuple[str, bytes], ...] = ()) -> Sent:
        options, headers = self._client.options, sending.headers
        if self._client.nestrs:
            record = Record(sending.body, partition=0)
        elif options.records:
            record = values.record_of(sending.body)
        else:
            record = Record(
                (sending.body or None) if self._as_json else values.value_of(sending.body)
            )
        key, partition = record.key, record.partition
        own: tuple[tuple[str, bytes], ...] = ()
        if headers:
            key = headers[KEY].encode() if KEY in headers else key
            partition = int(headers[PARTITION]) if PARTITION in headers else partition
            own = tuple(
                (name, text.encode())
                for name, text in headers.items()
                if name not in (KEY, PARTITION)
            )
        return Sent(
            sending.route,
            record.value,
            partial(self._confirmed, sending),
            key,
            [*record.headers, *own, *address],
            partition,
        )

    def _confirmed(self, sending: Sending, error: Exception | None) -> None:
        """A record is with Kafka, or never will be."""
        if error is not None:
            unsent = isinstance(error, TooLong)
            failure = ConnectionLost(self._client.where, str(error), sent=not unsent)
            self._give(Reply(sending.id, error=failure))
        elif not sending.answered:
            self._give(Reply(sending.id))

    # -- its life -------------------------------------------------------------------

    async def stop(self) -> None:
        """Nothing comes but answers."""

    async def close(self) -> None:
        ends = [thing.end() for thing in (self._replies, self._writer) if thing is not None]
        await asyncio.gather(*ends)
