"""The compiled decoder: which types it may read, and that it reads them as the converter does."""

import dataclasses
import enum
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.errors import PayloadError
from understudy.actors.payload import Payload
from understudy.actors.payload_fast import fast_decoder

T = TypeVar("T")
ID = UUID("8c0d3f3e-6c1e-4b5a-9d5e-0a4b3c2d1e0f")


class Tier(enum.Enum):
    GOLD = "gold"
    SILVER = "silver"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Lenient(enum.Enum):
    GOLD = "gold"

    @classmethod
    def _missing_(cls, value: object) -> "Lenient | None":
        return cls.GOLD if value == "au" else None


class OwnMeta(enum.EnumMeta):
    """May look members up as it likes."""


class Metal(enum.Enum, metaclass=OwnMeta):
    GOLD = "au"


@attrs.frozen
class Item:
    sku: str
    qty: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    price: float = 0.0


@attrs.define
class Order:
    id: int
    customer: str
    placed: datetime
    items: list[Item]
    tier: Tier | None = None
    tags: dict[str, int] = attrs.Factory(dict)


@attrs.frozen
class Tree:
    name: str
    children: "list[Tree]" = attrs.Factory(list)


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0
    path: list["Point"] = dataclasses.field(default_factory=list)


class Filter(TypedDict):
    text: str
    limit: NotRequired[int]


class Range(NamedTuple):
    low: int
    high: int = 9


@attrs.frozen
class Card:
    number: str
    note: str = ""


@attrs.frozen
class Cash:
    amount: int


@attrs.define
class HandMade:
    id: int

    def __init__(self, id: int) -> None:
        self.__attrs_init__(id + 1)  # type: ignore[attr-defined]


@attrs.define
class Upper:
    name: str

    def __setattr__(self, key: str, value: str) -> None:
        object.__setattr__(self, key, value.upper())


@attrs.frozen
class Page(Generic[T]):
    items: list[T]


def above_low(ruled: "Ruled", _: Any, value: int) -> None:
    if value < ruled.low:
        raise ValueError(f"{value} is below {ruled.low}")


@attrs.define
class Ruled:
    low: int = attrs.field(validator=attrs.validators.ge(1))
    name: str = attrs.field(
        validator=attrs.validators.and_(
            attrs.validators.max_len(3), attrs.validators.matches_re("[a-z]+")
        )
    )
    high: int = attrs.field(validator=above_low)


FAST: list[Any] = [
    Any, bool, int, float, str, datetime, date, time, timedelta, UUID, bytes, Tier, Level,
    Literal["a", 1, None], list[int], set[float], frozenset[str], tuple[int, str],
    tuple[float, ...], dict[str, float], list, dict, int | str, int | float | None, float | str,
    bool | float, Tier | None, datetime | None, int | list[str], str | Item, Item | None, Item,
    Order, Tree, Point, Filter, Ruled, list[dict[str, Item]],
]  # fmt: skip
SLOW: list[Any] = [
    Decimal, Access, Lenient, Metal, Range, Card | Cash, str | UUID, dict[int, str], set[Any],
    HandMade, list[HandMade], HandMade | None, Page[Item], Literal[True], Sequence[int], tuple[()],
]  # fmt: skip


@pytest.mark.parametrize("annotation", FAST, ids=str)
def test_a_type_that_msgspec_reads_alike_is_read_by_it(annotation: Any) -> None:
    assert Payload(annotation).fast


@pytest.mark.parametrize("annotation", SLOW, ids=str)
def test_a_type_that_msgspec_reads_otherwise_is_left_to_the_converter(annotation: Any) -> None:
    assert not Payload(annotation).fast


@dataclasses.dataclass
class ShoutingPoint:
    name: str

    def __setattr__(self, key: str, value: str) -> None:
        object.__setattr__(self, key, value.upper())


@dataclasses.dataclass
class OwnPoint:
    x: int

    def __init__(self, x: int) -> None:
        self.x = x + 1


class Parent:
    def __attrs_pre_init__(self) -> None: ...


class Late(Item):
    """Inherits Item's fields, and has an `__init__` that attrs did not make for it."""


