"""Payloads: what each type takes, what it refuses, and how the caller is told."""

import dataclasses
import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from inspect import Parameter
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID

import attrs
import msgspec
import pytest

from understudy.actors.errors import DeclarationError, PayloadError
from understudy.actors.payload import NO_DEFAULT, Payload

T = TypeVar("T")
Sku = NewType("Sku", str)
ID = UUID("8c0d3f3e-6c1e-4b5a-9d5e-0a4b3c2d1e0f")
NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


class Tier(enum.Enum):
    GOLD = "gold"
    SILVER = "silver"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Metal(enum.Enum):
    GOLD = "gold"


class Lenient(enum.Enum):
    GOLD = "gold"

    @classmethod
    def _missing_(cls, value: object) -> "Lenient | None":
        return cls.GOLD if value == "au" else None


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


@attrs.frozen
class Created:
    kind: Literal["created"]
    id: int


@attrs.frozen
class Deleted:
    kind: Literal["deleted"]
    id: int


@attrs.frozen
class Aliased:
    id_: int = attrs.field(alias="id")
    _secret: str = ""


def stripped(text: str) -> str:
    return text.strip()


@attrs.frozen
class Converted:
    name: str = attrs.field(converter=stripped)
    shade: complex = attrs.field(default=0, converter=complex)


@attrs.frozen
class Computed:
    net: int
    gross: int = attrs.field(init=False)
    copy: int = attrs.Factory(lambda self: self.net, takes_self=True)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "gross", self.net * 2)


@attrs.frozen(cache_hash=True)
class Hashed:
    id: int


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


@dataclasses.dataclass
class Seeded:
    total: int = dataclasses.field(init=False)
    seed: dataclasses.InitVar[int] = 3

    def __post_init__(self, seed: int) -> None:
        self.total = seed


def problems(payload: Payload, data: bytes | str) -> dict[str, str]:
    with pytest.raises(PayloadError) as caught:
        payload.decode(data if isinstance(data, bytes) else data.encode())
    return dict(caught.value.problems)


# What fits.


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (Any, '{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        (object, "[1]", [1]),
        (Parameter.empty, '"x"', "x"),
        (None, "null", None),
        (bool, "true", True),
        (int, "12345678901234567890", 12345678901234567890),
        (float, "5", 5.0),
        (str, '"5"', "5"),
        (Sku, '"a"', "a"),
        (Annotated[int, "doc"], "3", 3),
        (int | None, "null", None),
        (Literal["a", 1], "1", 1),
        (Literal[Tier.GOLD], '"gold"', Tier.GOLD),
        (Tier, '"gold"', Tier.GOLD),
        (Level, "2", Level.HIGH),
        (Access, "3", Access.READ | Access.WRITE),
        (Lenient, '"au"', Lenient.GOLD),
        (datetime, '"2024-01-31T12:00:00Z"', NOON),
        (datetime | None, '"2024-01-31T12:00:00Z"', NOON),
        (date, '"2024-01-31"', date(2024, 1, 31)),
        (time, '"12:30:00"', time(12, 30)),
        (timedelta, '"PT1H30M"', timedelta(hours=1, minutes=30)),
        (UUID, f'"{ID}"', ID),
        (bytes, '"aGk="', b"hi"),
        (Decimal, '"19.90"', Decimal("19.90")),
        (Decimal, "19.9", Decimal("19.9")),
        (list[int], "[1, 2]", [1, 2]),
        (list, "[1]", [1]),
        (Sequence[str], '["a"]', ["a"]),
        (set[int], "[1, 1]", {1}),
        (frozenset[str], '["a"]', frozenset({"a"})),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (tuple[int, ...], "[1, 2, 3]", (1, 2, 3)),
        (tuple, "[1]", (1,)),
        (tuple[()], "[]", ()),
        (dict[str, float], '{"a": 1}', {"a": 1.0}),
        (Mapping[int, str], '{"-7": "a"}', {-7: "a"}),
        (dict[Tier, int], '{"gold": 1}', {Tier.GOLD: 1}),
        (Item, '{"sku": "a", "extra": [1]}', Item("a")),
        (Tree, '{"name": "a", "children": [{"name": "b"}]}', Tree("a", [Tree("b")])),
        (Point, '{"x": 1, "path": [{"x": 2}]}', Point(1.0, 0.0, [Point(2.0)])),
        (Filter, '{"text": "a", "extra": 1}', {"text": "a"}),
        (Range, "[1]", Range(1, 9)),
        (Page[Item], '{"items": [{"sku": "a"}]}', Page([Item("a")])),
        (Aliased, '{"id": 1, "secret": "s"}', Aliased(1, "s")),
        (Converted, '{"name": " a ", "shade": "1j"}', Converted("a", 1j)),
        (Computed, '{"net": 2, "gross": 9}', Computed(2)),
        (Seeded, '{"total": 1}', Seeded()),
        (HandMade, '{"id": 1}', HandMade(1)),
        (Upper, '{"name": "a"}', Upper("a")),
    ],
    ids=str,
)
def test_what_fits_is_read_into_its_type(annotation: Any, text: str, value: object) -> None:
    decoded = Payload(annotation).decode(text.encode())

    assert (decoded, type(decoded)) == (value, type(value))


