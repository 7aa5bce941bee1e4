"""A client on Kafka: keys, partitions, reply topics, groups, limits."""

import json
from typing import Any

import pytest
import trio

from understudy.actors.errors import ConnectionLost, DeclarationError, RequestTimeout, RpcError
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ..serving import serving, until
from ..shop import Notes
from .peer import Peer
from .test_bridge import Desk, Item


async def test_numbers_are_text_unless_a_type_says_otherwise(
    url: str, name: str, notes: Notes
) -> None:
    asked: list[tuple[str, Any, Any, Any]] = [
        ("sum", [1, 2], None, "3"),
        ("sum", [1, 2], int, 3),
        ("twice", 4, int, 8),
        ("echo", {"a": 1}, None, {"a": 1}),
        ("echo", {"a": 1}, Item, Item(1)),
        ("echo", True, None, "true"),
        ("echo", True, bool, True),
        ("echo", "12", None, "12"),
        ("echo", "12", str, "12"),
        ("echo", "héllo ✓", None, "héllo ✓"),
    ]
    async with serving(url, child(Desk, notes), prefix=name), connect(url, prefix=name) as client:
        for pattern, data, returns, answer in asked:
            assert await client.send(pattern, data, returns=returns) == answer


async def test_with_values_as_json_everything_comes_as_it_went(
    url: str, name: str, notes: Notes
) -> None:
    options = {"prefix": name, "values": "json"}
    async with serving(url, child(Desk, notes), **options), connect(url, **options) as client:
        for data in (0, "12", "", True, None, [None], {"value": 1}, "héllo ✓"):
            assert await client.send("echo", data) == data
        assert [item async for item in client.stream("count", 2)] == [{"n": 0}, {"n": 1}]
        assert [item async for item in client.stream("count", 0)] == []
        with pytest.raises(RpcError, match="expected an integer"):
            await client.send("twice", "12")


@pytest.mark.parametrize("how", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_is_sent_can_be_compressed(url: str, name: str, peer: Peer, how: str) -> None:
    long = {"text": "tea and jam " * 10_000}
    async with connect(url, prefix=name, compression=how) as client:
        await client.emit("told", long)
    (record,) = await peer.read(f"{name}.told", 1)

    assert json.loads(record.value) == long


async def test_a_compression_without_its_library_fails_the_start_and_says_what_to_install(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiokafka.codec.cramjam", None)
    with pytest.raises(ConnectionLost, match="zstd not found: pip install 'understudy"):
        async with connect(url, compression="zstd"):
            pass


async def test_a_request_names_its_reply_topic_and_partition(
    url: str, name: str, peer: Peer
) -> None:
    await peer.make(f"{name}.asked")
    await peer.make(f"{name}.asked.reply")
    async with connect(url, prefix=name) as client:
        with pytest.raises(RequestTimeout):
            await client.send("asked", {"a": 1}, headers={"x": "1"}, timeout=0.5)
        (record,) = await peer.read(f"{name}.asked", 1)

    headers = dict(record.headers)
    assert len(headers.pop("kafka_correlationId")) > 8
    assert (record.value, headers) == (
        b'{"a":1}',
        {
            "x": b"1",
            "kafka_replyTopic": f"{name}.asked.reply".encode(),
            "kafka_replyPartition": b"0",
        },
    )


async def test_a_key_chooses_the_partition_and_may_be_a_header_or_a_record(
    url: str, name: str, peer: Peer
) -> None:
    await peer.make(f"{name}.keyed", 4)
    async with connect(url, prefix=name) as client:
        for number in range(8):
            await client.emit("keyed", number, headers={"kafka_key": "u1", "h": "x"})
        await client.emit("keyed", 8, headers={"kafka_partition": "3"})
    async with connect(url, prefix=name, records=True) as client:
        data = {"key": "u1", "value": {"id": 1}, "headers": {"h": "x"}}
        await client.emit("keyed", data)
    records = await peer.read(f"{name}.keyed", 10)

    keyed = [record for record in records if record.key == b"u1"]
    assert len(keyed) == 9
    assert len({record.partition for record in keyed}) == 1
    assert {tuple(record.headers) for record in keyed} == {(("h", b"x"),)}
    assert {record.partition for record in records if record.value == b"8"} == {3}
    assert b'{"id":1}' in {record.value for record in keyed}


async def test_what_is_too_long_is_refused_before_it_is_sent(
    url: str, name: str, notes: Notes
) -> None:
    async with serving(url, child(Desk, notes), prefix=name, message_limit=2000) as service:
        async with connect(url, prefix=name, message_limit=5000) as client:
            with pytest.raises(ConnectionLost, match=r"a message of .* 5000 may be sent") as caught:
                await client.emit("placed", "x" * 5000)
            assert not caught.value.sent
            with pytest.raises(RpcError, match="Internal server error"):
                await client.send("echo", "x" * 3000)
            assert await client.send("twice", 2, returns=int) == 4
        assert service.statistics().refused == {"answers that are too long": 1}


async def test_an_impossible_partition_or_topic_is_refused(url: str, name: str, peer: Peer) -> None:
    await peer.make(f"{name}.placed")
    async with connect(url, prefix=name) as client:
        with pytest.raises(ConnectionLost, match="has no partition 7"):
            await client.emit("placed", 1, headers={"kafka_partition": "7"})
        with pytest.raises(DeclarationError, match="is a number"):
            await client.emit("placed", 1, headers={"kafka_partition": "x"})
        with pytest.raises(DeclarationError, match="cannot be a Kafka topic"):
            await client.emit("no topic", 1)


async def test_a_topic_is_made_for_the_first_event_as_the_options_say(
    url: str, name: str, peer: Peer
) -> None:
    async with connect(url, prefix=name, partitions=3, replication=1) as client:
        for number in range(3):
            await client.emit("placed", number, headers={"kafka_partition": f"{number}"})

    assert len(await peer.read(f"{name}.placed", 3)) == 3


async def test_clients_of_one_group_have_a_partition_each_as_nestjs_has_it(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    await peer.make(f"{name}.twice.reply", 2)
    options = {"prefix": name, "group": name}
    async with serving(url, child(Desk, notes), prefix=name):
        async with connect(url, **options) as one, connect(url, **options) as other:
            for client in (one, other):
                assert await client.send("twice", 4, returns=int, timeout=20) == 8
            members = await peer.members(f"{name}-client")
            assert await one.send("twice", 5, returns=int, timeout=20) == 10
        answers = await peer.read(f"{name}.twice.reply", 3)

    assert members == 2
    assert {record.partition for record in answers} == {0, 1}


async def test_thousands_of_calls_in_flight_get_each_their_own_answer(
    url: str, name: str, notes: Notes
) -> None:
    answers: dict[int, int] = {}
    async with serving(url, child(Desk, notes), prefix=name), connect(url, prefix=name) as client:
        async with trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                answers[number] = await client.send("twice", number, returns=int, timeout=30)

            for number in range(3000):
                nursery.start_soon(ask, number)
        await until(lambda: len(answers) == 3000)

    assert answers == {number: number * 2 for number in range(3000)}
