"""NestJS's wire format: frames of a TCP stream, and the JSON packets of every transport.

Owns bytes and their meaning; no sockets, clocks or handlers. The module as a whole
is a `Dialect`.

A frame is `<length>#<json>`, and the length counts UTF-16 code units: ASCII bodies,
nearly all there are, are cut by slicing, others by counting at C speed.

Invariant: any cutting of a stream into pieces gives the same bodies, and every byte
is looked at a bounded number of times.
Source: @nestjs/microservices 12.1.1 (helpers/json-socket, server/server-tcp,
client/client-tcp, deserializers), whose recorded bytes are in the tests.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw

from ...actors.encoding import encode
from ...actors.pattern import pattern_json
from ...actors.pattern import received_route as route
from .errors import CodecError
from .json import members, repaired, well_formed
from .packet import ABSENT, Answer, Packet, TypedPacket

__all__ = [
    "Answer",
    "CodecError",
    "NestFrames",
    "Packet",
    "beginning",
    "decode_answer",
    "decode_message",
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
    "last_item",
    "no_handler",
    "pattern_json",
    "request",
    "route",
    "streams",
    "typed_decoder",
    "typed_event_decoder",
    "value",
]

streams: Final = True

_HEADER = 20
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_NOT_SHORT: Final = _CONTINUATION + bytes(range(0xF0, 0xF8))

# Looking a header up costs a third of reading it.
_LENGTHS: Final = {b"%d#" % length: length for length in range(10, 1000)}

_VALUE_LENGTH: Final = len(b'{"response":,"isDisposed":true,"id":}')
_HEADS_KEPT: Final = 4096
_HEADS: Final = [b'%d#{"response":' % length for length in range(_HEADS_KEPT)]

_NO_HANDLER: Final = (
    b',"status":"error",'
    b'"err":"There is no matching message handler defined in the remote service."}'
)
_ENVELOPE: Final = frozenset({"id", "err", "response", "isDisposed", "status"})
# What JavaScript takes for false (0.0 equals 0 here too).
_FALSY: Final = (None, False, 0, "")


def frame(body: bytes) -> bytes:
    """The body (JSON in UTF-8) with its length before it."""
    return b"%d#%b" % (len(body) if body.isascii() else _units(body), body)


def frames(limit: int = 4 * 1024 * 1024) -> "NestFrames":
    """A reader for one connection."""
    return NestFrames(limit)


def framed_value(raw_id: bytes, value_json: bytes) -> bytes:
    """`frame(value(raw_id, value_json))`, in one step for nearly all answers there are."""
    length = len(value_json) + len(raw_id) + _VALUE_LENGTH
    if length < _HEADS_KEPT and value_json.isascii() and raw_id.isascii():
        return b"".join((_HEADS[length], value_json, b',"isDisposed":true,"id":', raw_id, b"}"))
    return frame(value(raw_id, value_json))


def _units(text: bytes | bytearray) -> int:
    """UTF-16 code units: one for each first byte of a character, two for those of four bytes."""
    shorter = len(text.translate(None, _NOT_SHORT))
    return 2 * len(text.translate(None, _CONTINUATION)) - shorter


class NestFrames:
    """Cuts one connection's stream into bodies of at most `limit` bytes.

    After an error the stream is lost for good: nobody can say where the next frame
    begins. Invalid UTF-8 passes; `decode_packet` refuses it.
    """

    __slots__ = ("_held", "_left", "_limit", "_position", "ascii", "error")

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self.error: str | None = None
        self.ascii = False
        self._limit = limit
        # An unfinished frame: its header, or once that was read (_left is not None)
        # its body, of which _position bytes are counted and _left units are missing.
        self._held = bytearray()
        self._left: int | None = None
        self._position = 0

    @property
    def partial(self) -> bool:
        """Whether the beginning of a frame waits for its rest."""
        return self._left is not None or bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Every body that these bytes complete, in order."""
        if self.error is not None:
            return []
        if self._left is None:
            if not self._held:
                return self._read(data, [])
            data = bytes(self._held) + data
            self._forget()
            return self._read(data, [])
        held = self._held
        held += data
        if len(held) < self._position + self._left:
            return []
        end = self._end_of(held, 0)
        if end < 0:
            return []
        body, rest = bytes(held[:end]), bytes(held[end:])
        self._forget()
        found = self._read(rest, [body])
        self.ascii = False  # whatever the one that was held is
        return found

    def _read(self, data: bytes, found: list[bytes]) -> list[bytes]:
        """Read from the start of a frame; what is unfinished is held."""
        start, size, limit = 0, len(data), self._limit
        self.ascii = data.isascii()
        if self.ascii:
            # Whole frames of ASCII with a usual header, without the questions of all others.
            while start < size:
                begin = start + 4
                known = _LENGTHS.get(data[start:begin])
                if known is None:
                    begin = start + 3
                    known = _LENGTHS.get(data[start:begin])
                    if known is None:
                        break
                end = begin + known
                if end > size or known > limit:
                    break
                found.append(data[begin:end])
                start = end
        while start < size:
            mark = data.find(b"#", start, start + _HEADER + 1)
            header = data[start : mark if mark >= 0 else start + _HEADER + 1]
            if not header.isdigit() or (mark < 0 and len(header) > _HEADER):
                self._fail("a frame does not begin with a length in digits, then '#'")
                break
            if mark < 0:
                self._held += header
                break
            length = int(header)
            if length > limit:
                self._fail(f"a frame of {length} is over the limit of {limit} bytes")
                break
            start = mark + 1
            body = data[start : start + length]
            if len(body) == length and body.isascii():
                found.append(body)
                start += length
                continue
            self._left, self._position = length, 0
            end = self._end_of(data, start)
            if end < 0:
                if self.error is None:
                    self._held += data[start:]
                break
            self._forget()
            found.append(data[start:end])
            start = end
        return found

    def _end_of(self, text: bytes | bytearray, start: int) -> int:
        """Where the body ends that begins at `start`; -1 when more must come, or after an error.

        Each round looks at as many bytes as units are missing, which are never too
        many; what was counted is not counted again.
        """
        position, left = start + self._position, self._left or 0
        while left > 0 and position + left <= len(text):
            piece = text[position : position + left]
            position += left
            left -= left if piece.isascii() else _units(piece)
        self._position, self._left = position - start, left
        if left < 0:
            self._fail("a frame's length ends inside a character")
            return -1
        end = position + left if left else _character_end(text, start, position)
        if end - start > self._limit:
            self._fail(f"a frame is over the limit of {self._limit} bytes")
            return -1
        return -1 if left or end > len(text) else end

    def _forget(self) -> None:
        # A new buffer, so that one huge frame does not keep its memory.
        self._held = bytearray()
        self._left, self._position = None, 0

    def _fail(self, why: str) -> None:
        self.error = why
        self._forget()


