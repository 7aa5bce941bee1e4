"""The strict converter: plain values in, typed values out, every misfit named.

It is a cattrs converter that compiles its own hooks. cattrs reads attrs classes,
dataclasses and TypedDicts, resolves generics and gathers the errors; what it would
coerce (`list("ab")`, `int("5")`) is read here or in payload_rules.py, and refused.

Invariant: the outcome depends on the type and the value alone. `int | str` equals
`str | int` in every cache of Python, so a union tries its members in an order of its
own, and one whose members cannot be told apart is refused when it is declared.
"""

import dataclasses
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from itertools import combinations
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
from cattrs import Converter
from cattrs.disambiguators import create_default_dis_func
from cattrs.errors import (
    BaseValidationError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, override
from cattrs.gen.typeddicts import make_dict_structure_fn as make_typeddict_structure_fn

from .payload_rules import KEYS, SCALARS, Hook, Misfit, choice, enum
from .payload_types import (
    bare,
    is_class,
    is_enum,
    is_namedtuple,
    is_typeddict,
    is_union,
    members,
    type_name,
)

__all__ = ["StrictConverter"]

# A peer can put millions of misfits into one frame, and each costs an exception.
_NAMED_PER_ARRAY = 100

_ARRAYS: dict[Any, Callable[[list[Any]], Any]] = {
    **dict.fromkeys((list, Collection, Iterable, MutableSequence, Sequence), list),
    **dict.fromkeys((set, MutableSet), set),
    **dict.fromkeys((frozenset, Set), frozenset),
}
_OBJECTS = (dict, Mapping, MutableMapping)
_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator)
_RANK = {target: rank for rank, target in enumerate(SCALARS)}

Step = tuple[int | str, Hook, Any, Any]


