"""The NATS client: many calls in flight on one connection, one inbox for all their answers.

A request nobody listens for fails at once, since the server says so. An event is handed
to the connection and confirmed by nobody; or else, with a stream, it is sent until the
stream confirms that it is stored, with an identity by which the stream knows it again.
"""

from typing import Any, ClassVar, Final

import msgspec
import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, NoResponders, RequestTimeout
from ...actors.pattern import Pattern, route_of
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import Session
from ..calls import Call
from ..client import Headers
from ..codec import nest, nestrs_wire
from ..options import shown
from .connection import Connection, Error, Servers, connect, end, guarded, meaning, watch
from .options import NatsClientOptions, check_subject

__all__ = ["NatsClient"]

_IDENTITY: Final = "Nats-Msg-Id"
_STREAM: Final = "Nats-Expected-Stream"
_STORED: Final = "!"
"""Before the id of an event, in the subject on which a stream confirms it."""

_PATIENCE: Final = 2.0
"""Seconds for one try, and for a stream that has never stored such an event to be there."""

_PAUSE: Final = 0.1

_ROUTES_KEPT: Final = 1024


class _Stored(msgspec.Struct):
    """A stream's confirmation."""

    stream: str = ""
    seq: int = 0
    error: dict[str, Any] | None = None


_decode_stored: Final = msgspec.json.Decoder(_Stored).decode


class NatsClient(BrokerClient):
    """Calls services through NATS."""

    confirms: ClassVar[bool] = False
    options: NatsClientOptions

    def __init__(self, url: str, options: NatsClientOptions) -> None:
        super().__init__(shown(url), options, nestrs_wire if options.dialect == "nestrs" else nest)
        self.url = url
        self.servers = Servers.of(url, options.servers)
        self._prefix_dot = f"{options.prefix}." if options.prefix else ""
        self._stored: set[str] = set()

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        return NatsClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        return self._prefix_dot + check_subject(route_of(pattern), self.where)

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        stream = self.options.stream
        if not stream:
            await super()._emit(pattern, data, headers)
            return
        route = self.route(pattern)
        self._count += 1
        identity = headers.get(_IDENTITY) or f"{self._prefix}-{self._count:x}"
        headers = {**headers, _IDENTITY: identity, _STREAM: stream}
        began, limit = trio.current_time(), self.options.confirm_timeout
        while True:
            now = trio.current_time()
            deadline = min(now + _PATIENCE, began + limit)
            call = Call(self.where, pattern, deadline, deadline - now)
            try:
                await self._sent_and_waited(call, data, headers, answered=False)
                if len(self._stored) < _ROUTES_KEPT:
                    self._stored.add(route)
                return
            except _Refused as error:
                raise ConnectionLost(self.where, error.why, sent=False) from error
            except NoResponders as error:
                # What was stored before is so again, once the stream has a leader.
                most = limit if route in self._stored else min(limit, _PATIENCE)
                if trio.current_time() + _PAUSE >= began + most:
                    why = f"no stream stores {pattern!r}"
                    raise ConnectionLost(self.where, why, sent=False) from error
            except (ConnectionLost, RequestTimeout) as error:
                if self._closing or trio.current_time() + _PAUSE >= began + limit:
                    why = f"{pattern!r} was not confirmed by the stream {stream} in {limit:g} s"
                    raise ConnectionLost(self.where, why) from error
            await trio.sleep(_PAUSE)


class _Refused(ConnectionLost):
    """The stream will not have the event, however often it is sent."""


class NatsClientSession(Session[Reply, Sending]):
    """One connection of a NATS client."""

    def __init__(
        self,
        client: NatsClient,
        thread: AsyncioThread,
        inlet: Inlet[Reply],
        outlet: Outlet[Sending],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=client.options.connect_timeout)
        self._client = client
        self._connection: Connection | None = None
        self._inbox = ""

    async def connect(self) -> None:
        client = self._client
        self._connection = connection = await connect(
            client.url,
            client.options,
            client.servers,
            "understudy client",
            self.lose,
            self._troubled,
        )
        self._inbox = connection.new_inbox()
        await connection.subscribe(f"{self._inbox}.*", cb=guarded(self.lose, self._received))
        await connection.flush()
        self.spawn(watch(connection, client.options.heartbeat))

    async def _received(self, message: Any) -> None:
        id = message.subject.rpartition(".")[2]
        headers = message.headers
        if not message.data and headers and headers.get("Status") == "503":
            reply = Reply(id.removeprefix(_STORED), unheard=True)
        elif id.startswith(_STORED):
            reply = self._confirmed(id.removeprefix(_STORED), message.data)
        elif _is_confirmation(message.data):
            # A stream has stored the request, as it does with all on its subjects; the
            # answer is still to come.
            return
        else:
            reply = Reply(id, message.data)
        if not self.inlet.offer(reply):
            await self.inlet.put(reply)

    def _confirmed(self, id: str, body: bytes) -> Reply:
        try:
            stored = _decode_stored(body)
        except ValueError:
            return Reply(id, error=_Refused(self._client.where, "who answers is no stream"))
        if stored.error is None:
            return Reply(id)
        why = str(stored.error.get("description") or stored.error)
        if stored.error.get("code") == 503:  # full for the moment, or without a leader
            return Reply(id, error=ConnectionLost(self._client.where, why))
        return Reply(id, error=_Refused(self._client.where, f"the stream refused it: {why}"))

    async def write(self, burst: list[Sending]) -> None:
        connection = self._connection
        assert connection is not None
        try:
            for sending in burst:
                reply = ""
                if sending.id:
                    mark = "" if sending.answered else _STORED
                    reply = f"{self._inbox}.{mark}{sending.id}"
                headers = dict(sending.headers) or None
                if len(sending.body) > connection.max_payload:
                    await self._refuse(sending, connection.max_payload)
                    continue
                await connection.publish(sending.route, sending.body, reply, headers)
        except (Error, OSError) as error:
            raise meaning(error) from error

    async def _refuse(self, sending: Sending, most: int) -> None:
        why = f"a message of {len(sending.body)} bytes; the server takes {most} at most"
        if sending.id:
            await self.inlet.put(Reply(sending.id, b"", ConnectionLost(self._client.where, why)))
        else:
            self._troubled(f"not sent to {sending.route}: {why}")

    async def stop(self) -> None:
        """Nothing comes but answers."""

    async def close(self) -> None:
        if self._connection is not None:
            await end(self._connection)

    def _troubled(self, text: str) -> None:
        self.thread.back(self._client.complaints.say, "troubles with the broker", text)


def _is_confirmation(body: bytes) -> bool:
    if not body.startswith(b'{"stream":'):
        return False
    try:
        return _decode_stored(body).seq > 0
    except ValueError:
        return False
