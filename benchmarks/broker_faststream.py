"""FastStream in the broker benchmarks: typed handlers, as its documentation writes them.

It gets the order alone, in the form in which its own publisher sends one: the packet of
NestJS around it would only cost it more. Acknowledgements follow the handler, which is
its default but on Kafka, where it commits what it has received now and then and is left to;
the log is off, and as many messages are asked for at once as ours has in hand.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from faststream import kafka, nats, rabbit, redis
from pydantic import BaseModel

from benchmarks.broker_meter import EVENT, GROUP, IN_HAND, REQUEST, Meter, ready

__all__ = ["consume", "service"]


class Item(BaseModel):
    sku: str
    quantity: int
    price: float


class Order(BaseModel):
    id: int
    customer: str
    items: list[Item]
    note: str | None
    express: bool


def consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    """Count events until all have come."""
    asyncio.run(_consume(wire, url, name, messages, warmup))


async def _consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    done = asyncio.Event()
    meter = Meter(warmup, messages, done.set)

    async def created(order: Order) -> None:
        meter.count()

    broker, subscriber = _broker(wire, url, name, EVENT)
    subscriber(created)
    async with broker:
        await broker.start()
        await _heard(wire, broker)
        ready()
        await done.wait()
    meter.tell()


def service(wire: str, url: str, name: str) -> None:
    """Answer requests for ever."""
    asyncio.run(_service(wire, url, name))


async def _service(wire: str, url: str, name: str) -> None:
    async def place(order: Order) -> dict[str, float]:
        total = sum(item.quantity * item.price for item in order.items)
        return {"id": order.id, "total": total, "lines": len(order.items)}

    broker, subscriber = _broker(wire, url, name, REQUEST)
    subscriber(place)
    async with broker:
        await broker.start()
        await _heard(wire, broker)
        ready()
        await asyncio.Event().wait()


def _broker(wire: str, url: str, name: str, pattern: str) -> tuple[Any, Callable[..., Any]]:
    """A broker and what makes a function its handler."""
    if wire == "rabbitmq":
        channel = rabbit.Channel(prefetch_count=IN_HAND)
        rabbits = rabbit.RabbitBroker(url, logger=None, default_channel=channel)
        return rabbits, rabbits.subscriber(rabbit.RabbitQueue(name, durable=True))
    if wire == "kafka":
        logs = kafka.KafkaBroker(urlsplit(url).netloc, logger=None)
        return logs, logs.subscriber(pattern, group_id=name, auto_offset_reset="earliest")
    if wire in ("redis", "streams"):
        redises = redis.RedisBroker(url)
        if wire == "redis":
            return redises, redises.subscriber(pattern)
        stream = redis.StreamSub(
            name, group=GROUP, consumer="bench", last_id="0", max_records=IN_HAND
        )
        return redises, redises.subscriber(stream=stream)
    broker = nats.NatsBroker(url, logger=None)
    if wire == "nats":
        return broker, broker.subscriber(pattern)
    return broker, broker.subscriber(
        pattern,
        stream=nats.JStream(name, declare=False),
        durable=GROUP,
        pull_sub=nats.PullSub(batch_size=IN_HAND),
    )


async def _heard(wire: str, broker: Any) -> None:
    """Wait until the broker knows of the subscription, where starting does not."""
    if wire in ("nats", "jetstream"):
        await (await broker.connect()).flush()
