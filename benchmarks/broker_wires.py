"""How the broker benchmarks fill each broker: straight on its protocol, faster than any consumer.

A `Wire` is one way of one broker to carry events. It makes what events wait in where they
do (a stream, a queue, a session), puts equal events on it, and says how many of them nobody has
acknowledged. Events go out on bare sockets (broker_lines.py); Kafka's, which wait in its
log, by its client.

Invariant: `fill` returns when the broker has everything it keeps.
"""

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pamqp import commands

from benchmarks.broker_lines import (
    PATIENCE,
    AmqpLine,
    Failed,
    MqttLine,
    NatsLine,
    dial,
    redis_command,
)
from benchmarks.broker_meter import EVENT, GROUP

__all__ = ["ORDER", "WIRES", "Wire", "message"]

ORDER: Final = {
    "id": 7,
    "customer": "Ada Lovelace",
    "items": [
        {"sku": "SKU-00417", "quantity": 2, "price": 3.5},
        {"sku": "SKU-09001", "quantity": 1, "price": 4.25},
    ],
    "note": None,
    "express": True,
}
_CHUNK: Final = 500
"""Messages in one write."""
_SILENCE: Final = 0.5
"""Seconds without a message, after which none is taken to be there."""


def message(*, bare: bool, **more: str) -> bytes:
    """The order as its event: in NestJS's packet, with `more` in that, or alone."""
    packet = ORDER if bare else {"pattern": EVENT, "data": ORDER, **more}
    return msgspec.json.encode(packet)


def until(true: Callable[[], bool], what: str) -> None:
    """Look again and again; `Failed` if it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"{what} took more than {PATIENCE:g} s")
        time.sleep(0.02)


class Wire(ABC):
    """One broker, by one of its ways. With `keeps`, events wait for their consumer."""

    keeps: ClassVar[bool] = True

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self, name: str) -> None:  # noqa: B027  # not abstract: many have nothing to make
        """Have the stream or queue there, empty."""

    @abstractmethod
    def fill(self, name: str, count: int, *, bare: bool) -> None:
        """Put events on it."""

    def left(self, name: str) -> int:
        """How many events nobody has acknowledged."""
        return 0

    def drop(self, name: str) -> None:  # noqa: B027
        """Leave nothing behind."""


class Nats(Wire):
    """NATS itself: who does not listen misses it."""

    keeps = False

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        line = NatsLine(self.url)
        body = message(bare=bare)
        one = b"PUB %b %d\r\n%b\r\n" % (EVENT.encode(), len(body), body)
        _blast(line.socket, one, count)
        line.flush()
        line.close()


class JetStream(Nats):
    """A stream in files, as ours would make it."""

    keeps = True

    def make(self, name: str) -> None:
        self._ask(f"STREAM.CREATE.{name}", {"name": name, "subjects": [EVENT], "storage": "file"})

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        super().fill(name, count, bare=bare)
        until(
            lambda: self._ask(f"STREAM.INFO.{name}")["state"]["messages"] == count, "storing events"
        )

    def left(self, name: str) -> int:
        found = self._ask(f"CONSUMER.INFO.{name}.{GROUP}")
        return int(found["num_pending"] + found["num_ack_pending"])

    def drop(self, name: str) -> None:
        self._ask(f"STREAM.DELETE.{name}")

    def _ask(self, subject: str, body: object = None) -> dict[str, Any]:
        line = NatsLine(self.url)
        try:
            return line.ask(f"$JS.API.{subject}", body)
        finally:
            line.close()


class Redis(Wire):
    """Redis pub/sub: who does not listen misses it."""

    keeps = False

    def command(self, name: str, *, bare: bool) -> tuple[str | bytes, ...]:
        """What brings one event."""
        return "PUBLISH", EVENT, message(bare=bare)

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        one = redis_command(*self.command(name, bare=bare))
        with dial(self.url) as line:
            for begin in range(0, count, _CHUNK):
                line.sendall(one * min(_CHUNK, count - begin) + b"PING\r\n")
                answers = b""
                while not answers.endswith(b"+PONG\r\n"):
                    answers = answers[-7:] + line.recv(65536)
                    if answers.startswith(b"-") or not answers:
                        raise Failed(f"Redis: {answers.decode()}")


class Streams(Redis):
    """A stream of Redis. FastStream's publisher has another name for the field."""

    keeps = True

    def command(self, name: str, *, bare: bool) -> tuple[str | bytes, ...]:
        return "XADD", name, "*", "__data__" if bare else "packet", message(bare=bare)

    def left(self, name: str) -> int:
        with redis.Redis.from_url(self.url) as client:
            (group,) = client.xinfo_groups(name)
            return int(group["pending"]) + int(group.get("lag") or 0)

    def drop(self, name: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.delete(name)


class RabbitMq(Wire):
    """A durable queue of RabbitMQ, with persistent messages."""

    def make(self, name: str) -> None:
        line = AmqpLine(self.url)
        line.call(commands.Queue.Declare(queue=name, durable=True), 1)
        line.close()

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        line = AmqpLine(self.url)
        body = message(bare=bare)
        one = AmqpLine.publish(name, body, content_type="application/json", delivery_mode=2)
        _blast(line.socket, one, count)
        declare = commands.Queue.Declare(queue=name, durable=True, passive=True)
        until(lambda: line.call(declare, 1).message_count == count, "queueing events")
        line.close()

    def left(self, name: str) -> int:
        line = AmqpLine(self.url)
        declare = commands.Queue.Declare(queue=name, durable=True, passive=True)
        found = line.call(declare, 1)
        line.close()
        return int(found.message_count)

    def drop(self, name: str) -> None:
        line = AmqpLine(self.url)
        line.call(commands.Queue.Delete(queue=name), 1)
        line.close()


class Kafka(Wire):
    """A topic of Kafka, in one partition. NestJS's packet there is the data alone."""

    def make(self, name: str) -> None:
        asyncio.run(self._make())
        # The broker itself may yet have to hear of it.
        until(lambda: EVENT in asyncio.run(self._topics()), "making a topic")

    async def _make(self) -> None:
        async with self._admin() as admin:
            await admin.create_topics([NewTopic(EVENT, 1, 1)])

    async def _topics(self) -> list[str]:
        async with self._admin() as admin:
            found: list[str] = await admin.list_topics()
            return found

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        asyncio.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        body, rest = message(bare=True), count
        async with AIOKafkaProducer(bootstrap_servers=self._server) as producer:
            while rest:
                batch = producer.create_batch()
                while rest and batch.append(key=None, value=body, timestamp=None):
                    rest -= 1
                await (await producer.send_batch(batch, EVENT, partition=0))

    def left(self, name: str) -> int:
        return asyncio.run(self._left(name))

    async def _left(self, name: str) -> int:
        """By what the group has committed, whose name NestJS makes longer, and ours as well."""
        place = TopicPartition(EVENT, 0)
        async with AIOKafkaConsumer(bootstrap_servers=self._server) as consumer:
            end: int = (await consumer.end_offsets([place]))[place]
        async with self._admin() as admin:
            names = (name, f"{name}-server")
            found = [await admin.list_consumer_group_offsets(group) for group in names]
        return end - max((each[place].offset for each in found if place in each), default=0)

    def drop(self, name: str) -> None:
        asyncio.run(self._drop())

    async def _drop(self) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([EVENT])

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._server)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    @property
    def _server(self) -> str:
        return urlsplit(self.url).netloc


