"""The client among strangers: what goes out, what is confirmed, and what is said of failures."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    ConnectionLost,
    DeclarationError,
    NoResponders,
    RequestTimeout,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.broker import Address
from ...brokers.mosquitto import MosquittoBroker
from ..serving import serving, until
from .peer import peer

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"client-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def url(mqtt_broker: Address, prefix: str) -> str:
    return f"{mqtt_broker.url}?prefix={prefix}"


class Shop(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @message_pattern("echo")
    def echo(self, item: Any) -> Any:
        return item

    @message_pattern("wait")
    async def wait(self, item: Any) -> None:
        await trio.sleep_forever()

    @event_pattern("placed")
    def placed(self, item: Any) -> None:
        self.seen.append(item)


# -- what is sent -----------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [5, 311])
async def test_an_event_is_sent_as_nestjs_sends_it(
    url: str, prefix: str, version: int, qos: int
) -> None:
    with peer(url, f"{prefix}/#", version=311, qos=2) as stranger:
        async with connect(url, qos=qos, version=version) as client:
            await client.emit("placed", {"id": 7})
            await client.emit({"cmd": "go"}, None)
            await until(lambda: len(stranger.got) == 2)

    first, second = stranger.got
    assert (first.topic, first.json) == (
        f"{prefix}/placed",
        {"pattern": "placed", "data": {"id": 7}},
    )
    assert second.topic == prefix + '/{"cmd":"go"}'
    assert second.json == {"pattern": '{"cmd":"go"}', "data": None}
    assert first.qos == second.qos == qos


async def test_headers_are_user_properties_and_some_mean_more(url: str, prefix: str) -> None:
    headers = {
        "tenant": "a",
        "message_id": "m1",
        "qos": "2",
        "retain": "true",
        "expiry": "60",
        "content_type": "text/x",
    }
    async with connect(url) as client:
        await client.emit("placed", 1, headers=headers)
        with peer(url, f"{prefix}/placed", qos=2) as stranger:
            await until(lambda: stranger.got)
            stranger.publish(f"{prefix}/placed", b"", 1, retain=True)

    (got, *_) = stranger.got
    assert dict(got.properties["UserProperty"]) == {"tenant": "a", "message_id": "m1"}
    assert (got.qos, got.retained, got.properties["ContentType"]) == (2, True, "text/x")
    assert 50 < got.properties["MessageExpiryInterval"] <= 60


async def test_every_event_has_an_identity_of_its_own(url: str, prefix: str) -> None:
    with peer(url, f"{prefix}/placed") as stranger:
        async with connect(url) as client:
            await client.emit("placed", 1)
            await client.emit("placed", 2)
            await until(lambda: len(stranger.got) == 2)

    first, second = (dict(got.properties["UserProperty"])["message_id"] for got in stranger.got)
    assert first != second


async def test_a_request_expires_with_its_call_and_is_answered_by_a_nestjs_peer(
    url: str, prefix: str
) -> None:
    with peer(url, f"{prefix}/ask") as stranger:
        async with connect(url) as client, trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await client.send("ask", 1, timeout=2.5))

            nursery.start_soon(ask)
            await until(lambda: stranger.got)
            (got,) = stranger.got
            packet = {"response": "tea", "isDisposed": True, "id": got.json["id"]}
            stranger.publish(f"{prefix}/ask/reply", b"{not json")
            stranger.publish(f"{prefix}/ask/reply", {**packet, "id": "somebody else's"})
            stranger.publish(f"{prefix}/ask/reply", packet)
            await until(lambda: answers)

    assert answers == ["tea"]
    assert got.json == {"pattern": "ask", "data": 1, "id": got.json["id"]}
    assert got.properties["MessageExpiryInterval"] == 3


@pytest.mark.parametrize("version", [5, 311])
async def test_a_nestrs_service_and_client_understand_each_other(
    url: str, prefix: str, version: int
) -> None:
    seen: list[Any] = []
    options: Any = {"dialect": "nestrs", "version": version}
    with peer(url, f"{prefix}/rpc/#", version=311) as stranger:
        async with serving(url, child(Shop, seen), **options):
            async with connect(url, **options) as client:
                assert await client.send("echo", {"a": [1]}) == {"a": [1]}
                with pytest.raises(RpcError, match="no microservice handler for pattern `nobody`"):
                    await client.send("nobody", 1)
                await client.emit("placed", 7)
                await until(lambda: seen)
        await until(lambda: len(stranger.got) == 5)

    request, answer = stranger.got[:2]
    assert request.topic == f"{prefix}/rpc/requests"
    assert request.json.pop("reply") == answer.topic
    assert answer.topic.startswith(f"{prefix}/rpc/reply/")
    assert answer.json == {"ok": True, "payload": {"a": [1]}}
    assert seen == [7]


# -- what is said of failures -------------------------------------------------------


async def test_a_request_to_nobody_fails_at_once_in_mqtt_5(url: str) -> None:
    async with connect(url) as client:
        with trio.fail_after(2), pytest.raises(NoResponders, match="nobody listens for 'ask'"):
            await client.send("ask", 1, timeout=60)
        with trio.fail_after(2), pytest.raises(NoResponders):
            await anext(client.stream("ask", 1))


async def test_a_request_to_nobody_times_out_in_mqtt_311(url: str) -> None:
    async with connect(url, version=311) as client:
        with pytest.raises(RequestTimeout):
            await client.send("ask", 1, timeout=0.1)


async def test_an_event_to_nobody_is_confirmed(url: str) -> None:
    async with connect(url) as client:
        await client.emit("placed", 1)


@pytest.mark.parametrize(
    ("version", "headers", "why"),
    [
        (311, {"tenant": "a"}, "have no headers but 'qos' and 'retain'"),
        (311, {"expiry": "5"}, "have no headers but 'qos' and 'retain'"),
        (5, {"qos": "3"}, "the header 'qos' is 0, 1 or 2, not '3'"),
        (5, {"retain": "yes"}, "the header 'retain' is true or false"),
        (5, {"expiry": "1.5"}, "the header 'expiry' is a whole number of seconds"),
        (5, {"a": "b\x00"}, "cannot be sent"),
    ],
    ids=["311", "311 expiry", "qos", "retain", "expiry", "control character"],
)
async def test_headers_that_cannot_be_sent_are_refused(
    url: str, version: int, headers: Any, why: str
) -> None:
    async with connect(url, version=version) as client:
        with pytest.raises(DeclarationError, match=why):
            await client.emit("placed", 1, headers=headers)


@pytest.mark.parametrize("pattern", ["a/+", "a/#", "tab\t", "x" * 70_000, "$share/g/a"])
async def test_a_pattern_that_is_no_topic_is_refused_and_costs_no_connection(
    url: str, pattern: str
) -> None:
    async with connect(url) as client:
        with pytest.raises(DeclarationError, match="cannot be an MQTT topic"):
            await client.emit(pattern, 1)
        await client.emit("placed", 1)


async def test_a_message_that_is_too_long_is_not_sent(url: str) -> None:
    async with connect(url, message_limit=4096) as client:
        with pytest.raises(ConnectionLost, match="4096 may be sent at most") as caught:
            await client.emit("placed", "x" * 5000)
        assert not caught.value.sent
        with pytest.raises(ConnectionLost, match="4096 may be sent at most"):
            await client.send("echo", "x" * 5000)
        await client.emit("placed", "short")


async def test_the_brokers_own_limit_is_known_in_mqtt_5(
    own_mqtt: Callable[..., MosquittoBroker],
) -> None:
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(settings=["max_packet_size 8192"]))
    async with connect(broker.url) as client:
        with pytest.raises(ConnectionLost, match="may be sent at most"):
            await client.emit("placed", "x" * 9000)
        await client.emit("placed", "short")


async def test_what_rights_do_not_allow_is_said(
    own_mqtt: Callable[..., MosquittoBroker], tmp_path: Path
) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic write allowed\ntopic read allowed/reply\n")
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(settings=[f"acl_file {rights}"]))
    async with connect(broker.url) as client:
        with pytest.raises(ConnectionLost, match="did not take the message: Not authorized"):
            await client.emit("forbidden", 1)
        await client.emit("allowed", 1)
    async with connect(broker.url, version=311) as client:
        await client.emit("forbidden", 1)  # there is no way to say no


async def test_a_thousand_events_at_once_are_all_confirmed_though_the_broker_takes_few(
    url: str,
) -> None:
    seen: list[Any] = []
    async with serving(url, child(Shop, seen)), connect(url) as client:
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(client.emit, "placed", number)
        await until(lambda: len(seen) == 1000, within=20)

    assert sorted(seen) == list(range(1000))


async def test_the_items_of_a_stream_keep_their_order_when_nobody_takes_them(url: str) -> None:
    async def items(self: Any, count: int) -> Any:
        for number in range(count):
            yield number

    class Counts(Actor):
        count = message_pattern("count")(items)

    async with serving(url, child(Counts)), connect(url) as client:
        found: list[int] = []
        async for item in client.stream("count", 6000):
            if not found:
                await wait_all_tasks_blocked(0.02)
            found.append(item)

    assert found == list(range(6000))


@pytest.mark.parametrize("dialect", ["nest", "nestrs"])
async def test_nothing_of_a_stranger_is_taken_for_an_answer(
    url: str, prefix: str, dialect: str
) -> None:
    bodies = [b"", b"\xff", b"[]", b"1", json.dumps({"id": 1}).encode(), b'{"ok":1}']
    async with serving(url, child(Shop, []), dialect=dialect):
        async with connect(url, dialect=dialect) as client:
            assert await client.send("echo", 0) == 0
            with peer(url) as stranger:
                for body in bodies:
                    stranger.publish(f"{prefix}/echo/reply", body)
            assert await client.send("echo", 1) == 1
