"""What values become on the wire."""

import enum
import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import attrs
import pytest

from understudy.actors.encoding import encode


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Order:
    lines: tuple[str, ...]
    number: int


@dataclass
class Point:
    x: float


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Order(("a",), 7), b'{"lines":["a"],"number":7}'),
        (Point(1.5), b'{"x":1.5}'),
        (datetime(2024, 1, 2, tzinfo=UTC), b'"2024-01-02T00:00:00Z"'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.50"), b'"1.50"'),
        (Colour.RED, b'"red"'),
        ({3}, b"[3]"),
        (MappingProxyType({"a": {"b": MappingProxyType({})}}), b'{"a":{"b":{}}}'),
        ({1: "a", 1.5: "b", Colour.RED: "c"}, b'{"1":"a","1.5":"b","red":"c"}'),
        ({"a": [{True: 1, None: 2}]}, b'{"a":[{"true":1,"null":2}]}'),
        ([math.nan, math.inf], b"[null,null]"),
        (2**70, b"1180591620717411303424"),
        ("é😀\u2028\n\x7f", '"é😀\u2028\\n\x7f"'.encode()),
    ],
    ids=[
        *("attrs", "dataclass", "datetime", "UUID", "Decimal", "enum", "set", "mapping"),
        *("keys", "words as keys", "not finite", "large", "text"),
    ],
)
def test_a_value_is_written_as_json(value: Any, written: bytes) -> None:
    assert encode(value) == written


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "builtins.object cannot be written as JSON. Return an attrs class"),
        ({"a": deque()}, "collections.deque cannot be written as JSON"),
        ({(1, 2): 3}, "a mapping's key of type tuple cannot be written as JSON"),
        (CYCLE, "this list cannot be written as JSON: maximum recursion depth"),
        ("\ud83d", "this str cannot be written as JSON: .*surrogates not allowed"),
        ({True: "\ud83d"}, "this dict cannot be written as JSON: .*surrogates not allowed"),
    ],
    ids=["object", "inside", "key", "cycle", "half a pair", "half a pair beside a word"],
)
def test_what_json_cannot_say_is_refused_by_the_name_of_its_type(value: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        encode(value)
