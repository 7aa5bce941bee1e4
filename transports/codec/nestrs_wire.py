"""nestrs's wire format on brokers: `WireRequest` and `WireResponse`. The module is a `Dialect`.

Owns bytes and their meaning. Unlike on TCP nothing has an id in its body: the broker's
reply address or the request's own names whose answer it is. NATS carries bare payloads.

Source: nestrs-microservices 0.3.8 (src/wire.rs, src/nats.rs, src/redis.rs).
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from ...actors.encoding import encode
from ...actors.pattern import Pattern, route_of
from .errors import CodecError
from .nestrs import (
    beginning,
    error_json,
    frame,
    frames,
    invalid_request,
    item,
    pattern_json,
    route,
    streams,
    typed_decoder,
)
from .packet import ABSENT, Answer, Incoming, Packet

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
    "read_payload",
    "request",
    "route",
    "streams",
    "typed_decoder",
    "value",
    "wire_request",
]

_ID: Final = b'""'
"""Stands where a request has an id only because there is a reply address."""


class _Request(msgspec.Struct, gc=False):
    kind: str
    pattern: str
    payload: Raw
    reply: str | None = None
    correlation_id: str | None = None


class _Response(msgspec.Struct, gc=False):
    ok: bool
    payload: Raw = ABSENT
    error: dict[str, Any] | None = None


_decode_request: Final = msgspec.json.Decoder(_Request).decode
_decode_response: Final = msgspec.json.Decoder(_Response).decode
_NULL: Final = Raw(b"null")


def read_payload(prefix: str, channel: str, body: bytes) -> Incoming:
    """A bare payload: the channel is its pattern, and a reply address makes it a request."""
    return Incoming(channel.removeprefix(prefix), body or b"null", _ID)


def read(prefix: str, channel: str, body: bytes) -> Incoming:
    """A `WireRequest`. Raises `CodecError` for what is none."""
    try:
        found = _decode_request(body)
    except (ValueError, RecursionError) as error:
        raise CodecError("the message is no WireRequest of nestrs") from error
    wanted = found.kind == "send" and found.reply
    return Incoming(found.pattern, bytes(found.payload), _ID if wanted else b"", found.reply or "")


def wire_request(
    kind: str, pattern: Pattern, data_json: bytes, reply: str = "", correlation_id: str = ""
) -> bytes:
    """A `WireRequest`, members in the order in which nestrs writes them."""
    parts = [
        b'{"kind":%b,"pattern":%b,"payload":%b'
        % (encode(kind), encode(route_of(pattern)), data_json or b"null")
    ]
    if reply:
        parts.append(b',"reply":%b' % encode(reply))
    if correlation_id:
        parts.append(b',"correlation_id":%b' % encode(correlation_id))
    return b"".join((*parts, b"}"))


def decode_packet(body: bytes) -> Packet:
    """Bodies are read by `read` and `read_payload`, which know the channel."""
    raise CodecError("a body alone is no packet here")


def decode_answer(body: bytes) -> Answer:
    """A `WireResponse` as nestrs's client takes it. Raises `CodecError` for what is none."""
    try:
        response = _decode_response(body)
    except (ValueError, RecursionError) as error:
        raise CodecError("the answer is no WireResponse of nestrs") from error
    if response.ok:
        return Answer(None, response.payload or _NULL)
    return Answer(None, UNSET, response.error or {"message": "microservice error"})


def value(raw_id: bytes, value_json: bytes) -> bytes:
    """The answer to a call."""
    return b'{"ok":true,"payload":%b}' % value_json


framed_value = value


def end(raw_id: bytes) -> bytes:
    """The answer of a handler that has none."""
    return value(raw_id, b"null")


def failure(raw_id: bytes, error_json: bytes) -> bytes:
    """The answer that is an error, as `error_json` wrote it."""
    return b'{"ok":false,"error":%b}' % error_json


def no_handler(raw_id: bytes, pattern: bytes = b'""') -> bytes:
    """The answer when nobody handles the pattern (its JSON), which stands in the text."""
    name = bytes(pattern)[1:-1]
    return failure(raw_id, b'{"message":"no microservice handler for pattern `%b`"}' % name)


def request(pattern_json: bytes, data_json: bytes, raw_id: bytes) -> bytes:
    """A bare payload, as NATS carries it."""
    return data_json or b"null"


def event(pattern_json: bytes, data_json: bytes) -> bytes:
    """A bare payload, as NATS carries it."""
    return data_json or b"null"
