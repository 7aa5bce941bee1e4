"""From protobuf messages to what handlers and callers take: dictionaries of plain values.

A reader is compiled once for each message type and each type that is wanted of it. What
it makes goes through the strict rules for payloads like decoded JSON does, so that classes,
validators and reports of wrong fields are the same on every transport.

Fields: for a class they are found by their name in the `.proto` or by its camelCase form,
whichever the class has, and others are not read. Enums are numbers, and names where names
are wanted (`str`, a `Literal` or an `Enum` of text). Absent scalars have their default; what
is known to be absent (messages, `optional`) is None, or left to the class's own default;
absent members of a `oneof` are left out of plain dictionaries.

Source: proto3's JSON mapping for names and well-known types, @grpc/proto-loader (the
loader of NestJS) for the rest.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import attrs

from ...actors.errors import PayloadError
from ...actors.payload_types import bare, is_class, is_enum, is_typeddict, members
from .library import Descriptor, Message

__all__ = ["WRAPPERS", "is_map", "missing", "reader"]

Read = Callable[[Any], Any]

WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


def reader(descriptor: Descriptor, target: Any, keep_case: bool = False) -> Read:
    """What reads messages of one type for a `target`, an annotation.

    Raises `PayloadError` for a value that Python has no room for (a date after 9999).
    """
    return _compiled(descriptor, target, keep_case)


@lru_cache(maxsize=4096)
def _compiled(descriptor: Descriptor, target: Hashable, keep_case: bool) -> Read:
    if descriptor.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[descriptor.full_name]
    return _Reader(descriptor, target, keep_case)


class _Reader:
    """Compiled when it is first used: a message may hold its own kind."""

    __slots__ = ("_descriptor", "_keep_case", "_keys", "_others", "_scalars", "_target")

    def __init__(self, descriptor: Descriptor, target: Any, keep_case: bool) -> None:
        self._descriptor, self._target, self._keep_case = descriptor, target, keep_case
        self._keys: list[str] | None = None
        self._scalars: Callable[[Message], Any] = _none
        self._others: list[tuple[str, str, bool, bool, Read | None]] = []

    def __call__(self, message: Message) -> dict[str, Any]:
        if self._keys is None:
            self._compile()
        found = dict(zip(self._keys or (), self._scalars(message), strict=True))
        for key, name, has_presence, left_out, read in self._others:
            if has_presence and not message.HasField(name):
                if not left_out:
                    found[key] = None
                continue
            value = getattr(message, name)
            found[key] = value if read is None else read(value)
        return found

    def _compile(self) -> None:
        wanted = _wanted(self._target)
        keys, names = [], []
        for field in self._descriptor.fields:
            key = self._key(field, wanted)
            if key is None:
                continue
            of, has_default = (Any, False) if wanted is None else wanted[key]
            read = _field_reader(field, of, self._keep_case)
            if read is None and not field.has_presence:
                keys.append(key)
                names.append(field.name)
                continue
            left_out = has_default or (wanted is None and _is_choice(field))
            self._others.append((key, field.name, field.has_presence, left_out, read))
        if len(names) > 1:
            self._scalars = attrgetter(*names)
        elif names:
            only = attrgetter(names[0])
            self._scalars = lambda message: (only(message),)
        self._keys = keys

    def _key(self, field: Descriptor, wanted: Mapping[str, Any] | None) -> str | None:
        if wanted is None:
            return str(field.name if self._keep_case else field.json_name)
        return next((name for name in (field.name, field.json_name) if name in wanted), None)


def is_map(field: Descriptor) -> bool:
    """Whether a field was written as `map<K, V>`."""
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def missing(descriptor: Descriptor, target: Any) -> list[str]:
    """The fields that a class must have and a message cannot give."""
    names = {name for field in descriptor.fields for name in (field.name, field.json_name)}
    wanted = _wanted(target) or {}
    return [name for name, (_, has_default) in wanted.items() if not (has_default or name in names)]


def _field_reader(field: Descriptor, target: Any, keep_case: bool) -> Read | None:
    """What reads one field; None where its value is ready as it is."""
    if is_map(field):
        held = field.message_type.fields_by_name["value"]
        read = _one_reader(held, _inner(target, 1), keep_case)
        return dict if read is None else _map_reader(read)
    if field.is_repeated:
        read = _one_reader(field, _inner(target, 0), keep_case)
        return list if read is None else _list_reader(read)
    return _one_reader(field, target, keep_case)


def _map_reader(read: Read) -> Read:
    return lambda items: {key: read(items[key]) for key in items}


def _list_reader(read: Read) -> Read:
    return lambda items: [read(item) for item in items]


def _one_reader(field: Descriptor, target: Any, keep_case: bool) -> Read | None:
    if field.message_type is not None:
        return reader(field.message_type, target, keep_case)
    if field.enum_type is not None and _wants_names(target):
        names = {number: one.name for number, one in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return None


def _is_choice(field: Descriptor) -> bool:
    """Whether a field is one of a `oneof`; an `optional` is one of its own."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) > 1


def _wanted(target: Any) -> dict[str, tuple[Any, bool]] | None:
    """The fields of a class by the names that they have outside: type, and has it a default?

    None for what is no class: all fields are wanted then.
    """
    origins = [get_origin(one) or one for one in members(target)]
    shaped = [one for one in origins if is_class(one) or is_typeddict(one)]
    if len(shaped) != 1:
        return None
    origin = shaped[0]
    hints = get_type_hints(origin)
    if is_typeddict(origin):
        return {name: (of, name in origin.__optional_keys__) for name, of in hints.items()}
    if attrs.has(origin):
        return {
            one.alias or one.name: (hints.get(one.name, Any), one.default is not attrs.NOTHING)
            for one in attrs.fields(origin)
        }
    missing = dataclasses.MISSING
    return {
        one.name: (
            hints.get(one.name, Any),
            one.default is not missing or one.default_factory is not missing,
        )
        for one in dataclasses.fields(origin)
    }


def _inner(target: Any, place: int) -> Any:
    """The type of the items of a `list[X]` or a `dict[K, X]`."""
    for one in members(target):
        args = get_args(one)
        if len(args) > place:
            return args[place]
    return Any


def _wants_names(target: Any) -> bool:
    for one in members(target):
        one = bare(one)
        if one is str or (get_origin(one) is Literal and isinstance(get_args(one)[0], str)):
            return True
        if is_enum(one):
            return any(isinstance(member.value, str) for member in one)
    return False


def _none(_: Message) -> tuple[()]:
    return ()


# -- well-known types ---------------------------------------------------------------


def _timestamp(message: Message) -> Any:
    return _in_range(message, message.ToDatetime, UTC)


def _duration(message: Message) -> Any:
    return _in_range(message, message.ToTimedelta)


def _in_range(message: Message, read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except (ValueError, OverflowError):
        pass  # told below, without its content
    raise PayloadError([("$", f"holds a {message.DESCRIPTOR.full_name} that is out of range")])


def _value(message: Message) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    held = getattr(message, kind)
    read = _VALUES.get(kind)
    return held if read is None else read(held)


def _struct(message: Message) -> dict[str, Any]:
    return {key: _value(held) for key, held in message.fields.items()}


def _list(message: Message) -> list[Any]:
    return [_value(held) for held in message.values]


_VALUES: Final[dict[str, Read]] = {"struct_value": _struct, "list_value": _list}

_WELL_KNOWN: Final[dict[str, Read]] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
    **dict.fromkeys(WRAPPERS, attrgetter("value")),
}
