"""Options of bridges and clients: frozen, typed, settable in the URL, checked at declaration."""

import difflib
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

from ..actors.errors import DeclarationError

__all__ = ["parse_options", "parse_url", "shown"]

O = TypeVar("O")  # noqa: E741

_BOOLS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_READERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    int: int,
    float: float,
    bool: lambda text: _BOOLS[text.lower()],
}


def parse_url(url: str) -> SplitResult:
    """Split a transport URL; raises `DeclarationError` for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, because this is where a bad one raises
    except ValueError as error:
        raise DeclarationError(f"{shown(url)} is no URL: {error}.") from error
    if "://" not in url or not (parts.netloc or parts.path):
        raise DeclarationError(
            f"{shown(url)} is no transport URL; one looks like tcp://127.0.0.1:3001."
        )
    return parts


def parse_options(kind: type[O], url: str, options: Mapping[str, Any]) -> O:
    """The options of a transport, from the URL's query and from keywords; keywords win.

    Raises `DeclarationError` for an unknown name, with the nearest right one, and for a
    value that does not fit.
    """
    fields = {field.name: field for field in attrs.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        _check_name(name, fields, url)
        values[name] = _from_text(name, text, fields[name].type, url)
    for name, value in options.items():
        _check_name(name, fields, url)
        _check_type(name, value, fields[name].type, url)
        values[name] = value
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        # attrs' validators put more into the error than its text.
        raise DeclarationError(f"{shown(url)}: {error.args[0]}") from error


def shown(url: str) -> str:
    """The URL as it may be logged: without its login and its options."""
    # Not `urlsplit`: what it cannot read has to be shown, too.
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    rest = rest.partition("?")[0].partition("#")[0]
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def _check_name(name: str, fields: Mapping[str, Any], url: str) -> None:
    if name in fields:
        return
    near = difflib.get_close_matches(name, fields, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(fields)}."
    raise DeclarationError(f"{shown(url)}: there is no option {name!r}. {hint}")


def _check_type(name: str, value: Any, kind: Any, url: str) -> None:
    if kind in (int, float, bool, str):
        taken = (int, float) if kind is float else kind
        if isinstance(value, taken) and isinstance(value, bool) == (kind is bool):
            return
    elif kind is Any or not _is_class(kind) or isinstance(value, kind):
        return
    raise DeclarationError(
        f"{shown(url)}: the option {name!r} must be of type {_named(kind)}, "
        f"got {type(value).__name__}."
    )


def _is_class(kind: Any) -> bool:
    """Whether `isinstance` can tell: for a class, and for one or None."""
    return all(isinstance(part, type) for part in get_args(kind) or (kind,)) and (
        get_origin(kind) in (None, UnionType)
    )


def _from_text(name: str, text: str, kind: Any, url: str) -> Any:
    if kind is Any or kind is str:
        return text
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        wanted = f"must be one of {', '.join(map(repr, get_args(kind)))}, got {text!r}"
    elif kind in _READERS:
        try:
            return _READERS[kind](text)
        except (ValueError, KeyError):
            wanted = f"must be of type {kind.__name__}, got {text!r}"
    else:
        # What was written there may be a secret, and cannot be meant.
        wanted = f"is an object ({_named(kind)}), which no URL can hold; give it as a keyword"
    raise DeclarationError(f"{shown(url)}: the option {name!r} {wanted}.")


def _named(kind: Any) -> str:
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if get_origin(kind) is UnionType and len(parts) == 1:
        return _named(parts[0])
    origin = get_origin(kind) or kind
    return "function" if origin is Callable else str(getattr(origin, "__name__", origin))
