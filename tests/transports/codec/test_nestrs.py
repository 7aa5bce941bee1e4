"""nestrs's lines, as nestrs-microservices 0.3.8 reads and writes them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from understudy.actors.pattern import Pattern
from understudy.transports.codec import nestrs
from understudy.transports.codec.dialect import Dialect
from understudy.transports.codec.errors import CodecError
from understudy.transports.codec.nestrs import LineFrames

DIALECT: Dialect = nestrs

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
BODIES = st.lists(ANY_TEXT.map(lambda text: json.dumps(text, ensure_ascii=False).encode()))


def fed(*pieces: bytes, limit: int = 4096) -> tuple[list[bytes], LineFrames]:
    reader = nestrs.frames(limit)
    return [body for piece in pieces for body in reader.feed(piece)], reader


@given(BODIES, st.integers(1, 25))
def test_any_cutting_of_a_stream_gives_the_same_lines(bodies: list[bytes], size: int) -> None:
    stream = b"".join(map(nestrs.frame, bodies))

    found, reader = fed(*(stream[at : at + size] for at in range(0, len(stream), size)))

    assert (found, reader.error, reader.partial) == (bodies, None, False)


def test_half_a_line_is_partial_until_its_end_comes() -> None:
    lines, reader = fed(b'{"a"')

    assert (lines, reader.partial) == ([], True)
    assert (reader.feed(b":1}\n"), reader.partial) == ([b'{"a":1}'], False)


@pytest.mark.parametrize(
    ("pieces", "good"),
    [
        ([b"12345"], []),
        ([b"12\n123", b"45"], [b"12"]),
        ([b"12\n12345\n34\n"], [b"12"]),
        ([b"123", b"45\n12\n"], []),
    ],
    ids=["unfinished", "in pieces", "between others", "finished late"],
)
def test_a_line_over_the_limit_ends_the_stream(pieces: list[bytes], good: list[bytes]) -> None:
    lines, reader = fed(*pieces, limit=4)

    assert lines == good
    assert reader.error == "a line is over the limit of 4 bytes"
    assert (reader.feed(b"1\n"), reader.partial) == ([], False)


def test_lines_of_exactly_the_limit_pass() -> None:
    assert fed(b"1234\n12", b"34\n1234", b"\n", limit=4)[0] == [b"1234"] * 3


def test_a_request_is_read_and_written_to_the_same_bytes() -> None:
    line = '{"id":"1","kind":"send","pattern":"math.sum","payload":{"a":["é"]}}'.encode()

    packet = nestrs.decode_packet(line)

    assert nestrs.request(packet.pattern, packet.data, packet.id) == line


def test_an_event_has_no_id_to_answer_to() -> None:
    packet = nestrs.decode_packet(nestrs.event(b'"user.created"', b"[1]"))

    assert packet == nestrs.Packet(Raw(b'"user.created"'), Raw(b"[1]"))


def test_a_packet_without_data_has_a_null_payload() -> None:
    line = b'{"id":"1","kind":"send","pattern":"a","payload":null}'

    assert nestrs.request(b'"a"', b"", b'"1"') == line


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{bad}", b"null", b"[]", b'{"id":"1","kind":"send","pattern":"a"}'),
        b'{"id":1,"kind":"send","pattern":"a","payload":1}',
        b'{"id":"1","kind":"ask","pattern":"a","payload":1}',
        b'{"id":"1","kind":"send","pattern":{"a":1},"payload":1}',
        b'{"id":"1","kind":"send","pattern":"a","payload":"\xff"}',
        b'{"id":"1","kind":"send","pattern":"a","payload":%b}' % (b"[" * 20_000 + b"]" * 20_000),
    ],
    ids=[
        *("empty", "no JSON", "null", "array", "no payload", "id is no text"),
        *("other kind", "pattern is no text", "no UTF-8", "too deep"),
    ],
)
def test_a_line_that_is_no_request_is_refused_and_can_be_answered(line: bytes) -> None:
    with pytest.raises(CodecError, match="the line is "):
        nestrs.decode_packet(line)

    answer = b'{"id":"0","ok":false,"error":{"message":"invalid request"}}'
    assert nestrs.invalid_request() == answer


def test_half_a_surrogate_pair_is_read_as_unknown() -> None:
    packet = nestrs.decode_packet(rb'{"id":"1","kind":"emit","pattern":"a","payload":"\ud83d"}')

    assert packet.data == Raw(rb'"\ufffd"')


@pytest.mark.parametrize(
    ("written", "answer", "line"),
    [
        (
            nestrs.value(b'"1"', b"[1]"),
            nestrs.Answer("1", Raw(b"[1]")),
            b'{"id":"1","ok":true,"payload":[1]}',
        ),
        (
            nestrs.end(b'"1"'),
            nestrs.Answer("1", Raw(b"null")),
            b'{"id":"1","ok":true,"payload":null}',
        ),
        (
            nestrs.failure(b'"1"', nestrs.error_json("nope")),
            nestrs.Answer("1", error={"message": "nope"}),
            b'{"id":"1","ok":false,"error":{"message":"nope"}}',
        ),
        (
            nestrs.no_handler(b'"1"', rb'"a\"b"'),
            nestrs.Answer("1", error={"message": 'no microservice handler for pattern `a"b`'}),
            rb'{"id":"1","ok":false,"error":{"message":"no microservice handler for pattern '
            rb'`a\"b`"}}',
        ),
    ],
    ids=["value", "nothing", "error", "no handler"],
)
def test_an_answer_is_written_and_read(written: bytes, answer: nestrs.Answer, line: bytes) -> None:
    assert written == line
    assert nestrs.decode_answer(written) == answer


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b'{"id":"1","ok":true}', nestrs.Answer("1", Raw(b"null"))),
        (b'{"id":"1","ok":false}', nestrs.Answer("1", error={"message": "microservice error"})),
    ],
    ids=["no payload", "no error"],
)
def test_what_an_answer_leaves_out_is_filled_in(line: bytes, answer: nestrs.Answer) -> None:
    assert nestrs.decode_answer(line) == answer


@pytest.mark.parametrize(
    ("error", "written"),
    [
        ("nope", {"message": "nope"}),
        ({"message": "nope"}, {"message": "nope"}),
        ({"status": 404, "message": "nope"}, {"message": "nope", "details": {"status": 404}}),
        ([1], {"message": "microservice error", "details": [1]}),
    ],
    ids=["text", "only a message", "more than a message", "no message"],
)
def test_an_error_is_a_message_with_the_rest_as_details(error: Any, written: Any) -> None:
    assert json.loads(nestrs.error_json(error)) == written


@pytest.mark.parametrize(
    ("pattern", "written"),
    [("a.b", b'"a.b"'), (5, b'"5"'), ({"cmd": "sum"}, rb'"{\"cmd\":\"sum\"}"')],
    ids=["text", "number", "object"],
)
def test_a_pattern_is_written_as_the_text_of_its_route(pattern: Pattern, written: bytes) -> None:
    assert nestrs.pattern_json(pattern) == written


@pytest.mark.parametrize(
    ("pattern", "route"),
    [(b'"a.b"', "a.b"), (b'"1e3"', "1e3"), (b"5", None), (b"", None)],
    ids=["text", "text that holds JSON", "no text", "absent"],
)
def test_a_received_pattern_is_its_text_as_it_stands(pattern: bytes, route: str | None) -> None:
    assert nestrs.route(pattern) == route


def test_there_are_no_streams() -> None:
    with pytest.raises(CodecError, match="no streams on TCP: answer with one value"):
        nestrs.item(b'"1"', b"1")

    assert nestrs.streams is False