@pytest.mark.parametrize(
    "class_",
    [
        attrs.make_class("C", {"a": attrs.field(type=int, converter=int)}),
        attrs.make_class("C", {"a": attrs.field(type=int, alias="b")}),
        attrs.make_class("C", {"_a": attrs.field(type=int)}),
        attrs.make_class("C", {"a": attrs.field(type=int, default=1, init=False)}),
        attrs.make_class("C", {"a": attrs.field(type=int, default=attrs.Factory(id, True))}),
        attrs.make_class("C", {"a": attrs.field()}),
        attrs.make_class("C", {"a": attrs.field(type=int)}, bases=(Parent,)),
        attrs.make_class("C", {"a": attrs.field(type=int)}, bases=(Exception,)),
        attrs.make_class("C", {"a": attrs.field(type=int)}, frozen=True, cache_hash=True),
        attrs.make_class("C", {"a": attrs.field(type=int)}, init=False),
        Late,
        HandMade,
        Upper,
        dataclasses.make_dataclass("C", [("a", int, dataclasses.field(default=1, init=False))]),
        dataclasses.make_dataclass("C", [("a", int)], init=False),
        dataclasses.make_dataclass("C", [("a", int), ("b", dataclasses.InitVar[int])]),
        type("C", (Point,), {}),
        ShoutingPoint,
        OwnPoint,
    ],
    ids=[
        "converter", "alias", "private name", "init=False", "takes_self", "no annotation",
        "pre-init", "exception", "cached hash", "no init", "plain subclass", "own init",
        "own setattr", "dataclass init=False", "dataclass without init", "InitVar",
        "plain subclass of a dataclass", "dataclass with own setattr", "dataclass with own init",
    ],
)  # fmt: skip
def test_a_class_that_is_not_made_by_setting_its_fields_is_left_to_the_converter(
    class_: type,
) -> None:
    assert not Payload(class_).fast


WORDS = [
    "a", "", "gold", "1", "1.5", str(ID), ID.hex, "2024-01-31", "2024-01-31T12:00:00Z",
    "2024-01-31 12:00:00.1234567+02:00", "12:30:00", "PT1H30M", "P1D", "-PT0.5S", "aGk=", "aGk",
    "x" * 20, "2024-13-01",
]  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0, 2.0, 2**53 + 1, 2**64, -(2**63) - 1, 10**30, 10**400])
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
)
FIELDS = [field.name for owner in (Item, Order, Tree, Ruled) for field in attrs.fields(owner)]
KEYS = st.sampled_from([*FIELDS, "x", "y", "path", "text", "limit", "extra", "1"])
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)


def near(annotation: Any) -> st.SearchStrategy[Any]:
    """Plain data that often fits the annotation, and often nearly does."""
    item = st.fixed_dictionaries(
        {"sku": st.text(max_size=3)}, optional={"qty": st.integers(-1, 3), "price": SCALARS}
    )
    shapes = {
        Item: item,
        Order: st.fixed_dictionaries(
            {
                "id": st.integers(),
                "customer": st.text(max_size=3),
                "placed": st.just("2024-01-31T12:00:00Z") | st.sampled_from(WORDS),
                "items": st.lists(item | JUNK, max_size=3),
            },
            optional={"tier": st.sampled_from(["gold", None, 1]), "tags": JUNK, "extra": JUNK},
        ),
        Tree: st.recursive(
            st.fixed_dictionaries({"name": st.text(max_size=2)}),
            lambda inner: st.fixed_dictionaries(
                {"name": st.text(max_size=2), "children": st.lists(inner, max_size=2)}
            ),
        ),
        Point: st.fixed_dictionaries({"x": SCALARS}, optional={"y": SCALARS, "extra": JUNK}),
        Filter: st.fixed_dictionaries({"text": st.text()}, optional={"limit": SCALARS}),
        Ruled: st.fixed_dictionaries(
            {"low": st.integers(0, 3), "name": st.text("ab", max_size=4), "high": st.integers(0, 3)}
        ),
    }
    lists = st.lists(SCALARS, max_size=3)
    maps = st.dictionaries(KEYS, SCALARS | item, max_size=3)
    return shapes.get(annotation, SCALARS) | JUNK | item | lists | maps | st.lists(maps, max_size=2)


@st.composite
def texts(draw: st.DrawFn, annotation: Any) -> bytes:
    """JSON near the annotation, at times with a few bytes of it replaced."""
    text = json.dumps(draw(near(annotation)), ensure_ascii=draw(st.booleans())).encode()
    if draw(st.integers(0, 3)):
        return text
    at = draw(st.integers(0, len(text)))
    noise = draw(st.binary(max_size=2) | st.sampled_from([b"1", b'"', b"}", b",", b"\\u0041", b""]))
    return text[:at] + noise + text[at + draw(st.integers(0, 2)) :]


def outcome(read: Callable[[], Any]) -> str:
    """A value to the letter (5 is not 5.0 here), or that there is none."""
    try:
        value = read()
    except (PayloadError, ValueError, TypeError):
        return "refused"
    return repr(sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value)


@pytest.mark.parametrize("annotation", FAST, ids=str)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_both_readers_make_the_same_of_the_same_bytes(annotation: Any, data: st.DataObject) -> None:
    payload, decoder = Payload(annotation), fast_decoder(annotation)
    text = data.draw(texts(annotation).filter(bool))
    by_decoder = outcome(lambda: decoder.decode(text) if decoder else None)
    by_converter = outcome(lambda: payload.structure(msgspec.json.decode(text)))

    if outcome(lambda: msgspec.json.decode(text)) == "refused":
        # The decoder passes over what an ignored key holds, the other reads it all.
        assert outcome(lambda: payload.decode(text)) == by_decoder
    else:
        assert by_decoder in (by_converter, "refused")
        assert outcome(lambda: payload.decode(text)) == by_converter
