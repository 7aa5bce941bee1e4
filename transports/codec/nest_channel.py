"""NestJS's packets on brokers where the channel decides the handler: NATS, Redis, MQTT.

The packet's own pattern is not looked at, as in NestJS. Foreign JSON is an event's data.
Source: @nestjs/microservices 12.1.1 (deserializers, server-nats, server-redis).
"""

from typing import Final

import msgspec

from . import nest
from .packet import Incoming, Packet

__all__ = ["read"]

_decode: Final = msgspec.json.Decoder(Packet).decode


def read(prefix: str, channel: str, body: bytes) -> Incoming:
    """What a message means. Raises `CodecError` for what is not JSON in UTF-8."""
    packet = None
    if body.isascii():
        try:
            packet = _decode(body)
        except Exception:  # noqa: BLE001  # of any kind: the long way finds it again
            packet = None
    if packet is None or not packet.data:
        packet = nest.decode_message(body)
    route = channel.removeprefix(prefix) if prefix else channel
    return Incoming(route, packet.data, bytes(packet.id) if packet.id else b"")
