"""Values as JSON: what goes out on the wire, and into dead letters.

Beside payload.py, which reads: attrs and dataclasses, dates, ids and decimals are
written as NestJS's clients expect them from JavaScript's `JSON.stringify`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["encode", "encode_usual"]

_KEY_WORDS = {None: "null", True: "true", False: "false"}


def encode(value: Any) -> bytes:
    """The value as JSON. Raises `TypeError`, naming the type, for what JSON cannot say.

    Takes attrs and dataclasses (without their `_private` fields; a class with slots may
    have its fields written in another order), mappings, sequences, sets, enums, dates,
    UUIDs and `Decimal` (as a string); NaN and infinities are null, bytes base64, keys of
    mappings text, as in JavaScript.
    """
    try:
        return encode_usual(value)
    except TypeError:
        pass  # Perhaps for keys that JavaScript takes and msgspec does not: again, below.
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise _unwritable(value, error) from error
    try:
        return encode_usual(_keyed(value))
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise _unwritable(value, error) from error


def _keyed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_key_text(key): _keyed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_keyed(item) for item in value]
    return value


def _key_text(key: Any) -> Any:
    if key is None or isinstance(key, bool):
        return _KEY_WORDS[key]
    try:
        encode_usual({key: None})
    except TypeError as error:
        raise TypeError(
            f"a mapping's key of type {type(key).__qualname__} cannot be written as JSON. "
            "Use text, numbers, enums, dates or UUIDs as keys."
        ) from error
    return key


def _plain(value: Any) -> Any:
    """Msgspec asks here for every type that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} cannot be written as JSON. "
        "Return an attrs class, a dataclass, or plain dicts, lists, text and numbers."
    )


def _unwritable(value: Any, error: Exception) -> TypeError:
    return TypeError(f"this {type(value).__qualname__} cannot be written as JSON: {error}")


encode_usual = msgspec.json.Encoder(enc_hook=_plain).encode
"""`encode` for a hot path: raises for what is out of the ordinary, where `encode` may not."""
