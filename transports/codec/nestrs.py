"""nestrs's TCP wire format: one JSON object per line. The module as a whole is a `Dialect`.

Owns bytes and their meaning, as `nest` does for the other dialect. There are no
streams: one call has one answer (`streams` is False), so a bridge must refuse or
gather what a streaming handler yields.

Invariant: a line that is no request is answered with `invalid_request()`; the
connection goes on.
Source: nestrs-microservices 0.3.8 (src/tcp.rs).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw

from ...actors.encoding import encode
from ...actors.pattern import Pattern, route_of
from .errors import CodecError
from .json import repaired
from .packet import ABSENT, Answer, Packet

__all__ = [
    "Answer",
    "CodecError",
    "LineFrames",
    "Packet",
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
    "request",
    "route",
    "streams",
    "typed_decoder",
    "value",
]

_T = TypeVar("_T")

streams: Final = False

_INVALID: Final = b'{"id":"0","ok":false,"error":{"message":"invalid request"}}'
_QUOTE: Final = b'"'


def frame(body: bytes) -> bytes:
    """The body as a line; JSON has no line feed outside of its spaces."""
    return body + b"\n"


def frames(limit: int = 4 * 1024 * 1024) -> "LineFrames":
    """A reader for one connection."""
    return LineFrames(limit)


class LineFrames:
    """Cuts one connection's stream into lines of at most `limit` bytes, without their ends."""

    __slots__ = ("_held", "_limit", "_size", "error")

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self.error: str | None = None
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0

    @property
    def ascii(self) -> bool:
        """Not looked at: lines are always parsed as a whole."""
        return False

    @property
    def partial(self) -> bool:
        """Whether the beginning of a line waits for its rest."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Every line that these bytes complete, in order; a CR stays, JSON takes it for space."""
        if self.error is not None:
            return []
        total = self._size + len(data)
        lines = data.split(b"\n")
        if self._held and len(lines) > 1:
            self._held.append(lines[0])
            lines[0] = b"".join(self._held)
            self._held, self._size = [], 0
        rest = lines.pop()
        if rest:
            self._held.append(rest)
            self._size += len(rest)
        return lines if total <= self._limit else self._within_limit(lines)

    def _within_limit(self, lines: list[bytes]) -> list[bytes]:
        """The lines before the first that is too long, which may be the unfinished one."""
        limit = self._limit
        good = next((at for at, line in enumerate(lines) if len(line) > limit), len(lines))
        if good < len(lines) or self._size > limit:
            self.error = f"a line is over the limit of {limit} bytes"
            self._held, self._size = [], 0
        return lines[:good]


def route(pattern: bytes) -> str | None:
    """The route of a received pattern: its text as it stands, never parsed again."""
    try:
        return _decode_text(pattern)
    except ValueError:
        return None


def pattern_json(pattern: Pattern, *, event: bool = False) -> bytes:
    """How a client writes a pattern: nestrs knows only text, so anything else is its route."""
    return encode(route_of(pattern))


class _Line(msgspec.Struct, gc=False):
    id: Raw
    kind: Literal["send", "emit"]
    pattern: Raw
    payload: Raw


class _Reply(msgspec.Struct, gc=False):
    id: str
    ok: bool
    payload: Raw = ABSENT
    error: dict[str, Any] | None = None


_NULL: Final = Raw(b"null")
_decode_line: Final = msgspec.json.Decoder(_Line).decode
_decode_reply: Final = msgspec.json.Decoder(_Reply).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def framed_value(raw_id: bytes, value_json: bytes) -> bytes:
    """`frame(value(raw_id, value_json))`."""
    return frame(value(raw_id, value_json))


def beginning(pattern: bytes) -> None:
    """There is no usual beginning to know a line by."""


def typed_decoder(annotation: Any) -> None:
    """Lines are always parsed by `decode_packet`."""


