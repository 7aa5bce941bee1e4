"""What the codecs make of bytes: packets on the way in, answers on the way back.

Both dialects decode to these two records, so that bridges and clients know neither.
Values stay JSON (`msgspec.Raw`) until somebody knows their type.

Invariant: the parts of a packet are whole JSON values, except that what was nested
too deep to be parsed is only known to be bracketed; whoever decodes it will refuse it.
"""

from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ["ABSENT", "Answer", "Incoming", "Packet", "TypedPacket"]

ABSENT: Final = Raw(b"")
"""A member that the packet does not have; false in a condition."""


class Packet(msgspec.Struct, gc=False):
    """A message on its way to a handler; without an `id` it is an event.

    The parts keep the whole received body alive: `copy()` what outlives its handling.
    """

    pattern: Raw = ABSENT
    data: Raw = ABSENT
    id: Raw = ABSENT


class Incoming(msgspec.Struct, gc=False):
    """What a broker's message means: the route, its data, and the id of a request.

    `data` and `id` are JSON as they came; an event has no id. `reply` is where the answer
    is wanted, if the body says so.
    """

    route: str | None
    data: bytes | Raw
    id: bytes = b""
    reply: str = ""


class TypedPacket(Protocol):
    """A request whose data was read together with it."""

    data: Any
    id: Raw


class Answer(msgspec.Struct, gc=False):
    """One reply to a call: a value, an error, both unset (an end), and whether more follow.

    `id` is None where the reply names none that a client of ours could have sent: on a
    connection nobody waits for it, a broker knows the call by other means.
    """

    id: str | None
    value: Raw | UnsetType = UNSET
    error: Any = UNSET
    done: bool = True
