"""NestJS's format against bytes recorded from NestJS 12.1.1 and against any cutting."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from understudy.transports.codec import nest
from understudy.transports.codec.dialect import Dialect
from understudy.transports.codec.errors import CodecError
from understudy.transports.codec.nest import NestFrames

DIALECT: Dialect = nest
VECTORS = Path(__file__).parent.parent / "vectors"
RECORDED = [
    vector
    for vector in json.loads((VECTORS / "tcp.json").read_text())["vectors"]
    if "raw_text" in vector
]
EDGES = json.loads((VECTORS / "tcp_edges.json").read_text())
SERVER_EDGES = {edge["case"]: edge for edge in EDGES if "sent" in edge}
CLIENT_EDGES = {
    edge["case"]: edge
    for edge in EDGES
    if edge.get("reply_frames") and "TimeoutError" not in str(edge["nest_client_result"])
}
ID = "ef3e6bf9a2e624e0a356d"

# Where we answer otherwise on purpose: good frames before a bad one are answered,
# and a stream that cannot be ours is not waited for.
DEPARTURES = {
    "valid frame, invalid JSON, valid frame in one write": (
        b'46#{"response":1,"isDisposed":true,"id":"before"}',
        True,
    ),
    "no # at all, 200 bytes": (b"", True),
}

DEEP = b"[" * 20_000 + b"]" * 20_000

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
BODIES = st.lists(ANY_TEXT.map(str.encode))


def chunks(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def members(body: bytes) -> Mapping[str, Raw]:
    return msgspec.json.decode(body, type=dict[str, Raw])


def fed(*pieces: bytes, limit: int = 4096) -> tuple[list[bytes], NestFrames]:
    reader = NestFrames(limit)
    return [body for piece in pieces for body in reader.feed(piece)], reader


# Frames


@given(BODIES, st.lists(st.integers(0, 25)))
def test_any_cutting_of_a_stream_gives_the_same_bodies(
    bodies: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(map(nest.frame, bodies))

    found, reader = fed(*chunks(stream, sizes))

    assert (found, reader.error, reader.partial) == (bodies, None, False)


@given(BODIES)
def test_a_stream_may_come_byte_by_byte(bodies: list[bytes]) -> None:
    stream = b"".join(map(nest.frame, bodies))

    assert fed(*chunks(stream, [1] * len(stream)))[0] == bodies


@given(st.binary(max_size=60), st.integers(0, 40), st.lists(st.integers(1, 9)))
def test_bytes_that_are_no_utf_8_are_cut_alike_however_they_come(
    body: bytes, length: int, sizes: list[int]
) -> None:
    stream = b"%d#%b" % (length, body)
    whole, reader = fed(stream)

    cut, other = fed(*chunks(stream, sizes))

    assert (cut, other.error) == (whole, reader.error)


@given(ANY_TEXT)
def test_a_frame_says_its_length_in_utf_16_units(text: str) -> None:
    length, _, body = nest.frame(text.encode()).partition(b"#")

    assert (int(length), body) == (len(text.encode("utf-16-le")) // 2, text.encode())


@pytest.mark.parametrize("cut", range(1, 6))
def test_half_a_frame_is_partial_until_its_rest_comes(cut: int) -> None:
    stream = nest.frame('"é"'.encode())  # six bytes
    reader = NestFrames()

    assert reader.feed(stream[:cut]) == []
    partial = reader.partial

    assert (partial, reader.feed(stream[cut:]), reader.partial) == (True, ['"é"'.encode()], False)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"#{}", "does not begin with a length in digits"),
        (b"-1#{}", "does not begin with a length in digits"),
        (b" 2#{}", "does not begin with a length in digits"),
        (b"2.0#{}", "does not begin with a length in digits"),
        ("٢#{}".encode(), "does not begin with a length in digits"),
        (b"x", "does not begin with a length in digits"),
        (b"1" * 21, "does not begin with a length in digits"),
        (b"4097#", "a frame of 4097 is over the limit of 4096 bytes"),
        (('4000#"' + "✓" * 2000).encode(), "a frame is over the limit of 4096 bytes"),
        ('2#"😀"'.encode(), "ends inside a character"),
    ],
    ids=[
        *("no length", "signed", "spaced", "fraction", "other digits", "no digits"),
        *("no end of digits", "absurd", "too many bytes", "half a pair"),
    ],
)
def test_a_corrupt_stream_ends_with_its_reason_after_the_good_frames(
    stream: bytes, why: str
) -> None:
    bodies, reader = fed(b"2#{}" + stream)

    assert bodies == [b"{}"]
    assert why in str(reader.error)
    assert (reader.feed(b"2#{}"), reader.partial) == ([], False)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    assert fed(b"4#", b'"ab"', limit=4)[0] == [b'"ab"']


# Packets


def resent(body: bytes) -> bytes:
    """The same packet, decoded and written again by our own functions."""
    packet = nest.decode_packet(body)
    if packet is not None:
        if packet.id:
            return nest.request(packet.pattern, packet.data, packet.id)
        return nest.event(packet.pattern, packet.data)
    parts = members(body)
    if "status" in parts:
        return nest.no_handler(parts["id"], b'"any"')
    if "err" in parts:
        return nest.failure(parts["id"], parts["err"])
    if "response" not in parts:
        return nest.end(parts["id"])
    write = nest.last_item if "isDisposed" in parts else nest.item
    return write(parts["id"], parts["response"])


@pytest.mark.parametrize(
    "vector", RECORDED, ids=[f"{vector['seq']} {vector['what']}" for vector in RECORDED]
)
def test_a_recorded_frame_is_read_and_written_to_the_same_bytes(vector: dict[str, Any]) -> None:
    raw = vector["raw_text"].encode()

    [body], reader = fed(raw)

    assert (reader.error, nest.frame(resent(body))) == (None, raw)


def answered(packet: nest.Packet) -> list[bytes]:
    """What the recorded service answers; None as data is JavaScript's undefined."""
    route = nest.route(packet.pattern)
    id, data = bytes(packet.id), bytes(packet.data)
    if not id:
        return []
    if route in ("math.sum", '{"cmd":"sum"}'):
        if not data.startswith(b"["):
            return [nest.failure(id, nest.error_json("Internal server error"))]
        return [nest.value(id, b"%d" % sum(json.loads(data)))]
    if route == "echo":
        return [nest.value(id, data) if data else nest.end(id)]
    if route == '{"a":{"b":2,"y":"s"},"z":1}':
        return [nest.value(id, b'{"got":%b}' % data)]
    if route == "stream.count":
        return [nest.item(id, b"1"), nest.item(id, b"2"), nest.last_item(id, b"3")]
    return [nest.end(id) if route == "user.created" else nest.no_handler(id)]


