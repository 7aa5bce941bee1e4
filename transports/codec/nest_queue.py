"""NestJS's packets on RabbitMQ, where all patterns share a queue. The module is a `Dialect`.

The packet's own pattern decides. Answers have no id, since a message property has it; only
the one that says there is no handler has.
Source: @nestjs/microservices 12.1.1 (server-rmq, client-rmq), whose recorded bytes are in the
tests.
"""

from .nest import (
    beginning,
    decode_answer,
    decode_message,
    decode_packet,
    error_json,
    event,
    frame,
    frames,
    invalid_request,
    no_handler,
    pattern_json,
    request,
    route,
    streams,
    typed_decoder,
)
from .packet import Incoming

__all__ = [
    "beginning",
    "decode_answer",
    "decode_packet",
    "end",
    "error_json",
    "event",
    "failure",
    "frame",
    "framed_value",
    "frames",
    "invalid_request",
    "item",
    "no_handler",
    "pattern_json",
    "read",
    "request",
    "route",
    "streams",
    "typed_decoder",
    "value",
]


def read(key: str, body: bytes) -> Incoming:
    """What a message means. Raises `CodecError` for what is not JSON in UTF-8.

    What has neither pattern nor data is somebody else's: its routing key is the pattern.
    """
    packet = decode_message(body)
    if packet.pattern:
        return Incoming(route(bytes(packet.pattern)), bytes(packet.data), bytes(packet.id))
    return Incoming("" if packet.id else None, bytes(packet.data), bytes(packet.id))


def value(raw_id: bytes, value_json: bytes) -> bytes:
    """The one answer to a call, or the last item of a stream."""
    return b'{"response":%b,"isDisposed":true}' % value_json


framed_value = value


def item(raw_id: bytes, value_json: bytes) -> bytes:
    """One item of a stream, with more to follow."""
    return b'{"response":%b}' % value_json


def end(raw_id: bytes) -> bytes:
    """The end of a stream, or the answer of a handler that has none."""
    return b'{"isDisposed":true}'


def failure(raw_id: bytes, error_json: bytes) -> bytes:
    """The answer that is an error."""
    return b'{"err":%b,"isDisposed":true}' % error_json
