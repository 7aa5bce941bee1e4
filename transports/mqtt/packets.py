"""MQTT's PUBLISH: how it is read as it comes in, and the properties that go out with one.

paho-mqtt makes some fifty objects for each message, its properties even where it has none,
and ends the connection for a user property that holds U+FEFF, which brokers let through. So
these parts of the protocol are read and written here; paho does all the rest.

Bytes in, records out; nothing here knows connections. Source: MQTT 5, sections 2.2.2
(properties), 3.3 (PUBLISH); MQTT 3.1.1, section 3.3.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

__all__ = ["Packed", "Publish", "packed", "read"]

_EXPIRY: Final = 0x02
_CONTENT_TYPE: Final = 0x03
_SUBSCRIPTION: Final = 0x0B
_USER: Final = 0x26
_TEXTS: Final = frozenset((_CONTENT_TYPE, 0x08, 0x09))
"""Properties with their length before them: the response topic and correlation data too."""
_FIXED: Final = {0x01: 1, _EXPIRY: 4, 0x23: 2}
"""Properties of a fixed length: the payload's format, the expiry, a topic alias."""

NONE: Final[Mapping[str, str]] = {}


class Publish(msgspec.Struct, gc=False):
    """A message as the broker sent it. `mid` is 0 at QoS 0."""

    topic: str
    body: bytes
    qos: int
    mid: int
    again: bool
    retained: bool
    headers: Mapping[str, str] = NONE
    content_type: str = ""
    subscriptions: tuple[int, ...] = ()


def read(command: int, packet: bytearray, *, five: bool) -> Publish:
    """A PUBLISH by its first byte and what follows its length.

    A topic that is not UTF-8 is read with escapes. Raises `ValueError` for what is none.
    """
    at = 2 + (packet[0] << 8 | packet[1]) if len(packet) > 1 else 2
    topic = packet[2:at]
    qos, mid = command >> 1 & 3, 0
    try:
        if qos:
            mid = packet[at] << 8 | packet[at + 1]
            at += 2
        length = 0
        if five:
            length, at = _varint(packet, at)
    except IndexError:
        raise ValueError("a message that ends before its body") from None
    end = at + length
    if end > len(packet) or qos == 3:
        raise ValueError("a message that ends before its body, or has no QoS")
    publish = Publish(
        _text(topic), bytes(packet[end:]), qos, mid, bool(command & 8), bool(command & 1)
    )
    if length:
        _add_properties(publish, packet[at:end])
    return publish


def _add_properties(publish: Publish, data: bytearray) -> None:
    at, headers = 0, {}
    try:
        while at < len(data):
            kind = data[at]
            at += 1
            if kind == _USER:
                name, at = _sized(data, at)
                value, at = _sized(data, at)
                headers[_text(name)] = _text(value)
            elif kind in _TEXTS:
                value, at = _sized(data, at)
                if kind == _CONTENT_TYPE:
                    publish.content_type = _text(value)
            elif kind == _SUBSCRIPTION:
                number, at = _varint(data, at)
                publish.subscriptions += (number,)
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError) as error:
        raise ValueError("a message with properties that are none") from error
    if headers:
        publish.headers = headers


def _sized(data: bytearray, at: int) -> tuple[bytearray, int]:
    begin = at + 2
    end = begin + (data[at] << 8 | data[at + 1])
    if end > len(data):
        raise IndexError(end)
    return data[begin:end], end


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 21:
            raise ValueError("a number of more than four bytes")


def _text(data: bytearray) -> str:
    return data.decode(errors="backslashreplace")


class Packed:
    """Properties as paho sends them along: it asks them for their bytes."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pack(self) -> bytes:
        return self._data


def packed(headers: Mapping[str, str], *, expiry: int = 0, content_type: str = "") -> Any:
    """The properties of a message: user properties, and what has a property of its own."""
    parts: list[bytes] = []
    if expiry:
        parts.append(b"\x02" + min(expiry, 0xFFFFFFFF).to_bytes(4, "big"))
    if content_type:
        parts.append(b"\x03" + _string(content_type))
    parts += [b"\x26" + _string(name) + _string(value) for name, value in headers.items()]
    body = b"".join(parts)
    return Packed(_length(len(body)) + body)


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _length(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
