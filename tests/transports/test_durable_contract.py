"""What every broker that keeps events promises, written once over a table of them.

Killed processes and brokers by the thousand messages are tried in tests/campaigns; here
each promise is tried once, within one process and with real brokers.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aio_pika
import aiokafka
import attrs
import nats
import paho.mqtt.publish
import pytest
import redis.asyncio
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import ConnectionLost, NoResponders, UnderstudyError
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.client import Client, connect

from .serving import Service, hosting, serving, until

Options = Mapping[str, Any]

BAD: Final = b'{"pattern":"work","data":'


@attrs.frozen
class Kind:
    """How one broker keeps events: its fixtures, both sides' options, and bad bytes for it."""

    broker: str
    served: Callable[[str], Options]
    connected: Callable[[str], Options]
    spoil: Callable[[str, str], Coroutine[Any, Any, None]]


@attrs.frozen
class Medium:
    """Where a test may serve and emit."""

    url: str
    name: str
    kind: Kind

    def serving(self, *arguments: Any, **options: Any) -> AbstractAsyncContextManager[Service]:
        return serving(self.url, *arguments, **{**self.kind.served(self.name), **options})

    def hosting(self, *arguments: Any, **options: Any) -> AbstractAsyncContextManager[Service]:
        return hosting(self.url, *arguments, **{**self.kind.served(self.name), **options})

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        return connect(self.url, **{**self.kind.connected(self.name), **options})

    async def spoil(self) -> None:
        """Give the broker a message that no dialect can read."""
        await trio.to_thread.run_sync(asyncio.run, self.kind.spoil(self.url, self.name))


async def _spoil_stream(url: str, name: str) -> None:
    connection = await nats.connect(url)
    await connection.jetstream().publish(f"{name}.work", BAD)
    await connection.close()


async def _spoil_redis(url: str, name: str) -> None:
    connection = redis.asyncio.from_url(url)
    await connection.xadd(name, {"packet": BAD})
    await connection.aclose()


async def _spoil_topic(url: str, name: str) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    paho.mqtt.publish.single(f"{name}/work", BAD, qos=1, hostname=host, port=port)


async def _spoil_queue(url: str, name: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(BAD), name)


async def _spoil_kafka(url: str, name: str) -> None:
    servers = url.rpartition("/")[2]
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(f"{name}.work", BAD)


KINDS: Final = {
    "jetstream": Kind(
        "nats",
        lambda name: {"stream": name, "durable": "all", "ack_wait": 1.0, "prefix": name},
        lambda name: {"stream": name, "prefix": name},
        _spoil_stream,
    ),
    "redis streams": Kind(
        "redis",
        lambda name: {"stream": name, "group": "all", "claim_after": 1.0, "pubsub": False},
        lambda name: {"stream": name},
        _spoil_redis,
    ),
    "mqtt": Kind(
        "mqtt",
        lambda name: {"client_id": name, "prefix": name},
        lambda name: {"prefix": name},
        _spoil_topic,
    ),
    "rabbitmq": Kind(
        "rabbitmq", lambda name: {"queue": name}, lambda name: {"queue": name}, _spoil_queue
    ),
    "kafka": Kind(
        "kafka",
        lambda name: {"prefix": name, "values": "json"},
        lambda name: {"prefix": name, "values": "json"},
        _spoil_kafka,
    ),
    "rabbitmq quorum": Kind(
        "rabbitmq",
        lambda name: {"queue": name, "quorum": True},
        lambda name: {"queue": name, "declare": False},
        _spoil_queue,
    ),
}

_numbers: Final = itertools.count()


def _name() -> str:
    return f"durable-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def medium(kind: Kind, request: pytest.FixtureRequest) -> Medium:
    return Medium(request.getfixturevalue(f"{kind.broker}_broker").url, _name(), kind)


@pytest.fixture
def own(kind: Kind, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"own_{kind.broker}")


@attrs.frozen
class Run:
    """What a handler was told of its message."""

    message_id: str
    attempt: int
    redelivered: bool


one_of_each_broker = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "rabbitmq quorum"], indirect=True
)
"""For tests with a broker of their own; quorum queues are killed in tests/campaigns."""


class Notes:
    """What was handled, in order; `gate` lets handlers go on."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.runs: list[Run] = []
        self.gate = trio.Event()


class Works(Actor):
    """Takes every event when the gate is open; poison crashes it."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("work")
    async def work(self, item: Any, context: MessageContext) -> None:
        self.notes.runs.append(Run(context.message_id, context.attempt, context.redelivered))
        await self.notes.gate.wait()
        if item == "poison":
            raise ValueError("cannot work with poison")
        self.notes.seen.append(item)