def test_a_class_that_caches_its_hash_is_made_by_its_own_init() -> None:
    assert {Payload(Hashed).decode(b'{"id": 1}')} == {Hashed(1)}


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int | str, "1", 1),
        (int | float, "1", 1),
        (int | float, "1.0", 1.0),
        (float | None, "1", 1.0),
        (str | UUID, f'"{ID}"', ID),
        (str | UUID, '"other"', "other"),
        (Tier | str, '"gold"', Tier.GOLD),
        (Tier | Literal["other"], '"other"', "other"),
        (int | list[int], "[1]", [1]),
        (str | Item, '{"sku": "a"}', Item("a")),
        (Card | Cash, '{"amount": 3}', Cash(3)),
        (Card | Cash | None, "null", None),
        (Created | Deleted, '{"kind": "deleted", "id": 1}', Deleted("deleted", 1)),
        (Aliased | Cash, '{"id": 1}', Aliased(1)),
        (int | Any, '"x"', "x"),
    ],
    ids=str,
)
def test_a_union_takes_its_narrowest_member_that_fits(
    annotation: Any, text: str, value: object
) -> None:
    decoded = Payload(annotation).decode(text.encode())

    assert (decoded, type(decoded)) == (value, type(value))


def test_the_order_of_a_unions_members_does_not_matter() -> None:
    one, other = Union[str, UUID], Union[UUID, str]  # noqa: UP007

    assert Payload(one).decode(f'"{ID}"'.encode()) == Payload(other).decode(f'"{ID}"'.encode())


# What does not.


