"""What NestJS makes of a record on Kafka: values, headers, answers.

Owns bytes and their meaning. A value is the data alone: objects and arrays as JSON, text as
it is, other values as their text, null as none; so the text `12` and the number 12 are the
same there, and who reads it knows what it asked for. What begins with a byte of zero is
binary, and read as the JSON of its base64. Whose answer it is, and whether it is an error or
the last one, stands in headers.

Between a session and the trio half an answer is one byte that says what it is, and JSON:
the module is the `Dialect` of that.

Source: @nestjs/microservices 12.1.1 (server-kafka, client-kafka, kafka-parser,
kafka-request.serializer), whose recorded bytes are in the tests.
"""

from base64 import b64encode
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import attrs
import msgspec
from msgspec import UNSET, Raw

from ...actors.encoding import encode
from ..codec.errors import CodecError
from ..codec.nest import (
    beginning,
    decode_packet,
    error_json,
    frame,
    frames,
    invalid_request,
    pattern_json,
    route,
    streams,
    typed_decoder,
)
from ..codec.packet import Answer

__all__ = [
    "CORRELATION_ID",
    "ERROR",
    "IS_DISPOSED",
    "KEY",
    "PARTITION",
    "REPLY_PARTITION",
    "REPLY_TOPIC",
    "Record",
    "answer_of",
    "beginning",
    "data_of",
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
    "record_of",
    "reply_of",
    "request",
    "route",
    "streams",
    "takes_text",
    "text_of",
    "typed_decoder",
    "untexted",
    "value",
    "value_of",
]

CORRELATION_ID: Final = "kafka_correlationId"
REPLY_TOPIC: Final = "kafka_replyTopic"
REPLY_PARTITION: Final = "kafka_replyPartition"
ERROR: Final = "kafka_nest-err"
IS_DISPOSED: Final = "kafka_nest-is-disposed"

KEY: Final = "kafka_key"
"""The header by which a record's key is seen and set here."""
PARTITION: Final = "kafka_partition"
"""Likewise its partition."""

Headers = list[tuple[str, bytes]]

_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_any: Final = msgspec.json.Decoder().decode
_skip: Final = msgspec.json.Decoder(Raw).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_NO_HANDLER: Final = b"There is no matching message handler defined in the remote service."
_DISPOSED: Final = (IS_DISPOSED, b"\0")


@attrs.frozen
class Record:
    """A record to be sent, as far as data can tell."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = attrs.field(factory=list)
    partition: int | None = None


# -- values ---------------------------------------------------------------------


def data_of(value: bytes) -> bytes:
    """The JSON of a value that is there; text is a JSON string, whatever it looks like."""
    first = value[:1]
    if first == b"\0":
        return encode(b64encode(value).decode())
    if first in (b"{", b"[") and is_json(value):
        return value
    return encode(value.decode(errors="replace"))


def untexted(data: bytes) -> bytes:
    """The same for who takes no text: the number, truth or null that a text stands for."""
    if data[:1] == b'"':
        text = _decode_text(data).strip().encode()
        if text[:1] not in (b"{", b"[", b'"') and is_json(text):
            return text
    return data


def takes_text(annotation: Any) -> bool:
    """Whether a text is what a type asks for, so that it is left alone."""
    if annotation in (Any, str, object):
        return True
    if get_origin(annotation) in (Union, UnionType):
        return any(takes_text(each) for each in get_args(annotation) if each is not NoneType)
    return False


def is_json(value: bytes) -> bool:
    try:
        if not value.isascii():
            value.decode()
        _skip(value)
    except (ValueError, RecursionError):
        return False
    return True


def value_of(data: bytes) -> bytes | None:
    """The value for some JSON; nothing at all and null have none."""
    if not data or data == b"null":
        return None
    return text_of(data) if data[:1] == b'"' else data


def text_of(data: bytes) -> bytes:
    """The text of a JSON string."""
    return _decode_text(data).encode(errors="replace")


def record_of(data: bytes) -> Record:
    """An object with a key or a value is a record itself, as NestJS's serializer has it."""
    if data[:1] == b"{":
        found = _decode_object(data)
        if "key" in found or "value" in found:
            partition = bytes(found.get("partition", b"")).decode()
            return Record(
                value_of(bytes(found.get("value", b""))),
                value_of(bytes(found.get("key", b""))),
                _headers_of(found.get("headers", Raw(b"{}"))),
                int(partition) if partition.isdecimal() else None,
            )
    return Record(value_of(data))


def _headers_of(data: Raw) -> Headers:
    if bytes(data)[:1] != b"{":
        return []
    return [(name, value_of(bytes(text)) or b"") for name, text in _decode_object(data).items()]


# -- answers on their way out ---------------------------------------------------


def value(raw_id: bytes, value_json: bytes) -> bytes:
    """The one answer to a call, or the last item of a stream."""
    return b"v" + value_json


framed_value = value


def item(raw_id: bytes, value_json: bytes) -> bytes:
    """One item of a stream, with more to follow."""
    return b"i" + value_json


def end(raw_id: bytes) -> bytes:
    """The end of a stream, or the answer of a handler that has none."""
    return b"d"


def failure(raw_id: bytes, error_json: bytes) -> bytes:
    """The answer that is an error."""
    return b"e" + error_json


def no_handler(raw_id: bytes, pattern: bytes = b"") -> bytes:
    """The answer when nobody handles the pattern."""
    return b"n"


def reply_of(correlation_id: bytes, body: bytes, *, records: bool, as_json: bool) -> Record:
    """The record for an answer that one of the functions above made."""
    kind, data = body[:1], body[1:]
    whose = (CORRELATION_ID, correlation_id)
    if kind == b"n":
        return Record(None, None, [whose, (ERROR, _NO_HANDLER)])
    if kind == b"e":
        text = text_of(data) if data[:1] == b'"' else data
        return Record(None, None, [whose, (ERROR, text), _DISPOSED])
    record = record_of(data) if records else Record((data or None) if as_json else value_of(data))
    last = () if kind == b"i" else (_DISPOSED,)
    return attrs.evolve(record, headers=[*record.headers, whose, *last])


# -- answers on their way in ----------------------------------------------------


def answer_of(
    value: bytes | None, headers: Iterable[tuple[str, bytes | None]], *, as_json: bool
) -> tuple[str, bytes]:
    """Whose answer a record is, and the answer in the form of `decode_answer`."""
    found = dict(headers)
    id = (found.get(CORRELATION_ID) or b"").decode(errors="replace")
    error = found.get(ERROR)
    if error is not None:
        return id, (b"e" + data_of(error)) if error else b"d"
    if value is None:
        return id, b"d" if IS_DISPOSED in found else b"inull"
    data = value if as_json else data_of(value)
    return id, (b"v" if IS_DISPOSED in found else b"i") + data


def decode_answer(body: bytes) -> Answer:
    """What `answer_of` found. Raises `CodecError` for a value that is no JSON.

    A last answer without a value is the end: who asked for one value has None for it.
    """
    kind, data = body[:1], body[1:]
    if kind == b"d":
        return Answer(None)
    if not is_json(data):
        raise CodecError("its value is no JSON")
    if kind == b"e":
        return Answer(None, UNSET, _decode_any(data))
    return Answer(None, Raw(data), UNSET, kind == b"v")


def request(pattern_json: bytes, data_json: bytes, raw_id: bytes) -> bytes:
    """The data alone: the rest stands in headers."""
    return data_json


def event(pattern_json: bytes, data_json: bytes) -> bytes:
    """The data alone."""
    return data_json
