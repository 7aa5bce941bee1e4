"""Patterns: the names by which messages find their handlers.

Owns the one normal form of a pattern, its *route*: handlers are stored under it
and messages are looked up by it, here as in NestJS. Does not own who is stored
where, nor what a broker allows in its channel names. Pure: data in, text out.

Invariant: a pattern and the same pattern received as JSON have the same route,
however the sender ordered its keys; a pattern that no message could ever reach
is refused when it is declared.
Source: `transformPatternToRoute` and `getRouteFromPattern` of
@nestjs/microservices 12.1.1, and ICU's root collation for the order of keys.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from .errors import DeclarationError

__all__ = ["Pattern", "pattern_json", "received_route", "route_of"]

Pattern: TypeAlias = str | int | float | Mapping[str, Any]

_MAX_DEPTH = 5
_MAX_KEYS = 20
_TOO_DEEP = "[MAX_DEPTH_REACHED]"
_TOO_MANY = "[TOO_MANY_KEYS]"

# Keys are sorted by JavaScript's localeCompare, whose order is not that of the
# codes: this is printable ASCII as node sorts it. A letter's case decides only
# between keys that are otherwise equal, small before capital.
_COLLATION = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"
_RANKS = str.maketrans({char: chr(rank) for rank, char in enumerate(" " + _COLLATION)})

# Past this, whole numbers lose digits in JavaScript, which knows only doubles.
_SAFE_INTEGER = 2**53
# ECMAScript's Number::toString: where its exponents begin.
_MOST_DIGITS, _LEAST_POINT = 21, -6

# A string that starts like this may be JSON; the words are looked at apart,
# since many a name starts with their letters.
_JSON_STARTS = frozenset('{["-0123456789 \t\n\r')
_JSON_WORDS = frozenset({"null", "true", "false"})
_JSON_SPACE = " \t\n\r"

# Normalising an object costs ten times as much as looking it up. Peers choose the
# patterns, so what is remembered is bounded: in number below, in bytes here.
_SHORT = 256

_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def route_of(pattern: Pattern) -> str:
    """The route under which a handler of this pattern is stored.

    A string or number is its own route; an object is written with sorted keys. Objects
    over 5 levels or 20 keys are cut as NestJS cuts them, so two of them may share a route.

    Raises `DeclarationError` for a pattern that is no pattern (a list, a boolean, `None`),
    whose key order cannot be known (keys that are not printable ASCII), or that is the
    JSON text of something else, which is parsed on receipt and so never matches.
    """
    route = _checked_route(pattern)
    if isinstance(pattern, str) and _route_of_text(pattern) != pattern:
        raise DeclarationError(
            f"the pattern {pattern!r} can never match: text that holds JSON is parsed when it is "
            "received. Declare what the JSON says instead (an object as a dict)."
        )
    return route


def received_route(pattern_json: bytes) -> str | None:
    """The route of a pattern as it came: the JSON of a packet's `pattern` member.

    A string that itself holds JSON is parsed once more. `None` where no handler can ever
    match: null, booleans, arrays, absent (empty), not JSON, too deep, keys that no
    declared pattern may have. Never raises.
    """
    raw = bytes(pattern_json)
    return _remembered(raw) if len(raw) <= _SHORT else _route_of_json(raw)


def pattern_json(pattern: Pattern, *, event: bool = False) -> bytes:
    """The JSON that a client writes for this pattern.

    As NestJS's clients: a request carries the pattern as it was given, an event
    (`event=True`) its route as a string. Raises `DeclarationError` as `route_of` does,
    except that text which holds JSON may be sent: the server parses it.
    """
    if event:
        return _encode(_checked_route(pattern))
    if isinstance(pattern, Mapping):
        return _object_json(pattern)
    text = _checked_route(pattern)
    return _encode(text) if isinstance(pattern, str) else text.encode()


def _checked_route(pattern: Pattern) -> str:
    """NestJS's route of a pattern of ours, which may be of any type at run time."""
    kind: object = pattern
    if isinstance(kind, bool) or not isinstance(kind, str | int | float | Mapping):
        raise DeclarationError(
            f"a pattern is a string, a number or a dict, not {type(kind).__name__}: {kind!r}. "
            "Give a handler of several patterns one declaration for each."
        )
    if isinstance(kind, str):
        return _writable(kind)
    return _route(kind, 0)


