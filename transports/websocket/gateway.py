"""NestJS's gateways on plain WebSocket: `{"event", "data"}` in, and what a handler gives out.

There are no ids. An answer is a message like any other: what a handler returns goes out
as it is (usually an `{"event", "data"}` of its own), nothing at all for null, and one
message for every item of a stream. An error is an event named `exception`. What is no
message, and an event that nobody handles, is ignored.

The whole message stands for the id of a request here: an error repeats its event and data.

Source: @nestjs/platform-ws and @nestjs/websockets 12.1.1, whose recorded answers are in the
tests.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from ...actors.encoding import encode
from ...actors.pattern import Pattern, route_of
from ...supervisors.registry import Registry
from ..codec import nest
from ..codec.errors import CodecError
from ..codec.packet import ABSENT, Packet

__all__ = ["GatewayDialect"]

_NULL: Final = b"null"


class _Message(msgspec.Struct, gc=False):
    event: Raw = ABSENT
    data: Raw = ABSENT


_decode: Final = msgspec.json.Decoder(_Message).decode
_decode_event: Final = msgspec.json.Decoder(str).decode


class GatewayDialect:
    """The server's half of the dialect; clients of ours speak the others.

    The registry tells what only events handle: such a message is an event, which is
    retried and kept as a dead letter, and has no answer.
    """

    streams = True
    frames = staticmethod(nest.frames)
    frame = staticmethod(nest.frame)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def framed_value(self, raw_id: bytes, value_json: bytes) -> bytes:
        return self.frame(self.value(raw_id, value_json))

    def beginning(self, pattern: bytes) -> None:
        """There is no short way: see `typed_decoder`."""

    def typed_decoder(self, annotation: Any) -> None:
        """Messages are always parsed by `decode_packet`."""

    def route(self, pattern: bytes) -> str | None:
        try:
            return _decode_event(pattern)
        except ValueError:
            return None

    def pattern_json(self, pattern: Pattern, *, event: bool = False) -> bytes:
        return encode(route_of(pattern))

    def error_json(self, error: Any) -> bytes:
        """The error alone: what goes around it depends on the message, see `failure`."""
        return encode(error)

    def decode_packet(self, body: bytes) -> Packet | None:
        message = _message(body)
        if message is None:
            return None
        route = self.route(bytes(message.event))
        if route is not None and not self._registry.request(route) and self._registry.event(route):
            return Packet(message.event, message.data)
        return Packet(message.event, message.data, Raw(body))

    def invalid_request(self) -> bytes:
        """Nothing: it is ignored."""
        return b""

    def value(self, raw_id: bytes, value_json: bytes) -> bytes:
        return b"" if value_json == _NULL else value_json

    def item(self, raw_id: bytes, value_json: bytes) -> bytes:
        return self.value(raw_id, value_json)

    def end(self, raw_id: bytes) -> bytes:
        """Nothing tells that there was no answer, or that a stream has ended."""
        return b""

    def failure(self, raw_id: bytes, error_json: bytes) -> bytes:
        """The event `exception`: objects as they are, anything else with its cause."""
        if error_json[:1] not in (b"{", b"["):
            message = _message(raw_id) or _Message(Raw(_NULL))
            cause = b'{"pattern":%b' % bytes(message.event)
            if message.data:
                cause += b',"data":%b' % bytes(message.data)
            error_json = b'{"status":"error","message":%b,"cause":%b}}' % (error_json, cause)
        return b'{"event":"exception","data":%b}' % error_json

    def no_handler(self, raw_id: bytes, pattern: bytes = b"") -> bytes:
        """Nothing: it is ignored."""
        return b""

    def request(self, pattern_json: bytes, data_json: bytes, raw_id: bytes) -> bytes:
        return self.event(pattern_json, data_json)

    def event(self, pattern_json: bytes, data_json: bytes) -> bytes:
        if not data_json:
            return b'{"event":%b}' % pattern_json
        return b'{"event":%b,"data":%b}' % (pattern_json, data_json)

    def decode_answer(self, body: bytes) -> nest.Answer:
        """No answer can be told from any other message."""
        raise CodecError("a gateway's messages do not say what they answer")


def _message(body: bytes) -> _Message | None:
    """The message in a body; None for anything else."""
    try:
        if not body.isascii():
            body.decode()
        message = _decode(body)
    except (ValueError, RecursionError):
        return None
    return message if message.event else None
