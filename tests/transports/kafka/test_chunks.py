"""Records that come many at once: what goes the short way, and what becomes of what leaves it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiokafka
import trio
from attrs import frozen

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import Retry, RpcError
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import child

from ...brokers.kafka import KafkaBroker
from ..serving import serving, until
from ..shop import Notes
from .peer import Peer, Raw


@frozen
class Work:
    number: int
    fate: str = ""


class Worker(Actor):
    """Does what its work says of itself."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("work")
    async def work(self, work: Work) -> None:
        runs = self.notes.seen
        again = any(number == work.number for number, _ in runs)
        runs.append((work.number, work.fate))
        if work.fate == "crash" or (work.fate == "crash once" and not again):
            raise ValueError("cannot work")
        if work.fate == "refuse":
            raise RpcError("not this one")
        if work.fate == "later" and not again:
            raise Retry(after=0.05)
        if work.fate == "wait":
            await self.notes.gate.wait()

    @event_pattern("sold", batch=20, within=0.1)
    async def sold(self, works: list[Work]) -> None:
        if any(work.fate == "crash" for work in works):
            raise ValueError("cannot work")
        self.notes.seen.extend((work.number, work.fate) for work in works)

    @event_pattern("told")
    async def told(self, work: Work, context: MessageContext) -> None:
        facts = (context.transport, context.message_id, context.attempt, dict(context.headers))
        self.notes.seen.append((work.number, facts))


def records(*fates: str, key: Callable[[int], bytes | None] = lambda _: None) -> list[Raw]:
    bodies = [json.dumps({"number": n, "fate": fate}).encode() for n, fate in enumerate(fates)]
    return [Raw(body, key(number)) for number, body in enumerate(bodies)]


async def write(url: str, topic: str, some: list[Raw]) -> None:
    """All in one batch, which is read at once."""

    async def main() -> None:
        server = url.partition("://")[2]
        async with aiokafka.AIOKafkaProducer(
            bootstrap_servers=server, acks="all", max_batch_size=900_000
        ) as producer:
            await producer.partitions_for(topic)
            batch = producer.create_batch()
            for raw in some:
                assert batch.append(
                    key=raw.key, value=raw.value, timestamp=None, headers=raw.headers
                )
            await (await producer.send_batch(batch, topic, partition=0))

    await trio.to_thread.run_sync(asyncio.run, main())