def _route_of_json(raw: bytes) -> str | None:
    try:
        if raw[:1] == b'"':
            return _route_of_text(_decode_text(raw))
        value = _decode(raw)
    except (ValueError, RecursionError):
        return None
    return _route_of_parsed(value)


def _object_json(pattern: Mapping[str, Any]) -> bytes:
    try:
        return _encode(dict(pattern))
    except (TypeError, ValueError, RecursionError) as error:
        raise DeclarationError(f"the pattern cannot be written as JSON: {error}") from error


def _route_of_text(text: str) -> str | None:
    """The route of a string as received: what it says, when it is JSON."""
    if text[:1] in _JSON_STARTS:
        try:
            value = _decode(text)
        except RecursionError:
            return None
        except ValueError:
            return text
        return _route_of_parsed(value)
    return None if text.rstrip(_JSON_SPACE) in _JSON_WORDS else text


def _route_of_parsed(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | dict):
        return None
    try:
        return _route(value, 0)
    except DeclarationError:
        return None


def _route(value: Any, depth: int) -> str:
    """NestJS's text of anything but a string, which its callers treat apart."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        # To JavaScript, an array is an object whose keys are its indexes.
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        raise DeclarationError(
            f"a pattern may hold text, numbers, booleans, None, lists and dicts, "
            f"not {type(value).__name__}: {value!r}"
        )
    if depth > _MAX_DEPTH:
        return _TOO_DEEP
    if len(value) > _MAX_KEYS:
        return _TOO_MANY
    return "{" + ",".join(_member(key, value[key], depth) for key in _sorted(value)) + "}"


def _member(key: str, value: Any, depth: int) -> str:
    shown = f'"{_escape(_writable(value))}"' if isinstance(value, str) else _route(value, depth + 1)
    return f'"{_escape(key)}":{shown}'


def _sorted(keys: Iterable[Any]) -> list[str]:
    """The keys in the order of JavaScript's `localeCompare`."""
    listed = list(keys)
    for key in listed:
        if not (isinstance(key, str) and key.isascii() and key.isprintable()):
            raise DeclarationError(
                f"the pattern has the key {key!r}; keys must be printable ASCII text, since "
                "the order of others depends on the machine. Rename the key."
            )
    return sorted(listed, key=_collated)


def _collated(key: str) -> tuple[str, str]:
    return key.lower().translate(_RANKS), key.swapcase()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _writable(text: str) -> str:
    """The text itself, if UTF-8 can write it (half a surrogate pair cannot be sent)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DeclarationError(f"the pattern {text!r} cannot be sent: {error}.") from error
    return text


def _number(value: int | float) -> str:
    """A number as JavaScript writes it."""
    if isinstance(value, int) and abs(value) <= _SAFE_INTEGER:
        return str(int(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DeclarationError(f"the pattern holds a number that JSON cannot say: {number}.")
    return _double(number)


def _double(number: float) -> str:
    """ECMAScript's Number::toString; Python finds the same shortest digits."""
    if number == 0:
        return "0"
    _, parts, exponent = Decimal(repr(number)).as_tuple()
    written = "".join(map(str, parts))
    digits = written.rstrip("0")
    point = len(written) + int(exponent)
    sign = "-" if number < 0 else ""
    if len(digits) <= point <= _MOST_DIGITS:
        return sign + digits.ljust(point, "0")
    if 0 < point <= _MOST_DIGITS:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _LEAST_POINT < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


_remembered = lru_cache(maxsize=1024)(_route_of_json)
