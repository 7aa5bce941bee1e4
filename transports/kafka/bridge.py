"""The Kafka bridge: topics read as a member of a group, answers on topics.

Promise: at least once. An offset is committed once its record and all before it in their
partition were handled or are dead letters; what was not committed is read again, by
whoever has the partition then. Records of one key are handled in the order in which they
were written, whatever the concurrency.

In the nest dialect a pattern is a topic. In the nestrs dialect all of them share one.
"""

from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, Final

import msgspec
from trio.lowlevel import reschedule

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.encoding import encode
from ...actors.envelope import Envelope, Settlement
from ...actors.errors import AsyncioThreadEnded
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ...supervisors.delivery.intake import Way
from ..broker.bridge import BrokerBridge, Whole
from ..broker.channels import Channels
from ..broker.connected import BridgeSession
from ..broker.message import Outgoing, Received
from ..codec import nestrs_wire
from ..codec.errors import CodecError
from ..codec.packet import Incoming, TypedPacket
from ..options import shown
from . import values
from .aside import Aside
from .chunk import Chunk, RecordDelivery
from .ledger import Partition
from .message import KafkaReceived
from .options import KafkaOptions, check_topic
from .reader import Memory
from .retrying import Retried
from .session import KafkaSession
from .values import KEY

__all__ = ["NESTRS", "KafkaBridge"]

NESTRS: Final = "nestrs"
"""What stands before nestrs's topics, unless there is a prefix."""

_NOTHING: Final = b"null"
"""This very object stands for a record without a value."""


class _Correlated(msgspec.Struct, gc=False):
    correlation_id: str | None = None


class _Data(msgspec.Struct, gc=False):
    """A value that was read at once; see `TypedPacket`."""

    data: Any
    id: msgspec.Raw = msgspec.Raw(b"")


_STRUCTURES: Final = b"{["

_ADDRESS: Final = frozenset((values.CORRELATION_ID, values.REPLY_TOPIC, values.REPLY_PARTITION))

_decode_correlated: Final = msgspec.json.Decoder(_Correlated).decode


