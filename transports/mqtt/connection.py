"""One connection to an MQTT broker: its beginning, its signs of life, its end.

paho-mqtt speaks the protocol, and nothing else of it is used: no thread, no reconnection, no
socket. asyncio has the socket, TLS included, and gives paho what has come (`wire.py`).

The peer is asked for a sign of life after `heartbeat` seconds of silence, and given up after
as long again.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..broker.network import Drained, meaning, open_connection
from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused
from ..options import parse_url, shown
from .options import ConnectionOptions, MqttOptions, address, login
from .reasons import Closed, ended, refused
from .wire import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTErrorCode,
    PacketTypes,
    Paho,
    Properties,
    ReasonCode,
    SubscribeOptions,
    Taker,
    Wire,
)

__all__ = ["Connection", "connect"]

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_CLOSING: Final = 1.0
"""Seconds that the broker has to take what there is to say to it."""
_BUFFER: Final = 1024 * 1024
"""Bytes that may wait to be sent before `drain` waits."""
_MARGIN: Final = 1024
"""Bytes of a packet beside its body, by which the broker's limit is lowered."""
_AT_ONCE: Final = 100
"""Subscriptions in one packet, and messages on their way to the broker without its answer."""


async def connect(
    url: str,
    options: ConnectionOptions,
    client_id: str,
    *,
    credit: int,
    taken: Taker,
    greeted: Callable[[bool], None],
    lost: Callable[[BaseException], None],
) -> "Connection":
    """Connect and log in. `lost(error)` is called once the connection has ended.

    `taken` is called with every message, `greeted` before the first of them, with whether
    the broker had kept a session. `credit` messages at QoS 1 may be unacknowledged, if MQTT
    5 is spoken. Raises `BrokerAway` or `BrokerRefused`.
    """
    secure = parse_url(url).scheme == "mqtts"
    context = tls_context(options, shown(url), wanted=secure)
    connection = Connection(url, options, client_id, credit, taken, greeted, lost)
    try:
        await open_connection(connection, *address(url), context)
        await connection.greet()
    except (OSError, ssl.SSLError) as error:
        connection.abort()
        raise meaning(error) from error
    except BaseException:
        connection.abort()
        raise
    return connection


_properties: Final[Any] = Properties  # which has no types


