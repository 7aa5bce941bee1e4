"""JSON from the wire: what both codecs do with awkward bodies.

Owns the repair of bodies that are JSON to JavaScript but not to msgspec. Does not own
the packets' shapes (their codecs), nor the writing of values (actors/encoding.py).

Invariant: the good path is msgspec's alone; everything slower here runs only after
it has refused. Source: RFC 8259, ECMAScript's JSON.parse and JSON.stringify.
"""

import re

import msgspec
from msgspec import Raw

from .errors import CodecError

__all__ = ["members", "repaired", "well_formed"]

# Scanning is a loop in Python, about 25 ms at worst for this many bytes: a peer must
# not be able to stop the others for longer.
_DEEP_LIMIT = 64 * 1024

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKENS = re.compile(_STRING + rb"|[\[{]+|[\]}]+|,", re.DOTALL)
_KEY = re.compile(rb"[ \t\n\r]*(" + _STRING + rb")[ \t\n\r]*:", re.DOTALL)
_SPACE = b" \t\n\r"
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)

_members_of = msgspec.json.Decoder(dict[str, Raw]).decode
_text_of = msgspec.json.Decoder(str).decode
_any_of = msgspec.json.Decoder().decode


def well_formed(body: bytes) -> bytes:
    """The body, if it is one JSON value: else `CodecError`. Deep nesting counts as wrong."""
    try:
        _any_of(body)
        if not body.isascii():
            body.decode()
    except RecursionError as error:
        raise CodecError("the body is nested too deep") from error
    except ValueError as error:
        raise _not_json(error) from error
    return body


def repaired(body: bytes, error: CodecError) -> bytes:
    """The body with halves of surrogate pairs replaced by U+FFFD; raises `error` if it has none.

    JavaScript writes them (a string cut inside an emoji) and reads them; UTF-8, and so
    Python's text, has no place for them. Whole pairs and escaped backslashes stay.
    """
    whole = _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)
    if whole == body:
        raise error
    return whole


def members(body: bytes) -> dict[str, Raw] | None:
    """The members of a JSON object, however deep their values; None for another value.

    Raises `CodecError` for what is no JSON; what is nested too deep for msgspec is
    delimited but not checked, and objects with it of over 64 KiB are refused.
    """
    try:
        if not body.isascii():
            body.decode()
        return _members_of(body)
    except msgspec.ValidationError:
        _not_an_object(body)
        return None
    except RecursionError:
        return _deep_members(body)
    except ValueError as error:
        raise _not_json(error) from error


def _not_an_object(body: bytes) -> None:
    try:
        _any_of(body)
    except RecursionError:
        pass  # A deep array: still no object, whatever it holds.
    except ValueError as error:
        raise _not_json(error) from error


def _deep_members(body: bytes) -> dict[str, Raw]:
    if len(body) > _DEEP_LIMIT:
        raise CodecError("the body is nested too deep for its size")
    return dict(map(_member, _parts(body)))


def _parts(body: bytes) -> list[bytes]:
    """The text between the commas of the outermost object."""
    parts: list[bytes] = []
    depth = start = end = 0
    for token in _TOKENS.finditer(body):
        kind, end = token[0][:1], token.end()
        if kind in b"[{":
            start = start if depth else token.start() + 1
            depth += len(token[0])
        elif kind in b"]}":
            depth -= len(token[0])
            if depth <= 0:
                parts.append(body[start : end - 1])
                break
        elif kind == b"," and depth == 1:
            parts.append(body[start : token.start()])
            start = end
    if depth or body[end:].strip(_SPACE):
        raise CodecError("the body is not JSON: its brackets do not match")
    return parts


def _member(part: bytes) -> tuple[str, Raw]:
    key = _KEY.match(part)
    if key is None:
        raise CodecError("the body is not JSON: a member of its object has no name")
    value = part[key.end() :].strip(_SPACE)
    try:
        _any_of(value)
    except RecursionError:
        pass  # The deep one, for which we are here; its decoder will refuse it.
    except ValueError as error:
        raise _not_json(error) from error
    try:
        return _text_of(key[1]), Raw(value)
    except ValueError as error:
        raise _not_json(error) from error


def _not_json(error: ValueError) -> CodecError:
    # A UnicodeDecodeError's text is about bytes; it names no content either.
    return CodecError(f"the body is not JSON: {error}")
