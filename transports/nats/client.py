"""The NATS client: many calls in flight on one connection, one inbox for all their answers.

A request nobody listens for fails at once, since the server says so. An event is handed
to the connection and confirmed by nobody.
"""

from typing import Any, ClassVar

from ...actors.asyncio_thread import AsyncioThread, Inlet, Outlet
from ...actors.errors import ConnectionLost
from ...actors.pattern import Pattern, route_of
from ..broker.client import BrokerClient, ClientSession, Reply, Sending
from ..broker.session import Session
from ..codec import nest, nestrs_wire
from ..options import shown
from .connection import Connection, Error, connect, meaning, watch
from .options import NatsClientOptions, check_subject

__all__ = ["NatsClient"]


class NatsClient(BrokerClient):
    """Calls services through NATS."""

    confirms: ClassVar[bool] = False
    options: NatsClientOptions

    def __init__(self, url: str, options: NatsClientOptions) -> None:
        super().__init__(shown(url), options, nestrs_wire if options.dialect == "nestrs" else nest)
        self.url = url
        self._prefix_dot = f"{options.prefix}." if options.prefix else ""

    def session(self, inlet: Inlet[Reply], outlet: Outlet[Sending]) -> ClientSession:
        return NatsClientSession(self, self.thread, inlet, outlet)

    def route(self, pattern: Pattern) -> str:
        return self._prefix_dot + check_subject(route_of(pattern), self.where)


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
            client.url, client.options, "understudy client", self.lose, self._troubled
        )
        self._inbox = connection.new_inbox()
        await connection.subscribe(f"{self._inbox}.*", cb=self._received)
        await connection.flush()
        self.spawn(watch(connection, client.options.heartbeat))

    async def _received(self, message: Any) -> None:
        id = message.subject.rpartition(".")[2]
        headers = message.headers
        if not message.data and headers and headers.get("Status") == "503":
            reply = Reply(id, unheard=True)
        else:
            reply = Reply(id, message.data)
        if not self.inlet.offer(reply):
            await self.inlet.put(reply)

    async def write(self, burst: list[Sending]) -> None:
        connection = self._connection
        assert connection is not None
        try:
            for sending in burst:
                reply = f"{self._inbox}.{sending.id}" if sending.answered else ""
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
        if self._connection is not None and not self._connection.is_closed:
            await self._connection.close()

    def _troubled(self, text: str) -> None:
        self.thread.back(self._client.complaints.say, "troubles with the broker", text)
