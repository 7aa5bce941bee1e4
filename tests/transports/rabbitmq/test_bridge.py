"""The bridge on a real RabbitMQ: what it takes, settles, counts and binds."""

import re
import time
import uuid
from typing import Any

import pytest
import trio
from pamqp import commands

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import ConnectionLost, NoResponders, StartFailed
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect
from understudy.transports.rabbitmq.frames import Properties

from ..serving import hosting, serving, until
from ..shop import Auditor, Notes, Shop
from .peer import DIRECT, Peer, killed

SOLD = b'{"pattern":"sold","data":"tea"}'


async def test_bodies_of_nestjs_get_the_answers_of_nestjs(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    """Recorded from NestJS 12.1.1: what came back for each body with a `reply_to`."""
    nobody = b'"err":"There is no matching message handler defined in the remote service."'
    expected = {
        b'{"pattern":"echo","data":[1,2],"id":"i1"}': [b'{"response":[1,2],"isDisposed":true}'],
        b'{"data":2,"id":"i1"}': [b'{"id":"i1","status":"error",%b}' % nobody],
        b'{"hello":1}': [],
        b'{"id":"i1","x":1}': [],
        b"{bad": [],
        b"": [],
        b'{"pattern":"x","data":0,"id":"i1"}': [b'{"id":"i1","status":"error",%b}' % nobody],
        b'{"pattern":"count","data":2,"id":"i1"}': [
            b'{"response":0}',
            b'{"response":1,"isDisposed":true}',
        ],
        b'{"pattern":"nothing","data":1,"id":"i1"}': [b'{"isDisposed":true}'],
        b'{"pattern":"refuse","data":{"status":404},"id":"i1"}': [
            b'{"err":{"status":404},"isDisposed":true}'
        ],
    }
    async with serving(url, child(Shop, notes), queue=queue):
        await peer.consume(DIRECT)
        for number, body in enumerate(expected):
            await peer.publish(
                queue, body, Properties(correlation_id=f"c-{number}", reply_to=DIRECT)
            )
        await peer.has(sum(map(len, expected.values())))
        await peer.holds(queue, 0)

    got: dict[str, list[bytes]] = {}
    for properties, body in peer.got:
        got.setdefault(properties.correlation_id, []).append(body)
    assert got == {f"c-{n}": answers for n, answers in enumerate(expected.values()) if answers}


async def test_a_message_that_is_no_utf8_in_its_properties_is_handled_like_any_other(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    notes.gate.set()
    async with serving(url, child(Shop, notes), queue=queue) as shop:
        strange = b"\x01\x00\x01" + (len(queue) + 9).to_bytes(4) + b"\x00\x3c\x00\x28\x00\x00\x00"
        strange += bytes((len(queue),)) + queue.encode() + b"\x00\xce"
        head = b"\x00\x3c\x00\x00" + len(SOLD).to_bytes(8) + b"\x04\xc0\x02\xff\xfe\x01\xff"
        head += b"\xff" * 8
        strange += b"\x02\x00\x01" + len(head).to_bytes(4) + head + b"\xce"
        strange += b"\x03\x00\x01" + len(SOLD).to_bytes(4) + SOLD + b"\xce"
        await peer.write(strange)
        await until(lambda: notes.seen == ["tea"])
        await peer.holds(queue, 0)

        assert shop.statistics().connections == 1


async def test_properties_of_a_message_come_to_its_handler(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    async with serving(url, child(Shop, notes), queue=queue):
        full = Properties({"tenant": "ä"}, True, 3, "c-1", "", "60000", "m-1", int(time.time()))
        await peer.publish(queue, b'{"pattern":"poison","data":1}', full)
        await until(lambda: len(notes.seen) == 3)

    first = notes.seen[0]
    assert first["headers"] == {"tenant": "ä", "priority": "3", "ttl": "60.0"}
    assert (first["message_id"], first["correlation_id"]) == ("m-1", "c-1")


async def test_what_cannot_be_read_is_kept_and_goes_to_the_dead_letter_exchange(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    dead = f"{queue}-dead"
    await peer.call(commands.Queue.Declare(queue=dead, auto_delete=True))
    options = {"queue": queue, "dead_letter_exchange": "amq.direct"}
    await peer.call(commands.Queue.Bind(queue=dead, exchange="amq.direct", routing_key=queue))
    async with serving(url, child(Shop, notes), **options) as shop:
        await peer.publish(queue, b"{bad", Properties({"a": "b"}))
        await peer.holds(dead, 1)
        (letter,) = await shop.dead_letters()

    assert (letter.reason, letter.body, dict(letter.headers)) == (
        "cannot be read",
        b"{bad",
        {"a": "b"},
    )
    await peer.call(commands.Queue.Delete(queue=dead))


async def test_a_request_nobody_handles_is_refused_for_good(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    dead = f"{queue}-dead"
    await peer.call(commands.Queue.Declare(queue=dead))
    options = {"dead_letter_exchange": "amq.direct", "dead_letter_routing_key": dead}
    await peer.call(commands.Queue.Bind(queue=dead, exchange="amq.direct", routing_key=dead))
    async with serving(url, child(Shop, notes), queue=queue, **options):
        asked = Properties(correlation_id="c", reply_to="nowhere")
        await peer.publish(queue, b'{"pattern":"x","data":0,"id":"i"}', asked)
        await peer.holds(dead, 1)
        assert await peer.depth(queue) == 0
    await peer.call(commands.Queue.Delete(queue=dead))


@pytest.mark.parametrize(
    ("in_flight", "mailbox", "taken"),
    [(4, 1024, 4), (256, 3, 3)],
    ids=["by in_flight", "by the mailboxes' room"],
)
async def test_no_more_is_taken_than_can_be_held(
    url: str, queue: str, peer: Peer, notes: Notes, in_flight: int, mailbox: int, taken: int
) -> None:
    async with serving(
        url, child(Shop, notes, mailbox=mailbox), queue=queue, in_flight=in_flight
    ) as shop:
        for _ in range(50):
            await peer.publish(queue, SOLD)
        await peer.holds(queue, 50 - taken)
        assert shop.statistics().in_flight <= taken
        notes.gate.set()
        await until(lambda: len(notes.seen) == 50)
        await peer.holds(queue, 0)


async def test_what_was_in_hand_at_a_crash_of_the_service_comes_again_flagged(
    url: str, queue: str, peer: Peer
) -> None:
    first, second = Notes(), Notes()
    async with killed(url, child(Shop, first, concurrency=2), queue=queue):
        await peer.publish(queue, b'{"pattern":"wait","data":1}', Properties(message_id="m"))
        await until(lambda: first.seen == [1])
    await peer.holds(queue, 1)
    async with serving(url, child(Shop, second, concurrency=2), child(Seer, second), queue=queue):
        await until(lambda: second.seen)
        second.gates[1].set()
        await peer.holds(queue, 0)


class Seer(Actor):
    """Sees the deliveries of one event."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("look")
    async def look(self, data: Any, context: MessageContext) -> None:
        self.notes.seen.append((context.attempt, context.redelivered, context.message_id))
        await self.notes.gate.wait()


@pytest.mark.parametrize("quorum", [True, False], ids=["quorum", "classic"])
async def test_a_quorum_queue_counts_deliveries_and_a_classic_one_flags_them(
    url: str, queue: str, peer: Peer, quorum: bool
) -> None:
    seen: list[Any] = []
    for _ in range(3):
        notes = Notes()
        async with killed(url, child(Seer, notes), queue=queue, quorum=quorum):
            if not seen:
                look = Properties(message_id="m", persistent=True)
                await peer.publish(queue, b'{"pattern":"look","data":1}', look)
            await until(lambda notes=notes: notes.seen)  # type: ignore[misc]
            seen += notes.seen

    counts = [1, 2, 3] if quorum else [1, 1, 1]
    assert seen == [(count, again, "m") for count, again in zip(counts, [0, 1, 1], strict=True)]


async def test_a_message_that_was_delivered_too_often_is_a_dead_letter(
    url: str, queue: str, peer: Peer
) -> None:
    options = {"queue": queue, "quorum": True, "max_deliveries": 1}
    notes = Notes()
    async with killed(url, child(Seer, notes), **options):
        await peer.publish(queue, b'{"pattern":"look","data":1}', Properties(persistent=True))
        await until(lambda: notes.seen)
    async with serving(url, child(Seer, notes), **options) as shop:
        await peer.holds(queue, 0)
        await until(lambda: shop.statistics().in_flight == 0)
        (letter,) = await shop.dead_letters()

    assert letter.reason == "too many deliveries"
    assert len(notes.seen) == 1


async def test_with_no_ack_a_message_is_done_before_it_is_handled(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    async with killed(url, child(Shop, notes), queue=queue, no_ack=True) as shop:
        for _ in range(5):
            await peer.publish(queue, SOLD)
        await until(lambda: shop.statistics().received == 5)

    await peer.holds(queue, 0)


async def test_what_was_published_twice_is_run_once_while_in_hand_and_leaves_the_queue(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    async with serving(url, child(Shop, notes), queue=queue) as shop:
        for _ in range(2):
            await peer.publish(queue, SOLD, Properties(message_id="m"))
        await until(lambda: shop.statistics().duplicates == 1)
        notes.gate.set()
        await until(lambda: shop.statistics().in_flight == 0)

    assert notes.seen == ["tea"]
    assert await peer.depth(queue) == 0


async def test_one_identity_for_different_messages_loses_none(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    async with serving(url, child(Shop, notes), queue=queue):
        for item in (b"1", b"2", b"3"):
            body = b'{"pattern":"sold","data":%b}' % item
            await peer.publish(queue, body, Properties(message_id="same"))
        notes.gate.set()
        await until(lambda: len(notes.seen) == 3)
        await peer.holds(queue, 0)

    assert notes.seen == [1, 2, 3]


async def test_two_services_share_a_queue(url: str, queue: str, peer: Peer) -> None:
    first, second = Notes(), Notes()
    first.gate.set()
    second.gate.set()
    async with serving(url, child(Shop, first), queue=queue, in_flight=1):
        async with serving(url, child(Shop, second), queue=queue, in_flight=1):
            for _ in range(100):
                await peer.publish(queue, SOLD)
            await until(lambda: len(first.seen) + len(second.seen) == 100)

    assert first.seen
    assert second.seen


# -- exchanges ------------------------------------------------------------------


class Sales(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @message_pattern("price.*")
    def price(self, data: Any, context: MessageContext) -> Any:
        return [context.pattern, data]

    @event_pattern("sale.>")
    @event_pattern("stock/+/low")
    def sale(self, data: Any, context: MessageContext) -> None:
        self.seen.append((context.pattern, data))


async def test_a_topic_exchange_brings_what_wildcards_are_for(
    url: str, queue: str, peer: Peer
) -> None:
    seen: list[Any] = []
    options = {"queue": queue, "wildcards": True}
    async with (
        serving(url, child(Sales, seen), **options) as shop,
        shop.client(**options) as client,
    ):
        assert await client.send("price.tea", 1) == ["price.tea", 1]
        await client.emit("sale.eu.7", 7)
        await client.emit("stock/eu/low", 8)
        # Somebody else's JSON: its routing key is its pattern.
        await peer.publish("sale.us", b'{"of":"tea"}', exchange=queue)
        await until(lambda: len(seen) == 3)
        assert not await shop.dead_letters()
    await peer.call(commands.Exchange.Delete(exchange=queue))

    assert seen == [("sale.eu.7", 7), ("stock/eu/low", 8), ("sale.us", {"of": "tea"})]


async def test_an_actor_that_comes_later_is_bound_and_one_that_goes_is_not(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    options = {"queue": queue, "wildcards": True}
    async with (
        serving(url, child(Shop, notes), **options) as shop,
        shop.client(**options) as client,
    ):
        with pytest.raises(NoResponders):
            await client.send("price.tea", 1)
        await shop.system.start_child(child(Sales, []))
        with trio.fail_after(5):
            while True:
                try:
                    assert await client.send("price.tea", 1) == ["price.tea", 1]
                    break
                except NoResponders:
                    await trio.sleep(0.01)
    await peer.call(commands.Exchange.Delete(exchange=queue))


async def test_a_fanout_exchange_gives_every_service_a_copy(url: str, peer: Peer) -> None:
    first, second = Notes(), Notes()
    exchange = f"test-{uuid.uuid4().hex}"
    options = {"exchange": exchange, "exchange_type": "fanout"}
    async with serving(url, child(Auditor, first), **options):
        async with serving(url, child(Auditor, second), **options) as shop:
            async with shop.client(**options) as client:
                await client.emit("sold", "tea")
                await until(lambda: first.seen and second.seen)
    await peer.call(commands.Exchange.Delete(exchange=exchange))

    assert first.seen == second.seen == ["audited tea"]


# -- what the broker will not have -----------------------------------------------


async def test_a_queue_that_is_declared_otherwise_fails_the_start(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    await peer.call(commands.Queue.Declare(queue=queue, durable=False))

    with pytest.raises(StartFailed) as caught:
        async with serving(url, child(Shop, notes), queue=queue):
            pass
    assert re.search(
        f"the queue '{queue}' is there with other settings. .* inequivalent arg 'durable'",
        str(caught.value.__cause__),
    )


@pytest.mark.parametrize(
    ("login", "path", "why"),
    [
        ("guest:wrong", "", "the login was refused: see the user and the password"),
        ("guest:guest", "/nowhere", "vhost nowhere not found"),
    ],
    ids=["password", "virtual host"],
)
async def test_a_login_that_is_refused_fails_the_client_at_once(
    url: str, login: str, path: str, why: str
) -> None:
    wrong = f"amqp://{login}@{url.rpartition('@')[2]}{path}"
    with pytest.raises(ConnectionLost, match=why) as caught:
        async with connect(wrong, queue="q", patience=30):
            pass
    assert "wrong" not in str(caught.value)


async def test_a_queue_that_is_deleted_is_declared_anew(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    notes.gate.set()
    async with serving(url, child(Shop, notes), queue=queue) as shop:
        await peer.call(commands.Queue.Delete(queue=queue))
        await until(lambda: shop.statistics().connections == 2)
        await until(lambda: shop.statistics().connected)
        await peer.publish(queue, SOLD)
        await until(lambda: notes.seen == ["tea"])


async def test_what_was_taken_at_the_stop_is_finished_and_the_rest_stays(
    url: str, queue: str, peer: Peer, notes: Notes
) -> None:
    async with hosting(url, child(Shop, notes), queue=queue, in_flight=2) as shop:
        for _ in range(5):
            await peer.publish(queue, SOLD)
        await peer.holds(queue, 3)
        shop.system.stop()
        await peer.abandoned(queue)
        notes.gate.set()
        await shop.system.stopped()

    assert len(notes.seen) == 2
    assert await peer.depth(queue) == 3
