"""The dead letter: what is kept of a message that could not be handled.

A `DeadLetter` is plain data. It holds everything a replay needs, exact to the byte,
and everything a person needs to understand the failure. The store (`store.py`) keeps
it, the replay reads it back; neither changes what is in `headers` and `body`.

Invariant: secrets stay in the record, since a replay needs them, and are masked in
every rendering of it: `summary`, `details`, `as_dict`.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, Literal, TypeAlias

import attrs

__all__ = [
    "DeadLetter",
    "Kind",
    "Status",
    "as_dict",
    "details",
    "masked",
    "new_id",
    "summary",
]

Kind: TypeAlias = Literal["event", "tell", "request"]

# dead -> replay-asked -> replaying -> replayed, or dead again;
# dead and replay-asked -> discarded.
Status: TypeAlias = Literal["dead", "replay-asked", "replaying", "replayed", "discarded"]

_MASK: Final = "***"
_SHOWN_TEXT: Final = 4096
_SHOWN_BYTES: Final = 256
_SHOWN_LINE: Final = 160

_SECRET_NAME: Final = re.compile(
    r"auth(?!ors?\b)|cookie|token|passw|pwd|passphrase|secret|credential|session|signature|jwt|bearer"
    r"|(?:api|private|access)[-_. ]?key",
    re.IGNORECASE,
)
_LOGIN_IN_URL: Final = re.compile(r"://[^/@\s\"']{1,256}@")
# Possessive quantifiers: the text is a stranger's, so matching must stay linear.
_JSON_MEMBER: Final = re.compile(
    r'"([^"\\]{1,64})"(\s*+:\s*+)("[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^\s,}\]{\["]++)', re.DOTALL
)


@attrs.frozen(kw_only=True)
class DeadLetter:
    """One message that ended as a dead letter. Times are unix seconds.

    `pattern` is the route, or the type's name for a message to `receive`. `transport`
    is "local" for a `tell`, and `source` then the teller; `source` never holds a
    credential. `body` is the data exactly as it came, or None when it could not be
    written, in which case the letter cannot be replayed. `first_at` is when the message
    came first, `at` when it became a dead letter. `note` tells how the last replay ended.
    """

    id: str
    at: float
    kind: Kind
    pattern: str
    handler: str
    actor: str
    incarnation: int
    transport: str
    source: str
    message_id: str
    correlation_id: str | None
    headers: Mapping[str, str]
    body: bytes | None
    attempts: int
    reason: str
    error: str
    traceback: str
    first_at: float
    status: Status = "dead"
    replays: int = 0
    note: str = ""


def new_id(now: float, random: Random) -> str:
    """A fresh id in the form of a UUIDv7; ids sort as the times they were made at.

    `now` is in unix seconds. Of the 74 bits a UUIDv7 leaves free, 12 refine the
    millisecond to a quarter of a microsecond (RFC 9562, section 6.2, method 3) and 62
    come from `random`, so that a seeded run names its letters the same every time.
    """
    ticks = int(now * 1000 * 4096)
    millisecond, fraction = ticks >> 12 & (1 << 48) - 1, ticks & 0xFFF
    number = millisecond << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random.getrandbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they may be shown: values of secret names and logins in URLs masked."""
    return {
        name: _MASK if _SECRET_NAME.search(name) else _without_logins(value)
        for name, value in headers.items()
    }


def summary(record: DeadLetter) -> str:
    """The letter in one line: id, time, status, what, where, why."""
    where = record.handler or record.actor
    line = (
        f"{record.id}  {_time(record.at)}  {record.status:<12}  {record.kind} {record.pattern}"
        f" -> {where}  {record.reason} after {_count(record.attempts, 'attempt')}"
    )
    error = " ".join(_without_logins(record.error).split())
    if len(error) > _SHOWN_LINE:
        error = error[: _SHOWN_LINE - 3] + "..."
    return _printable(f"{line}: {error}" if error else line)


def details(record: DeadLetter) -> str:
    """Everything about the letter, for a terminal; secrets masked, a long body cut short."""
    facts = [
        ("id", record.id),
        ("status", record.status),
        ("reason", f"{record.reason} after {_count(record.attempts, 'attempt')}"),
        ("error", _without_logins(record.error)),
        ("kind", record.kind),
        ("pattern", record.pattern),
        ("handler", record.handler),
        ("actor", f"{record.actor} (incarnation {record.incarnation})"),
        ("transport", record.transport),
        ("source", _without_logins(record.source)),
        ("message id", record.message_id),
        ("correlation", record.correlation_id or "-"),
        ("first seen", _time(record.first_at)),
        ("dead since", _time(record.at)),
        ("replays", str(record.replays)),
        ("note", _without_logins(record.note) or "-"),
    ]
    lines = [f"{name:<12} {_printable(value)}" for name, value in facts]
    headers = [f"{name}: {value}" for name, value in masked(record.headers).items()]
    lines += _section("headers", "\n".join(headers) or "none")
    lines += _section(*_shown_body(record.body))
    lines += _section("traceback", _without_logins(record.traceback).rstrip() or "none")
    return "\n".join(lines)


def as_dict(record: DeadLetter) -> dict[str, Any]:
    """The letter as JSON types, secrets masked: for programs that show it, not for a replay.

    `body` is text and `body_encoding` "utf-8" where the bytes are UTF-8, else base64 and
    "base64"; both are None for a letter without payload.
    """
    shown = attrs.asdict(record, recurse=False)
    shown["headers"] = masked(record.headers)
    for name in ("source", "error", "traceback", "note"):
        shown[name] = _without_logins(shown[name])
    text = None if record.body is None else _text(record.body)
    shown["body_encoding"] = None if record.body is None else "base64" if text is None else "utf-8"
    if text is not None:
        shown["body"] = _without_secrets(text)
    elif record.body is not None:
        shown["body"] = base64.b64encode(record.body).decode("ascii")
    return shown


def _shown_body(body: bytes | None) -> tuple[str, str]:
    if body is None:
        return "body", "not stored: the payload could not be written"
    text = _text(body)
    size = _count(len(body), "byte")
    if text is None:
        cut = f", first {_SHOWN_BYTES} shown" if len(body) > _SHOWN_BYTES else ""
        return f"body ({size}, hex{cut})", body[:_SHOWN_BYTES].hex(" ")
    cut = f", first {_SHOWN_TEXT} characters shown" if len(text) > _SHOWN_TEXT else ""
    return f"body ({size}{cut})", _without_secrets(text[:_SHOWN_TEXT])


def _section(title: str, text: str) -> list[str]:
    return ["", f"{title}:", *(f"  {_printable(line)}" for line in text.split("\n"))]


def _text(body: bytes) -> str | None:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _without_logins(text: str) -> str:
    return _LOGIN_IN_URL.sub(f"://{_MASK}@", text)


def _without_secrets(text: str) -> str:
    """JSON text with the values of secret members masked; any other text as it is."""

    def mask(member: re.Match[str]) -> str:
        name, colon, _ = member.groups()
        return f'"{name}"{colon}"{_MASK}"' if _SECRET_NAME.search(name) else member.group()

    return _without_logins(_JSON_MEMBER.sub(mask, text))


def _printable(line: str) -> str:
    # Patterns, errors and bodies are strangers' text: raw, they could steer the terminal.
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
