"""The broker benchmarks: what they send and count, what they leave out, and a small real run."""

import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from pamqp import frame

from benchmarks import brokers
from benchmarks.broker_cases import CASES, SETTINGS, Case
from benchmarks.broker_lines import AmqpLine, Failed, MqttLine, redis_command
from benchmarks.broker_load import Line, drive
from benchmarks.broker_meter import Meter
from benchmarks.broker_wires import message
from benchmarks.brokers import Reading, measured
from benchmarks.results import Bar
from benchmarks.tcp_server import Order
from tests.brokers.broker import Address
from tests.brokers.mosquitto import MosquittoBroker
from tests.brokers.nats import NatsBroker

EVENTS = Case(
    "events on NATS", "nats", NatsBroker, {"understudy": 200, "raw": 200}, raw="nats-py", bar=0.6
)
CONSUMERS = {
    (case.wire, who) for case in CASES if case.is_events for who in case.counts if who != "nest"
}


def test_every_case_holds_ours_against_a_library_and_against_nestjs_where_it_has_that_wire() -> (
    None
):
    for case in CASES:
        library = "aiomqtt" if case.wire.startswith("mqtt") else "faststream"
        # aiomqtt has no requests.
        peer = library if case.is_events or library == "faststream" else "nest"
        assert {"understudy", peer} <= set(case.counts)
        assert ("nest" in case.counts) == (case.wire not in ("jetstream", "streams"))


def test_the_event_is_an_order_in_the_packet_of_nestjs_and_bare_for_faststream() -> None:
    packet = msgspec.json.decode(message(bare=False))
    assert set(packet) == {"pattern", "data"}
    order = msgspec.json.decode(message(bare=True), type=Order)
    assert msgspec.convert(packet["data"], Order) == order


def test_a_command_for_redis_tells_every_length_in_bytes() -> None:
    assert (
        redis_command("ECHO", "tea ☕", b"")
        == b"*3\r\n$4\r\nECHO\r\n$7\r\ntea \xe2\x98\x95\r\n$0\r\n\r\n"
    )


def test_a_message_for_rabbitmq_is_three_frames_with_its_properties() -> None:
    rest = AmqpLine.publish("orders", b"tea", correlation_id="7")
    found: list[tuple[int, Any]] = []
    while rest:
        used, channel, part = frame.unmarshal(rest)
        rest = rest[used:]
        found.append((channel, part))

    (_, method), (_, head), (_, body) = found
    assert (method.routing_key, head.properties.correlation_id, body.value) == (
        "orders",
        "7",
        b"tea",
    )
    assert {channel for channel, _ in found} == {1}


def test_a_packet_of_mqtt_tells_its_length_in_groups_of_seven_bits() -> None:
    assert MqttLine.publish("a", b"tea") == b"0\x06\x00\x01atea"
    assert MqttLine.publish("a", b"tea", 258) == b"2\x08\x00\x01a\x01\x02tea"
    assert MqttLine.publish("a", b"." * 200)[:3] == b"0\xcb\x01"
    assert MqttLine.publish("a", b"." * 16_381)[:4] == b"0\x80\x80\x01"


def test_answers_are_counted_once_wherever_their_mark_is_cut() -> None:
    here, there = socket.socketpair()
    with here, there:
        line = Line(here, [b"?"], b"MARK")
        counts = []
        for piece in (b"..MA", b"RK..MARKMAR", b"K", b"..MARK"):
            there.sendall(piece)
            counts.append(line.answers())

    assert counts == [0, 2, 1, 1]


def test_no_more_requests_are_in_flight_than_asked_for() -> None:
    here, there = socket.socketpair()
    seen: list[bytes] = []

    def serve() -> None:
        while requests := there.recv(100):
            seen.append(requests)
            there.sendall(b"MARK" * len(requests))

    with here, there:
        service = threading.Thread(target=serve)
        service.start()
        drive(Line(here, [b"a", b"b", b"c"], b"MARK"), 10, in_flight=3)
        here.shutdown(socket.SHUT_WR)
        service.join()

    assert b"".join(seen) == b"abcabcabca"
    assert max(map(len, seen)) == 3


def test_a_service_that_falls_silent_fails_the_reading() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0.01)
        with pytest.raises(Failed, match="no answer came any more"):
            drive(Line(here, [b"?"], b"MARK"), 1)


def test_the_warm_up_is_told_and_only_what_follows_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full: list[bool] = []
    meter = Meter(3, 2, lambda: full.append(True))
    for _ in range(3):
        meter.count()
    assert capsys.readouterr().out == "warm\n"
    meter.count()
    assert not full

    meter.count()
    meter.tell()

    assert full == [True]
    assert set(msgspec.json.decode(capsys.readouterr().out)) == {"seconds", "cpu"}


def test_who_fails_is_left_out_of_the_figures_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def consumed(wire: str, url: str, who: str, messages: int) -> Reading:
        if who == "raw":
            raise Failed("raw ended too early")
        return Reading(messages * 2.0, 7.0)

    monkeypatch.setattr(brokers, "consumed", consumed)

    result = measured(EVENTS, "nats://", ["understudy", "raw"], rounds=2)

    assert result.figures == {"understudy": 400.0}
    assert result.bars == (Bar("understudy", "nats-py", 0.6),)
    assert "understudy 7 µs" in result.note
    assert "raw ended too early" in result.note


def test_who_is_not_installed_is_not_measured_and_has_no_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brokers, "consumed", lambda *_: Reading(1.0, None))

    result = measured(EVENTS, "nats://", ["understudy"], rounds=1)

    assert (dict(result.figures), result.bars) == ({"understudy": 1.0}, ())


def test_what_is_not_installed_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NatsBroker, "executable", classmethod(lambda _: None))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(brokers, "find_spec", lambda _: None)
    monkeypatch.setattr(brokers, "pin", lambda _: None)
    monkeypatch.setattr(brokers, "Report", lambda *_: SimpleNamespace(good=True))

    assert brokers.main(rounds=1, wires=["nats"])

    said = capsys.readouterr().out
    for what in ("FastStream is", "aiomqtt is", "Node and npm are", "nats-server is"):
        assert f"left out: {what} not installed" in said


@pytest.mark.parametrize(("wire", "who"), sorted(CONSUMERS))
def test_every_consumer_takes_all_events_and_leaves_none_behind(
    wire: str, who: str, address: Callable[[str], Address]
) -> None:
    if who in ("faststream", "aiomqtt"):
        pytest.importorskip(who, reason="needs the extra: pip install -e '.[bench]'")

    assert brokers.consumed(wire, address(wire).url, who, 300).rate > 0


@pytest.mark.parametrize("wire", ["nats", "redis", "rabbitmq", "mqtt"])
def test_our_service_answers_the_load(wire: str, address: Callable[[str], Address]) -> None:
    assert brokers.answered(wire, address(wire).url, "understudy", 300).rate > 0


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Callable[[str], Address]:
    """The broker that all tests share, by the wire's name; for MQTT one with the settings.

    The shared one writes down every change before it reads on, which takes its time.
    """
    kinds = {"jetstream": "nats", "streams": "redis"}

    def find(wire: str) -> Address:
        if wire.startswith("mqtt"):
            own: MosquittoBroker = request.getfixturevalue("own_mqtt")(
                settings=SETTINGS[MosquittoBroker]
            )
            return Address(own.url)
        found: Address = request.getfixturevalue(f"{kinds.get(wire, wire)}_broker")
        return found

    return find
