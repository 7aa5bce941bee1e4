"""Where a record came from, in the headers of its copy on another topic.

Owns the names of those headers and what they may hold. A copy has its record's key, value
and other headers exactly; the trail of an earlier copy is replaced, never added to.

What stands in a retry topic may be a stranger's: of a trail that is not whole nothing is
believed.
"""

import re
from collections.abc import Iterable
from typing import Final

import attrs

from ..codec.errors import CodecError

__all__ = ["Trail", "dead_headers", "not_before", "retry_headers", "without_trail"]

Headers = Iterable[tuple[str, bytes | None]]

_PREFIX: Final = "understudy-"
TOPIC: Final = _PREFIX + "topic"
PARTITION: Final = _PREFIX + "partition"
OFFSET: Final = _PREFIX + "offset"
MESSAGE_ID: Final = _PREFIX + "message-id"
FIRST_AT: Final = _PREFIX + "first-at"
REASON: Final = _PREFIX + "reason"
ERROR: Final = _PREFIX + "error"
ATTEMPTS: Final = _PREFIX + "attempts"
ACTOR: Final = _PREFIX + "actor"
GROUP: Final = _PREFIX + "group"
ATTEMPT: Final = _PREFIX + "attempt"
NOT_BEFORE: Final = _PREFIX + "not-before"

_OURS: Final = frozenset(
    (TOPIC, PARTITION, OFFSET, MESSAGE_ID, FIRST_AT, REASON, ERROR, ATTEMPTS, ACTOR)
    + (GROUP, ATTEMPT, NOT_BEFORE)
)

_NUMBER: Final = re.compile(rb"[0-9]{1,18}")
_SECONDS: Final = re.compile(rb"[0-9]{1,12}(\.[0-9]{1,6})?")
_LONGEST_ERROR: Final = 1000
"""Characters of an error's text."""


@attrs.frozen
class Trail:
    """The record that a copy was made of, `attempt` being the one that comes next.

    `first_at` is in unix seconds; `group` is whose retry it is.
    """

    topic: str
    partition: int
    offset: int
    message_id: str
    first_at: float
    attempt: int = 1
    group: str = ""

    @classmethod
    def of(cls, headers: Headers) -> "Trail":
        """The trail in a retry's headers. Raises `CodecError` if it is not whole."""
        found = {name: text or b"" for name, text in headers if name in _OURS}
        try:
            return cls(
                found[TOPIC].decode(),
                _number(found[PARTITION]),
                _number(found[OFFSET]),
                found[MESSAGE_ID].decode(),
                _seconds(found[FIRST_AT]),
                max(1, _number(found[ATTEMPT])),
                found[GROUP].decode(),
            )
        except (KeyError, ValueError) as error:
            raise CodecError(
                "it is in a retry topic, and does not say what it came from"
            ) from error


def retry_headers(trail: Trail, due: float) -> list[tuple[str, bytes]]:
    """What says to whom a retry belongs, and that it is not to be run before `due`."""
    return [
        *_origin(trail),
        (ATTEMPT, b"%d" % trail.attempt),
        (NOT_BEFORE, b"%.3f" % due),
        (GROUP, trail.group.encode()),
    ]


def dead_headers(
    trail: Trail, *, reason: str, error: str, attempts: int, actor: str
) -> list[tuple[str, bytes]]:
    """What says why a message is a dead letter."""
    return [
        *_origin(trail),
        (REASON, reason.encode()),
        (ERROR, error[:_LONGEST_ERROR].encode(errors="replace")),
        (ATTEMPTS, b"%d" % attempts),
        (ACTOR, actor.encode(errors="replace")),
    ]


def without_trail(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers that a record had before it was copied."""
    return [(name, text) for name, text in headers if name not in _OURS]


def not_before(headers: Headers) -> float:
    """When a retry is due, in unix seconds; 0 where that is not said."""
    for name, text in headers:
        if name == NOT_BEFORE:
            try:
                return _seconds(text or b"")
            except ValueError:
                return 0.0
    return 0.0


def _origin(trail: Trail) -> list[tuple[str, bytes]]:
    return [
        (TOPIC, trail.topic.encode()),
        (PARTITION, b"%d" % trail.partition),
        (OFFSET, b"%d" % trail.offset),
        (MESSAGE_ID, trail.message_id.encode(errors="replace")),
        (FIRST_AT, b"%.3f" % trail.first_at),
    ]


def _number(text: bytes) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number that anybody counts to")
    return int(text)


def _seconds(text: bytes) -> float:
    if not _SECONDS.fullmatch(text):
        raise ValueError("not a time")
    return float(text)
