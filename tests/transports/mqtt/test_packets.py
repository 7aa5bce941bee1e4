"""MQTT's PUBLISH as it is read and written here, beside paho's own reading and writing."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from understudy.transports.mqtt.packets import Publish, packed, read

from .peer import properties

_Properties: Any = Properties

TOPIC = b"\x00\x03a/b"
MID = b"\x01\x02"
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"))


def five(command: int, *parts: bytes) -> Publish:
    return read(command, bytearray(b"".join(parts)), five=True)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [5, 311])
def test_the_first_byte_says_qos_repetition_and_retention(
    version: int, qos: int, retained: bool, again: bool
) -> None:
    command = 0x30 | again << 3 | qos << 1 | retained
    parts = [TOPIC, MID if qos else b"", b"\0" if version == 5 else b"", b"tea"]

    found = read(command, bytearray(b"".join(parts)), five=version == 5)

    assert found == Publish("a/b", b"tea", qos, 258 if qos else 0, again, retained)


@given(st.dictionaries(texts, texts, max_size=5), st.integers(0, 2**32 - 1), texts)
def test_properties_are_written_as_paho_reads_them(
    headers: dict[str, str], expiry: int, content_type: str
) -> None:
    data = packed(headers, expiry=expiry, content_type=content_type).pack()
    found = _Properties(PacketTypes.PUBLISH)
    found.unpack(data)

    assert dict(getattr(found, "UserProperty", [])) == headers
    assert getattr(found, "MessageExpiryInterval", 0) == expiry
    assert getattr(found, "ContentType", "") == content_type


@given(st.dictionaries(texts, texts, max_size=5), texts, st.binary(max_size=20))
def test_properties_are_read_as_paho_writes_them(
    headers: dict[str, str], content_type: str, body: bytes
) -> None:
    sent = properties(
        headers,
        ContentType=content_type,
        MessageExpiryInterval=7,
        PayloadFormatIndicator=1,
        ResponseTopic="r",
        CorrelationData=b"\0\xff",
        SubscriptionIdentifier=300,
    )

    found = five(0x32, TOPIC, MID, sent.pack(), body)

    assert (dict(found.headers), found.content_type) == (headers, content_type)
    assert (found.body, found.subscriptions) == (body, (300,))


def test_a_user_property_that_ends_pahos_connection_is_read() -> None:
    found = five(0x30, TOPIC, packed({"\ufeffk": "a\ufeffb"}).pack(), b"tea")

    assert found.headers == {"\ufeffk": "a\ufeffb"}


def test_what_is_not_utf_8_is_read_with_escapes() -> None:
    found = five(0x30, b"\x00\x02\xff/", b"\x07\x26\x00\x01\xfe\x00\x01k", b"")

    assert (found.topic, found.headers) == ("\\xff/", {"\\xfe": "k"})


WHOLE = TOPIC + MID + packed({"a": "b"}, expiry=3, content_type="t").pack()


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_message_that_ends_too_early_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="a message"):
        five(0x32, WHOLE[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x7f",
        b"\x02\x26\x00",
        b"\x06\x26\x00\xff\x00\x01k",
        b"\xff\xff\xff\xff\x7f",
        b"\x01\x0b",
    ],
    ids=["unknown", "half a pair", "longer than the rest", "no length", "no number"],
)
def test_properties_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a message|a number"):
        five(0x30, TOPIC, data)


@given(st.integers(0x30, 0x3F), st.binary(max_size=40), st.booleans())
def test_bytes_of_any_kind_are_read_or_refused(command: int, data: bytes, version: bool) -> None:
    try:
        read(command, bytearray(data), five=version)
    except ValueError:
        pass
    else:
        assert len(data) >= 2


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384])
def test_properties_of_any_length_are_read_back(size: int) -> None:
    headers = {f"{n}": "x" * (size // 2) for n in itertools.islice(itertools.count(), 2)}

    assert five(0x30, TOPIC, packed(headers).pack(), b"tea").headers == headers