class KafkaBridge(BrokerBridge):
    """Serves the tree's patterns as topics; a `Runnable` for its supervisor."""

    options: KafkaOptions

    def __init__(self, url: str, options: KafkaOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        self.nestrs = nestrs
        self.prefix = f"{options.prefix}." if options.prefix and not nestrs else ""
        self.requests = f"{options.prefix or NESTRS}.requests"
        self.memory = Memory()
        self._annotations: dict[str, Any] = {}
        self._annotated = -1
        self._chunks: dict[Chunk, None] = {}
        self._straight: dict[str, tuple[Way, Callable[[bytes], Any]]] = {}
        self._life = 0
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else values,
            _read_nestrs if nestrs else self._read_value,
            whole=None if nestrs else _whole,
        )
        self.url = url
        self.aside = Aside(options, self.peer, self.complaints)

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        self.aside.thread = self.thread
        return KafkaSession(self, self.thread, number, inlet, outlet)

    def topics(self) -> list[str]:
        """What to read. Raises `DeclarationError` for a pattern that is no topic."""
        if self.nestrs:
            return self.aside.name_topics([self.requests])
        routes = self.registry.routes()
        return self.aside.name_topics(
            check_topic(self.prefix + route, self.peer) for route in routes
        )

    def channels(self) -> Channels:
        return Channels(self.topics())

    def forget(self) -> None:
        """A topic was made anew: its identities are other records' now."""
        self._settled.clear()

    def _read_value(self, channel: str, body: bytes) -> Incoming:
        route = channel.removeprefix(self.prefix)
        if body is _NOTHING:
            return Incoming(route, b"")
        if self.options.values == "json":
            if body and not values.is_json(body):
                raise CodecError("its value is no JSON")
            return Incoming(route, body)
        data = values.data_of(body)
        if data[:1] == b'"' and not self._takes_text(route):
            data = values.untexted(data)
        return Incoming(route, data)

    def _wants_records(self, channel: str) -> bool:
        """Whether a record without a value is given to its handler as a whole, as in NestJS."""
        if self.nestrs or self.options.values == "json":
            return False
        annotation = self._annotation(channel.removeprefix(self.prefix))
        return annotation is Any or annotation is object

    def _takes_text(self, route: str) -> bool:
        """Whether the first handler of a pattern takes text, or takes all for text."""
        return values.takes_text(self._annotation(route))

    def _annotation(self, route: str) -> Any:
        """What the first handler of a pattern takes."""
        registry = self.registry
        if self._annotated != registry.version:
            self._annotated = registry.version
            self._annotations.clear()
        found = self._annotations.get(route)
        if found is None:
            asked = registry.request(route)
            targets = [*registry.event(route), *([asked] if asked else [])]
            found = targets[0].handler.payload.annotation if targets else Any
            self._annotations[route] = found
        return found

    def order_key(self, record: Any, partition: Partition) -> Hashable | None:
        """What a record is kept in order with."""
        order = self.options.order
        if order == "partition":
            return partition.place
        return (record.topic, record.key) if order == "key" and record.key is not None else None

    # -- records by the chunk ---------------------------------------------------------

    @property
    def takes_chunks(self) -> bool:
        """Whether what was settled need not be remembered record by record."""
        return not self.nestrs and not self.options.drop_duplicates

    def _begin_life(self, incarnation: Incarnation) -> None:
        super()._begin_life(incarnation)
        self._life += 1
        self._forget_chunks()

    def close(self, why: str) -> None:
        self._forget_chunks()
        super().close(why)

    def _forget_chunks(self) -> None:
        """What they have in hand is settled by nobody any more."""
        for chunk in self._chunks:
            chunk.deliveries.clear()
        self._chunks.clear()

    def _remember(self, channel: str, route: str, way: Way, body: bytes, whole: Whole) -> None:
        super()._remember(channel, route, way, body, whole)
        if channel in self._quick:
            decode = msgspec.json.Decoder(way.annotation).decode
            self._straight[channel] = (way, decode)

    def _take_chunk(self, chunk: Chunk) -> Awaitable[None] | None:
        """Give records to the mailbox of their handler; what is not as usual goes by `_take`."""
        if chunk.partition.dropped:
            return None  # somebody else's by now
        chunk.bridge = self
        chunk.life = self._life
        self._chunks[chunk] = None
        self._received += chunk.left
        self._in_flight += chunk.left
        at = self._give(chunk, 0)
        return self._give_all(chunk, at) if at < len(chunk.records) else None

    def _give(self, chunk: Chunk, at: int) -> int:
        """Give records from `at` on, up to the first that is not as usual: its place."""
        records, partition = chunk.records, chunk.partition
        topic = partition.place.topic
        straight = self._straight.get(topic) if topic in self._quick else None
        if straight is None or self._version != self.registry.version or self._office.full:
            return at
        if partition.dropped:
            return at  # somebody else's by now, as `_take` finds for each
        way, decode = straight
        keyed = self.options.order == "key"
        if self.options.order == "partition":
            way.keep_order()
        handler, mailbox, begun = way.handler, way.mailbox, at
        room = mailbox.limit - len(mailbox.queue)
        if room <= 0:
            return at  # who is asleep has no queue either
        put, keep = mailbox.queue.append, chunk.deliveries.append
        for record in records[at : at + room]:
            value = record.value
            if not value or value[0] not in _STRUCTURES or not value.isascii() or record.headers:
                break
            try:
                data = decode(value)
            except Exception:  # noqa: BLE001  # of any kind: the long way finds it again
                break
            if keyed and record.key is not None:
                way.keep_order()
                keyed = False
            delivery = RecordDelivery(chunk, record, partition, way)
            keep(delivery)
            put(Envelope(data, handler, delivery, delivery))
            at += 1
        if mailbox.parked and at > begun:
            reschedule(mailbox.parked.pop())
        return at

    async def _give_all(self, chunk: Chunk, at: int) -> None:
        """Take the record at `at` as if it had come alone, and see whether the rest is as usual."""
        while at < len(chunk.records):
            received = chunk.make(chunk.records[at])
            self.take_over(chunk)
            self._received -= 1  # both are counted again
            self._in_flight -= 1
            waiting = self._take(received)
            if waiting is not None:
                await waiting
            at = self._give(chunk, at + 1)

    def take_over(self, chunk: Chunk) -> None:
        """A record of a chunk goes its own way; it stays in flight."""
        chunk.left -= 1
        chunk.counted -= 1
        if not chunk.left:
            self._chunks.pop(chunk, None)
            chunk.deliveries.clear()

    def tell(self, chunk: Chunk) -> None:
        """A chunk is done, or half of it."""
        finished, chunk.counted = chunk.counted - chunk.left, chunk.left
        if not chunk.left:
            self._chunks.pop(chunk, None)
            chunk.deliveries.clear()
        if chunk.life == self._life:
            self._less(finished)
        with suppress(AsyncioThreadEnded):  # then this life ends, too
            self.thread.soon(chunk.settled)

    def is_ours(self, settlement: Settlement) -> bool:
        if isinstance(settlement, RecordDelivery):
            return settlement.chunk.bridge is self
        return super().is_ours(settlement)

    def _is_known(self, received: Received) -> bool:
        if received.redelivered and self._chunks and isinstance(received, KafkaReceived):
            place, offset = received.token.place, received.offset
            for chunk in self._chunks:
                held = chunk.in_hand(offset) if chunk.partition.place == place else None
                if held is not None:
                    # Whoever ends it settles the newest delivery.
                    held.partition = received.token
                    self._duplicates += 1
                    self._in_flight -= 1  # it is counted already
                    return True
        return super()._is_known(received)

    def _take(self, received: Any) -> Any:
        if type(received) is Chunk:
            return self._take_chunk(received)
        if received.token.dropped:
            return None  # somebody else's by now
        if received.is_null:
            whole = self._wants_records(received.channel)
            received.body = _whole_record(received) if whole else _NOTHING
        return super()._take(received)

    def _event(self, received: Received, incoming: Incoming) -> Any:
        if received.channel in self.aside.retries and isinstance(received, KafkaReceived):
            return self._retry(received)
        return super()._event(received, incoming)

    def _retry(self, received: KafkaReceived) -> Any:
        """Deliver the event that a record of a retry topic stands for."""
        try:
            trail = self.aside.trail_of(received)
            if trail is None:
                self.done(received)
                return None
            found = Retried.of(received, trail)
            if found.is_null:
                whole = self._wants_records(found.channel)
                found.body = _whole_record(found) if whole else _NOTHING
            incoming = self._read(found.channel, found.body)
        except CodecError as error:
            self._unreadable(received, error)
            return None
        if self._in_hand.get(found.message_id) is received:
            self._in_hand[found.message_id] = found
        return super()._event(found, incoming or Incoming(None, found.body))

    def deliveries(self, received: Received) -> int:
        if isinstance(received, Retried):
            return received.deliveries  # its attempts are counted by its policy
        return super().deliveries(received)

    def _request(self, received: Received, incoming: Incoming) -> Any:
        route = incoming.route or ""
        if received.channel in self.aside.retries:
            return self._event(received, incoming)  # the address is an event's, answered by nobody
        if not self.nestrs and self.registry.request(route) is None and self.registry.event(route):
            # As in NestJS, a topic of events answers nobody.
            received.reply = ""
            return self._event(received, incoming)
        if isinstance(received, KafkaReceived):
            received.headers = _headers(received)
        return super()._request(received, incoming)

    def name_facts(self, received: Received, incoming: Incoming | None = None) -> None:
        if isinstance(received, KafkaReceived) and not received.named:
            received.headers = _headers(received)
        super().name_facts(received, incoming)


