"""AMQP's bytes: what we write is what pamqp reads, and what strangers write is read anyhow."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, header

from understudy.transports.rabbitmq.frames import (
    Properties,
    ack,
    cut,
    nack,
    publish,
    read_deliver,
    read_header,
)

FULL = Properties(
    headers={"a": "ä"},
    persistent=True,
    priority=3,
    correlation_id="c",
    reply_to="r",
    ttl="1500",
    message_id="m",
    at=1_700_000_000.0,
)


def frames_of(data: bytes) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    cut(data, lambda *parts: found.append(parts))
    return found


def read_by_pamqp(data: bytes) -> list[Any]:
    found = []
    while data:
        size, _, one = frame.unmarshal(data)
        found.append(one)
        data = data[size:]
    return found


def test_a_published_message_is_one_to_pamqp() -> None:
    method, head, body = read_by_pamqp(publish(2, "x", "k", FULL, b"hello", 4096, mandatory=True))

    assert (method.exchange, method.routing_key, method.mandatory) == ("x", "k", True)
    assert (head.body_size, head.properties.headers) == (5, {"a": "ä"})
    assert (head.properties.priority, head.properties.delivery_mode) == (3, 2)
    assert (head.properties.expiration, head.properties.timestamp.timestamp()) == (
        "1500",
        1_700_000_000.0,
    )
    assert body.value == b"hello"


@pytest.mark.parametrize("properties", [FULL, Properties(), Properties(message_id="m")], ids=str)
def test_properties_come_back_as_they_were_sent(properties: Properties) -> None:
    _, head, _ = frames_of(publish(1, "", "k", properties, b"x", 4096))

    assert read_header(head[2]) == (1, properties)


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 10_000], ids=str)
def test_no_frame_of_a_long_body_is_longer_than_agreed(size: int) -> None:
    found = frames_of(publish(1, "", "k", Properties(), b"x" * size, 4096))

    assert max(len(payload) + 8 for _, _, payload in found) <= 4096
    assert sum(len(payload) for kind, _, payload in found if kind == 3) == size


def test_acknowledgements_are_pamqps() -> None:
    assert ack(3, 7, multiple=True) == frame.marshal(commands.Basic.Ack(7, True), 3)
    assert nack(3, 7, requeue=True) == frame.marshal(commands.Basic.Nack(7, False, True), 3)
    assert nack(3, 7, requeue=False) == frame.marshal(commands.Basic.Nack(7, False, False), 3)


STREAM = publish(1, "", "k", FULL, b"y" * 9000, 4096) + ack(1, 1)


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
def test_frames_are_cut_wherever_the_stream_was_cut(cuts: set[int]) -> None:
    held, found, start = b"", [], 0
    for end in [*sorted(cuts), len(STREAM)]:
        held += STREAM[start:end]
        start = end
        held = held[cut(held, lambda *parts: found.append(parts)) :]

    assert held == b""
    assert found == frames_of(STREAM)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="a frame without its end"):
        cut(b"\x01\x00\x00\x00\x00\x00\x01xx", lambda *_: None)


def strange_header(flags: int, properties: bytes) -> bytes:
    return struct.pack(">HHQH", 60, 0, 1, flags) + properties


@pytest.mark.parametrize(
    ("flags", "properties", "found"),
    [
        (0x0400, b"\x02\xff\xfe", Properties(correlation_id="\ufffd\ufffd")),
        (0x0080, b"\x01\xff", Properties(message_id="\ufffd")),
        (0x0040, b"\xff" * 8, Properties()),
        (0x0040, struct.pack(">Q", 1_700_000_000_000), Properties(at=1_700_000_000.0)),
        (0x2000, b"\x00\x00\x00\x04\x01\xffS\x00", Properties()),
        (0x0400, b"\x50short", Properties(correlation_id="short")),
        (0x0040, b"\x00", Properties()),
    ],
    ids=[
        "text that is no UTF-8",
        "an identity that is none",
        "a time beyond all",
        "milliseconds",
        "a broken table",
        "text cut off",
        "time cut off",
    ],
)
def test_what_strangers_put_into_properties_is_read_at_best(
    flags: int, properties: bytes, found: Properties
) -> None:
    assert read_header(strange_header(flags, properties)) == (1, found)


@given(st.integers(0, 0xFFFE), st.binary(max_size=300))
def test_no_properties_can_make_reading_fail(flags: int, properties: bytes) -> None:
    size, found = read_header(strange_header(flags, properties))

    assert size == 1
    assert all(isinstance(text, str) for text in found.headers.values())


def test_headers_come_as_text() -> None:
    table: dict[str, Any] = {
        "n": 5,
        "b": bytearray(b"\xff\xe4"),
        "l": ["a", 1],
        "t": {"k": True},
        "v": None,
    }
    basic = commands.Basic.Properties(headers=table)
    payload = header.ContentHeader(body_size=1, properties=basic).marshal()

    assert read_header(payload)[1].headers == {
        "n": "5",
        "b": "\ufffd\ufffd",
        "l": '["a",1]',
        "t": '{"k":true}',
        "v": "",
    }


def test_a_delivery_is_read_as_pamqp_reads_it() -> None:
    method = commands.Basic.Deliver("tag", 7, True, "ex", "orders.ä")
    (_, _, payload), *_ = frames_of(frame.marshal(method, 1))

    assert read_deliver(payload) == ("tag", 7, True, "orders.ä")
