"""One connection to RabbitMQ: its beginning, its signs of life, its end.

aio-pika and aiormq are not used, only their codec, pamqp. They read properties strictly, so
that one message with text that is no UTF-8 ends the connection each time it comes, for
ever; what they write into a connection that the broker does not read has no bound; a frozen
broker holds their `close`; and they make a task and several futures for each frame, so
that a NestJS service handles three times as many messages as a bare aio-pika consumer
(benchmarks/brokers.py), which no bridge on top of it could make up for.

The peer is given up when nothing has come from it for two heartbeats, which the
protocol itself asks both sides to send.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from pamqp import commands, frame

from ..broker import network
from ..broker.network import Drained, open_connection
from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused
from ..options import parse_url, shown
from .channel import Channel, ChannelEnded, method_of
from .frames import BODY, HEADER, HEARTBEAT_FRAME, METHOD, cut
from .options import ConnectionOptions, servers, virtual_host

__all__ = ["Connection", "connect", "meaning"]

_CLOSING: Final = 1.0
"""Seconds that the broker has to say good-bye."""
_BUFFER: Final = 1024 * 1024
"""Bytes that may wait to be sent before `drain` waits."""
_CAPABILITIES: Final = (
    "authentication_failure_close",
    "basic.nack",
    "connection.blocked",
    "consumer_cancel_notify",
    "publisher_confirms",
)


async def connect(
    url: str,
    options: ConnectionOptions,
    name: str,
    *,
    lost: Callable[[BaseException], None],
    blocked: Callable[[str], None],
) -> "Connection":
    """Connect to the first server that answers. `lost(error)` is called once it has ended.

    `blocked(why)` is called when the broker reads nothing more for lack of memory or
    disk, and with an empty text when it does again. Raises `BrokerAway` or `BrokerRefused`.
    """
    parts = parse_url(url)
    secure = parts.scheme == "amqps"
    context = tls_context(options, shown(url), wanted=secure)
    login = (unquote(parts.username or ""), unquote(parts.password or ""))
    external = not login[0] and bool(options.tls_cert)
    trouble: BrokerAway | None = None
    addresses = servers(url, options.servers)
    for host, port in addresses:
        connection = Connection(name, options.heartbeat, lost, blocked)
        try:
            async with asyncio.timeout(options.connect_timeout / len(addresses)):
                await open_connection(connection, host, port, context)
                user, password = login if login[0] else ("guest", "guest")
                await connection.greet(user, password, external=external)
                await connection.enter(virtual_host(url))
        except (OSError, ssl.SSLError, BrokerAway) as error:
            connection.abort()
            if trouble is None or not isinstance(trouble, BrokerRefused):
                trouble = meaning(error)
        except BaseException:
            connection.abort()
            raise
        else:
            return connection
    assert trouble is not None  # there is one server at least
    raise trouble


def meaning(error: BaseException, doing: str = "") -> BrokerAway:
    """What an error of the network or of the broker means for a session."""
    if isinstance(error, ChannelEnded):
        text = f"{doing}{': ' if doing else ''}{_words(error.text)}"
        return (BrokerRefused if error.code in (403, 405, 406, 540) else BrokerAway)(text)
    return network.meaning(error)


def _words(text: str) -> str:
    """The broker's words without the name of the code in capitals."""
    return text.partition(" - ")[2] or text or "the broker gave no reason"


