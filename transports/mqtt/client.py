"""The MQTT client: many calls in flight, answers on reply topics, events confirmed.

An event at QoS 1 is done when the broker has it, which says nothing of its disk. One whose
connection was lost before that is sent again, for as long as `connect_timeout`; in MQTT 5
with the same identity, so that what was sent twice is known. Whether anybody subscribes the
broker says of requests only, if it says it at all; in MQTT 5 a request expires with its call,
in MQTT 3.1.1 it goes at QoS 0, so that none waits for a service that is away.
"""

import math
import os
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, ClassVar, Final
from uuid import uuid4

import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from ...actors.pattern import Pattern, route_of
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import BrokerAway, BrokerRefused, Session
from ..client import Headers
from ..codec import nest, nestrs_wire
from ..options import shown
from .bridge import IDENTITY, REPLY
from .connection import Connection, connect
from .held import Held
from .options import MqttClientOptions, is_topic, is_writable
from .packets import packed, read
from .reasons import UNHEARD
from .topics import SHARE

__all__ = ["MqttClient", "MqttClientSession"]

_FIVE_ONLY: Final = frozenset(("content_type", "expiry"))
_OWN: Final = frozenset((*_FIVE_ONLY, "qos", "retain"))
"""Headers that are not user properties."""


class MqttClient(BrokerClient):
    """Calls services through MQTT."""

    has_headers: ClassVar[bool] = True
    options: MqttClientOptions

    def __init__(self, url: str, options: MqttClientOptions) -> None:
        self.nestrs = options.dialect == "nestrs"
        super().__init__(shown(url), options, nestrs_wire if self.nestrs else nest)
        self.url = url
        self.client_id = options.client_id or f"understudy{os.urandom(6).hex()}"
        self.replies = options.nestrs_topic(f"reply/{uuid4().hex}/")

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        return MqttClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        """The topic."""
        route = route_of(pattern)
        if self.nestrs:
            return self.options.nestrs_topic("requests")
        topic = self.options.topic(route)
        if not is_topic(topic + REPLY) or route.startswith(SHARE):
            raise DeclarationError(
                f"{self.where}: the pattern {route!r} cannot be an MQTT topic, which has no '+', "
                "no '#' and no control characters, and does not begin with $share."
            )
        return topic

    def request(self, id: str, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("send", pattern, data, self.replies + id)
        return super().request(id, pattern, data)

    def event(self, pattern: Pattern, data: bytes) -> bytes:
        if self.nestrs:
            return nestrs_wire.wire_request("emit", pattern, data)
        return super().event(pattern, data)

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        return await super()._call(pattern, data, timeout, self._expiring(headers, timeout))

    def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        headers = self._expiring(headers, self.options.connect_timeout)
        return super()._stream(pattern, data, headers)

    def _expiring(self, headers: Headers, timeout: float) -> Headers:
        if not self.options.five or "expiry" in headers or timeout > _LONGEST:
            return headers
        return {**headers, "expiry": str(math.ceil(timeout))}

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        if self.options.five and IDENTITY not in headers:
            headers = {**headers, IDENTITY: uuid4().hex}
        limit = self.options.connect_timeout
        lost: ConnectionLost | None = None
        with trio.move_on_after(limit):
            while True:
                try:
                    return await super()._emit(pattern, data, headers)
                except _NotTaken:
                    raise
                except ConnectionLost as error:
                    if self._closing or not error.sent:
                        raise
                    lost = error
                except RequestTimeout:
                    break
        why = f"{pattern!r} was not confirmed within {limit:g} s"
        raise lost or ConnectionLost(self.where, why)

    def _check_headers(self, headers: Headers) -> None:
        if not headers:
            return
        if not self.options.five and not headers.keys() <= {"qos", "retain"}:
            raise DeclarationError(
                f"{self.where}: messages of MQTT 3.1.1 have no headers but 'qos' and 'retain'; "
                "connect with version=5, or put what they say into the data."
            )
        for text in (*headers, *headers.values()):
            if not is_writable(text):
                raise DeclarationError(f"{self.where}: the header {text[:40]!r} cannot be sent.")
        if headers.get("qos", "0") not in ("0", "1", "2"):
            raise self._unfit("qos", "0, 1 or 2", headers)
        if headers.get("retain", "true") not in ("true", "false"):
            raise self._unfit("retain", "true or false", headers)
        expiry = headers.get("expiry", "1")
        if not (expiry.isdecimal() and 0 < int(expiry) <= _LONGEST):
            raise self._unfit("expiry", "a whole number of seconds", headers)

    def _unfit(self, name: str, what: str, headers: Headers) -> DeclarationError:
        return DeclarationError(
            f"{self.where}: the header {name!r} is {what}, not {headers[name]!r}."
        )


_LONGEST: Final = 0xFFFFFFFF
_HELD: Final = 4096
"""Answers that wait for room before nothing more is read."""


class _NotTaken(ConnectionLost):
    """The broker answered that it does not take the message, or it was not even sent."""


class MqttClientSession(Session[Reply, Sending]):
    """One connection of an MQTT client."""

    def __init__(
        self,
        client: MqttClient,
        thread: AsyncioThread,
        inlet: Inlet[Reply],
        outlet: Outlet[Sending],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=client.options.connect_timeout)
        self._client = client
        self._five = client.options.five
        self._connection: Connection | None = None
        self._held = Held(inlet, _HELD)
        self._heard: set[str] = set()

    async def connect(self) -> None:
        client = self._client
        self._connection = connection = await connect(
            client.url,
            client.options,
            client.client_id,
            credit=_LONGEST,
            taken=self._taken,
            greeted=lambda present: None,
            lost=self.lose,
        )
        self.spawn(self._held.feed(self._is_behind))
        if client.nestrs:
            await connection.subscribe([client.replies + "+"], 1)

    # -- in -------------------------------------------------------------------------

    def _taken(self, command: int, packet: bytearray) -> None:
        publish = read(command, packet, five=self._five)
        if self._client.nestrs:
            self._held.give(Reply(publish.topic.removeprefix(self._client.replies), publish.body))
        else:
            self._held.give(Reply("", publish.body))
        if publish.qos and self._connection is not None:
            self._connection.acknowledge(publish.mid, publish.qos)

    # -- out ------------------------------------------------------------------------

    async def write(self, burst: list[Sending]) -> None:
        connection = self._connection
        if connection is None:
            raise BrokerAway("there is no connection")
        if not self._client.nestrs:
            await self._listen(connection, burst)
        sent = [each for each in burst if self._is_sent(connection, each)]
        connection.flush()
        await connection.drain()
        for sending in sent:
            if not sending.answered and not self._qos(sending):
                self._held.give(Reply(sending.id))

    async def _listen(self, connection: Connection, burst: list[Sending]) -> None:
        """Subscribe to where answers come, before anything is asked."""
        heard = self._heard
        for topic in dict.fromkeys(each.route for each in burst if each.answered):
            if topic not in heard:
                try:
                    await connection.subscribe([topic + REPLY], 0)
                except BrokerRefused as error:
                    for each in burst:
                        if each.answered and each.route == topic:
                            self._not_sent(each, error.why)
                else:
                    heard.add(topic)

    def _is_sent(self, connection: Connection, sending: Sending) -> bool:
        headers, body = sending.headers, sending.body
        if sending.answered and not self._client.nestrs and sending.route not in self._heard:
            return False
        if len(body) > connection.most:
            self._not_sent(sending, f"{len(body)} bytes; {connection.most} may be sent at most")
            return False
        properties, retain = None, False
        if headers:
            retain = headers.get("retain") == "true"
            if self._five:
                properties = packed(
                    {name: text for name, text in headers.items() if name not in _OWN},
                    expiry=int(headers.get("expiry", "0")),
                    content_type=headers.get("content_type", ""),
                )
        then = partial(self._confirmed, sending)
        if not connection.publish(
            sending.route, body, self._qos(sending), retain, properties, then
        ):
            self._not_sent(sending, "the broker does not confirm what it has got")
            return False
        return True

    def _qos(self, sending: Sending) -> int:
        if sending.headers and "qos" in sending.headers:
            return int(sending.headers["qos"])
        if sending.answered and not self._client.nestrs:
            return 1 if self._five else 0
        return 1 if sending.answered else self._client.options.qos

    def _confirmed(self, sending: Sending, reason: Any) -> None:
        if reason.is_failure:
            self._not_sent(sending, f"the broker did not take the message: {reason}")
        elif not sending.answered:
            self._held.give(Reply(sending.id))
        elif reason.value == UNHEARD:
            self._held.give(Reply(sending.id, unheard=True))

    def _not_sent(self, sending: Sending, why: str) -> None:
        self._held.give(Reply(sending.id, error=_NotTaken(self._client.where, why, sent=False)))

    # -- its life -------------------------------------------------------------------

    def _is_behind(self, behind: bool) -> None:
        if self._connection is not None:
            self._connection.read(not behind)

    async def stop(self) -> None:
        """Nothing comes but answers."""

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