def _character_end(text: bytes | bytearray, start: int, position: int) -> int:
    """Where the character ends whose first byte is the last one before `position`."""
    first = position - 1
    while first > max(start, position - 4) and 0x80 <= text[first] < 0xC0:
        first -= 1
    lead = text[first]
    width = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    return max(position, first + width)


def beginning(pattern: bytes) -> bytes:
    """How a request with this pattern (its JSON) begins, as NestJS's own client writes it."""
    return b'{"pattern":%b,"data":' % pattern


def typed_decoder(annotation: Any) -> Callable[[bytes], TypedPacket]:
    """A decoder for requests whose pattern is known and whose data has this type.

    One pass over the body instead of two. It raises for whatever is not just that, a
    packet without data or id among it: `decode_packet` then tells what it is.
    """
    fields = [("data", annotation), ("id", Raw)]
    kind = msgspec.defstruct("TypedPacket", fields, gc=False)
    return cast(Callable[[bytes], TypedPacket], msgspec.json.Decoder(kind).decode)


def typed_event_decoder(annotation: Any) -> Callable[[bytes], TypedPacket]:
    """The same for packets of which only the data matters."""
    kind = msgspec.defstruct("TypedEvent", [("data", annotation)], gc=False)
    return cast(Callable[[bytes], TypedPacket], msgspec.json.Decoder(kind).decode)


def decode_packet(body: bytes) -> Packet | None:
    """The packet in a body; None for JSON that is none, which a server ignores.

    Raises `CodecError` for what is not JSON in UTF-8. A pattern or data nested too deep
    to be parsed is passed on: it has no route, and the handler's decoder will refuse it.
    """
    packet = _packet(body)
    if packet is not None and (packet.pattern or (packet.data and packet.id)):
        return packet
    return None


def decode_message(body: bytes) -> Packet:
    """The packet in a broker's message, whose channel tells the pattern, too.

    JSON that is no packet, as somebody else's programs send it, is an event's data.
    Raises `CodecError` for what is not JSON in UTF-8; nothing at all is an event without data.
    """
    if not body:
        return Packet()
    packet = _packet(body)
    if packet is None or not (packet.pattern or packet.data):
        return Packet(data=Raw(body))
    return packet