class StrictConverter(Converter):
    """cattrs, with hooks that refuse where cattrs coerces.

    `get_structure_hook(type)` compiles a type once. What can never be read raises
    `StructureHandlerNotFoundError` with a text that says what to do. Hooks raise
    `Misfit` or cattrs' error groups; an instance of the wanted class passes unchanged.
    """

    def __init__(self) -> None:
        super().__init__(detailed_validation=True)
        self._hooks: dict[Any, Hook] = {}
        self._building: set[Any] = set()

    def structure(self, obj: Any, cl: Any) -> Any:
        # cattrs asks with None for an attrs field that has no annotation.
        return obj if cl is None else self.get_structure_hook(cl)(obj, cl)

    def get_structure_hook(self, type: Any, cache_result: bool = True) -> Hook:
        target = bare(type)
        known = self._hooks.get(target)
        if known is not None:
            return known
        if target in self._building:  # a recursive type, bound when it is first used
            return lambda value, _: self.get_structure_hook(target)(value, target)
        self._building.add(target)
        try:
            hook = self._hooks[target] = self._compile(target)
        except Exception:
            self._hooks.clear()  # some may lean on the type that failed
            raise
        finally:
            self._building.discard(target)
        return hook

    def _compile(self, target: Any) -> Hook:
        origin = get_origin(target) or target
        if target in SCALARS:
            return SCALARS[target]
        for applies, compile_hook in (
            (origin is Literal, choice),
            (is_union(target), self._union),
            (origin in _ARRAYS, self._array),
            (origin in _OBJECTS, self._mapping),
            (origin is tuple, self._tuple),
            (is_class(origin), self._class),
            (is_typeddict(origin), self._typeddict),
            (is_namedtuple(origin), self._namedtuple),
            (is_enum(origin), enum),
            (origin in _STREAMS, _stream),
        ):
            if applies:
                return compile_hook(target)
        raise _unreadable(target, "Use an attrs class, a dataclass or a builtin type")

    # Objects.

    def _class(self, target: Any) -> Hook:
        origin = get_origin(target) or target
        _resolve(origin)
        read = make_dict_structure_fn(target, self, _cattrs_use_alias=True)

        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, origin):
                return value
            return read(_object(value), target)

        # Here create_default_dis_func looks for the keys as they stand on the wire.
        vars(structure)["overrides"] = _renamed(origin)
        return structure

    def _typeddict(self, target: Any) -> Hook:
        origin = get_origin(target) or target
        read = make_typeddict_structure_fn(target, self, _cattrs_detailed_validation=True)
        keys = origin.__required_keys__ | origin.__optional_keys__
        return lambda value, _: read(
            {key: item for key, item in _object(value).items() if key in keys}, target
        )

    def _mapping(self, target: Any) -> Hook:
        key_type, value_type = get_args(target) or (Any, Any)
        key_hook = KEYS.get(bare(key_type)) or self.get_structure_hook(key_type)
        value_hook = self.get_structure_hook(value_type)

        def steps(value: Mapping[Any, Any]) -> Iterable[Step]:
            # A key is payload too, so the path says its position instead.
            for place, (key, item) in enumerate(value.items()):
                yield f"key {place}", key_hook, key, key_type
                yield f"key {place}", value_hook, item, value_type

        def structure(value: Any, _: Any) -> Any:
            done = _gather(steps(_object(value)), target)
            return dict(zip(done[::2], done[1::2], strict=True))

        return structure

    # Arrays.

    def _array(self, target: Any) -> Hook:
        (item_type,) = get_args(target) or (Any,)
        return self._items(target, item_type, _ARRAYS[get_origin(target) or target])

    def _items(self, target: Any, item_type: Any, build: Callable[[list[Any]], Any]) -> Hook:
        hook = self.get_structure_hook(item_type)

        def structure(value: Any, _: Any) -> Any:
            items = enumerate(_array(value))
            done = _gather(((at, hook, item, item_type) for at, item in items), target)
            try:
                return build(done)
            except TypeError:
                raise Misfit("holds an item that cannot stand in a set") from None

        return structure

    def _tuple(self, target: Any) -> Hook:
        args = get_args(target)
        if target is tuple or args[1:] == (...,):
            return self._items(target, args[0] if args else Any, tuple)
        return self._fixed(target, args, len(args), tuple)

    def _namedtuple(self, target: Any) -> Hook:
        hints = get_type_hints(target)
        types = tuple(hints.get(name, Any) for name in target._fields)
        required = len(types) - len(target._field_defaults)
        read = self._fixed(target, types, required, lambda items: target(*items))
        return lambda value, _: value if isinstance(value, target) else read(value, target)

    def _fixed(
        self, target: Any, types: tuple[Any, ...], required: int, build: Callable[[list[Any]], Any]
    ) -> Hook:
        hooks = [(self.get_structure_hook(item_type), item_type) for item_type in types]
        length = str(required) if required == len(types) else f"{required} to {len(types)}"

        def structure(value: Any, _: Any) -> Any:
            items = _array(value)
            if not required <= len(items) <= len(types):
                raise Misfit(f"expected an array of {length} items, got {len(items)}")
            pairs = enumerate(zip(hooks, items, strict=False))
            return build(
                _gather(((at, hook, item, of) for at, ((hook, of), item) in pairs), target)
            )

        return structure

    # Unions.

    def _union(self, target: Any) -> Hook:
        inside = members(target)
        if Any in inside or object in inside:
            return SCALARS[Any]
        arrays = [one for one in inside if _is_array(one)]
        objects = [one for one in inside if _is_object(one)]
        scalars = [one for one in inside if one not in (*arrays, *objects, NoneType)]
        _check_told_apart(target, arrays, scalars)
        scalar_hooks = [(self.get_structure_hook(one), one) for one in sorted(scalars, key=_rank)]
        array_hook = self.get_structure_hook(arrays[0]) if arrays else None
        object_hook = self._one_object(target, objects) if objects else None
        only = [*scalar_hooks, *((hook, target) for hook in (array_hook, object_hook) if hook)]
        nullable = NoneType in inside
        misfit = f"fits none of: {', '.join(type_name(one) for one in inside)}"
        origins = [get_origin(one) or one for one in inside]
        instances = tuple(one for one in origins if is_class(one) or is_namedtuple(one))

        def structure(value: Any, _: Any) -> Any:
            if (value is None and nullable) or isinstance(value, instances):
                return value
            if len(only) == 1:
                return only[0][0](value, only[0][1])
            if array_hook and isinstance(value, (list, tuple, set, frozenset)):
                return array_hook(value, target)
            if object_hook and isinstance(value, Mapping):
                return object_hook(value, target)
            for hook, member in scalar_hooks:
                try:
                    return hook(value, member)
                except Misfit:
                    continue
            raise Misfit(misfit)

        return structure

    def _one_object(self, target: Any, objects: list[Any]) -> Hook:
        """One hook for the object-shaped members of a union."""
        if len(objects) == 1:
            return self.get_structure_hook(objects[0])
        classes = sorted(objects, key=type_name)
        try:
            if not all(is_class(get_origin(one) or one) for one in classes):
                raise TypeError("only attrs classes and dataclasses have fields to tell by")
            choose = create_default_dis_func(self, *classes)
        except TypeError as error:
            raise _unreadable(
                target,
                f"{', '.join(type_name(one) for one in classes)} cannot be told apart. Give each "
                "class a field of its own without a default, or all of them a tag such as "
                '`kind: Literal["card"]`; a dict or a TypedDict can only stand alone',
            ) from error
        misfit = f"fits none of: {', '.join(type_name(one) for one in objects)}"

        def structure(value: Any, _: Any) -> Any:
            plain = _object(value)
            try:
                chosen = choose(plain)
            except (LookupError, ValueError, TypeError):
                raise Misfit(misfit) from None
            return self.structure(plain, chosen)

        return structure


