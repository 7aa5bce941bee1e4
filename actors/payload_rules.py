"""How one value fits one simple type: the strict rules for scalars, Literal and Enum.

Nothing is coerced but what JSON cannot say: an integer stands for a float, and a string
for a date, a UUID, bytes (base64) or a Decimal. `5` is no string, `"5"`, `3.0` and `true`
are no integers. Text forms are read by `msgspec.convert`, which is the code the compiled
decoder runs as well, so that both paths accept the same strings.

Every rule takes `(value, type)`, as cattrs' hooks do, and raises `Misfit`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Flag
from types import NoneType
from typing import Any, get_args
from uuid import UUID

import msgspec

from .payload_types import is_enum

__all__ = ["KEYS", "REFUSALS", "SCALARS", "Hook", "Misfit", "choice", "enum"]

Hook = Callable[[Any, Any], Any]

# What a rule of the user's (converter, validator, __init__, _missing_) says no with.
# Anything else that it raises is a bug in the program and is not dressed up as bad data.
REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError)

_CHOICES_SHOWN = 20
# However large its exponent, a Decimal is small; what int() or f"{x:f}" make of it is
# not. decimal128 ends here too.
_DECIMAL_EXPONENT = 6144
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,5})?", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})")


class Misfit(ValueError):
    """One value does not fit. The text is for the caller and shows none of the payload."""

    @classmethod
    def expected(cls, wanted: str, value: Any) -> "Misfit":
        """`expected a string, got an integer`."""
        return cls(f"expected {wanted}, got {_kind(value)}")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "an array"
    return f"a {type(value).__name__}"


def _anything(value: Any, _: Any) -> Any:
    return value


def _null(value: Any, _: Any) -> None:
    if value is not None:
        raise Misfit.expected("null", value)


def _boolean(value: Any, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Misfit.expected("a boolean", value)


def _integer(value: Any, _: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Misfit.expected("an integer", value)


def _number(value: Any, _: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise Misfit("is out of range for a number") from None
    raise Misfit.expected("a number", value)


def _string(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return value
    raise Misfit.expected("a string", value)


def _decimal(value: Any, _: Any) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Misfit.expected("a decimal (a string or a number)", value)
    # The shortest text of a float is what a JavaScript sender wrote.
    text = str(value)
    if not _DECIMAL.fullmatch(text):
        raise Misfit("expected a decimal such as 19.90")
    number = Decimal(text)
    if abs(number.adjusted()) > _DECIMAL_EXPONENT:
        raise Misfit("is out of range for a decimal")
    return number


def _text_form(target: type, wanted: str, example: str) -> Hook:
    def read(value: Any, _: Any) -> Any:
        # A datetime is a date to isinstance, but none on the wire.
        if isinstance(value, target) and not (target is date and isinstance(value, datetime)):
            return value
        if not isinstance(value, str):
            raise Misfit.expected(wanted, value)
        try:
            return msgspec.convert(value, target)
        except msgspec.ValidationError:
            raise Misfit(f"expected {wanted} such as {example}") from None

    return read


def _integer_key(value: Any, target: Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return _integer(value, target)


# Unions try their members in this order: the narrowest first, str at the end.
SCALARS: dict[Any, Hook] = {
    Any: _anything,
    object: _anything,
    NoneType: _null,
    bool: _boolean,
    int: _integer,
    float: _number,
    datetime: _text_form(datetime, "a date and time", "2024-01-31T12:00:00Z"),
    date: _text_form(date, "a date", "2024-01-31"),
    time: _text_form(time, "a time", "12:00:00"),
    timedelta: _text_form(timedelta, "a duration", "PT1H30M"),
    UUID: _text_form(UUID, "a UUID", "8c0d3f3e-6c1e-4b5a-9d5e-0a4b3c2d1e0f"),
    Decimal: _decimal,
    bytes: _text_form(bytes, "base64", '"aGk="'),
    str: _string,
}

# A JSON object's keys are strings, so an int key is written in digits.
KEYS: dict[Any, Hook] = {int: _integer_key}


def choice(target: Any) -> Hook:
    """The rule for a Literal; an Enum member in it stands on the wire as its value."""
    return _one_of({_token(getattr(v, "value", v)): v for v in get_args(target)})


def enum(target: Any) -> Hook:
    """The rule for an Enum: by value, then by its own `_missing_` (as flags do)."""
    by_value = {_token(member.value): member for member in target.__members__.values()}
    kinds = {kind for kind, _ in by_value}
    listed = _one_of(by_value)

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, target):
            return value
        try:
            return listed(value, target)
        except Misfit:
            # The kind first: target(True) would find the member of the value 1.
            if type(value) not in kinds:
                raise
        try:
            found = target(value)
        except REFUSALS:
            found = None
        if found is None or (is_flag and getattr(found, "value", found) != value):
            return listed(value, target)
        return found

    # A flag may drop bits that it does not know (all do in Python 3.11.2); that is coercion.
    is_flag = issubclass(target, Flag)
    return read


def _token(value: Any) -> tuple[type, Any]:
    """Keeps 1, 1.0 and True apart, which are one key to a dict."""
    return type(value), value


def _one_of(choices: Mapping[tuple[type, Any], Any]) -> Hook:
    refused = f"is not one of: {_listed(value for _, value in choices)}"

    def read(value: Any, _: Any) -> Any:
        if is_enum(type(value)) and value in choices.values():
            return value
        try:
            return choices[_token(value)]
        except (KeyError, TypeError):  # TypeError: a list or an object, which has no hash
            raise Misfit(refused) from None

    return read


def _listed(values: Iterable[Any]) -> str:
    shown = [msgspec.json.encode(value).decode() for value in values]
    if len(shown) > _CHOICES_SHOWN:
        shown[_CHOICES_SHOWN:] = [f"and {len(shown) - _CHOICES_SHOWN} more"]
    return ", ".join(shown)
