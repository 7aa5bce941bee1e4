"""NestJS's packets on brokers where the channel decides the handler: NATS, Redis, MQTT.

The packet's own pattern is not looked at, as in NestJS. Foreign JSON is an event's data.
Source: @nestjs/microservices 12.1.1 (deserializers, server-nats, server-redis).
"""

from . import nest
from .packet import Incoming

__all__ = ["read"]


def read(prefix: str, channel: str, body: bytes) -> Incoming:
    """What a message means. Raises `CodecError` for what is not JSON in UTF-8."""
    packet = nest.decode_message(body)
    route = channel.removeprefix(prefix) if prefix else channel
    return Incoming(route, packet.data, bytes(packet.id) if packet.id else b"")
