"""From what handlers answer and callers send to protobuf messages.

A writer is compiled once for each message type, and for each class that it is given. It
takes attrs classes, dataclasses, mappings and messages of the same type. Names may be
those of the `.proto` or their camelCase forms. Enums are given as numbers, names, or
members of an `Enum` that have either. None stands for "absent".

A class may have more fields than its message; a key of a mapping that the message does not
have is refused, for it is a slip of the pen as a rule.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import attrs
import msgspec
from msgspec import UNSET

from .library import Descriptor, Message, ProtobufMessage, message_factory
from .reading import WRAPPERS, is_map

__all__ = ["Writer", "writer"]

Write = Callable[[Any], Any]
_Plan = list[tuple[str, str, Write | None]]


@lru_cache(maxsize=1024)
def writer(descriptor: Descriptor) -> "Writer":
    """What writes messages of one type."""
    return Writer(descriptor)


class Writer:
    """Writes one type of message."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.name: str = descriptor.full_name
        self._descriptor = descriptor
        self._make = message_factory.GetMessageClass(descriptor)
        self._special = _WELL_KNOWN.get(self.name)
        self._plans: dict[type, _Plan] = {}
        self._fields: dict[str, tuple[str, Write | None]] = {}

    def message(self, value: Any) -> Message:
        """The message that says `value`; None is an empty one. Raises `TypeError`, with the place.

        No text of an error shows a value.
        """
        if value is None or value is UNSET:
            return self._make()
        found = self.parts(value)
        if not isinstance(found, dict):
            return found
        try:
            return self._make(**found)
        except (TypeError, ValueError, OverflowError):
            pass  # looked for below, out of this block: its text may show a value
        raise TypeError(self._misfit(found))

    def serialized(self, value: Any) -> bytes:
        """`message`, as it goes over the wire."""
        return bytes(self.message(value).SerializeToString())

    def parts(self, value: Any) -> Any:
        """The fields of a message by their names, or the message itself."""
        kind = type(value)
        if self._special is not None and not isinstance(value, ProtobufMessage):
            return self._special(self, value)
        plan = self._plans.get(kind)
        if plan is None:
            if isinstance(value, Mapping):
                return self._parts_of_mapping(value)
            if isinstance(value, ProtobufMessage):
                return self._same(value)
            plan = self._plans[kind] = self._plan(kind)
        found = {}
        for attribute, name, write in plan:
            part = getattr(value, attribute)
            if part is not None and part is not UNSET:
                found[name] = part if write is None else write(part)
        return found

    def _parts_of_mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        fields = self._fields or self._compile()
        found = {}
        for key, part in value.items():
            try:
                name, write = fields[key]
            except KeyError:
                raise TypeError(self._unknown(key)) from None
            if part is not None and part is not UNSET:
                found[name] = part if write is None else write(part)
        return found

    def _same(self, value: Message) -> Message:
        """A message of this type; one of another pool's class is made again as ours."""
        if value.DESCRIPTOR.full_name != self.name:
            raise TypeError(f"expected {self.name}, got {value.DESCRIPTOR.full_name}")
        return (
            value
            if isinstance(value, self._make)
            else self._make.FromString(value.SerializeToString())
        )

    def _compile(self) -> dict[str, tuple[str, Write | None]]:
        fields = {}
        for field in self._descriptor.fields:
            fields[field.json_name] = fields[field.name] = (field.name, _field_writer(field))
        self._fields = fields
        return fields

    def _plan(self, kind: type) -> _Plan:
        fields = self._fields or self._compile()
        if attrs.has(kind):
            attributes = [(one.name, one.alias or one.name) for one in attrs.fields(kind)]
        elif dataclasses.is_dataclass(kind):
            attributes = [(one.name, one.name) for one in dataclasses.fields(kind)]
        elif issubclass(kind, msgspec.Struct):
            outside = kind.__struct_encode_fields__
            attributes = list(zip(kind.__struct_fields__, outside, strict=True))
        else:
            raise TypeError(
                f"expected what {self.name} can be made of (a class with its fields or a dict), "
                f"got {kind.__name__}"
            )
        return [(name, *fields[key]) for name, key in attributes if key in fields]

    def _unknown(self, key: Any) -> str:
        fields = [field.json_name for field in self._descriptor.fields]
        near = difflib.get_close_matches(str(key), fields, n=1)
        # Not the key itself, which may be data.
        known = ", ".join(fields) or "none"
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {known}."
        return f"{self.name} has no field for a key of this dict. {hint}"

    def _misfit(self, found: dict[str, Any]) -> str:
        for name, part in found.items():
            try:
                self._make(**{name: part})
            except (TypeError, ValueError, OverflowError):
                kind = type(part).__name__
                return f"{self.name}.{name}: this {kind} does not fit its type in the .proto"
        return f"{self.name}: its fields do not fit together"


