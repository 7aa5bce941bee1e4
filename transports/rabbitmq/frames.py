"""AMQP 0-9-1 as bytes: frames cut out of a stream, and the few methods that come per message.

What comes and goes once per connection is left to pamqp. What comes with every message is
read and written here: much faster, and without failing. Publishers put what they like
into a message's properties, text that is no UTF-8 or a year 9999 among it, and the broker
passes it on; a codec that refuses it ends the connection, gets the same message again on
the next one, and never comes past it.

No sockets, no clocks. Source: the AMQP 0-9-1 specification, sections 2.3 and 4.2.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from struct import Struct
from struct import error as StructError
from typing import Any, Final

import msgspec

from ...actors.errors import DeclarationError
from ..broker.message import NO_HEADERS

try:
    from pamqp import decode, encode
except ImportError as error:
    raise DeclarationError(
        "amqp:// needs an AMQP codec, which is not installed: pip install 'understudy[rabbitmq]'"
    ) from error

__all__ = [
    "BODY",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "METHOD",
    "Properties",
    "ack",
    "cut",
    "nack",
    "publish",
    "read_confirm",
    "read_deliver",
    "read_header",
    "read_return",
]

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
_END: Final = 0xCE

HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_FRAME: Final = Struct(">BHI")
_CONTENT: Final = Struct(">HHQH")
_ACK: Final = Struct(">BHIIQBB")
_PUBLISH: Final = Struct(">BHIIH")
_HEADERS: Final = Struct(">BHIHHQH")
_LONG: Final = Struct(">Q")
_CONFIRM: Final = Struct(">QB")

_BASIC: Final = 60
_MILLISECONDS: Final = 0xFFFFFFFF
"""A time stamp beyond this, in the year 2106, is one in milliseconds."""
_FAR: Final = 253_402_300_800.0
"""The year 10000: a time stamp beyond it is none."""

_HAS_TYPE, _HAS_ENCODING, _HAS_HEADERS, _HAS_MODE = 0x8000, 0x4000, 0x2000, 0x1000
_HAS_PRIORITY, _HAS_CORRELATION, _HAS_REPLY, _HAS_EXPIRATION = 0x0800, 0x0400, 0x0200, 0x0100
_HAS_ID, _HAS_TIME = 0x0080, 0x0040


class Properties(msgspec.Struct, gc=False):
    """What travels with a message. `at` is in unix seconds, `ttl` in milliseconds, as text."""

    headers: Mapping[str, str] = NO_HEADERS
    persistent: bool = False
    priority: int | None = None
    correlation_id: str = ""
    reply_to: str = ""
    ttl: str = ""
    message_id: str = ""
    at: float = 0.0


def cut(data: bytes | bytearray, take: Callable[[int, int, bytes], None]) -> int:
    """Give every whole frame to `take(kind, channel, payload)`; returns how far that went.

    Raises `ValueError` for what is no frame.
    """
    at, size = 0, len(data)
    while size - at >= 8:
        kind, channel, length = _FRAME.unpack_from(data, at)
        end = at + 7 + length
        if end >= size:
            break
        if data[end] != _END:
            raise ValueError("a frame without its end")
        take(kind, channel, bytes(data[at + 7 : end]))
        at = end + 1
    return at


# -- in -------------------------------------------------------------------------


def read_deliver(payload: bytes) -> tuple[str, int, bool, str]:
    """Of a basic.deliver: consumer tag, delivery tag, whether redelivered, routing key."""
    tag_end = 5 + payload[4]
    consumer = payload[5:tag_end].decode("utf-8", "replace")
    (tag,) = _LONG.unpack_from(payload, tag_end)
    redelivered = payload[tag_end + 8] & 1
    exchange_end = tag_end + 10 + payload[tag_end + 9]
    key = payload[exchange_end + 1 : exchange_end + 1 + payload[exchange_end]]
    return consumer, tag, bool(redelivered), key.decode("utf-8", "replace")


def read_return(payload: bytes) -> str:
    """Of a basic.return: why."""
    return payload[7 : 7 + payload[6]].decode("utf-8", "replace")


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Of a publisher's basic.ack or basic.nack: the tag, and whether all before it are meant."""
    tag, bits = _CONFIRM.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def read_header(payload: bytes) -> tuple[int, Properties]:
    """The size of a message's body, and its properties. Never raises for what is in these."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    found = Properties()
    if flags & 0xFFFE:
        with suppress(IndexError, StructError, ValueError):
            _read_properties(payload, flags, found)
    return size, found


def _read_properties(data: bytes, flags: int, found: Properties) -> None:
    at = _CONTENT.size
    for flag in (_HAS_TYPE, _HAS_ENCODING):
        if flags & flag:
            at += 1 + data[at]
    if flags & _HAS_HEADERS:
        length = int.from_bytes(data[at : at + 4])
        if length:
            found.headers = _headers(data[at : at + 4 + length])
        at += 4 + length
    if flags & _HAS_MODE:
        found.persistent = data[at] == 2
        at += 1
    if flags & _HAS_PRIORITY:
        found.priority = data[at]
        at += 1
    if flags & _HAS_CORRELATION:
        found.correlation_id, at = _short(data, at)
    if flags & _HAS_REPLY:
        found.reply_to, at = _short(data, at)
    if flags & _HAS_EXPIRATION:
        found.ttl, at = _short(data, at)
    if flags & _HAS_ID:
        found.message_id, at = _short(data, at)
    if flags & _HAS_TIME:
        (stamp,) = _LONG.unpack_from(data, at)
        seconds = stamp / 1000 if stamp > _MILLISECONDS else float(stamp)
        found.at = seconds if seconds < _FAR else 0.0


def _short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end


def _headers(table: bytes) -> Mapping[str, str]:
    """A table as text: numbers in digits, tables and lists as JSON, bytes as UTF-8 at best."""
    try:
        _, values = decode.field_table(table)
    except Exception:  # noqa: BLE001  # whatever a publisher wrote: the message has no headers then
        return NO_HEADERS
    return {key: _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool | list | dict):
        return msgspec.json.encode(value, enc_hook=_text).decode()
    return "" if value is None else str(value)


# -- out ------------------------------------------------------------------------


def publish(
    channel: int,
    exchange: str,
    key: str,
    properties: Properties,
    body: bytes,
    frame_max: int,
    *,
    mandatory: bool = False,
) -> bytes:
    """The frames of one message. Raises `ValueError` for text over 255 bytes."""
    where = _shorts(exchange, key)
    length = 6 + len(where) + 1
    flags, written = _written(properties)
    parts = [
        _PUBLISH.pack(METHOD, channel, length, 0x003C0028, 0),
        where,
        b"\x01\xce" if mandatory else b"\x00\xce",
        _HEADERS.pack(HEADER, channel, 14 + len(written), _BASIC, 0, len(body), flags),
        written,
        b"\xce",
    ]
    room = frame_max - 8
    for at in range(0, len(body), room):
        piece = body if len(body) <= room else body[at : at + room]
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Acknowledge one delivery, or all up to it."""
    return _ACK.pack(METHOD, channel, 13, 0x003C0050, tag, multiple, _END)