def served(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """All that a service answers to these pieces, and whether it closes the connection."""
    reader, sent = nest.frames(), b""
    for piece in pieces:
        for body in reader.feed(piece):
            try:
                packet = nest.decode_packet(body)
            except CodecError:
                return sent, DIALECT.invalid_request() is None
            sent += b"".join(map(nest.frame, answered(packet) if packet else []))
    return sent, reader.error is not None


@pytest.mark.parametrize("edge", SERVER_EDGES.values(), ids=SERVER_EDGES)
def test_a_service_answers_the_recorded_edges_as_nestjs_did(edge: dict[str, Any]) -> None:
    pieces = [piece.encode() for piece in edge["sent"]]
    if edge["sent"] == "long":
        pieces = [nest.frame(b'{"pattern":%b,"data":1,"id":"deep"}' % DEEP)]
    expected = (edge["received"].encode(), edge["connection_closed_by_nest"])

    assert served(pieces) == DEPARTURES.get(edge["case"], expected)


def called(bodies: Iterable[bytes]) -> dict[str, Any]:
    """What the call with our ID makes of these replies, in the recording's own words."""
    values: list[Any] = []
    for answer in map(nest.decode_answer, bodies):
        if answer.id != ID:
            continue
        if answer.error is not UNSET:
            return {"error": answer.error}
        if isinstance(answer.value, Raw):
            values.append(json.loads(bytes(answer.value)))
        if answer.done:
            break
    return {"values": values}


@pytest.mark.parametrize("edge", CLIENT_EDGES.values(), ids=CLIENT_EDGES)
def test_a_client_takes_the_recorded_replies_as_nestjs_did(edge: dict[str, Any]) -> None:
    bodies, _ = fed(*(frame.encode() for frame in edge["reply_frames"]))

    outcome = called(body.replace(b"<id>", ID.encode()) for body in bodies)

    assert outcome == edge["nest_client_result"]


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b"null",
        b"5",
        b'"x"',
        b"true",
        b'[{"pattern":"a"}]',
        b"{}",
        b'{"id":"1"}',
        b'{"data":1}',
    ],
)
def test_json_that_is_no_packet_is_ignored(body: bytes) -> None:
    assert nest.decode_packet(body) is None