def decode_packet(body: bytes) -> Packet:
    """The packet in a line; an "emit" has no id, for nobody waits for its answer.

    Raises `CodecError` for what nestrs's server refuses: other JSON, members missing
    or of another type, nesting too deep.
    """
    line = _decode(_decode_line, body)
    id, pattern = bytes(line.id), bytes(line.pattern)
    if id[:1] != _QUOTE or pattern[:1] != _QUOTE:
        raise CodecError("the line is no request: its id and pattern must be strings")
    return Packet(line.pattern, line.payload, line.id if line.kind == "send" else ABSENT)


def decode_answer(body: bytes) -> Answer:
    """A reply as nestrs's client takes it. Raises `CodecError` for what is none.

    The error is the object as it came, with a `message` and perhaps `details`.
    """
    reply = _decode(_decode_reply, body)
    if reply.ok:
        return Answer(reply.id, reply.payload or _NULL)
    return Answer(reply.id, UNSET, reply.error or {"message": "microservice error"})


def _decode(decoder: Callable[[bytes], _T], body: bytes) -> _T:
    try:
        if not body.isascii():
            body.decode()
        return decoder(body)
    except RecursionError as error:
        raise CodecError("the line is nested too deep") from error
    except msgspec.ValidationError as error:
        # Its own text would show a piece of the line.
        raise CodecError("the line is no packet: members are missing or of another type") from error
    except UnicodeDecodeError as error:
        raise CodecError(f"the line is not UTF-8: {error}") from error
    except ValueError as error:
        body = repaired(body, CodecError(f"the line is no packet: {error}"))
    return _decode(decoder, body)


def value(raw_id: bytes, value_json: bytes) -> bytes:
    """The answer to a call."""
    return b"".join((b'{"id":', raw_id, b',"ok":true,"payload":', value_json, b"}"))


def item(raw_id: bytes, value_json: bytes) -> bytes:
    """There are no streams here: always raises `CodecError`."""
    raise CodecError(
        "nestrs has no streams on TCP: answer with one value (for instance a list), "
        "or offer the stream to NestJS clients"
    )


def end(raw_id: bytes) -> bytes:
    """The answer of a handler that has none: null, since there is no other way to say it."""
    return value(raw_id, b"null")


def failure(raw_id: bytes, error_json: bytes) -> bytes:
    """The answer that is an error."""
    return b"".join((b'{"id":', raw_id, b',"ok":false,"error":', error_json, b"}"))


def no_handler(raw_id: bytes, pattern: bytes = b'""') -> bytes:
    """The answer when nobody handles the pattern (its JSON), which stands in the text."""
    name = bytes(pattern)[1:-1]
    return failure(raw_id, b'{"message":"no microservice handler for pattern `%b`"}' % name)


def invalid_request() -> bytes:
    """The answer to a line that is no request."""
    return _INVALID


def error_json(error: Any) -> bytes:
    """The `error` of an `RpcError` on the wire: a message, and the rest as details.

    Raises `TypeError` for what JSON cannot say.
    """
    if isinstance(error, str):
        return encode({"message": error})
    if not (isinstance(error, Mapping) and isinstance(error.get("message"), str)):
        return encode({"message": "microservice error", "details": error})
    details = {name: part for name, part in error.items() if name != "message"}
    shown = {"message": error["message"], "details": details}
    return encode(shown if details else {"message": error["message"]})


def request(pattern_json: bytes, data_json: bytes, raw_id: bytes) -> bytes:
    """A call; without `data_json` (empty) its payload is null, which nestrs demands."""
    return _packet(raw_id, b"send", pattern_json, data_json)


def event(pattern_json: bytes, data_json: bytes) -> bytes:
    """A message that wants no answer; its id is demanded too, and looked at by nobody."""
    return _packet(b'"0"', b"emit", pattern_json, data_json)


def _packet(raw_id: bytes, kind: bytes, pattern_json: bytes, data_json: bytes) -> bytes:
    head = (b'{"id":', raw_id, b',"kind":"', kind, b'","pattern":', pattern_json)
    return b"".join((*head, b',"payload":', data_json or b"null", b"}"))
