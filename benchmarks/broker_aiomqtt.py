"""aiomqtt in the broker benchmarks: the other client for asyncio, which is paho inside.

It decodes as paho does (broker_raw.py), and acknowledges by itself when a message has come,
which it knows no other way of.
"""

import asyncio
from urllib.parse import urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.broker_meter import EVENT, IN_HAND, Meter, ready
from benchmarks.broker_raw import decode

__all__ = ["consume"]


def consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    """Count events until all have come."""
    asyncio.run(_consume(wire, url, name, messages, warmup))


async def _consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    parts = urlsplit(url)
    full: list[bool] = []
    meter = Meter(warmup, messages, lambda: full.append(True))
    kept = wire == "mqtt-session"
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = IN_HAND
    if kept:
        properties.SessionExpiryInterval = 600
    client = aiomqtt.Client(
        str(parts.hostname),
        parts.port or 1883,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=not kept,
        properties=properties,
    )
    async with client:
        await client.subscribe(EVENT, int(kept))
        ready()
        async for message in client.messages:
            payload = message.payload
            if not isinstance(payload, bytes):
                raise TypeError(f"a payload of bytes was expected, not {type(payload)}")
            decode(payload)
            meter.count()
            if full:
                break
    meter.tell()