class Connection(Drained):
    """A connection. Made by `connect`; lives on the brokers' loop."""

    def __init__(
        self,
        url: str,
        options: ConnectionOptions,
        client_id: str,
        credit: int,
        taken: Taker,
        greeted: Callable[[bool], None],
        lost: Callable[[BaseException], None],
    ) -> None:
        self.most = options.message_limit
        """Bytes in the body of a message, at most."""
        self.identifies = False
        """Whether messages can say which subscription brought them."""
        self._five = options.five
        self._client_id = client_id
        self._greeted = greeted
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket: Any = None
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._beat: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        self._answers: dict[int | None, asyncio.Future[list[ReasonCode]]] = {}
        self._confirms: dict[int, Callable[[ReasonCode], None]] = {}
        self._reads = True
        self._established = self._closing = False
        self._heartbeat = max(1, round(options.heartbeat))
        self._wire = Wire()
        durable = isinstance(options, MqttOptions) and options.durable
        self._paho = paho = Paho(self._wire, taken, client_id, five=options.five, durable=durable)
        user, password = login(url)
        if user:
            paho.username_pw_set(user, password)
        if isinstance(options, MqttOptions) and options.will_topic:
            topic, payload = options.topic(options.will_topic), options.will_payload
            paho.will_set(topic, payload, options.will_qos, options.will_retain)
        paho.allow(_AT_ONCE)
        paho.on_connect = self._on_connect
        paho.on_disconnect = self._on_disconnect
        paho.on_subscribe = paho.on_unsubscribe = self._on_answer
        paho.on_socket_register_write = self._on_writing
        self._clean = not durable
        self._introduction = self._introduced(options, credit) if self._five else None

    def _introduced(self, options: ConnectionOptions, credit: int) -> Any:
        found = _properties(PacketTypes.CONNECT)
        found.ReceiveMaximum = max(1, min(credit, 65535))
        found.MaximumPacketSize = min(options.message_limit + _MARGIN, 268435455)
        if isinstance(options, MqttOptions) and options.expiry:
            found.SessionExpiryInterval = options.expiry
        return found

    # -- its beginning --------------------------------------------------------------

    async def greet(self) -> None:
        """Log in; from here on the connection is watched."""
        paho = self._paho
        paho.connect_async(
            "broker",  # paho wants to know, though nobody asks it to find anything
            keepalive=self._heartbeat,
            clean_start=self._clean,
            properties=self._introduction,
        )
        paho.reconnect()
        self.flush()
        await self._begun
        self._established = True
        self._looks_at = self._loop.time() + self._heartbeat / 4
        self._beat = self._loop.call_at(self._looks_at, self._tick)

    def _on_connect(
        self, _: Client, __: Any, flags: ConnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._end(refused(reason, properties, five=self._five, client_id=self._client_id))
            return
        if self._five:
            self.identifies = bool(getattr(properties, "SubscriptionIdentifierAvailable", 1))
            # paho looks at neither.
            most = getattr(properties, "ReceiveMaximum", _AT_ONCE)
            self._paho.allow(min(most, _AT_ONCE))
            limit = getattr(properties, "MaximumPacketSize", 268435455) - _MARGIN
            self.most = max(1, min(self.most, limit))
        self._greeted(flags.session_present)
        if not self._begun.done():
            self._begun.set_result(None)

    # -- what can be done with it ---------------------------------------------------

    async def subscribe(self, filters: Sequence[str], qos: int, identifier: int = 0) -> None:
        """Subscribe. Raises `BrokerRefused`, or what ended the connection.

        With an `identifier`, which only MQTT 5 has, messages say that they come by this.
        """
        for at in range(0, len(filters), _AT_ONCE):
            some = filters[at : at + _AT_ONCE]
            wanted: list[Any] = [(each, qos) for each in some]
            properties = None
            if self._five:
                # What is retained comes to a new subscription, and not with each connection.
                options = SubscribeOptions(qos, retainHandling=1)
                wanted = [(each, options) for each in some]
            if identifier and self._five:
                properties = _properties(PacketTypes.SUBSCRIBE)
                properties.SubscriptionIdentifier = identifier
            _, mid = self._paho.subscribe(wanted, properties=properties)
            for name, reason in zip(some, await self._answer(mid), strict=False):
                if reason.is_failure:
                    text = f"{name!r} may not be subscribed to: {reason}"
                    raise BrokerRefused(text)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Subscribe no longer; when this returns, nothing more comes for them."""
        for at in range(0, len(filters), _AT_ONCE):
            _, mid = self._paho.unsubscribe(list(filters[at : at + _AT_ONCE]))
            await self._answer(mid)

    async def _answer(self, mid: int | None) -> list[ReasonCode]:
        if self.ended is not None:
            raise self.ended
        answer: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._answers[mid] = answer
        self.flush()
        try:
            return await answer
        finally:
            del self._answers[mid]

    def publish(
        self,
        topic: str,
        body: bytes,
        qos: int,
        retain: bool = False,
        properties: Any = None,
        then: Callable[[ReasonCode], None] | None = None,
    ) -> bool:
        """Send a message; False if very many wait to be confirmed already.

        At QoS 1 and 2 `then(reason)` is called when the broker has it. `flush` sends it.
        """
        if self.ended is not None:
            return True  # whoever waits for it has been told
        info = self._paho.publish(topic, body, qos, retain, properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            return False
        if then is not None and qos:
            if not self._confirms:
                # paho calls it for each message at QoS 0 as well, and makes much ado of that.
                self._paho.on_publish = self._on_publish
            self._confirms[info.mid] = then
        return True

    def acknowledge(self, mid: int, qos: int) -> None:
        """Tell the broker that a message is finished. `flush` sends it."""
        if self.ended is None:
            self._paho.received(mid, qos)

    def flush(self) -> None:
        """Send what waits to be sent, all at once."""
        paho, wire = self._paho, self._wire
        if paho.want_write():
            paho.loop_write()
        if wire.waiting and self._transport is not None:
            self._transport.write(wire.take_waiting())

    # -- what comes -----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._hurry()
        transport.set_write_buffer_limits(high=_BUFFER)

    def data_received(self, data: bytes) -> None:
        wire, read = self._wire, self._paho.loop_read
        wire.feed(data)
        try:
            while wire.unread and not read():
                pass
            self.flush()
            self._hurry()
        except ValueError as error:
            self._end(BrokerAway(f"the broker sent what is no MQTT: {error}"))
        except Exception as error:  # noqa: BLE001  # a bug of ours: it ends the session as itself
            self._end(error)

    def _hurry(self) -> None:
        """Let the system confirm at once what has come.

        mosquitto waits for that before it sends another small packet (Nagle's algorithm), and
        the system for something to confirm it with: 40 ms for each request. Linux alone has
        the setting, and forgets it again.
        """
        if _QUICKACK is not None and self._socket is not None and self.ended is None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _on_writing(self, *_: Any) -> None:
        self._loop.call_soon(self.flush)

    def _on_answer(self, _: Client, __: Any, mid: int, reasons: Any, ___: Any) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def _on_publish(self, paho: Client, _: Any, mid: int, reason: ReasonCode, __: Any) -> None:
        then = self._confirms.pop(mid, None)
        if not self._confirms:
            paho.on_publish = None
        if then is not None:
            then(reason)

    def read(self, wanted: bool) -> None:
        """Read on, or leave what comes to the network for now."""
        if self._transport is None or self.ended is not None:
            return
        self._reads = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _tick(self) -> None:
        """Every quarter of a heartbeat: see whether there was a sign of life."""
        late = self._loop.time() - self._looks_at
        if not self._reads:
            self._paho.ping()
            self.flush()
        elif late < self._heartbeat / 2:
            self._paho.loop_misc()
            self.flush()
        # else the process stood still, and what has come meanwhile was not read yet
        if self.ended is None:
            self._looks_at = self._loop.time() + self._heartbeat / 4
            self._beat = self._loop.call_at(self._looks_at, self._tick)

    # -- its end --------------------------------------------------------------------

    async def close(self) -> None:
        """Say good-bye, and wait until the broker has heard it, for a second at most."""
        self._closing = True
        try:
            if self.ended is None and self._established:
                self._paho.disconnect()
                self.flush()
                await asyncio.wait([self._gone], timeout=_CLOSING)
        finally:
            self.abort()

    def abort(self) -> None:
        """End it now."""
        self._end(BrokerAway("the connection was closed"))

    def _on_disconnect(
        self, _: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if self._closing:
            return  # paho thinks so as soon as it has written its good-bye
        if flags.is_disconnect_packet_from_server:
            self._end(refused(reason, properties, five=True, client_id=self._client_id))
        else:
            self._end(ended(reason, self._heartbeat, five=self._five, begun=self._established))

    def eof_received(self) -> None:
        """`connection_lost` comes next."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._begun.done():
            text = "the connection was closed before it began; is TLS or another version wanted?"
            self._end(BrokerAway(text))
        elif exc is not None:
            self._end(meaning(exc))
        else:
            self._end(Closed())

    def _end(self, error: BaseException) -> None:
        if self.ended is not None:
            return
        self.ended = error
        if self._beat is not None:
            self._beat.cancel()
        if self._transport is not None:
            self._transport.abort()
        self.resume_writing()
        everybody: list[asyncio.Future[Any]] = [self._begun, *self._answers.values()]
        for waiting in everybody:
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # as a rule somebody waits for it; if not, that is fine
        if not self._gone.done():
            self._gone.set_result(None)
        if self._established and not self._closing:
            self._lost(error)