def _stream(target: Any) -> Hook:
    """Messages that come one after the other: there are transports with such requests."""
    origin = get_origin(target) or target

    def check(value: Any, _: Any) -> Any:
        if isinstance(value, origin):
            return value
        raise Misfit.expected("a stream of messages", value)

    return check


def _unreadable(target: Any, advice: str) -> StructureHandlerNotFoundError:
    return StructureHandlerNotFoundError(
        f"{type_name(target)} cannot be read from JSON. {advice}.", target
    )


def _is_array(target: Any) -> bool:
    origin = get_origin(target) or target
    return origin in _ARRAYS or origin is tuple or is_namedtuple(origin)


def _is_object(target: Any) -> bool:
    origin = get_origin(target) or target
    return origin in _OBJECTS or is_class(origin) or is_typeddict(origin)


def _rank(target: Any) -> tuple[float, str]:
    """Literals and enums stand behind float and before what is written as a string."""
    return _RANK.get(target, _RANK[float] + 0.5), type_name(target)


def _check_told_apart(target: Any, arrays: list[Any], scalars: list[Any]) -> None:
    if len(arrays) > 1:
        raise _unreadable(target, "Two kinds of array cannot be told apart: use one of them")
    if bytes in scalars and str in scalars:
        raise _unreadable(target, "Base64 cannot be told from other strings: drop bytes or str")
    for one, other in combinations([scalar for scalar in scalars if is_enum(scalar)], 2):
        if {member.value for member in one} & {member.value for member in other}:
            raise _unreadable(target, "Two of its enums share a value: make them one")


def _resolve(target: Any) -> None:
    """Replaces annotations that are strings, `list["Node"]` too, in the class's own fields."""
    if attrs.has(target):
        attrs.resolve_types(target)
        return
    hints = get_type_hints(target, include_extras=True)
    for field in dataclasses.fields(target):
        field.type = hints[field.name]


def _renamed(target: Any) -> dict[str, Any]:
    if not attrs.has(target):
        return {}
    fields = attrs.fields(target)
    return {one.name: override(rename=one.alias) for one in fields if one.alias != one.name}


def _object(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, (dict, Mapping)):
        return value
    raise Misfit.expected("an object", value)


def _array(value: Any) -> Collection[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    raise Misfit.expected("an array", value)


def _gather(steps: Iterable[Step], target: Any) -> list[Any]:
    """Each step's value, or one error that names every step that failed."""
    done: list[Any] = []
    wrong: list[Exception] = []
    named = 0
    for place, hook, value, of in steps:
        try:
            done.append(hook(value, of))
        except (Misfit, BaseValidationError) as error:
            error.add_note(IterableValidationNote("", place, of))
            wrong.append(error)
            named += _count(error)
            if named >= _NAMED_PER_ARRAY:
                wrong.append(Misfit(f"was read no further after {named} misfits"))
                break
    if wrong:
        # pyright sees ExceptionGroup's __init__ beside cattrs' __new__
        raise IterableValidationError("", wrong, target)  # pyright: ignore[reportCallIssue]
    return done


def _count(error: Exception) -> int:
    return sum(map(_count, error.exceptions)) if isinstance(error, BaseValidationError) else 1
