"""Bytes that were made to harm: each is answered or ends its own connection, and is said once.

How much they slow others down is measured by the campaign (tests/campaigns/hostile_tcp.py).
"""

import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.encoding import encode
from understudy.transports.codec import nest

from ..serving import Service, serving, until
from .desk import Scene
from .wire import PROBE, request, wired

URL = "tcp://127.0.0.1:0"


@pytest.fixture
async def desk() -> AsyncIterator[Service]:
    async with serving(URL, Scene().desk()) as service:
        yield service


def deep(levels: int, pattern: bytes = b"echo") -> bytes:
    nested = b"[" * levels + b"]" * levels
    return nest.frame(b'{"pattern":"%b","data":%b,"id":"1"}' % (pattern, nested))


CLOSED = {
    "garbage": (bytes(range(256)) * 10, "strange protocols"),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "strange protocols"),
    "garbage after a frame": (PROBE + b"\xff\xfe", "broken frames"),
    "a huge length": (b"99999999999999999999#", "broken frames"),
    "an endless length": (b"9" * 100_000, "broken frames"),
    "a length over the limit": (b"4194305#", "broken frames"),
    "a negative length": (PROBE + b"-5#hello", "broken frames"),
    "a fractional length": (b"5.5#hello", "broken frames"),
    "a length that ends in a character": (b"1#" + "😀".encode() + b"{}", "broken frames"),
    "no JSON": (b"5#{bad}", "packets that are none"),
    "half of JSON": (b'10#{"pattern"', "packets that are none"),
    "invalid UTF-8": (b'25#{"pattern":"\xff\xfe","id":1}' + b"   ", "packets that are none"),
    "brackets without an end": (nest.frame(b'{"data":' + b"[" * 60_000), "packets that are none"),
    "a deep body that is too big": (deep(40_000), "packets that are none"),
    "an endless line": (b"{" * 4_200_000, "broken frames"),
}


@pytest.mark.parametrize("name", CLOSED)
async def test_what_cannot_be_read_ends_its_connection_and_is_said(
    desk: Service, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, kind = CLOSED[name]
    async with wired(desk.url) as good:
        assert await good.probe() == b""
        async with wired(desk.url) as bad:
            with suppress(trio.BrokenResourceError):  # closed before it had all of it
                await bad.send(sent)
            await bad.rest()
        assert await good.probe() == b""

    assert desk.statistics().refused == {kind: 1}
    assert "; the connection is closed" in caplog.text


@pytest.mark.parametrize(
    ("sent", "status"),
    [(deep(20_000), b'"status":400'), (deep(20_000, b"nobody"), b"no matching message handler")],
    ids=["known", "unknown"],
)
async def test_what_is_nested_too_deep_is_answered(
    desk: Service, sent: bytes, status: bytes
) -> None:
    async with wired(desk.url) as wire:
        await wire.send(sent)
        (body,) = await wire.bodies(1)
        assert status in body or b'"err"' in body
        assert await wire.probe() == b""


async def test_the_same_fault_of_many_peers_is_said_a_few_times_and_counted(
    desk: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "understudy.transports.tcp"):
        for _ in range(100):
            async with wired(desk.url) as bad:
                await bad.send(b"GET / HTTP/1.1\r\n\r\n")
                await bad.rest()

    assert desk.statistics().refused == {"strange protocols": 100}
    assert sum(record.name == "understudy.transports.tcp" for record in caplog.records) == 5


@pytest.mark.parametrize(
    "piece",
    [nest.frame(b"{}"), b"1#0", nest.frame(b"null"), request("nobody"), request("sum", '"x"')],
    ids=["no pattern", "number", "null", "unknown", "does not fit"],
)
async def test_packets_of_no_use_in_any_number_keep_nobody_out(
    desk: Service, piece: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Though there is always more of them to read."""
    flood = piece * (200_000 // len(piece))
    async with wired(desk.url) as good, wired(desk.url) as bad, trio.open_nursery() as nursery:

        async def attack() -> None:
            while True:
                await bad.stream.send_all(flood)

        async def swallow() -> None:
            async for _ in bad.stream:
                pass

        nursery.start_soon(attack)
        nursery.start_soon(swallow)
        for _ in range(30):
            assert await good.probe() == b""
        await until(lambda: desk.statistics().refused.get("peers that waste time"))
        nursery.cancel_scope.cancel()
    assert "sends packets of no use; it is read slowly" in caplog.text


async def test_packets_of_no_use_are_all_read_and_answered_in_the_end(desk: Service) -> None:
    async with wired(desk.url) as wire:
        await wire.send(b"2#{}" * 50_000 + request("nobody") * 500 + PROBE)

        answers = await wire.bodies(501)
    assert all(b"no matching message handler" in answer for answer in answers[:-1])
    assert b'"response":"probe"' in answers[-1]


async def test_a_flood_of_good_requests_is_answered_to_the_last(desk: Service) -> None:
    wanted = 20_000
    async with wired(desk.url) as wire, trio.open_nursery() as nursery:
        nursery.start_soon(wire.stream.send_all, request("echo", "1") * wanted)
        assert len(await wire.bodies(wanted, within=20)) == wanted

    assert desk.statistics().in_flight == 0


LINES = st.sampled_from(
    [b"{}", b"{", b'{"id":"1","kind":"send","pattern":"echo","payload":1}', b"[1]", b"\xff", b""]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES | st.binary(max_size=50), max_size=8), st.data())
async def test_no_lines_can_harm_the_service(lines: list[bytes], data: st.DataObject) -> None:
    sent = b"{}\n" + b"\n".join(lines)
    cut = data.draw(st.integers(0, len(sent)))
    async with serving(URL, Scene().desk()) as desk, wired(desk.url) as good:
        async with wired(desk.url) as bad:
            with suppress(trio.BrokenResourceError):
                await bad.send(sent[:cut], sent[cut:])
        assert await good.probe() == b""
        await until(lambda: desk.statistics().connections == 1)
        assert desk.statistics().in_flight == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["pattern", "data", "id", "isDisposed", "metadata", ""])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(KEYS, JSON), min_size=1, max_size=8))
async def test_packets_of_any_shape_are_answered_or_ignored(
    packets: list[dict[str, object]],
) -> None:
    sent = b"".join(nest.frame(encode(packet)) for packet in packets)
    async with serving(URL, Scene().desk()) as desk, wired(desk.url) as wire:
        await wire.send(sent)
        before = await wire.probe()

        requests = sum("id" in packet for packet in packets)
        assert len(nest.frames().feed(before)) <= requests
        known = {"requests without a handler", "requests that do not fit", "peers that waste time"}
        assert desk.statistics().refused.keys() <= known
