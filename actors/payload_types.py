"""What kind of type an annotation is, and how its author would write it.

Pure questions about types, shared by the two readers of payloads: the strict
converter (payload_converter.py) and the compiled decoder (payload_fast.py).
"""

import dataclasses
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
)

import attrs
import msgspec

from .errors import DeclarationError

__all__ = [
    "bare",
    "is_class",
    "is_enum",
    "is_namedtuple",
    "is_typeddict",
    "is_union",
    "members",
    "type_name",
]

_QUALIFIERS = (Final, Required, NotRequired, ClassVar)


def bare(target: Any) -> Any:
    """`target` without what does not change its values: Annotated, NewType, aliases, Final.

    Raises `DeclarationError` for `msgspec.Meta`: only the compiled decoder would
    enforce its bounds, so a payload's fate would depend on the path it takes.
    """
    while True:
        if get_origin(target) is Annotated:
            if any(isinstance(extra, msgspec.Meta) for extra in target.__metadata__):
                raise DeclarationError(
                    f"{type_name(target)}: msgspec.Meta is not enforced on payloads. "
                    "Write the rule as an attrs validator."
                )
            target = target.__origin__
        elif get_origin(target) in _QUALIFIERS:
            target = get_args(target)[0]
        elif hasattr(target, "__supertype__"):
            target = target.__supertype__
        elif type(target).__name__ == "TypeAliasType":
            target = target.__value__
        else:
            return target


def is_union(target: Any) -> bool:
    """Is this `X | Y`, `Union[X, Y]` or `Optional[X]`?"""
    return get_origin(target) in (Union, UnionType)


def members(target: Any) -> tuple[Any, ...]:
    """The bare members of a union, those of unions within it too; else `target` alone."""
    target = bare(target)
    if not is_union(target):
        return (target,)
    return tuple(inner for member in get_args(target) for inner in members(member))


def is_class(target: Any) -> bool:
    """Is this an attrs class or a dataclass (no instance, no generic alias)?"""
    return isinstance(target, type) and (attrs.has(target) or dataclasses.is_dataclass(target))


def is_enum(target: Any) -> bool:
    """Is this an Enum class, flags included?"""
    return isinstance(target, type) and issubclass(target, Enum)


def is_namedtuple(target: Any) -> bool:
    """Is this a NamedTuple or a collections.namedtuple?"""
    return isinstance(target, type) and issubclass(target, tuple) and hasattr(target, "_fields")


def is_typeddict(target: Any) -> bool:
    """Is this a TypedDict, be it of typing or of typing_extensions?"""
    return (
        isinstance(target, type)
        and issubclass(target, dict)
        and hasattr(target, "__required_keys__")
    )


def type_name(target: Any) -> str:
    """The type as its author would write it: `list[Item]`, `int | None`."""
    if target is Ellipsis:
        return "..."
    if target in (None, NoneType):
        return "None"
    origin, args = get_origin(target), get_args(target)
    if is_union(target):
        return " | ".join(type_name(member) for member in args)
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in args)}]"
    if origin is Annotated:
        return type_name(args[0])
    if origin is not None:
        return f"{type_name(origin)}[{', '.join(type_name(inner) for inner in args) or '()'}]"
    return str(getattr(target, "__name__", target))