def _packet(body: bytes) -> Packet | None:
    try:
        packet = _decode_packet(body)
        if not body.isascii():
            body.decode()
    except (ValueError, RecursionError):
        found = _awkward_members(body)
        if found is None:
            return None
        return Packet(*(found.get(name, ABSENT) for name in ("pattern", "data", "id")))
    return packet


def decode_answer(body: bytes) -> Answer:
    """A reply as NestJS's clients take it. Raises `CodecError` for what is not JSON.

    An `err` that JavaScript takes for true is an error whatever else is there. What is
    no packet (other keys, no object) is itself the one value.
    """
    try:
        reply = _decode_reply(body)
        if not body.isascii():
            body.decode()
    except (ValueError, RecursionError):
        return _awkward_answer(body)
    return _answer(reply, body)


def _answer(reply: "_Reply", body: bytes) -> Answer:
    id = reply.id if isinstance(reply.id, str) else None
    if reply.err not in _FALSY:
        return Answer(id, UNSET, reply.err)
    done = reply.isDisposed not in _FALSY
    if reply.response:
        return Answer(id, reply.response, UNSET, done)
    if done:
        return Answer(id)
    if not body.strip(b"{} \t\n\r"):
        return Answer(None, Raw(body))
    return Answer(id, _NULL, UNSET, False)


class _Reply(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: Any = None
    err: Any = None
    response: Raw = ABSENT
    isDisposed: Any = False
    status: Any = None


_NULL: Final = Raw(b"null")
_decode_packet: Final = msgspec.json.Decoder(Packet).decode
_decode_reply: Final = msgspec.json.Decoder(_Reply).decode
_decode_any: Final = msgspec.json.Decoder().decode


def _awkward_members(body: bytes) -> dict[str, Raw] | None:
    """The members of what msgspec refused: see that it is JSON after all."""
    try:
        return members(body)
    except CodecError as error:
        return members(repaired(body, error))


def _awkward_answer(body: bytes) -> Answer:
    """The answer in what msgspec refused: no packet, or text with halves of pairs."""
    try:
        well_formed(body)
    except CodecError as error:
        body = well_formed(repaired(body, error))
    found = members(body)
    if found is None:
        return Answer(None, Raw(body))
    if found.keys() <= _ENVELOPE:
        return _answer(_decode_reply(body), body)
    id = _decode_any(found["id"]) if "id" in found else None
    return Answer(id if isinstance(id, str) else None, Raw(body))


def value(raw_id: bytes, value_json: bytes) -> bytes:
    """The one answer to a call."""
    return b"".join((b'{"response":', value_json, b',"isDisposed":true,"id":', raw_id, b"}"))


last_item = value


def item(raw_id: bytes, value_json: bytes) -> bytes:
    """One item of a stream, with more to follow."""
    return b"".join((b'{"response":', value_json, b',"id":', raw_id, b"}"))


def end(raw_id: bytes) -> bytes:
    """The end of a stream, or the answer of a handler that has none."""
    return b"".join((b'{"isDisposed":true,"id":', raw_id, b"}"))


def failure(raw_id: bytes, error_json: bytes) -> bytes:
    """The answer that is an error."""
    return b"".join((b'{"err":', error_json, b',"isDisposed":true,"id":', raw_id, b"}"))


def no_handler(raw_id: bytes, pattern: bytes = b"") -> bytes:
    """The answer when nobody handles the pattern, which NestJS does not name in it."""
    return b"".join((b'{"id":', raw_id, _NO_HANDLER))


def invalid_request() -> None:
    """There is no answer to what is no packet: the connection is closed."""


def error_json(error: Any) -> bytes:
    """The `error` of an `RpcError` on the wire: objects and lists as they are, others wrapped.

    As NestJS wraps them: a bare null or 0 would be no error to its clients. Raises
    `TypeError` for what JSON cannot say.
    """
    bare = error is None or isinstance(error, str | int | float)
    return encode({"status": "error", "message": error} if bare else error)


def request(pattern_json: bytes, data_json: bytes, raw_id: bytes) -> bytes:
    """A call; without `data_json` (empty) the packet has no data, as JavaScript's undefined."""
    if not data_json:
        return b"".join((b'{"pattern":', pattern_json, b',"id":', raw_id, b"}"))
    return b"".join((b'{"pattern":', pattern_json, b',"data":', data_json, b',"id":', raw_id, b"}"))


def event(pattern_json: bytes, data_json: bytes) -> bytes:
    """A message that wants no answer."""
    if not data_json:
        return b"".join((b'{"pattern":', pattern_json, b"}"))
    return b"".join((b'{"pattern":', pattern_json, b',"data":', data_json, b"}"))