def nack(channel: int, tag: int, *, requeue: bool) -> bytes:
    """Refuse one delivery."""
    return _ACK.pack(METHOD, channel, 13, 0x003C0078, tag, requeue << 1, _END)


def _written(properties: Properties) -> tuple[int, bytes]:
    flags, parts = 0, []
    if properties.headers:
        flags |= _HAS_HEADERS
        parts.append(encode.field_table(dict(properties.headers)))
    if properties.persistent:
        flags |= _HAS_MODE
        parts.append(b"\x02")
    if properties.priority is not None:
        flags |= _HAS_PRIORITY
        parts.append(bytes((properties.priority,)))
    for flag, text in (
        (_HAS_CORRELATION, properties.correlation_id),
        (_HAS_REPLY, properties.reply_to),
        (_HAS_EXPIRATION, properties.ttl),
        (_HAS_ID, properties.message_id),
    ):
        if text:
            flags |= flag
            parts.append(_shorts(text))
    if properties.at:
        flags |= _HAS_TIME
        parts.append(_LONG.pack(int(properties.at)))
    return flags, b"".join(parts)


def _shorts(*texts: str) -> bytes:
    parts = []
    for text in texts:
        data = text.encode()
        if len(data) > 255:
            raise ValueError(f"{text[:40]!r}... is longer than AMQP's 255 bytes")
        parts.append(bytes((len(data),)) + data)
    return b"".join(parts)