class Computes(Actor):
    """Neither waits nor lets anybody else run for two seconds, the first time."""

    def __init__(self, done: list[int]) -> None:
        self.done = done

    @event_pattern("work")
    async def work(self, item: int) -> None:
        end = time.monotonic() + (2 if item == 1 else 0)
        while time.monotonic() < end:
            sum(range(1000))
        self.done.append(item)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@asynccontextmanager
async def emitting(medium: Medium, *items: Any) -> AsyncIterator[Client]:
    async with medium.client() as client:
        for item in items:
            await client.emit("work", item)
        yield client


async def emitted(client: Client, item: Any) -> None:
    """Send it, as often as it takes: a client may find its broker again later than others do."""
    with trio.fail_after(30):
        while True:
            try:
                await client.emit("work", item)
            except (ConnectionLost, NoResponders):  # its queues come back a little later
                await trio.sleep(0.05)
            else:
                return


async def kept(service: Service) -> DeadLetter:
    """The one dead letter that there is, or will be soon."""
    found: list[DeadLetter] = []
    with trio.fail_after(5):
        while not found:
            found = await service.dead_letters()
            await wait_all_tasks_blocked(0.001)
    (letter,) = found
    return letter


async def test_an_event_in_hand_when_its_service_is_killed_comes_to_the_next_one(
    medium: Medium, notes: Notes
) -> None:
    async with medium.hosting(child(Works, notes)) as service, emitting(medium, 1):
        await until(lambda: notes.runs)
        service.system.kill()
        with pytest.raises(UnderstudyError, match="killed"):
            await service.system.stopped()
    notes.gate.set()
    async with medium.serving(child(Works, notes)):
        await until(lambda: notes.seen, within=20)

    first, second = notes.runs
    assert notes.seen == [1]
    assert (first.redelivered, second.redelivered) == (False, True)
    assert first.message_id == second.message_id != ""


async def test_events_that_nobody_has_taken_wait_for_a_service(
    medium: Medium, notes: Notes
) -> None:
    notes.gate.set()
    async with medium.serving(child(Works, notes)), emitting(medium, 0):
        await until(lambda: notes.seen)
    async with emitting(medium, 1, 2, 3):
        pass
    async with medium.serving(child(Works, notes)):
        await until(lambda: len(notes.seen) >= 4, within=20)

    assert notes.seen == [0, 1, 2, 3]


async def test_a_full_mailbox_leaves_the_rest_at_the_broker(medium: Medium, notes: Notes) -> None:
    async with medium.serving(child(Works, notes, mailbox=4), in_flight=8) as service:
        async with emitting(medium, *range(100)):
            await until(lambda: notes.runs)
            await wait_all_tasks_blocked(0.2)
            assert service.statistics().received <= 8
            notes.gate.set()
            await until(lambda: len(notes.seen) >= 100, within=20)

    assert notes.seen == list(range(100))


async def test_poison_is_a_dead_letter_and_does_not_come_again(
    medium: Medium, notes: Notes
) -> None:
    notes.gate.set()
    async with medium.serving(child(Works, notes)) as service, emitting(medium, "poison", 1):
        await until(lambda: len(notes.runs) == 4 and notes.seen)
        letter = await kept(service)
    async with medium.serving(child(Works, notes)) as service, emitting(medium, 2):
        await until(lambda: 2 in notes.seen, within=20)
        assert await service.dead_letters() == []

    assert (letter.pattern, letter.body, letter.attempts) == ("work", b'"poison"', 3)
    assert [run.attempt for run in notes.runs if run.message_id == letter.message_id] == [1, 2, 3]


async def test_a_dead_letter_is_replayed_by_the_way_it_came(medium: Medium, notes: Notes) -> None:
    notes.gate.set()
    async with medium.serving(child(Works, notes)) as service, emitting(medium, "poison"):
        letter = await kept(service)
        await service.system.office.replay(letter.id)
        await until(lambda: len(notes.runs) == 6)

    assert {run.message_id for run in notes.runs} == {letter.message_id}
    assert notes.runs[-1].redelivered


