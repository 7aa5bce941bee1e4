"""What is in hand: which message a task is handling just now.

Each lane of an actor owns one `Hand` for its whole life and puts the envelope
there before it runs it, so that a message costs one attribute write and a sender
finds out on whose behalf it sends with one context-variable read. Tasks and
threads started by a handler inherit the hand.

A hand is *fenced* once its incarnation has ended: what is left of a handler by
then (a thread, shielded code) may not send or answer any more.
"""

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import trio

from .cycles import put_aside
from .envelope import Envelope, Origin
from .errors import Fenced, UnderstudyError

if TYPE_CHECKING:
    from .cycles import Awaited
    from .incarnation import Incarnation

__all__ = [
    "CURRENT",
    "FENCE",
    "NOTHING",
    "TAKEN",
    "Hand",
    "MessageContext",
    "is_outside",
    "origin_now",
    "time_left",
]


class _Fence:
    """Stands where an origin would: what a fenced hand sends on behalf of."""

    transport = source = pattern = message_id = ""
    correlation_id: str | None = None
    headers: Mapping[str, str] = {}
    attempt = 0
    redelivered = False
    order_key = None


NOTHING: Final = Envelope(None)
TAKEN: Final = object()
"""The message of a hand whose message was taken out of it."""
FENCE: Final[Origin] = _Fence()
_FENCED: Final = Envelope(None, origin=FENCE)


class Hand:
    """The message that one lane of one incarnation is handling.

    `task` is the lane's own, and `waits_for` the ask whose answer it waits for.
    """

    __slots__ = ("envelope", "incarnation", "task", "waits_for")

    def __init__(self, incarnation: "Incarnation | None") -> None:
        self.incarnation = incarnation
        self.envelope = NOTHING
        self.task: trio.lowlevel.Task | None = None
        self.waits_for: Awaited | None = None

    def fence(self) -> None:
        self.envelope = _FENCED

    def take(self) -> Envelope:
        """Take the message out of the hand: whoever calls this sees to its end."""
        envelope = self.envelope
        put_aside(envelope.receipt)
        self.envelope = Envelope(TAKEN, envelope.handler, None, envelope.origin, envelope.deadline)
        return envelope

    @property
    def fenced(self) -> bool:
        return self.envelope is _FENCED

    def refuse(self) -> UnderstudyError:
        """The error for whoever acts with a fenced hand."""
        incarnation = self.incarnation
        if incarnation is None:  # only hands of incarnations are ever fenced
            return Fenced("?", 0)
        return Fenced(incarnation.path, incarnation.number)


CURRENT: Final[ContextVar[Hand]] = ContextVar("understudy_hand", default=Hand(None))  # noqa: B039


def origin_now() -> Origin | None:
    """The outside message the caller works for, if any; raises `Fenced` for leftovers."""
    hand = CURRENT.get()
    origin = hand.envelope.origin
    if origin is FENCE:
        raise hand.refuse()
    return origin


def time_left(timeout: float) -> float:
    """`timeout`, or less: what the asker of the message in hand still waits, if anybody does."""
    deadline = CURRENT.get().envelope.deadline
    if deadline == math.inf:
        return timeout
    return min(timeout, max(0.0, deadline - trio.current_time()))


def is_outside(envelope: Envelope) -> bool:
    """Whether the message itself came in through a bridge.

    Only a delivery is its own receipt; what is sent because of it has the origin alone.
    """
    receipt: object = envelope.receipt
    return receipt is not None and receipt is envelope.origin


class MessageContext:
    """What a handler may know of its message beside the payload.

    Ask for it with a second parameter, as in
    `async def find(self, query: Find, context: MessageContext)`.

    A message sent by another actor has `transport` `"local"`; its `correlation_id` is
    then the id of the outside message it was sent for, if there is one.
    """

    __slots__ = ("_envelope", "_outside", "message_id", "path")

    def __init__(self, envelope: Envelope, path: str, local_id: str) -> None:
        self._envelope = envelope
        origin = envelope.origin
        self._outside = origin if is_outside(envelope) else None
        self.path = path
        self.message_id = self._outside.message_id if self._outside else local_id

    @property
    def transport(self) -> str:
        """The scheme it came in on, `"local"` for a message of another actor."""
        return self._outside.transport if self._outside else "local"

    @property
    def source(self) -> str:
        """The peer, queue or subject it came from; empty for a local message."""
        return self._outside.source if self._outside else ""

    @property
    def pattern(self) -> str | None:
        """The route it was handled under; None for a plain `receive`."""
        if self._outside:
            return self._outside.pattern
        handler = self._envelope.handler
        return handler.route if handler is not None else None

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers as they came; empty where there are none."""
        return self._outside.headers if self._outside else {}

    @property
    def correlation_id(self) -> str | None:
        """The id the sender matches its answer by."""
        if self._outside:
            return self._outside.correlation_id
        origin = self._envelope.origin
        return origin.message_id if origin is not None else None

    @property
    def attempt(self) -> int:
        """1 for the first run of this message."""
        return self._outside.attempt if self._outside else self._envelope.attempt

    @property
    def redelivered(self) -> bool:
        """Whether an earlier run may have handled it."""
        return self._outside.redelivered if self._outside else self._envelope.attempt > 1

    @property
    def deadline(self) -> float:
        """Trio time after which nobody waits for the answer; infinity if nobody set one."""
        return self._envelope.deadline

    def __repr__(self) -> str:
        facts: dict[str, Any] = {"id": self.message_id, "pattern": self.pattern}
        shown = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        return f"MessageContext({shown}, transport={self.transport!r}, attempt={self.attempt})"
