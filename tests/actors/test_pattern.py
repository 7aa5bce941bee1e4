"""The routes of patterns; expected routes were written by @nestjs/microservices 12.1.1."""

import json
import random
from typing import Any

import pytest

from understudy.actors.errors import DeclarationError
from understudy.actors.pattern import Pattern, pattern_json, received_route, route_of

NESTED: dict[str, Any] = {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}
MANY = {f"k{number}": 0 for number in range(21)}

ROUTES: dict[str, tuple[Pattern, str]] = {
    "text": ("math.sum", "math.sum"),
    "empty text": ("", ""),
    "text that only begins like JSON": ("{bad", "{bad"),
    "text in another script": ("заказ.✓", "заказ.✓"),
    "number": (5, "5"),
    "whole float": (5.0, "5"),
    "minus zero": (-0.0, "0"),
    "fraction": (0.1, "0.1"),
    "twenty-one digits": (1e20, "100000000000000000000"),
    "twenty-two digits": (1e21, "1e+21"),
    "small": (0.000001, "0.000001"),
    "smaller": (1.5e-7, "1.5e-7"),
    "whole number beyond a double": (2**53 + 1, "9007199254740992"),
    "object": ({"cmd": "sum"}, '{"cmd":"sum"}'),
    "empty object": ({}, "{}"),
    "other order": ({"z": 1, "a": {"y": "s", "b": 2}}, '{"a":{"b":2,"y":"s"},"z":1}'),
    "bare words": ({"a": True, "b": False, "c": None}, '{"a":true,"b":false,"c":null}'),
    "quotes and backslashes": ({'k"': 'a"b\\c'}, '{"k\\"":"a\\"b\\\\c"}'),
    "line feed stays bare": ({"a": "1\n2"}, '{"a":"1\n2"}'),
    "list inside": ({"l": ["x", {"y": 2}]}, '{"l":{"0":"x","1":{"y":2}}}'),
    "numbers inside": ({"a": 1e21, "b": -1.50}, '{"a":1e+21,"b":-1.5}'),
    "too deep": (NESTED, '{"a":{"b":{"c":{"d":{"e":{"f":[MAX_DEPTH_REACHED]}}}}}}'),
    "too many keys": (MANY, "[TOO_MANY_KEYS]"),
}

# As node's localeCompare sorted them.
KEY_ORDERS = {
    "small before capital": ["a", "A", "b", "B"],
    "case only decides last": ["Ab", "aC", "ac1", "AC1"],
    "case decides from the left": ["ab", "aB", "Ab", "AB"],
    "marks before digits before letters": ["_", "-", ".", "@", "$", "0", "9", "a", "Z"],
    "digits are text": ["0", "1", "10", "2"],
    "short before long": ["", "id", "id2", "ida"],
    "space first": [" ", "a b", "a_b", "a-b", "a.b", "a1b", "ab"],
    "words": ["user_id", "user-id", "user.id", "userId", "userID", "users"],
    "all marks": list(" _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"),
}


@pytest.mark.parametrize(("pattern", "route"), ROUTES.values(), ids=ROUTES)
def test_a_declared_pattern_has_the_route_that_nestjs_gives_it(
    pattern: Pattern, route: str
) -> None:
    assert route_of(pattern) == route


@pytest.mark.parametrize(("pattern", "route"), ROUTES.values(), ids=ROUTES)
def test_a_received_pattern_has_the_route_it_was_declared_with(
    pattern: Pattern, route: str
) -> None:
    assert received_route(json.dumps(pattern).encode()) == route


@pytest.mark.parametrize("keys", KEY_ORDERS.values(), ids=KEY_ORDERS)
def test_keys_stand_in_the_order_of_javascript(keys: list[str]) -> None:
    shuffled = random.Random(7).sample(keys[:20], len(keys[:20]))

    members = json.loads(route_of(dict.fromkeys(shuffled, 0)))

    assert list(members) == keys[:20]


@pytest.mark.parametrize(
    ("received", "route"),
    [
        (rb'"{\"cmd\": \"sum\"}"', '{"cmd":"sum"}'),
        (rb'" {\"b\":1,\"a\":2} "', '{"a":2,"b":1}'),
        (b'"1e3"', "1000"),
        (rb'"\"x\""', "x"),
        (rb'"\"5\""', "5"),
        (rb'"\u0078"', "x"),
        (b'"nullable"', "nullable"),
        (b'"-"', "-"),
    ],
    ids=["object", "spaces and order", "number", "text", "text once", "escape", "word", "dash"],
)
def test_text_that_holds_json_is_parsed_once_more(received: bytes, route: str) -> None:
    assert received_route(received) == route


@pytest.mark.parametrize(
    "received",
    [
        *(b"", b"null", b"true", b'["math.sum"]', b'"null"', b'" false "', b'"[1]"'),
        *(b"{bad", b'"\xff"', '{"é":1}'.encode(), b"1e400", b"[" * 20_000 + b"]" * 20_000),
        *(b'{"a":' * 20_000 + b"1" + b"}" * 20_000, b'"' + b"[" * 20_000 + b'"'),
    ],
    ids=lambda raw: f"{len(raw)} bytes: {raw[:12].decode(errors='replace')}",
)
def test_what_no_handler_can_match_has_no_route(received: bytes) -> None:
    assert received_route(received) is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (True, "not bool: True"),
        (None, "not NoneType: None"),
        (["a", "b"], "one declaration for each"),
        ({"é": 1}, "the key 'é'; keys must be printable ASCII"),
        ({"a\tb": 1}, "keys must be printable ASCII"),
        ({1: 1}, "the key 1; keys must be printable ASCII text"),
        ({"a": {1, 2}}, "not set"),
        (float("nan"), "a number that JSON cannot say: nan"),
        ({"a": 10**400}, "a number that JSON cannot say: inf"),
        ("\ud83d", "cannot be sent"),
        ('{"cmd": "sum"}', "Declare what the JSON says instead"),
        ("null", "can never match"),
        ("[1]", "can never match"),
    ],
)
def test_an_unusable_pattern_is_refused_with_its_reason(pattern: Any, why: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        route_of(pattern)

    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "request_json", "event_json"),
    [
        ("math.sum", b'"math.sum"', b'"math.sum"'),
        (5.0, b"5", b'"5"'),
        ({"z": 1, "a": "s"}, b'{"z":1,"a":"s"}', rb'"{\"a\":\"s\",\"z\":1}"'),
        ('{"cmd": "sum"}', rb'"{\"cmd\": \"sum\"}"', rb'"{\"cmd\": \"sum\"}"'),
    ],
    ids=["text", "number", "object", "text that holds JSON"],
)
def test_a_client_writes_a_request_as_given_and_an_event_as_its_route(
    pattern: Pattern, request_json: bytes, event_json: bytes
) -> None:
    assert pattern_json(pattern) == request_json
    assert pattern_json(pattern, event=True) == event_json


def test_a_client_cannot_write_what_is_not_json() -> None:
    with pytest.raises(DeclarationError, match="cannot be written as JSON"):
        pattern_json({"a": object()})
