"""How the broker benchmarks fill each broker: straight on its protocol, faster than any consumer.

A `Wire` is one way of one broker to carry events. It makes what events wait in where they
do (a stream, a queue), puts equal events on it, and says how many of them nobody has
acknowledged. Events go out on bare sockets (broker_lines.py).

Invariant: `fill` returns when the broker has everything it keeps.
"""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec
import redis
from pamqp import commands

from benchmarks.broker_lines import (
    PATIENCE,
    AmqpLine,
    Failed,
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
}