async def test_bad_bytes_are_kept_as_they_are_and_stop_nobody(medium: Medium, notes: Notes) -> None:
    notes.gate.set()
    async with medium.serving(child(Works, notes)) as service, emitting(medium, 1):
        await until(lambda: notes.seen)
        await medium.spoil()
        async with emitting(medium, 2):
            await until(lambda: len(notes.seen) == 2)
            await until(lambda: service.statistics().in_flight == 0)
        letter = await kept(service)

    assert (letter.body, letter.reason) == (BAD, "cannot be read")


async def test_a_stop_finishes_what_is_in_hand_and_leaves_the_rest(
    medium: Medium, notes: Notes
) -> None:
    async with medium.hosting(child(Works, notes, mailbox=1), in_flight=2) as service:
        async with emitting(medium, *range(10)):
            await until(lambda: notes.runs)
            service.system.stop()
            notes.gate.set()
            await service.system.stopped()
    assert 1 <= len(notes.seen) < 10
    async with medium.serving(child(Works, notes)):
        await until(lambda: len(notes.seen) >= 10, within=20)

    assert sorted(notes.seen) == list(range(10))


async def test_identities_differ_and_are_no_secret(medium: Medium, notes: Notes) -> None:
    notes.gate.set()
    async with medium.serving(child(Works, notes)), emitting(medium, *range(20)):
        await until(lambda: len(notes.seen) == 20)

    assert len({run.message_id for run in notes.runs}) == 20
    assert all(not run.redelivered and run.attempt == 1 for run in notes.runs)


@one_of_each_broker
async def test_nothing_is_lost_when_the_broker_is_killed_and_started_again(
    kind: Kind, own: Any, notes: Notes
) -> None:
    notes.gate.set()
    broker = await trio.to_thread.run_sync(own)
    medium = Medium(broker.url, _name(), kind)
    sent: list[int] = []
    async with medium.serving(child(Works, notes)), medium.client() as client:

        async def emit() -> None:
            for number in range(200):
                await emitted(client, number)
                sent.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(emit)
            await until(lambda: len(sent) > 50)
            await trio.to_thread.run_sync(broker.kill)
            await trio.to_thread.run_sync(broker.restart)
        await until(lambda: set(notes.seen) == set(range(200)), within=30)


@one_of_each_broker
async def test_a_frozen_broker_is_noticed_and_found_again(
    kind: Kind, own: Any, notes: Notes
) -> None:
    notes.gate.set()
    broker = await trio.to_thread.run_sync(own)
    medium = Medium(broker.url, _name(), kind)
    async with medium.serving(child(Works, notes), heartbeat=0.5) as service:
        async with medium.client(heartbeat=0.5, connect_timeout=2.0) as client:
            await emitted(client, 1)
            await until(lambda: notes.seen, within=20)
            broker.freeze()
            try:
                await until(lambda: not service.statistics().connected, within=30)
                with pytest.raises(ConnectionLost):
                    await client.emit("work", 2)
            finally:
                broker.thaw()
            await until(lambda: service.statistics().connected, within=30)
            await emitted(client, 3)
            await until(lambda: 3 in notes.seen, within=30)


async def test_a_handler_that_computes_for_two_seconds_costs_no_connection(
    medium: Medium,
) -> None:
    done: list[int] = []
    async with medium.serving(child(Computes, done), heartbeat=0.5) as service:
        async with medium.client(heartbeat=0.5) as client:
            await client.emit("work", 1)
            await until(lambda: done, within=20)
            await client.emit("work", 2)
            await until(lambda: len(done) == 2, within=20)

            assert service.statistics().connections == 1
    assert done == [1, 2]


@one_of_each_broker
async def test_a_wrong_login_fails_the_start_with_a_reason_and_no_password(
    kind: Kind, own: Any, notes: Notes
) -> None:
    start = lambda: own(user="ada", password="right-one")  # noqa: E731
    broker = await trio.to_thread.run_sync(start)
    medium = Medium(broker.url.replace("right-one", "wrong-one"), _name(), kind)

    with trio.fail_after(10), pytest.raises(Exception) as caught:
        async with running(Supervisor("shop", [serve(medium.url, **kind.served(medium.name))])):
            pass
    with trio.fail_after(10), pytest.raises(ConnectionLost) as refused:
        async with medium.client():
            pass

    assert isinstance(caught.value.__cause__, ConnectionLost)
    for error in (caught.value.__cause__, refused.value):
        assert "refused" in str(error)
        assert "one" not in str(error).replace("nobody", "")
