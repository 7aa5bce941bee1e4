"""The RabbitMQ client: many calls in flight, answers by direct reply-to, events confirmed.

An event is done when the broker has it: with a durable queue, on its disk. One whose
connection was lost before that is sent again with the same `message_id`, for as long as
`connect_timeout`; what was sent twice comes flagged. A message for which there is no queue
fails at once; whether anybody reads the queue, the broker does not say.
"""

import time
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

import msgspec
import trio
from pamqp import commands

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from ...actors.pattern import Pattern, route_of
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import Session
from ..client import Headers
from ..codec import nest_queue, nestrs_wire
from ..options import shown
from .channel import Channel, ChannelEnded
from .connection import Connection, connect, meaning
from .frames import Properties, publish
from .options import RabbitClientOptions, queue_of
from .replies import DIRECT, ReplyQueues
from .topology import declare, exchange_of, routing_key

__all__ = ["RabbitClient"]

_RESERVED: Final = frozenset(("priority", "ttl", "message_id"))
"""Headers that are properties of an AMQP message."""


class RabbitClient(BrokerClient):
    """Calls services through RabbitMQ."""

    options: RabbitClientOptions

    def __init__(self, url: str, options: RabbitClientOptions) -> None:
        nestrs = options.dialect == "nestrs"
        super().__init__(shown(url), options, nestrs_wire if nestrs else nest_queue)
        self.url = url
        self.nestrs = nestrs
        self._blocked = ""

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        self._blocked = ""
        return RabbitClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        """The routing key."""
        options, route = self.options, route_of(pattern)
        if not exchange_of(options):
            return queue_of(options)
        if options.exchange_type == "fanout" or not options.wildcards:
            return options.routing_key
        key = routing_key(route)
        if len(key.encode()) > 255:
            raise DeclarationError(
                f"{self.where}: the pattern {key[:40]!r}... is longer than AMQP's 255 bytes."
            )
        return key

    def request(self, id: str, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("send", pattern, data, correlation_id=id)
        return super().request(id, pattern, data)

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("emit", pattern, data)
        return super().event(pattern, data)

    def blocked(self, why: str) -> None:
        """The broker reads nothing more from us, or does again."""
        self._blocked = why
        if why:
            text = f"the broker has blocked the connection: {why}"
            self.complaints.say("troubles with the broker", text)

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        if "message_id" not in headers:
            headers = {**headers, "message_id": uuid4().hex}
        lost: ConnectionLost | None = None
        with trio.move_on_after(self.options.connect_timeout):
            while True:
                try:
                    return await super()._emit(pattern, data, headers)
                except ConnectionLost as error:
                    if self._closing or not error.sent or error.why.startswith(_FINAL):
                        raise
                    lost = error
                except RequestTimeout as error:
                    raise self._unconfirmed(pattern) from error
        raise lost or self._unconfirmed(pattern)

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        try:
            return await super()._call(pattern, data, timeout, headers)
        except RequestTimeout as error:
            if self._blocked:
                raise ConnectionLost(self.where, self._why_blocked()) from error
            raise

    def _unconfirmed(self, pattern: Pattern) -> ConnectionLost:
        limit = self.options.connect_timeout
        why = f"{pattern!r} was not confirmed within {limit:g} s"
        if self._blocked:
            why = f"{why}: {self._why_blocked()}"
        return ConnectionLost(self.where, why)

    def _why_blocked(self) -> str:
        return f"the broker has blocked the connection ({self._blocked})"

    def _check_headers(self, headers: Headers) -> None:
        priority, ttl = headers.get("priority", "0"), headers.get("ttl", "0")
        if not (priority.isdecimal() and int(priority) < 256):
            raise DeclarationError(
                f"{self.where}: the header 'priority' is a number up to 255, not {priority!r}."
            )
        try:
            fits = 0 <= float(ttl) < 2**32
        except ValueError:
            fits = False
        if not fits:
            raise DeclarationError(f"{self.where}: the header 'ttl' is in seconds, not {ttl!r}.")


_TOO_LONG: Final = "a message of "
_REFUSED: Final = "the broker refused the message"
_FINAL: Final = (_TOO_LONG, _REFUSED)
"""How failures begin that another attempt would not mend."""


class RabbitClientSession(Session[Reply, Sending]):
    """One connection of a RabbitMQ client: a channel for calls, one for what is confirmed."""

    def __init__(
        self,
        client: RabbitClient,
        thread: AsyncioThread,
        inlet: Inlet[Reply],
        outlet: Outlet[Sending],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=client.options.connect_timeout)
        self._client = client
        self._exchange = exchange_of(client.options)
        self._connection: Connection | None = None
        self._calls: Channel
        self._events: Channel
        self._replies: ReplyQueues | None = None
        # By number of publication, which is how the broker names them.
        self._unconfirmed: dict[int, Sending] = {}
        self._published = 0

    async def connect(self) -> None:
        client = self._client
        self._connection = connection = await connect(
            client.url,
            client.options,
            "understudy client",
            lost=self.lose,
            blocked=lambda why: self.thread.back(client.blocked, why),
        )
        try:
            self._calls, self._events = await connection.channel(), await connection.channel()
            for channel in (self._calls, self._events):
                channel.on_end = lambda error: self.lose(meaning(error))
            await declare(self._calls, client.options, serving=False)
            await self._events.call(commands.Confirm.Select())
            self._events.on_confirm = self._confirmed
            self._events.on_return = self._event_returned
            self._calls.on_return = self._call_returned
            self._calls.on_deliver = self._answered
            if client.nestrs:
                self._replies = ReplyQueues(self._calls)
            else:
                consume = commands.Basic.Consume(queue=DIRECT, no_ack=True)
                await self._calls.call(consume)
        except ChannelEnded as error:
            raise meaning(error) from error

    # -- in -------------------------------------------------------------------------

    def _answered(
        self, consumer: str, tag: int, again: bool, key: str, properties: Properties, body: bytes
    ) -> None:
        id = properties.correlation_id
        if self._replies is not None:
            id = self._replies.answered(key)
        if id and body:
            self._give(Reply(id, body))

    def _call_returned(self, why: str, properties: Properties) -> None:
        self._give(Reply(properties.correlation_id, unheard=True))

    def _event_returned(self, why: str, properties: Properties) -> None:
        # They come back in the order in which they were sent: the first is the one, as a rule.
        for sending in self._unconfirmed.values():
            if sending.headers.get("message_id") == properties.message_id:
                self._give(Reply(sending.id, unheard=True))
                return

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        tags = [tag]
        if multiple:
            tags = [each for each in self._unconfirmed if each <= tag]
        for each in tags:
            sending = self._unconfirmed.pop(each, None)
            if sending is not None:
                self._give(Reply(sending.id, error=None if taken else self._refusal()))

    def _refusal(self) -> ConnectionLost:
        return ConnectionLost(self._client.where, f"{_REFUSED}: its queue is full, or broken")

    def _give(self, reply: Reply) -> None:
        if not self.inlet.offer(reply):
            self.spawn(self._put(reply))

    async def _put(self, reply: Reply) -> None:
        await self.inlet.put(reply)

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Sending]) -> None:
        connection, limit = self._connection, self._client.options.message_limit
        assert connection is not None
        parts: list[bytes] = []
        for sending in burst:
            if len(sending.body) > limit:
                why = f"{_TOO_LONG}{len(sending.body)} bytes; {limit} may be sent at most"
                self._give(Reply(sending.id, error=ConnectionLost(self._client.where, why)))
            elif sending.answered:
                parts.append(await self._request(sending))
            else:
                parts.append(self._event(sending))
        connection.write(b"".join(parts))
        await connection.drain()

    async def _request(self, sending: Sending) -> bytes:
        properties = _properties(sending.headers)
        if self._replies is not None:
            queue = await self._replies.queue_for(sending.id)
            body = b'%b,"reply":%b}' % (sending.body[:-1], msgspec.json.encode(queue))
        else:
            properties.correlation_id, properties.reply_to = sending.id, DIRECT
            body = sending.body
        return self._frames(self._calls, sending, properties, body)

    def _event(self, sending: Sending) -> bytes:
        properties = _properties(sending.headers)
        properties.persistent = self._client.options.persistent
        properties.at = time.time()
        self._published += 1
        self._unconfirmed[self._published] = sending
        return self._frames(self._events, sending, properties, sending.body)

    def _frames(
        self, channel: Channel, sending: Sending, properties: Properties, body: bytes
    ) -> bytes:
        assert self._connection is not None
        return publish(
            channel.number,
            self._exchange,
            sending.route,
            properties,
            body,
            self._connection.frame_max,
            mandatory=self._client.options.mandatory,
        )

    # -- its life -------------------------------------------------------------------

    async def stop(self) -> None:
        """Nothing comes but answers."""

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def _properties(headers: Mapping[str, str]) -> Properties:
    if not headers:
        return Properties()
    found = Properties(message_id=headers.get("message_id", ""))
    if len(headers) > 1 or not found.message_id:
        found.headers = {key: text for key, text in headers.items() if key not in _RESERVED}
        if "priority" in headers:
            found.priority = int(headers["priority"])
        if "ttl" in headers:
            found.ttl = str(round(float(headers["ttl"]) * 1000))
    return found
