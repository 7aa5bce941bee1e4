"""The dead letter: its id, and how it is shown."""

import json
from collections.abc import Callable
from random import Random
from typing import TypeAlias
from uuid import UUID

import pytest

from understudy.supervisors.delivery.record import (
    DeadLetter,
    as_dict,
    details,
    masked,
    new_id,
    summary,
)

Make: TypeAlias = Callable[..., DeadLetter]


def test_ids_sort_as_the_times_they_were_made_at() -> None:
    random = Random(1)
    one_millisecond = [1_750_000_000 + microsecond / 1e6 for microsecond in range(1000)]
    times = [0.0, 1.0, *one_millisecond, 4e9]

    ids = [new_id(at, random) for at in times]

    assert ids == sorted(ids)


def test_ids_made_at_one_moment_differ() -> None:
    random = Random(1)

    assert len({new_id(1_750_000_000.0, random) for _ in range(1000)}) == 1000


def test_the_same_seed_gives_the_same_id() -> None:
    assert new_id(1_750_000_000.5, Random(3)) == new_id(1_750_000_000.5, Random(3))


def test_an_id_is_a_uuid_of_version_7_that_tells_its_millisecond() -> None:
    uuid = UUID(new_id(1_750_000_000.123, Random(1)))

    assert (uuid.version, uuid.int >> 80) == (7, 1_750_000_000_123)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "Set-Cookie",
        "x-auth-token",
        "PASSWORD",
        "db_passwd",
        "client_secret",
        "X-Api-Key",
        "apikey",
        "private_key",
        "session-id",
    ],
)
def test_a_header_with_a_secret_name_is_masked(name: str) -> None:
    assert masked({name: "hunter2"}) == {name: "***"}


@pytest.mark.parametrize("name", ["traceparent", "content-type", "x-request-id", "key", "author"])
def test_any_other_header_is_shown_as_it_is(name: str) -> None:
    assert masked({name: "value"}) == {name: "value"}


def test_a_login_inside_a_url_is_masked() -> None:
    shown = masked({"reply-to": "amqp://guest:hunter2@broker:5672/"})

    assert shown == {"reply-to": "amqp://***@broker:5672/"}


def test_a_summary_is_one_line_with_what_where_and_why(letter: Make) -> None:
    record = letter(id="0197-1", at=1_750_000_001.0, error="ValueError: no\nsuch order")

    assert summary(record) == (
        "0197-1  2025-06-15 15:06:41Z  dead          event orders.created"
        " -> /shop/orders.on_created  crashed after 5 attempts: ValueError: no such order"
    )


def test_a_summary_cuts_a_long_error_short(letter: Make) -> None:
    assert summary(letter(error="x" * 5000)).endswith("x" * 157 + "...")


@pytest.mark.parametrize("show", [summary, details])
def test_a_stranger_cannot_steer_the_terminal(letter: Make, show: Callable[..., str]) -> None:
    shown = show(letter(pattern="orders\x1b[2J", body=b"\x1b]0;title\x07"))

    assert "\\x1b[2J" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_details_tell_the_facts_and_the_traceback(letter: Make) -> None:
    shown = details(letter(note="replayed by hand", replays=2))

    for fact in [
        "reason       crashed after 5 attempts",
        "actor        /shop/orders (incarnation 3)",
        "first seen   2025-06-15 15:06:29Z",
        "replays      2",
        "note         replayed by hand",
        "  traceparent: 00-abc-01",
        '    File "orders.py", line 3\n  ValueError: no such order',
    ]:
        assert fact in shown


@pytest.mark.parametrize("show", [details, lambda record: json.dumps(as_dict(record))])
@pytest.mark.parametrize(
    "secret",
    [
        {"headers": {"authorization": "hunter2"}},
        {"body": b'{"user": "ann", "password": "hunter2"}'},
        {"body": b'{"api_key" : "a\\"hunter2", "n": 1}'},
        {"body": b'{"token": "hunter2'},
        {"source": "redis://:hunter2@cache/0"},
        {"error": "OSError: amqp://guest:hunter2@broker refused"},
        {"traceback": "connect('amqp://guest:hunter2@broker')"},
    ],
    ids=["header", "body", "escapes", "cut body", "source", "error", "traceback"],
)
def test_a_secret_is_masked_wherever_it_is_shown(
    letter: Make, show: Callable[[DeadLetter], str], secret: dict[str, object]
) -> None:
    shown = show(letter(**secret))

    assert "hunter2" not in shown
    assert "***" in shown


def test_masking_a_body_keeps_the_rest_of_it(letter: Make) -> None:
    record = letter(body=b'{"token": {"kind": "jwt"}, "pin_secret": 1234, "n": [1, "b"]}')

    assert as_dict(record)["body"] == (
        '{"token": {"kind": "jwt"}, "pin_secret": "***", "n": [1, "b"]}'
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"plain text", "body (10 bytes):\n  plain text"),
        ("żółw".encode(), "body (7 bytes):\n  żółw"),
        (b"", "body (0 bytes):\n  "),
        (b"\xff", "body (1 byte, hex):\n  ff"),
        (b"\xff\x00" * 200, "body (400 bytes, hex, first 256 shown):\n  ff 00"),
        (b"a" * 5000, "body (5000 bytes, first 4096 characters shown):\n  aaa"),
        (None, "body:\n  not stored: the payload could not be written"),
    ],
    ids=["text", "utf-8", "empty", "binary", "long binary", "long text", "no payload"],
)
def test_details_show_the_body_as_text_or_hex(
    letter: Make, body: bytes | None, expected: str
) -> None:
    assert expected in details(letter(body=body))


def test_details_show_no_more_than_they_say_of_a_long_body(letter: Make) -> None:
    assert details(letter(body=b"q" * 50_000)).count("q") == 4096


@pytest.mark.parametrize(
    ("body", "shown", "encoding"),
    [(b'{"id": 7}', '{"id": 7}', "utf-8"), (b"\xff", "/w==", "base64"), (None, None, None)],
    ids=["text", "binary", "no payload"],
)
def test_a_letter_becomes_json(
    letter: Make, body: bytes | None, shown: str | None, encoding: str | None
) -> None:
    read = json.loads(json.dumps(as_dict(letter(body=body))))

    assert (read["body"], read["body_encoding"]) == (shown, encoding)
    assert (read["pattern"], read["incarnation"], read["status"]) == ("orders.created", 3, "dead")


def test_rendering_a_body_made_to_be_slow_takes_no_long_time(letter: Make) -> None:
    hostile = b'"token' * 200_000 + b'": "' + b"\\" * 200_000

    assert as_dict(letter(body=hostile))["body_encoding"] == "utf-8"
