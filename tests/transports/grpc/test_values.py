"""Messages to and from Python: every kind of field, every kind of class."""

import dataclasses
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pytest
from attrs import define, field

from understudy.actors.errors import PayloadError
from understudy.actors.payload import Payload
from understudy.transports.grpc.reading import missing, reader
from understudy.transports.grpc.writing import writer

from .peers import ORDERS, shop

ORDER = shop().by_path[f"{ORDERS}Place"].request
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

ABSENT = {
    "orderId": 0,
    "lines": [],
    "note": None,
    "size": 0,
    "sizes": [],
    "placedAt": None,
    "took": None,
    "stock": {},
    "byPlace": {},
    "extra": None,
    "limit": None,
    "raw": b"",
    "price": 0.0,
    "parent": None,
    "paid": False,
    "anything": None,
    "list": None,
}
FULL = {
    "orderId": 1 << 60,
    "lines": [{"sku": "tea", "quantity": 2}],
    "note": "",
    "size": 1,
    "sizes": [0, 1],
    "placedAt": NOON,
    "took": timedelta(seconds=1.5),
    "stock": {"tea": 3},
    "byPlace": {4: {"sku": "jam", "quantity": 1}},
    "card": "",
    "extra": {"a": [1.0, None, {"b": True}], "s": "x"},
    "limit": 0,
    "raw": b"\0\xff",
    "price": 1.25,
    "parent": {**ABSENT, "orderId": 2},
    "paid": True,
    "anything": {"c": ["x", 2.0]},
    "list": ["x", {"y": None}],
}


def round_trip(value: Any, target: Any = Any, *, keep_case: bool = False) -> Any:
    body = writer(ORDER.DESCRIPTOR).serialized(value)
    read = reader(ORDER.DESCRIPTOR, target, keep_case)
    return Payload(target).structure(read(ORDER.FromString(body)))


@pytest.mark.parametrize(
    ("value", "found"), [({}, ABSENT), (None, ABSENT), (FULL, FULL)], ids=["empty", "none", "full"]
)
def test_dictionaries_come_back_as_they_went(value: Any, found: Any) -> None:
    assert round_trip(value) == found


def test_either_spelling_of_a_name_is_written_and_one_is_read() -> None:
    assert round_trip({"order_id": 7})["orderId"] == 7
    assert round_trip({"orderId": 7}, keep_case=True)["order_id"] == 7


class Size(Enum):
    SMALL = "SMALL"
    LARGE = "LARGE"


class Number(IntEnum):
    ONE = 1


@define
class Snake:
    order_id: int
    placed_at: datetime | None
    by_place: "dict[int, Snake.Line]" = field(factory=dict)
    size: Size = Size.SMALL
    sizes: list[Literal["SMALL", "LARGE"]] = field(factory=list)
    note: str = "by default"
    parent: "Snake | None" = None

    @define
    class Line:
        sku: str


@dataclasses.dataclass
class Camel:
    orderId: int
    placedAt: datetime | None = None
    size: int = 0
    cash: dict[str, Any] | None = None
    unheard_of: int = 5


class Keys(TypedDict, total=False):
    orderId: int
    note: str


def test_classes_have_the_names_they_like() -> None:
    snake = Snake(
        7, NOON, {1: Snake.Line("tea")}, Size.LARGE, ["LARGE"], "x", Snake(8, None, note="")
    )

    assert round_trip(snake, Snake) == snake
    assert round_trip(snake, Camel) == Camel(7, NOON, 1)
    assert round_trip(Camel(7, cash={"sku": "tea"}), Camel).cash == {"sku": "tea", "quantity": 0}
    assert round_trip(snake, Keys) == {"orderId": 7, "note": "x"}
    assert round_trip(Snake(7, None, note="x"), Snake | None).placed_at is None


def test_what_is_absent_has_the_classs_own_default() -> None:
    assert round_trip({"orderId": 7}, Snake) == Snake(7, None)
    assert round_trip({"orderId": 7}, Keys) == {"orderId": 7}