class Connection(Drained):
    """A connection. Made by `connect`; lives on the brokers' loop."""

    def __init__(
        self,
        name: str,
        heartbeat: float,
        lost: Callable[[BaseException], None],
        blocked: Callable[[str], None],
    ) -> None:
        self.blocked = ""
        self.frame_max = 131072
        self._name = name
        self._heartbeat = max(1, round(heartbeat))
        self._lost = lost
        self._on_blocked = blocked
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._control = Channel(0, self.write)
        self._channels: dict[int, Channel] = {}
        self._held = b""
        self._heard = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._greeted = self._established = self._closing = False
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # -- its beginning --------------------------------------------------------------

    async def greet(self, user: str, password: str, *, external: bool) -> None:
        """Log in, and agree on sizes and heartbeats."""
        greeting = self._control.expect()
        self.write(b"AMQP\x00\x00\x09\x01")
        start = await greeting
        if not isinstance(start, commands.Connection.Start):
            raise BrokerAway("what listens there does not speak AMQP 0-9-1")
        self._greeted = True
        properties: Any = {
            "product": "understudy",
            "connection_name": self._name,
            "capabilities": dict.fromkeys(_CAPABILITIES, True),
        }
        secret = "" if external else f"\0{user}\0{password}"
        answer = await self._control.call(
            commands.Connection.StartOk(properties, "EXTERNAL" if external else "PLAIN", secret)
        )
        if not isinstance(answer, commands.Connection.Tune):
            raise BrokerAway("the broker did not go on after the login")
        self.frame_max = min(answer.frame_max or self.frame_max, self.frame_max)
        tuned = commands.Connection.TuneOk(answer.channel_max, self.frame_max, self._heartbeat)
        self.write(frame.marshal(tuned, 0))

    async def enter(self, virtual_host: str) -> None:
        """Open the virtual host; from here on the connection is watched."""
        await self._control.call(commands.Connection.Open(virtual_host))
        self._established = True
        self._beat = self._loop.call_later(self._heartbeat / 2, self._tick)

    async def channel(self) -> Channel:
        """A new channel."""
        number = len(self._channels) + 1
        channel = self._channels[number] = Channel(number, self.write)
        if self.ended is not None:
            channel.end(self.ended)
        await channel.call(commands.Channel.Open())
        return channel

    # -- out ------------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> None:
        """Send; nothing happens once the connection has ended."""
        if self._transport is not None and self.ended is None:
            self._transport.write(data)

    # -- in -------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_BUFFER)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._held:
            data = self._held + data
        try:
            done = cut(data, self._take)
        except ValueError as error:
            self._end(BrokerAway(f"the broker sent what is no AMQP: {error}"))
        except Exception as error:  # noqa: BLE001  # a bug of ours: it ends the session as itself
            self._end(error)
        else:
            self._held = data[done:] if done < len(data) else b""

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if not number:
            if kind == METHOD:
                self._take_own(payload)
            return
        channel = self._channels.get(number)
        if channel is None or channel.ended is not None:
            return
        if kind == BODY:
            channel.take_body(payload)
        elif kind == METHOD:
            channel.take_method(payload)
        elif kind == HEADER:
            channel.take_header(payload)

    def _take_own(self, payload: bytes) -> None:
        method = method_of(payload)
        if isinstance(method, commands.Connection.Close):
            self.write(frame.marshal(commands.Connection.CloseOk(), 0))
            self._end(_closed_by_broker(method.reply_code or 0, method.reply_text or ""))
        elif isinstance(method, commands.Connection.CloseOk):
            self._end(BrokerAway("the connection was closed"))
        elif isinstance(method, commands.Connection.Blocked):
            self.blocked = method.reason or "low on resources"
            self._on_blocked(self.blocked)
        elif isinstance(method, commands.Connection.Unblocked):
            self.blocked = ""
            self._on_blocked("")
        else:
            self._control.take_other(method)

    def _tick(self) -> None:
        """Every half heartbeat: give a sign of life, and see whether there was one."""
        silent = self._loop.time() - self._heard
        if silent > 2 * self._heartbeat:
            self._end(BrokerAway(f"the broker has said nothing for {silent:.0f} s"))
            return
        self.write(HEARTBEAT_FRAME)
        self._beat = self._loop.call_later(self._heartbeat / 2, self._tick)

    # -- its end --------------------------------------------------------------------

    async def close(self) -> None:
        """Say good-bye, if that can be done within a second."""
        self._closing = True
        try:
            if self.ended is None and self._established:
                self.write(frame.marshal(commands.Connection.Close(200, "good-bye", 0, 0), 0))
                await asyncio.wait([self._gone], timeout=_CLOSING)
        finally:
            self.abort()

    def abort(self) -> None:
        """End it now."""
        self._end(BrokerAway("the connection was closed"))

    def eof_received(self) -> None:
        """`connection_lost` comes next."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._greeted:
            self._end(BrokerAway("the connection was closed before it began; is TLS wanted there?"))
        elif exc is not None:
            self._end(meaning(exc))
        else:
            self._end(BrokerAway("the broker closed the connection"))

    def _end(self, error: BaseException) -> None:
        if self.ended is not None:
            return
        self.ended = error
        if self._beat is not None:
            self._beat.cancel()
        if self._transport is not None:
            self._farewell(self._transport)
        self.resume_writing()
        for channel in (self._control, *self._channels.values()):
            channel.end(error)
        if not self._gone.done():
            self._gone.set_result(None)
        if self._established and not self._closing:
            self._lost(error)

    def _farewell(self, transport: asyncio.Transport) -> None:
        """Close the socket. Nobody waits for what cannot be sent, nor for TLS's own good-bye."""
        if transport.get_write_buffer_size() or transport.get_extra_info("ssl_object"):
            transport.abort()
        else:
            transport.close()


def _closed_by_broker(code: int, text: str) -> BrokerAway:
    if code == 403:
        return BrokerRefused("the login was refused: see the user and the password")
    if code == 530:
        return BrokerRefused(_words(text))
    return BrokerAway(f"the broker closed the connection: {_words(text)}")
