"""Which types msgspec reads from bytes exactly as the strict converter would.

msgspec makes attrs objects and dataclasses without calling `__init__`: it sets their
fields itself, then runs attrs validators and post-init hooks. So a class whose making
involves more than that (converters, aliases, a hand-written `__init__`, ...) is left to
the converter, as is every type that the two read differently. The list says what may
pass; whatever it does not know takes the slow path, which is never wrong.

Invariant: what the decoder made for a type accepts, the converter accepts with an equal
result (tests/actors/test_payload_fast.py compares them). The decoder may refuse more.
"""

import dataclasses
from abc import ABCMeta
from datetime import date, datetime, time, timedelta
from enum import Enum, EnumMeta
from inspect import signature
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs
import msgspec

from .payload_types import bare, is_class, is_enum, is_typeddict, is_union, members

__all__ = ["fast_decoder"]

_PRIMITIVES = frozenset({NoneType, bool, int, float, str})
_HASHABLE = _PRIMITIVES | {datetime, date, time, timedelta, UUID, bytes}
_PLAIN = _HASHABLE | {Any, object, list, dict, tuple}


def fast_decoder(target: Any) -> msgspec.json.Decoder[Any] | None:
    """A decoder that agrees with the strict converter on `target`, if there is one."""
    if not _reads_alike(target, set()):
        return None
    try:
        return msgspec.json.Decoder(target)
    except (TypeError, NotImplementedError):  # msgspec's way of saying: not this type
        return None


def _reads_alike(target: Any, seen: set[Any]) -> bool:
    target = bare(target)
    if target in _PLAIN or target in seen:
        return True
    origin, args = get_origin(target), get_args(target)
    if is_union(target):
        return _union_reads_alike(target, seen)
    if origin is Literal:
        return all(type(value) in (str, int, NoneType) for value in args)
    if origin is list or (origin is tuple and args):
        return all(_reads_alike(item, seen) for item in args if item is not Ellipsis)
    if origin in (set, frozenset):
        return bare(args[0]) in _HASHABLE
    if origin is dict:
        return bare(args[0]) is str and _reads_alike(args[1], seen)
    if is_enum(target):
        return _is_plain_enum(target)
    if is_typeddict(target) or (is_class(target) and _is_plainly_made(target)):
        seen.add(target)
        return all(_reads_alike(hint, seen) for hint in _field_types(target))
    return False


def _union_reads_alike(target: Any, seen: set[Any]) -> bool:
    """`X | None`, or primitives with at most one array or object beside them."""
    others = [member for member in members(target) if member not in _PRIMITIVES]
    if not others:
        return True
    simple = set(members(target)) <= {NoneType, *others}
    shaped = is_class(others[0]) or get_origin(others[0]) in (list, tuple, dict)
    return len(others) == 1 and (simple or shaped) and _reads_alike(others[0], seen)


def _is_plain_enum(target: type[Enum]) -> bool:
    """Found by value alone, all of them strings or all of them integers."""
    return (
        {type(member.value) for member in target} in ({str}, {int})
        and type(target) is EnumMeta
        and target._missing_.__func__ is Enum._missing_.__func__  # type: ignore[attr-defined]
    )


def _is_plainly_made(target: Any) -> bool:
    """Does setting the fields one by one make the same object as calling the class?

    Defaults that need the half-made object (`takes_self`) msgspec refuses by itself.
    """
    if type(target) not in (type, ABCMeta) or target.__new__ is not object.__new__:
        return False
    if getattr(target, "__parameters__", ()):  # generic: its fields have no types of their own
        return False
    return _is_plain_attrs(target) if attrs.has(target) else _is_plain_dataclass(target)


def _is_plain_attrs(target: Any) -> bool:
    fields = attrs.fields(target)
    return (
        "__attrs_attrs__" in vars(target)
        and _is_generated(target.__init__, "<attrs generated")
        and not hasattr(target, "__attrs_pre_init__")
        and (
            target.__setattr__ is object.__setattr__
            or getattr(target, "__attrs_own_setattr__", False)
            or getattr(target.__setattr__, "__module__", "").startswith("attr.")  # frozen
        )
        # __init__ prepares the cache that such a __hash__ reads
        and "_attrs_cached_hash" not in _names_in(target.__hash__)
        and all(_is_plain_field(field) for field in fields)
    )


def _is_plain_field(field: "attrs.Attribute[Any]") -> bool:
    return field.init and field.converter is None and field.alias == field.name


def _is_plain_dataclass(target: Any) -> bool:
    names = [field.name for field in dataclasses.fields(target)]
    return (
        "__dataclass_fields__" in vars(target)
        and _is_generated(target.__init__, "<string>")
        # neither more parameters (InitVar) nor fewer (init=False)
        and sorted(signature(target).parameters) == sorted(names)
        and (target.__setattr__ is object.__setattr__ or target.__dataclass_params__.frozen)
    )


def _is_generated(function: Any, file: str) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(file)


def _names_in(function: Any) -> tuple[str, ...]:
    return getattr(getattr(function, "__code__", None), "co_names", ())


def _field_types(target: Any) -> list[Any]:
    hints = get_type_hints(target, include_extras=True)
    if is_typeddict(target):
        return list(hints.values())
    fields = attrs.fields(target) if attrs.has(target) else dataclasses.fields(target)
    return [hints.get(field.name) for field in fields]  # attr.ib(type=...) leaves no hint
