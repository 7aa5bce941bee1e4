"""A stranger on the broker: publishes what no client of ours would, and looks into queues."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from pamqp import commands

from understudy.actors.asyncio_thread import AsyncioThread, asyncio_thread
from understudy.actors.errors import UnderstudyError
from understudy.supervisors.child import ChildSpec
from understudy.transports.rabbitmq.channel import Channel
from understudy.transports.rabbitmq.connection import Connection, connect
from understudy.transports.rabbitmq.frames import Properties, publish
from understudy.transports.rabbitmq.options import RabbitClientOptions

from ..serving import Service, hosting

__all__ = ["DIRECT", "Peer", "killed", "peer_of"]

DIRECT = "amq.rabbitmq.reply-to"


class Peer:
    """One connection; `got` is all that came to it: properties and body."""

    def __init__(self, thread: AsyncioThread, connection: Connection, channel: Channel) -> None:
        self.got: list[tuple[Properties, bytes]] = []
        self._thread = thread
        self._connection = connection
        self._channel = channel
        channel.on_deliver = lambda *found: self.got.append((found[-2], found[-1]))

    async def call(self, method: Any) -> Any:
        """The broker's answer to a method."""
        return await self._thread.call(self._channel.call, method)

    async def publish(
        self, key: str, body: bytes, properties: Properties | None = None, *, exchange: str = ""
    ) -> None:
        data = publish(1, exchange, key, properties or Properties(), body, 131072)
        await self.write(data)

    async def write(self, data: bytes) -> None:
        """Send these very bytes."""

        async def write() -> None:
            self._connection.write(data)

        await self._thread.call(write)

    async def consume(self, queue: str, *, no_ack: bool = True) -> None:
        await self.call(commands.Basic.Consume(queue=queue, no_ack=no_ack))

    async def depth(self, queue: str) -> int:
        """How many messages wait in the queue and are with nobody."""
        return int(
            (await self.call(commands.Queue.Declare(queue=queue, passive=True))).message_count
        )

    async def holds(self, queue: str, count: int, within: float = 5) -> None:
        """Wait until just so many messages wait in the queue."""
        with trio.fail_after(within):
            while await self.depth(queue) != count:  # noqa: ASYNC110  # brokers tell nobody
                await trio.sleep(0.02)

    async def abandoned(self, queue: str, within: float = 5) -> None:
        """Wait until nobody consumes from the queue."""
        method = commands.Queue.Declare(queue=queue, passive=True)
        with trio.fail_after(within):
            while (await self.call(method)).consumer_count:  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def has(self, count: int, within: float = 5) -> None:
        """Wait until so many messages have come."""
        with trio.fail_after(within):
            while len(self.got) < count:  # noqa: ASYNC110
                await trio.sleep(0.005)


@asynccontextmanager
async def peer_of(url: str) -> AsyncIterator[Peer]:
    thread = asyncio_thread("users")
    options = RabbitClientOptions(queue="any")
    nothing: Callable[[Any], None] = lambda _: None  # noqa: E731

    async def begin() -> tuple[Connection, Channel]:
        connection = await connect(url, options, "stranger", lost=nothing, blocked=nothing)
        return connection, await connection.channel()

    connection, channel = await thread.call(begin)
    try:
        yield Peer(thread, connection, channel)
    finally:
        with trio.move_on_after(5, shield=True):
            close: Callable[[], Awaitable[None]] = connection.close
            await thread.call(close)


@asynccontextmanager
async def killed(url: str, *children: ChildSpec, **options: Any) -> AsyncIterator[Service]:
    """A service that is killed at the end of the block, with whatever it has in hand."""
    try:
        async with hosting(url, *children, **options) as service:
            yield service
            service.system.kill()
            await service.system.stopped()
    except* UnderstudyError:
        pass