class Packed(msgspec.Struct, rename="camel"):
    order_id: int
    note: Any = None


@pytest.mark.parametrize(
    ("value", "key", "found"),
    [
        (Packed(7), "orderId", 7),
        (ORDER(order_id=7), "orderId", 7),
        ({"size": "LARGE"}, "size", 1),
        ({"size": Size.LARGE}, "size", 1),
        ({"size": Number.ONE}, "size", 1),
        ({"size": 99}, "size", 99),
        ({"note": Size.LARGE}, "note", "LARGE"),
        ({"note": UUID(int=1)}, "note", str(UUID(int=1))),
        ({"note": Decimal("1.50")}, "note", "1.50"),
        ({"note": NOON}, "note", NOON.isoformat()),
        ({"lines": (Snake.Line("tea"),)}, "lines", [{"sku": "tea", "quantity": 0}]),
        ({"parent": ORDER(order_id=8)}, "parent", {**ABSENT, "orderId": 8}),
        ({"placedAt": {"seconds": 0}}, "placedAt", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_many_things_may_be_written(value: Any, key: str, found: Any) -> None:
    assert round_trip(value)[key] == found


def test_a_message_of_anothers_class_is_written_too() -> None:
    other = shop().by_path[f"{ORDERS}Place"].request

    assert other is not ORDER
    assert round_trip(other(order_id=7))["orderId"] == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "expected what shop.v1.Order can be made of (a class with its fields or a dict), got"),
        ({"orderld": 1}, "shop.v1.Order has no field for a key of this dict. Did you mean"),
        ({"orderId": "secret"}, "shop.v1.Order.order_id: this str does not fit its type"),
        ({"orderId": 1 << 70}, "shop.v1.Order.order_id: this int does not fit its type"),
        ({"lines": {"sku": "secret"}}, "shop.v1.Order.lines: expected a list, got dict"),
        ({"byPlace": ["secret"]}, "shop.v1.Order.by_place: expected a dict, got list"),
        ({"size": "secret"}, "shop.v1.Order.size: expected one of SMALL, LARGE or its number"),
        ({"placedAt": "secret"}, "google.protobuf.Timestamp: expected a datetime, got str"),
        ({"took": 7}, "google.protobuf.Duration: expected a timedelta, got int"),
        ({"extra": "secret"}, "google.protobuf.Struct: expected a dict, got str"),
        ({"extra": {"a": b"secret"}}, "google.protobuf.Struct cannot hold all that this dict"),
        ({"anything": b"secret"}, "google.protobuf.Value cannot hold a bytes"),
        ({"list": "secret"}, "google.protobuf.ListValue: expected a list, got str"),
        ({"limit": "secret"}, "shop.v1.Order.limit: this dict does not fit its type"),
        (shop().by_path[f"{ORDERS}Find"].request(), "expected shop.v1.Order, got shop.v1.Query"),
    ],
)
def test_what_does_not_fit_is_refused_without_being_shown(value: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        writer(ORDER.DESCRIPTOR).serialized(value)

    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


def test_a_date_that_python_cannot_have_is_a_misfit() -> None:
    message = ORDER(placed_at={"seconds": 1 << 60})

    with pytest.raises(PayloadError, match=r"google\.protobuf\.Timestamp that is out of range"):
        reader(ORDER.DESCRIPTOR, Any)(message)


def test_a_number_that_an_enum_lacks_is_a_misfit() -> None:
    with pytest.raises(PayloadError, match='size: is not one of: "SMALL", "LARGE"'):
        round_trip({"orderId": 1, "size": 7}, Snake)


def test_fields_that_a_message_cannot_give_are_known() -> None:
    @define
    class Other:
        order_id: int
        colour: str
        weight: float = 1.0

    assert missing(ORDER.DESCRIPTOR, Other) == ["colour"]
    assert missing(ORDER.DESCRIPTOR, Snake) == missing(ORDER.DESCRIPTOR, Any) == []
