"""The floor of the broker benchmarks: each broker's own Python client, and msgspec.

They decode the same JSON into the same class, and acknowledge where that is due, with as
many messages in hand as ours. Left out on purpose: whatever happens when something fails
(a lost connection, a bad body, a message that comes again, a full mailbox), and more than
one handler.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import aio_pika
import msgspec
import nats
import redis.asyncio
from aiokafka import AIOKafkaConsumer
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.broker_meter import EVENT, GROUP, IN_HAND, Meter, ready
from benchmarks.tcp_server import Order

__all__ = ["consume"]


class Packet(msgspec.Struct):
    """NestJS's packet of an event."""

    pattern: str
    data: Order


decode: Final = msgspec.json.Decoder(Packet).decode
decode_order: Final = msgspec.json.Decoder(Order).decode
Consumer = Callable[[str, str, Meter, asyncio.Event], Awaitable[None]]


def consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    """Count events until all have come."""
    if wire.startswith("mqtt"):
        _mqtt(wire, url, name, messages, warmup)
        return
    asyncio.run(_consume(CONSUMERS[wire], url, name, messages, warmup))


async def _consume(consumer: Consumer, url: str, name: str, messages: int, warmup: int) -> None:
    done = asyncio.Event()
    meter = Meter(warmup, messages, done.set)
    await consumer(url, name, meter, done)
    meter.tell()


async def _nats(url: str, _: str, meter: Meter, done: asyncio.Event) -> None:
    client = await nats.connect(url)

    async def handle(message: Any) -> None:
        decode(message.data)
        meter.count()

    await client.subscribe(EVENT, cb=handle)
    await client.flush()
    ready()
    await done.wait()
    await client.close()


async def _jetstream(url: str, name: str, meter: Meter, done: asyncio.Event) -> None:
    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe(EVENT, GROUP, stream=name)
    ready()
    while not done.is_set():
        for message in await subscription.fetch(IN_HAND, timeout=5):
            decode(message.data)
            await message.ack()
            meter.count()
    await client.drain()


async def _redis(url: str, _: str, meter: Meter, done: asyncio.Event) -> None:
    async with redis.asyncio.from_url(url) as client, client.pubsub() as channels:
        await channels.subscribe(EVENT)
        await channels.get_message(timeout=5)
        ready()
        async for message in channels.listen():
            decode(message["data"])
            meter.count()
            if done.is_set():
                return


async def _streams(url: str, name: str, meter: Meter, done: asyncio.Event) -> None:
    async with redis.asyncio.from_url(url) as client:
        await client.xgroup_create(name, GROUP, id="0")
        ready()
        while not done.is_set():
            read = client.xreadgroup(GROUP, "raw", {name: ">"}, count=IN_HAND, block=1000)
            found: Any = await read
            for _, entries in found:
                for _, fields in entries:
                    decode(fields[b"packet"])
                    meter.count()
                await client.xack(name, GROUP, *(id for id, _ in entries))


async def _rabbitmq(url: str, name: str, meter: Meter, done: asyncio.Event) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=IN_HAND)
        queue = await channel.declare_queue(name, durable=True)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            decode(message.body)
            await message.ack()
            meter.count()

        await queue.consume(handle)
        ready()
        await done.wait()


async def _kafka(url: str, name: str, meter: Meter, done: asyncio.Event) -> None:
    consumer = AIOKafkaConsumer(
        EVENT,
        bootstrap_servers=urlsplit(url).netloc,
        group_id=name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        ready()
        while not done.is_set():
            found: Any = await consumer.getmany(timeout_ms=1000)
            for records in found.values():
                for record in records:
                    decode_order(record.value)
                    meter.count()
            await consumer.commit()


def _mqtt(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    parts = urlsplit(url)
    acknowledges = wire == "mqtt-session"
    client = Client(
        CallbackAPIVersion.VERSION2,
        name,
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=acknowledges,
    )

    # What it has acknowledged is sent before that.
    meter = Meter(warmup, messages, client.disconnect)

    def handle(_: Client, __: Any, message: MQTTMessage) -> None:
        decode(message.payload)
        if acknowledges:
            client.ack(message.mid, message.qos)
        meter.count()

    def subscribe(*_: Any) -> None:
        client.subscribe(EVENT, int(acknowledges))

    client.on_message = handle
    client.on_connect = subscribe
    client.on_subscribe = lambda *_: ready()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = IN_HAND
    if acknowledges:
        properties.SessionExpiryInterval = 600
    client.connect(
        str(parts.hostname),
        parts.port or 1883,
        clean_start=not acknowledges,
        properties=properties,
    )
    client.loop_forever()
    meter.tell()


CONSUMERS: Final[dict[str, Consumer]] = {
    "nats": _nats,
    "jetstream": _jetstream,
    "redis": _redis,
    "streams": _streams,
    "rabbitmq": _rabbitmq,
    "kafka": _kafka,
}
