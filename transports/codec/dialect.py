"""What a bridge or client needs of a dialect; the modules `nest` and `nestrs` are its two.

Owns the shape alone. The modules themselves are the objects, so that one call
costs one look-up in a module:

    from .codec import nest
    from .codec.dialect import Dialect

    dialect: Dialect = nest
"""

from collections.abc import Callable
from typing import Any, Protocol

from ...actors.pattern import Pattern
from .packet import Answer, Packet, TypedPacket

__all__ = ["Dialect", "Frames"]


class Frames(Protocol):
    """Cuts a byte stream into the bodies of packets."""

    @property
    def error(self) -> str | None:
        """Why the stream can no longer be read, once it cannot."""
        ...

    @property
    def partial(self) -> bool:
        """Whether the beginning of a frame waits for its rest."""
        ...

    @property
    def ascii(self) -> bool:
        """Whether all bodies that the last `feed` returned are known to be ASCII."""
        ...

    def feed(self, data: bytes, /) -> list[bytes]:
        """The bodies that these bytes complete, in order; good ones before an error too."""
        ...


class Dialect(Protocol):
    """A wire format. All bytes but frames are JSON; `raw_id` is the id's JSON as it came."""

    @property
    def streams(self) -> bool:
        """Whether a call may have more than one answer."""
        ...

    def frames(self, limit: int = ..., /) -> Frames:
        """A reader for one connection; a body may have `limit` bytes."""
        ...

    def frame(self, body: bytes, /) -> bytes:
        """The body, ready to be written to a byte stream."""
        ...

    def framed_value(self, raw_id: bytes, value_json: bytes, /) -> bytes:
        """`frame(value(...))`, as fast as it can be had."""
        ...

    def beginning(self, pattern: bytes, /) -> bytes | None:
        """How requests with this pattern usually begin; None if that is not known."""
        ...

    def typed_decoder(self, annotation: Any, /) -> Callable[[bytes], TypedPacket] | None:
        """Reads requests of a known pattern in one pass; raises for any other body."""
        ...

    def route(self, pattern: bytes, /) -> str | None:
        """The route of a received packet's pattern; None when nothing can match it."""
        ...

    def pattern_json(self, pattern: Pattern, /, *, event: bool = False) -> bytes:
        """How a client writes the pattern; raises `DeclarationError` for an unusable one."""
        ...

    def error_json(self, error: Any, /) -> bytes:
        """How the `error` of an `RpcError` is written; raises `TypeError` when it cannot be."""
        ...

    def decode_packet(self, body: bytes, /) -> Packet | None:
        """The packet; None for what is to be ignored. Raises `CodecError`."""
        ...

    def invalid_request(self) -> bytes | None:
        """The answer to what `decode_packet` refused; None: close the connection."""
        ...

    def value(self, raw_id: bytes, value_json: bytes, /) -> bytes:
        """The answer to a call, or the last item of a stream."""
        ...

    def item(self, raw_id: bytes, value_json: bytes, /) -> bytes:
        """One item of a stream, more to follow. Raises `CodecError` without `streams`."""
        ...

    def end(self, raw_id: bytes, /) -> bytes:
        """The end of a stream, or the answer of a handler without one."""
        ...

    def failure(self, raw_id: bytes, error_json: bytes, /) -> bytes:
        """The answer that is an error, as `error_json` wrote it."""
        ...

    def no_handler(self, raw_id: bytes, pattern: bytes = ..., /) -> bytes:
        """The answer when nobody handles the packet's pattern (its JSON)."""
        ...

    def request(self, pattern_json: bytes, data_json: bytes, raw_id: bytes, /) -> bytes:
        """A call; `data_json` is empty where there is no data."""
        ...

    def event(self, pattern_json: bytes, data_json: bytes, /) -> bytes:
        """A message that wants no answer."""
        ...

    def decode_answer(self, body: bytes, /) -> Answer:
        """A reply as its caller understands it. Raises `CodecError`."""
        ...