def _field_writer(field: Descriptor) -> Write | None:
    """What writes one field; None where protobuf takes the value as it is."""
    if is_map(field):
        write = _one_writer(field.message_type.fields_by_name["value"])
        return None if write is None else _map_writer(field, write)
    write = _one_writer(field)
    return _list_writer(field, write) if field.is_repeated and write is not None else write


def _map_writer(field: Descriptor, write: Write) -> Write:
    return lambda items: {key: write(item) for key, item in _mapping(field, items).items()}


def _list_writer(field: Descriptor, write: Write) -> Write:
    return lambda items: [write(item) for item in _several(field, items)]


def _mapping(field: Descriptor, items: Any) -> Mapping[Any, Any]:
    if isinstance(items, Mapping):
        return items
    raise TypeError(f"{field.full_name}: expected a dict, got {type(items).__name__}")


def _several(field: Descriptor, items: Any) -> Any:
    if isinstance(items, list | tuple | set | frozenset):
        return items
    raise TypeError(f"{field.full_name}: expected a list, got {type(items).__name__}")


def _one_writer(field: Descriptor) -> Write | None:
    if field.message_type is not None:
        # Looked up when it is used: a message may hold its own kind.
        kind = field.message_type
        return lambda value: writer(kind).parts(value)
    if field.enum_type is not None:
        return _enum_writer(field)
    return _text if field.type == field.TYPE_STRING else None


def _enum_writer(field: Descriptor) -> Write:
    numbers: dict[Any, int] = {
        name: one.number for name, one in field.enum_type.values_by_name.items()
    }

    def write(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, Enum):
            return value
        names = (value.value, value.name) if isinstance(value, Enum) else (value,)
        for name in names:
            if isinstance(name, int):
                return name
            if name in numbers:
                return numbers[name]
        raise TypeError(f"{field.full_name}: expected one of {', '.join(numbers)} or its number")

    return write


def _text(value: Any) -> Any:
    """What JSON writes as text is text here too."""
    if type(value) is str:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, UUID | Decimal) else value


# -- well-known types ---------------------------------------------------------------


def _timestamp(self: Writer, value: Any) -> Any:
    return _from(self, value, datetime, "FromDatetime")


def _duration(self: Writer, value: Any) -> Any:
    return _from(self, value, timedelta, "FromTimedelta")


def _from(self: Writer, value: Any, kind: type, method: str) -> Any:
    if not isinstance(value, kind):
        if isinstance(value, Mapping):
            return self._parts_of_mapping(value)
        raise TypeError(f"{self.name}: expected a {kind.__name__}, got {type(value).__name__}")
    message = self._make()
    getattr(message, method)(value)
    return message


def _wrapper(self: Writer, value: Any) -> Any:
    return {"value": value}


def _struct(self: Writer, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{self.name}: expected a dict, got {type(value).__name__}")
    return _filled(self, self._make(), "update", value)


def _list(self: Writer, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{self.name}: expected a list, got {type(value).__name__}")
    return _filled(self, self._make(), "extend", value)


def _value(self: Writer, value: Any) -> Any:
    message: Message = self._make()
    match value:
        case bool():
            message.bool_value = value
        case int() | float():
            message.number_value = value
        case str():
            message.string_value = value
        case Mapping():
            _filled(self, message.struct_value, "update", value)
        case list() | tuple():
            _filled(self, message.list_value, "extend", value)
        case _:
            raise TypeError(f"{self.name} cannot hold a {type(value).__name__}")
    return message


def _filled(self: Writer, message: Message, method: str, value: Any) -> Message:
    try:
        getattr(message, method)(value)
    except (TypeError, ValueError, AttributeError):
        pass  # told below, without its text, which shows the value
    else:
        return message
    raise TypeError(f"{self.name} cannot hold all that this {type(value).__name__} holds")


_WELL_KNOWN: Final[dict[str, Callable[[Writer, Any], Any]]] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
    **dict.fromkeys(WRAPPERS, _wrapper),
}