def test_a_request_without_pattern_has_no_handler() -> None:
    packet = nest.decode_packet(b'{"data":1,"id":"1"}')

    assert packet is not None
    assert nest.route(packet.pattern) is None


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{bad}", b"[1", b"{}x", b"\xef\xbb\xbf{}", b'{"pattern":"a","data":tru}'),
        *(b'{"pattern":"a","x":"\\q"}', b'{"pattern":"a","data":"\n"}', b'{"pattern":"\xff"}'),
        *(b'{"response":"\xff","id":"1"}', b'{"pattern":"a","x":{"\xff":1}}'),
        *(b'{"pattern":NaN}', b'{"pattern":"a","data":01}'),
        b'{"pattern":"a","data":"\\ud83"}',
    ],
    ids=lambda body: body.decode(errors="replace") or "empty",
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError, match="the body is not JSON"):
        nest.decode_packet(body)
    with pytest.raises(CodecError, match="the body is not JSON"):
        nest.decode_answer(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"pattern":%b' % DEEP, "its brackets do not match"),
        (b'{"pattern":%b}}' % DEEP, "its brackets do not match"),
        (b'{"pattern":%b,"id":tru}' % DEEP, "the body is not JSON: "),
        (b'{"pattern":%b,7}' % DEEP, "a member of its object has no name"),
        (rb'{"pattern":%b,"\q":1}' % DEEP, "invalid escape"),
        (b'{"pattern":%b}' % (DEEP * 7), "nested too deep for its size"),
    ],
    ids=["unclosed", "overclosed", "bad id", "no name", "bad name", "huge"],
)
def test_what_is_deep_and_broken_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        nest.decode_packet(body)


@pytest.mark.parametrize("member", ["pattern", "data", "other"])
def test_a_deep_packet_keeps_its_other_parts(member: str) -> None:
    parts = {"pattern": b'"a,]}"', "data": b'{"b":["c",1]}', "id": b'"1"', member: DEEP}
    body = b" {" + b", ".join(b'"%b" : %b' % (name.encode(), parts[name]) for name in parts) + b"} "

    packet = nest.decode_packet(body)

    assert packet == nest.Packet(*(Raw(parts[name]) for name in ("pattern", "data", "id")))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"cut \ud83d"', rb'"cut \ufffd"'),
        (rb'"\ude00\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\\\\ud83d \ud83d"', rb'"\\\\ud83d \ufffd"'),
    ],
    ids=["half", "half and whole", "escaped backslash"],
)
def test_half_a_surrogate_pair_as_javascript_writes_it_is_read_as_unknown(
    written: bytes, read: bytes
) -> None:
    packet = nest.decode_packet(b'{"pattern":"a","data":%b}' % written)
    answer = nest.decode_answer(b'{"response":%b,"isDisposed":true,"id":"1"}' % written)

    assert packet == nest.Packet(Raw(b'"a"'), Raw(read))
    assert answer == nest.Answer("1", Raw(read))


# Answers


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"id":"1"}', nest.Answer("1", Raw(b"null"), done=False)),
        (b'{"response":1,"id":"1"}', nest.Answer("1", Raw(b"1"), done=False)),
        (b'{"response":1,"isDisposed":1,"id":"1"}', nest.Answer("1", Raw(b"1"))),
        (b'{"response":1,"isDisposed":"","id":"1"}', nest.Answer("1", Raw(b"1"), done=False)),
        (b'{"err":0,"response":1,"id":"1"}', nest.Answer("1", Raw(b"1"), done=False)),
        (b'{"err":{},"response":1,"id":"1"}', nest.Answer("1", error={})),
        (b'{"response":1,"isDisposed":true}', nest.Answer(None, Raw(b"1"))),
        (b'{"response":1,"isDisposed":true,"id":7}', nest.Answer(None, Raw(b"1"))),
        (b'{"a":1,"id":"1"}', nest.Answer("1", Raw(b'{"a":1,"id":"1"}'))),
        ('{"response":"é","id":"1"}'.encode(), nest.Answer("1", Raw('"é"'.encode()), done=False)),
        (b"{}", nest.Answer(None, Raw(b"{}"))),
        ('["é"]'.encode(), nest.Answer(None, Raw('["é"]'.encode()))),
    ],
    ids=lambda case: case.decode() if isinstance(case, bytes) else "",
)
def test_a_reply_is_taken_as_javascript_would(body: bytes, answer: nest.Answer) -> None:
    assert nest.decode_answer(body) == answer


def test_an_answer_nested_too_deep_is_refused() -> None:
    with pytest.raises(CodecError, match="nested too deep"):
        nest.decode_answer(b'{"response":%b,"id":"1"}' % DEEP)


@pytest.mark.parametrize(
    ("error", "written"),
    [
        ("nope", b'{"status":"error","message":"nope"}'),
        ({"status": 404, "message": "nope"}, b'{"status":404,"message":"nope"}'),
        (["a", 1], b'["a",1]'),
        (7, b'{"status":"error","message":7}'),
        (None, b'{"status":"error","message":null}'),
    ],
    ids=["text", "object", "list", "number", "null"],
)
def test_what_is_no_object_is_wrapped_as_an_error(error: Any, written: bytes) -> None:
    assert nest.error_json(error) == written


def test_a_packet_without_data_has_no_data_member() -> None:
    assert nest.request(b'"a"', b"", b'"1"') == b'{"pattern":"a","id":"1"}'
    assert nest.event(b'"a"', b"") == b'{"pattern":"a"}'