@pytest.mark.parametrize(
    ("annotation", "text", "problem"),
    [
        (str, "5", "expected a string, got an integer"),
        (int, '"5"', "expected an integer, got a string"),
        (int, "3.9", "expected an integer, got a number"),
        (int, "3.0", "expected an integer, got a number"),
        (int, "true", "expected an integer, got a boolean"),
        (float, "true", "expected a number, got a boolean"),
        (float, '"1"', "expected a number, got a string"),
        (float, "1" + "0" * 400, "is out of range for a number"),
        (bool, "1", "expected a boolean, got an integer"),
        (type(None), "0", "expected null, got an integer"),
        (Literal["a", 1], "true", 'is not one of: "a", 1'),
        (Literal["a"], "[]", 'is not one of: "a"'),
        (Tier, '"iron"', 'is not one of: "gold", "silver"'),
        (Level, "true", "is not one of: 1, 2"),
        (Access, "8", "is not one of: 1, 2"),
        (Lenient, '"fe"', 'is not one of: "gold"'),
        (datetime, '"2024-01-31"', "expected a date and time such as 2024-01-31T12:00:00Z"),
        (date, '"31.1.2024"', "expected a date such as 2024-01-31"),
        (date, "5", "expected a date, got an integer"),
        (UUID, '"x"', f"expected a UUID such as {ID}"),
        (bytes, '"a"', 'expected base64 such as "aGk="'),
        (Decimal, '"NaN"', "expected a decimal such as 19.90"),
        (Decimal, '"1e99999"', "is out of range for a decimal"),
        (Decimal, "true", "expected a decimal (a string or a number), got a boolean"),
        (list[int], '"ab"', "expected an array, got a string"),
        (list[int], '{"a": 1}', "expected an array, got an object"),
        (set[Any], "[[1]]", "holds an item that cannot stand in a set"),
        (tuple[int, str], "[1]", "expected an array of 2 items, got 1"),
        (Range, "[1, 2, 3]", "expected an array of 1 to 2 items, got 3"),
        (dict[str, int], "[]", "expected an object, got an array"),
        (Item, "null", "expected an object, got null"),
        (Filter, "1", "expected an object, got an integer"),
        (int | str, "1.5", "fits none of: int, str"),
        (Card | Cash, "{}", "fits none of: Card, Cash"),
        (Created | Deleted, '{"kind": "moved", "id": 1}', "fits none of: Created, Deleted"),
        (Item | None, "3", "expected an object, got an integer"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_at_the_root(annotation: Any, text: str, problem: str) -> None:
    assert problems(Payload(annotation), text) == {"$": problem}


def test_every_wrong_field_is_named_with_its_path() -> None:
    text = """{"id": "7", "placed": 5, "tier": "iron", "tags": {"a": 1, "b": "2"},
               "items": [{"sku": 1, "qty": 1.5}, {}, null, {"sku": "d"}]}"""

    assert problems(Payload(Order), text) == {
        "id": "expected an integer, got a string",
        "customer": "is missing",
        "placed": "expected a date and time, got an integer",
        "tier": 'is not one of: "gold", "silver"',
        "tags[key 1]": "expected an integer, got a string",
        "items[0].sku": "expected a string, got an integer",
        "items[0].qty": "expected an integer, got a number",
        "items[1].sku": "is missing",
        "items[2]": "expected an object, got null",
    }


@pytest.mark.parametrize(
    ("annotation", "text", "path"),
    [
        (list[Item], "[{}]", "$[0].sku"),
        (dict[str, Item], '{"a": {}}', "$[key 0].sku"),
        (dict[int, str], '{"01": "a"}', "$[key 0]"),
        (tuple[int, str], "[1, 2]", "$[1]"),
        (Range, '[1, "2"]', "$[1]"),
        (Filter, "{}", "text"),
        (Page[Item], '{"items": [{}]}', "items[0].sku"),
        (Aliased, '{"id": "1"}', "id"),
        (str | Item, '{"sku": 1}', "sku"),
        (Card | Cash, '{"amount": "1"}', "amount"),
        (Point, '{"x": 1, "path": [{}]}', "path[0].x"),
    ],
    ids=str,
)
def test_a_path_uses_the_names_that_stand_on_the_wire(
    annotation: Any, text: str, path: str
) -> None:
    assert list(problems(Payload(annotation), text)) == [path]


def test_a_flood_of_misfits_is_read_no_further_than_a_hundred() -> None:
    found = problems(Payload(list[list[str]]), json.dumps([[1] * 5000] * 50))

    assert len(found) == 102
    assert found["$[0]"] == "was read no further after 100 misfits"


# Bytes that are no JSON.


@pytest.mark.parametrize("annotation", [Any, Order, Decimal], ids=["plain", "fast", "slow"])
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"nope", r"not valid JSON \(.*\(byte \d\)\)"),
        (b"NaN", r"not valid JSON \(.*\(byte 0\)\)"),
        (b"[1", r"not valid JSON \(Input data was truncated\)"),
        (b'"\xff"', r"not valid JSON \(not UTF-8\)"),
        (b"[" * 100_000, r"is nested too deeply"),
        (b'{"id": ' + b"[" * 100_000, r"is nested too deeply"),
        (b'{"other": ' + b"[" * 100_000, r"is nested too deeply"),
        (b"1" * 5000, r"holds a number that is out of range"),
        (b"1e999", r"holds a number that is out of range"),
    ],
    ids=["text", "NaN", "cut", "utf-8", "deep", "deep field", "deep extra", "huge", "infinite"],
)
def test_bytes_that_are_no_json_are_refused(annotation: Any, data: bytes, problem: str) -> None:
    found = problems(Payload(annotation), data)

    assert list(found) == ["$"]
    assert re.fullmatch(problem, found["$"])


@pytest.mark.parametrize("leaf", [{"name": "x"}, 3], ids=["fitting", "wrong"])
def test_decoded_data_that_is_too_deep_for_its_type_is_refused(leaf: object) -> None:
    value = leaf
    for _ in range(3000):
        value = {"name": "x", "children": [value]}

    with pytest.raises(PayloadError, match=r"\$: is nested too deeply"):
        Payload(Tree).structure(value)


# No data.


def test_no_data_is_the_default_of_the_parameter() -> None:
    assert Payload(Item, default=Item("none")).decode(b"") == Item("none")


def test_no_data_is_none_where_the_type_takes_it() -> None:
    assert [Payload(type_).decode(b"") for type_ in (Any, Item | None, None)] == [None] * 3


def test_no_data_is_refused_where_the_type_wants_some() -> None:
    assert problems(Payload(Item, NO_DEFAULT), b"") == {"$": "expected an object, got null"}


def test_null_is_data_and_not_the_default() -> None:
    assert problems(Payload(int, default=3), b"null") == {"$": "expected an integer, got null"}


# Rules of the user's.


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


def test_every_validator_that_refuses_is_named_at_its_field() -> None:
    assert problems(Payload(Ruled), '{"low": 0, "name": "ABCD", "high": -1}') == {
        "low": "was refused by its rule (x >= 1)",
        "name": "was refused by its rule (matches_re)",
        "high": "was refused by its rule (above_low)",
    }


def test_a_validator_sees_the_other_fields() -> None:
    found = problems(Payload(list[Ruled]), '[{"low": 5, "name": "a", "high": 4}]')

    assert found == {"$[0].high": "was refused by its rule (above_low)"}


