"""The client on a real RabbitMQ: confirmed events, calls, and what the broker says to them."""

import time
import uuid
from typing import Any

import pytest
import trio
from pamqp import commands

from understudy.actors.errors import ConnectionLost, DeclarationError, NoResponders, RpcError
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ..serving import serving, until
from ..shop import Notes, Shop
from .peer import Peer


async def test_a_message_for_which_there_is_no_queue_fails_at_once(url: str) -> None:
    async with connect(url, queue=f"none-{uuid.uuid4().hex}") as client:
        began = time.perf_counter()
        for _ in range(10):
            with pytest.raises(NoResponders, match="nobody listens for 'sold'"):
                await client.emit("sold", 1)
            with pytest.raises(NoResponders):
                await client.send("echo", 1)
        assert time.perf_counter() - began < 1


async def test_an_event_is_confirmed_durable_and_has_an_identity_and_a_time(
    url: str, queue: str, peer: Peer
) -> None:
    await peer.call(commands.Queue.Declare(queue=queue, durable=True))
    async with connect(url, queue=queue) as client:
        await client.emit("sold", 1)
        await client.emit("sold", 2, headers={"message_id": "mine", "priority": "7", "ttl": "1.5"})
        await client.emit({"cmd": "x"}, 3, headers={"tenant": "ä"})
        assert await peer.depth(queue) == 3
    await peer.consume(queue)
    await peer.has(3)

    (first, body), (second, _), (third, last) = peer.got
    assert body == b'{"pattern":"sold","data":1}'
    assert first.persistent
    assert (len(first.message_id), abs(first.at - time.time()) < 60) == (32, True)
    assert (second.message_id, second.priority, second.ttl, second.headers) == (
        "mine",
        7,
        "1500",
        {},
    )
    assert third.headers == {"tenant": "ä"}
    assert last == b'{"pattern":"{\\"cmd\\":\\"x\\"}","data":3}'


async def test_thousands_of_events_are_confirmed_side_by_side_and_keep_their_order(
    url: str, queue: str, peer: Peer
) -> None:
    await peer.call(commands.Queue.Declare(queue=queue))
    async with connect(url, queue=queue) as client, trio.open_nursery() as nursery:
        for number in range(3000):
            nursery.start_soon(client.emit, "sold", number)

    assert await peer.depth(queue) == 3000


async def test_a_queue_that_refuses_more_is_told(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    options = {"queue": queue, "max_length": 2, "in_flight": 1}
    async with serving(url, child(Shop, notes), **options) as shop:
        async with shop.client(queue=queue) as client:
            for number in range(3):
                await client.emit("sold", number)
                await peer.holds(queue, number)
            with pytest.raises(ConnectionLost, match="the broker refused the message"):
                await client.emit("sold", 3)
        notes.gate.set()


async def test_what_is_longer_than_the_broker_takes_is_not_sent(
    url: str, queue: str, notes: Notes
) -> None:
    async with serving(url, child(Shop, notes), queue=queue, message_limit=100_000) as shop:
        async with shop.client(queue=queue, message_limit=200_000) as client:
            with pytest.raises(ConnectionLost, match="a message of 300028 bytes; 200000 may"):
                await client.emit("sold", "x" * 300_000)
            with pytest.raises(RpcError, match="Internal server error"):
                await client.send("echo", "x" * 150_000)
            assert await client.send("echo", "x" * 50_000) == "x" * 50_000
        assert shop.statistics().refused == {"answers that are too long": 1}


@pytest.mark.parametrize(
    "headers",
    [{"priority": "high"}, {"priority": "256"}, {"ttl": "soon"}, {"ttl": "-1"}],
    ids=str,
)
async def test_a_property_that_is_none_is_refused(
    url: str, queue: str, headers: dict[str, str]
) -> None:
    async with connect(url, queue=queue) as client:
        with pytest.raises(DeclarationError, match=r"the header '(priority|ttl)' is"):
            await client.emit("sold", 1, headers=headers)


async def test_priorities_are_kept_by_a_queue_that_has_them(
    url: str, queue: str, notes: Notes
) -> None:
    options = {"queue": queue, "max_priority": 5, "in_flight": 1}
    async with serving(url, child(Shop, notes), **options) as shop:
        async with shop.client(queue=queue) as client:
            for number, priority in enumerate("01234"):
                await client.emit("sold", number, headers={"priority": priority})
            notes.gate.set()
            await until(lambda: len(notes.seen) == 5)

    assert notes.seen == [0, 4, 3, 2, 1]


async def test_an_event_whose_time_is_over_goes_to_the_dead_letter_exchange(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    dead = f"{queue}-dead"
    await peer.call(commands.Queue.Declare(queue=dead))
    options: dict[str, Any] = {"queue": queue, "in_flight": 1, "dead_letter_exchange": "amq.direct"}
    options["dead_letter_routing_key"] = dead
    await peer.call(commands.Queue.Bind(queue=dead, exchange="amq.direct", routing_key=dead))
    async with serving(url, child(Shop, notes), **options) as shop:
        async with shop.client(queue=queue) as client:
            await client.emit("sold", 1)
            await client.emit("sold", 2, headers={"ttl": "0.05"})
            await peer.holds(dead, 1)
        notes.gate.set()
    await peer.call(commands.Queue.Delete(queue=dead))

    assert notes.seen == [1]


async def test_nestrs_calls_have_a_reply_queue_each_and_use_it_again(
    url: str, queue: str, notes: Notes
) -> None:
    options = {"queue": queue, "dialect": "nestrs"}
    async with serving(url, child(Shop, notes, concurrency=8), **options) as shop:
        async with shop.client(**options) as client:
            for _ in range(50):
                assert await client.send("echo", {"a": 1}) == {"a": 1}
            with pytest.raises(RpcError, match="no microservice handler for pattern `nobody`"):
                await client.send("nobody")
            answers: dict[int, Any] = {}

            async def ask(number: int) -> None:
                answers[number] = await client.send("wait", number)

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(ask, number)
                await until(lambda: len(notes.seen) == 8)
                for number in reversed(range(8)):
                    notes.gates[number].set()

    assert answers == {number: number for number in range(8)}