class Mqtt(Wire):
    """MQTT at QoS 0: who does not listen misses it."""

    keeps = False

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        line = MqttLine(self.url)
        _blast(line.socket, line.publish(EVENT, message(bare=bare)), count)
        line.flush()
        line.close()


class MqttSession(Wire):
    """MQTT at QoS 1, where the broker keeps events for a client that has a session."""

    def make(self, name: str) -> None:
        line = MqttLine(self.url, name, forget=False)
        line.subscribe(EVENT)
        line.close()

    def fill(self, name: str, count: int, *, bare: bool) -> None:
        line = MqttLine(self.url)
        one = [line.publish(EVENT, message(bare=bare), number + 1) for number in range(_CHUNK)]
        for begin in range(0, count, _CHUNK):
            some = one[: count - begin]
            line.socket.sendall(b"".join(some))
            for _ in some:
                line.answer()
        line.close()

    def left(self, name: str) -> int:
        """What comes to the client's session now; more than nothing is told as one."""
        # A new connection would end the one of before, with what the broker has not yet read.
        time.sleep(_SILENCE)
        line = MqttLine(self.url, name, forget=False)
        line.socket.settimeout(_SILENCE)
        try:
            line.answer()
        except TimeoutError:
            return 0
        finally:
            line.close()
        return 1

    def drop(self, name: str) -> None:
        MqttLine(self.url, name).close()


def _blast(line: socket.socket, one: bytes, count: int) -> None:
    chunk = one * _CHUNK
    for _ in range(count // _CHUNK):
        line.sendall(chunk)
    line.sendall(one * (count % _CHUNK))


WIRES: Final[dict[str, type[Wire]]] = {
    "nats": Nats,
    "jetstream": JetStream,
    "redis": Redis,
    "streams": Streams,
    "rabbitmq": RabbitMq,
    "kafka": Kafka,
    "mqtt": Mqtt,
    "mqtt-session": MqttSession,
}