async def test_all_are_handled_in_order_and_committed(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    await peer.make(topic)
    await write(url, topic, records(*[""] * 3000))
    async with serving(url, child(Worker, notes), prefix=name, start="earliest") as worker:
        await until(lambda: len(notes.seen) == 3000, within=20)
        await until(lambda: worker.statistics().in_flight == 0)
        assert worker.statistics().received == 3000

    assert [number for number, _ in notes.seen] == list(range(3000))
    assert await peer.committed(f"{name}-server", topic) == (3000, "")


async def test_what_is_not_as_usual_leaves_the_others_alone(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    fates = [""] * 60
    fates[10], fates[20], fates[30], fates[40] = "crash", "refuse", "later", "crash once"
    some = records(*fates)
    some[50] = Raw(b'{"number":"fifty"}')
    some[51] = Raw(b"\xff\xfe")
    some[52] = Raw(None)
    some[53] = Raw('{"number":53,"fate":"höflich"}'.encode())
    some[54] = Raw(b'{"number":54}', headers=[("tenant", b"a")])
    await peer.make(topic)
    await write(url, topic, some)
    async with serving(url, child(Worker, notes), prefix=name, start="earliest") as worker:
        handled = set(range(60)) - {50, 51, 52}
        await until(lambda: {number for number, _ in notes.seen} == handled, within=20)
        await until(lambda: worker.statistics().in_flight == 0, within=20)
        letters = await worker.dead_letters()

    runs = [number for number, _ in notes.seen]
    assert {number: runs.count(number) for number in (9, 10, 20, 30, 40, 54)} == {
        9: 1,
        10: 3,
        20: 1,
        30: 2,
        40: 2,
        54: 1,
    }
    reasons = sorted((letter.message_id.rpartition(":")[2], letter.reason) for letter in letters)
    assert reasons == [
        ("10", "crashed"),
        ("20", "rejected"),
        ("50", "does not fit"),
        ("51", "does not fit"),
        ("52", "does not fit"),
    ]
    assert await peer.committed(f"{name}-server", topic) == (60, "")


async def test_of_a_batch_all_but_the_poison_record_are_handled_once(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.sold"
    fates = ["crash" if number == 33 else "" for number in range(100)]
    await peer.make(topic)
    await write(url, topic, records(*fates, key=lambda n: b"key %d" % (n % 3)))
    worker = child(Worker, notes, concurrency=4)
    async with serving(url, worker, prefix=name, start="earliest") as service:
        await until(lambda: len(notes.seen) == 99, within=20)
        await until(lambda: service.statistics().in_flight == 0, within=20)
        (letter,) = await service.dead_letters()

    assert [number for number, _ in notes.seen] == [n for n in range(100) if n != 33]
    assert letter.message_id == f"{topic}:0:33"
    assert await peer.committed(f"{name}-server", topic) == (100, "")


async def test_a_handler_is_told_all_that_is_known_of_its_record(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.told"
    await peer.make(topic)
    await write(url, topic, records("", "", "", key=lambda n: b"k%d" % n))
    async with serving(url, child(Worker, notes), prefix=name, start="earliest"):
        await until(lambda: len(notes.seen) == 3)

    assert notes.seen == [
        (n, ("kafka", f"{topic}:0:{n}", 1, {"kafka_key": f"k{n}"})) for n in range(3)
    ]


async def test_records_of_one_key_keep_their_order_also_when_one_is_tried_again(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    fates = ["later" if number % 7 == 0 else "" for number in range(60)]
    await peer.make(topic)
    await write(url, topic, records(*fates, key=lambda n: b"key %d" % (n % 3)))
    worker = child(Worker, notes, concurrency=8)
    async with serving(url, worker, prefix=name, start="earliest") as service:
        await until(lambda: {number for number, _ in notes.seen} == set(range(60)), within=20)
        await until(lambda: service.statistics().in_flight == 0, within=20)

    for key in range(3):
        last = {n: at for at, (n, _) in enumerate(notes.seen) if n % 3 == key}
        assert sorted(last, key=last.__getitem__) == list(range(key, 60, 3))


async def test_a_stop_finishes_what_was_taken_and_commits_no_more(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    await peer.make(topic)
    await write(url, topic, records(*["wait" if number == 5 else "" for number in range(50)]))
    async with serving(url, child(Worker, notes), prefix=name, start="earliest", in_flight=20):
        await until(lambda: len(notes.seen) == 6, within=20)
        trio.lowlevel.spawn_system_task(_open_soon, notes.gate)

    done = len({number for number, _ in notes.seen})
    assert done >= 20
    assert (await peer.committed(f"{name}-server", topic))[0] == done


async def _open_soon(gate: trio.Event) -> None:
    await trio.sleep(0.2)
    gate.set()


async def test_records_that_come_while_their_actor_is_restarted_wait_for_it(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    async with serving(url, child(Worker, notes), prefix=name) as service:
        await peer.write(f"{name}.work", *records(""))
        for _ in range(3):
            await peer.write(f"{name}.work", *records("crash"))
        await until(lambda: len(notes.seen) == 10 and not service.statistics().in_flight)

        assert service.statistics().connections == 1


async def test_what_is_in_hand_when_the_connection_is_lost_does_not_run_twice(
    strict: KafkaBroker, name: str, notes: Notes
) -> None:
    broker = strict
    topic = f"{name}.work"
    await Peer(broker.url).make(topic)
    await write(broker.url, topic, records(*["wait" if n == 9 else "" for n in range(30)]))
    options: dict[str, Any] = {"heartbeat": 0.3, "reconnect_max": 0.3, "commit_interval": 60.0}
    worker = child(Worker, notes, concurrency=1)
    async with serving(broker.url, worker, prefix=name, start="earliest", **options) as service:
        await until(lambda: len(notes.seen) == 10, within=20)
        await trio.to_thread.run_sync(broker.kill)
        await until(lambda: not service.statistics().connected, within=20)
        await trio.to_thread.run_sync(broker.start)
        # Those from the tenth on are in hand, or wait in the mailbox.
        await until(lambda: service.statistics().duplicates >= 21, within=30)
        notes.gate.set()
        await until(lambda: {number for number, _ in notes.seen} == set(range(30)), within=20)
        await until(lambda: service.statistics().in_flight == 0, within=20)

    runs = [number for number, _ in notes.seen]
    assert [number for number in range(9, 30) if runs.count(number) > 1] == []
    assert (await Peer(broker.url).committed(f"{name}-server", topic))[0] == 30