def _read_nestrs(channel: str, body: bytes) -> Incoming:
    found = nestrs_wire.read("", channel, body)
    if found.id:
        found.id = encode(_decode_correlated(body).correlation_id or "")
    return found


def _whole(annotation: Any) -> Any:
    """Reads values that are objects or arrays in one pass; raises for all others."""
    decode = msgspec.json.Decoder(annotation).decode

    def read(body: bytes) -> TypedPacket:
        if body[:1] not in (b"{", b"["):
            raise ValueError
        return _Data(decode(body))

    return read


def _headers(received: KafkaReceived) -> dict[str, str]:
    headers = {
        name: (text or b"").decode(errors="replace")
        for name, text in received.raw_headers
        if name not in _ADDRESS
    }
    if received.key is not None:
        headers[KEY] = received.key.decode(errors="replace")
    return headers


def _whole_record(received: Any) -> bytes:
    """What NestJS gives its handlers where there is no value: the record itself."""
    (topic, partition, offset), key = received.came_from, received.key
    headers = {name: (text or b"").decode(errors="replace") for name, text in received.raw_headers}
    return msgspec.json.encode(
        {
            "key": None if key is None else msgspec.Raw(values.data_of(key)),
            "value": None,
            "headers": headers,
            "offset": str(offset),
            "timestamp": str(round(received.first_at * 1000)),
            "topic": topic,
            "partition": partition,
        }
    )