def test_a_converter_that_refuses_is_named_at_its_field() -> None:
    found = problems(Payload(Converted), '{"name": "a", "shade": "red"}')

    assert found == {"shade": "was refused by its rule (complex)"}


def test_a_class_that_refuses_to_be_made_is_named() -> None:
    @dataclasses.dataclass
    class Even:
        value: int

        def __post_init__(self) -> None:
            if self.value % 2:
                raise ValueError(f"{self.value} is odd")

    assert problems(Payload(list[Even]), '[{"value": 3}]') == {
        "$[0]": "was refused by the rules of Even"
    }


def test_a_bug_in_a_validator_is_no_bad_payload() -> None:
    def buggy(*_: Any) -> None:
        raise AttributeError("no such thing")

    class_ = attrs.make_class("Buggy", {"a": attrs.field(type=int, validator=buggy)})

    with pytest.raises(AttributeError, match="no such thing"):
        Payload(class_).decode(b'{"a": 1}')


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, '"hunter2"'),
        (Tier, '"hunter2"'),
        (UUID, '"hunter2"'),
        (dict[str, int], '{"hunter2": "hunter2"}'),
        (dict[int, int], '{"hunter2": 1}'),
        (Ruled, '{"low": 1, "name": "hunter2", "high": 1}'),
        (Card | Cash, '{"hunter2": "hunter2"}'),
        (Any, '{"hunter2": hunter2}'),
    ],
    ids=str,
)
def test_an_error_shows_nothing_of_the_payload(annotation: Any, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        Payload(annotation).decode(text.encode())

    assert "hunter2" not in f"{caught.value} {caught.value.error}"
    assert caught.value.__context__ is None


# Data that was decoded already.


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Item, Item("a")),
        (Item | None, Item("a")),
        (Card | Cash, Cash(1)),
        (Page[Item] | None, Page([Item("a")])),
        (Range, Range(1)),
        (Point, Point(1)),
        (Any, Item("a")),
        (Tier, Tier.GOLD),
        (datetime, NOON),
        (UUID, ID),
        (Decimal, Decimal(1)),
    ],
    ids=str,
)
def test_an_instance_passes_unchanged(annotation: Any, value: object) -> None:
    assert Payload(annotation).structure(value) is value


def test_instances_may_stand_inside_plain_data() -> None:
    data = {"id": 1, "customer": "a", "placed": NOON, "items": [Item("a"), {"sku": "b"}]}

    assert Payload(Order).structure(data) == Order(1, "a", NOON, [Item("a"), Item("b")])


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (Item, Card("1"), "expected an object, got a Card"),
        (date, NOON, "expected a date, got a datetime"),
        (str, b"a", "expected a string, got a bytes"),
    ],
    ids=str,
)
def test_another_instance_is_refused(annotation: Any, value: object, problem: str) -> None:
    with pytest.raises(PayloadError, match=problem):
        Payload(annotation).structure(value)


# Declarations.


@attrs.frozen
class Unresolved:
    item: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class UnresolvedDict(TypedDict):
    item: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (complex, "complex cannot be read from JSON. Use an attrs class"),
        (list[complex], "list[complex]: complex cannot be read"),
        (Callable[[], int], "Use an attrs class, a dataclass or a builtin type"),
        (Card | Aliased | dict[str, int], "a dict or a TypedDict can only stand alone"),
        (Level | Access, "Two of its enums share a value"),
        (Tier | Metal, "Two of its enums share a value: make them one"),
        (list[int] | set[str], "Two kinds of array cannot be told apart"),
        (bytes | str, "drop bytes or str"),
        (Annotated[int, msgspec.Meta(ge=1)], "Write the rule as an attrs validator"),
        (Unresolved, "the name 'Nowhere' in an annotation is not known"),
        (UnresolvedDict, "the name 'Nowhere' in an annotation is not known"),
    ],
    ids=str,
)
def test_a_type_that_can_never_be_read_fails_when_it_is_declared(
    annotation: Any, reason: str
) -> None:
    with pytest.raises(DeclarationError, match=re.escape(reason)):
        Payload(annotation)


def test_classes_without_a_field_of_their_own_cannot_be_told_apart() -> None:
    twins = [attrs.make_class(name, {"id": attrs.field(type=int)}) for name in ("One", "Two")]

    with pytest.raises(DeclarationError, match="One, Two cannot be told apart"):
        Payload(Union[tuple(twins)])  # noqa: UP007


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (Any, "Any"),
        (None, "None"),
        (Item, "Item"),
        (list[Item] | None, "list[Item] | None"),
        (dict[str, tuple[int, ...]], "dict[str, tuple[int, ...]]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Annotated[int, "doc"], "int"),
        (Page[Item], "Page[Item]"),
    ],
    ids=str,
)
def test_a_payload_describes_its_type(annotation: Any, name: str) -> None:
    assert Payload(annotation).describe() == name
