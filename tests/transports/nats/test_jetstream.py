"""Events from a stream: at least once, acknowledged when handled, whatever ends meanwhile."""

import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from nats.aio.client import Client as NatsConnection
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from understudy.actors.actor import Actor
from understudy.actors.errors import ConnectionLost, DeclarationError, StartFailed
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ...brokers.broker import Address
from ...brokers.nats import NatsBroker
from ..serving import Service, hosting, serving
from .notes import Ledger, Orders, asking, causes, eventually, states, until_true

_numbers = itertools.count()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def url(nats_broker: Address) -> str:
    """A place of its own on the shared server."""
    return f"{nats_broker.url}?prefix=js{next(_numbers)}"


@pytest.fixture
def name() -> str:
    return f"ORDERS-{next(_numbers)}"


def on_stream(
    url: str, ledger: Ledger, name: str, **options: Any
) -> AbstractAsyncContextManager[Service]:
    orders = child(Orders, ledger, concurrency=64)
    return serving(url, orders, stream=name, durable="orders", **options)


async def info_of(connection: NatsConnection, name: str) -> Any:
    return await connection.jetstream().consumer_info(name, "orders")


def is_settled(info: Any) -> bool:
    return not info.num_ack_pending


async def stream_of(connection: NatsConnection, name: str) -> Any:
    return await connection.jetstream().stream_info(name)


# -- the way in -----------------------------------------------------------------


async def test_an_event_comes_from_the_stream_once_and_is_acknowledged(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name), asking(url) as on:
        async with connect(url, stream=name) as client:
            for number in range(100):
                await client.emit("placed", number)
            assert await client.send("find", 7) == 7
        await until_true(lambda: len(ledger.seen) == 100)
        await eventually(lambda: on(info_of, name), is_settled)

    assert sorted(ledger.seen) == list(range(100))
    assert ledger.contexts[0] == (f"{name}:1", 1, False)
    assert not any(redelivered for _, _, redelivered in ledger.contexts)


async def test_events_sent_while_no_service_runs_wait_for_it(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name), connect(url, stream=name) as client:
        await client.emit("placed", "first")
        await until_true(lambda: ledger.seen == ["first"])
    async with connect(url, stream=name) as client:
        await client.emit("placed", "second")
    async with on_stream(url, ledger, name):
        await until_true(lambda: len(ledger.seen) > 1)

    assert ledger.seen == ["first", "second"]


async def test_never_more_events_are_in_hand_than_in_flight_allows(
    url: str, ledger: Ledger, name: str
) -> None:
    ledger.gate = trio.Event()
    async with on_stream(url, ledger, name, in_flight=8), asking(url) as on:
        async with connect(url, stream=name) as client, trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client.emit, "placed", number)
        await until_true(lambda: len(ledger.contexts) == 8)
        await trio.sleep(0.2)
        unacknowledged = (await on(info_of, name)).num_ack_pending
        ledger.gate.set()
        await until_true(lambda: len(ledger.seen) == 50)

    assert unacknowledged == 8


async def test_never_more_events_are_in_hand_than_their_mailboxes_hold(
    url: str, ledger: Ledger, name: str
) -> None:
    ledger.gate = trio.Event()
    orders = child(Orders, ledger, mailbox=4)
    async with serving(url, orders, stream=name, durable="orders"), asking(url) as on:
        async with connect(url, stream=name) as client:
            for number in range(30):
                await client.emit("placed", number)
        await until_true(lambda: ledger.contexts)
        await trio.sleep(0.2)
        unacknowledged = (await on(info_of, name)).num_ack_pending
        ledger.gate.set()
        await until_true(lambda: len(ledger.seen) == 30)

    assert unacknowledged == 4


async def test_an_event_that_takes_longer_than_ack_wait_is_not_given_to_another(
    url: str, ledger: Ledger, name: str
) -> None:
    ledger.gate = trio.Event()
    async with on_stream(url, ledger, name, ack_wait=0.6) as service:
        async with connect(url, stream=name) as client:
            await client.emit("placed", "slow")
        await trio.sleep(2)
        ledger.gate.set()
        await until_true(lambda: ledger.seen)

        assert service.statistics().received == 1
    assert ledger.contexts == [(f"{name}:1", 1, False)]


async def test_a_crash_on_an_event_is_retried_and_ends_as_a_dead_letter_that_is_acknowledged(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name) as service, asking(url) as on:
        async with connect(url, stream=name) as client:
            await client.emit("doubted", "x")
        letters = await eventually(service.dead_letters, bool)
        await eventually(lambda: on(info_of, name), is_settled)

    assert ledger.seen == [("x", 1), ("x", 2), ("x", 3)]
    assert [(letter.message_id, letter.pattern) for letter in letters] == [(f"{name}:1", "doubted")]


async def test_an_event_that_comes_too_often_is_a_dead_letter(
    url: str, ledger: Ledger, name: str
) -> None:
    async def refuse(connection: NatsConnection) -> None:
        """Play a service that dies of it."""
        for _ in range(3):
            inbox = connection.new_inbox()
            subscription = await connection.subscribe(inbox)
            ask = f"$JS.API.CONSUMER.MSG.NEXT.{name}.orders"
            await connection.publish(ask, b'{"batch":1,"expires":5000000000}', inbox)
            message = await subscription.next_msg(timeout=5)
            await message.nak()
            await subscription.unsubscribe()

    async with on_stream(url, ledger, name):
        pass
    async with connect(url, stream=name) as client, asking(url) as on:
        await client.emit("placed", "deadly")
        await on(refuse)
        async with on_stream(url, ledger, name, max_deliveries=3) as service:
            letters = await eventually(service.dead_letters, bool)

    assert ledger.seen == []
    assert [(letter.reason, letter.attempts) for letter in letters] == [("too many deliveries", 4)]


async def test_a_stop_acknowledges_what_was_finished_and_leaves_the_rest_in_the_stream(
    url: str, ledger: Ledger, name: str
) -> None:
    async with hosting(url, child(Orders, ledger), stream=name, durable="orders"):
        async with connect(url, stream=name) as client:
            for number in range(500):
                await client.emit("placed", number)
    seen_by_the_first = len(ledger.seen)
    async with on_stream(url, ledger, name):
        await until_true(lambda: len(set(ledger.seen)) == 500)

    assert ledger.seen == list(range(500)), seen_by_the_first


async def test_acknowledgements_can_be_confirmed(url: str, ledger: Ledger, name: str) -> None:
    async with on_stream(url, ledger, name, confirm_acks=True), asking(url) as on:
        async with connect(url, stream=name) as client:
            for number in range(300):
                await client.emit("placed", number)
        await until_true(lambda: len(ledger.seen) == 300)
    async with asking(url) as on:
        info = await on(info_of, name)

    assert (info.num_ack_pending, info.ack_floor.stream_seq) == (0, 300)


async def test_two_services_share_the_events_of_one_durable(
    url: str, ledger: Ledger, name: str
) -> None:
    other = Ledger()
    async with on_stream(url, ledger, name, in_flight=4):
        async with on_stream(url, other, name, in_flight=4):
            async with connect(url, stream=name) as client:
                for number in range(100):
                    await client.emit("placed", number)
            await until_true(lambda: len(ledger.seen) + len(other.seen) == 100)

    assert ledger.seen
    assert other.seen
    assert sorted(ledger.seen + other.seen) == list(range(100))


async def test_an_event_for_a_stream_that_comes_on_a_requests_subject_is_not_run(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name) as service:
        async with connect(url, stream=name, confirm_timeout=0.5) as client:
            with pytest.raises(ConnectionLost, match=r"'find' was not confirmed .* in 0\.5 s"):
                await client.emit("find", 1)
            assert await client.send("find", 1) == 1

        assert service.statistics().received == 1


# -- stream and consumer --------------------------------------------------------


async def test_a_missing_stream_is_made_of_the_events_of_the_tree_and_nothing_else(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]
    async with on_stream(url, ledger, name, max_age=60.0, storage="memory"), asking(url) as on:
        config = (await on(stream_of, name)).config
        consumer = (await on(info_of, name)).config

    assert sorted(config.subjects) == [f"{prefix}.doubted", f"{prefix}.placed"]
    assert (config.max_age, config.storage) == (60, "memory")
    assert (consumer.ack_wait, consumer.max_ack_pending, consumer.max_deliver) == (30, 2048, -1)


async def test_a_stream_made_by_somebody_else_is_read_and_not_changed(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]

    async def make(connection: NatsConnection) -> None:
        await connection.jetstream().add_stream(StreamConfig(name, subjects=[f"{prefix}.placed"]))

    async with asking(url) as on:
        await on(make)
        async with on_stream(url, ledger, name) as service, connect(url, stream=name) as client:
            await client.emit("placed", 1)
            await until_true(lambda: ledger.seen == [1])
            with pytest.raises(ConnectionLost, match="no stream stores 'doubted'"):
                await client.emit("doubted", 1)
            assert service.statistics().refused["troubles with the broker"] == 1
        subjects = (await on(stream_of, name)).config.subjects

    assert subjects == [f"{prefix}.placed"]


async def test_what_a_wider_stream_holds_for_others_is_left_alone(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]

    async def make(connection: NatsConnection) -> None:
        subjects = [f"{prefix}.placed", f"{prefix}.doubted", f"{prefix}.others.>"]
        await connection.jetstream().add_stream(StreamConfig(name, subjects=subjects))

    async with asking(url) as on:
        await on(make)
        async with on_stream(url, ledger, name) as service, connect(url, stream=name) as client:
            for number in range(20):
                await client.emit("others.thing", number)
                await client.emit("placed", number)
            await until_true(lambda: len(ledger.seen) == 20)
            letters = await service.dead_letters()
            await eventually(lambda: on(info_of, name), is_settled)

    assert letters == []


@pytest.mark.parametrize("victim", ["stream", "consumer"])
async def test_what_was_deleted_at_the_server_is_made_again_within_seconds(
    url: str, ledger: Ledger, name: str, victim: str
) -> None:
    async def delete(connection: NatsConnection) -> None:
        js = connection.jetstream()
        if victim == "stream":
            await js.delete_stream(name)
        else:
            await js.delete_consumer(name, "orders")

    async with on_stream(url, ledger, name, heartbeat=0.5) as service, asking(url) as on:
        notices = states(service)
        async with connect(url, stream=name) as client:
            await client.emit("placed", "before")
            await until_true(lambda: ledger.seen == ["before"])
            await trio.sleep(1)
            await on(delete)
            await until_true(lambda: ("connected", "") in notices, within=5)
            await client.emit("placed", "after")
            await until_true(lambda: "after" in ledger.seen)

    assert ledger.seen == ["before", "after"]
    assert f"of the stream {name}" in notices[0][1]


async def test_a_stream_of_somebody_else_that_was_deleted_is_waited_for(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]
    subjects = [f"{prefix}.placed", f"{prefix}.doubted"]

    async def make(connection: NatsConnection) -> None:
        await connection.jetstream().add_stream(StreamConfig(name, subjects=subjects))

    async def delete(connection: NatsConnection) -> None:
        await connection.jetstream().delete_stream(name)

    async with asking(url) as on:
        await on(make)
        async with on_stream(url, ledger, name, reconnect_max=0.2, heartbeat=0.5) as service:
            notices = states(service)
            await on(delete)
            why = f"the stream {name} was deleted; it was not made here, so it is not made again"
            await until_true(lambda: any(why in text for _, text in notices), within=5)
            await on(make)
            await until_true(lambda: ("connected", "") in notices, within=5)
            async with connect(url, stream=name) as client:
                await client.emit("placed", "after")
            await until_true(lambda: ledger.seen == ["after"])


async def test_a_backlog_of_which_nothing_comes_is_noticed(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    """Here the server refuses to be asked for messages, and tells nobody who waits for them."""
    deny = 'permissions: {publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}}'
    guest = f"{{user: guest, password: tea, {deny}}}"
    accounts = f"accounts {{shop {{jetstream: enabled, users: [{guest}]}}}}"
    broker = own_nats(settings=[accounts, "no_auth_user: guest"])
    async with on_stream(broker.url, ledger, "ORDERS", heartbeat=0.5) as service:
        notices = states(service)
        async with connect(broker.url, stream="ORDERS") as client:
            await client.emit("placed", 1)
            why = "1 messages wait in the stream ORDERS, and none comes"
            await until_true(lambda: any(why in text for _, text in notices), within=10)

    assert ledger.seen == []


async def test_a_consumer_of_another_kind_fails_the_start(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]

    async def make(connection: NatsConnection) -> None:
        js = connection.jetstream()
        await js.add_stream(StreamConfig(name, subjects=[f"{prefix}.placed"]))
        await js.add_consumer(
            name, ConsumerConfig(durable_name="orders", ack_policy=AckPolicy.NONE)
        )

    async with asking(url) as on:
        await on(make)
    with pytest.raises(StartFailed) as caught:
        async with on_stream(url, ledger, name):
            pass
    assert "none that is pulled from" in causes(caught.value)


class Later(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @event_pattern("later")
    async def later(self, item: Any) -> None:
        self.seen.append(item)


async def test_an_actor_that_starts_later_gets_its_events_from_the_stream(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name) as service:
        await service.system.root.start_child(child(Later, ledger.seen))
        async with connect(url, stream=name) as client:
            with trio.fail_after(5):
                while True:
                    try:
                        await client.emit("later", 1)
                    except ConnectionLost:
                        await trio.sleep(0.05)
                    else:
                        break
        await until_true(lambda: ledger.seen == [1])


# -- the server's life ----------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_no_event_is_lost_while_the_server_is_away(
    own_nats: Callable[..., NatsBroker], ledger: Ledger, how: str
) -> None:
    broker = own_nats()
    quick: dict[str, Any] = {"heartbeat": 0.5, "reconnect_max": 0.2}
    async with on_stream(broker.url, ledger, "ORDERS", ack_wait=1.0, **quick):
        async with connect(broker.url, stream="ORDERS", confirm_timeout=30.0, **quick) as client:

            async def send() -> None:
                for number in range(200):
                    await client.emit("placed", number)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await until_true(lambda: len(ledger.seen) > 50)
                if how == "killed":
                    await trio.to_thread.run_sync(broker.kill)
                    await trio.to_thread.run_sync(broker.start)
                else:
                    broker.freeze()
                    await trio.sleep(2)
                    broker.thaw()
            await until_true(lambda: len(set(ledger.seen)) == 200, within=20)

    again = len(ledger.seen) - 200
    assert sum(redelivered for _, _, redelivered in ledger.contexts) >= again


async def test_what_was_handled_while_the_server_was_away_is_not_run_again(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats()
    ledger.gate = trio.Event()
    quick: dict[str, Any] = {"heartbeat": 0.5, "reconnect_max": 0.2}
    async with on_stream(broker.url, ledger, "ORDERS", **quick) as service:
        notices = states(service)
        async with connect(broker.url, stream="ORDERS") as client:
            for number in range(5):
                await client.emit("placed", number)
        await until_true(lambda: len(ledger.contexts) == 5)
        await trio.to_thread.run_sync(broker.stop)
        ledger.gate.set()
        await until_true(lambda: len(ledger.seen) == 5)
        await trio.to_thread.run_sync(broker.start)
        await until_true(lambda: ("connected", "") in notices)
        async with asking(broker.url) as on:
            await eventually(lambda: on(info_of, "ORDERS"), is_settled)

    assert sorted(ledger.seen) == list(range(5))


async def test_what_a_killed_server_has_forgotten_is_acknowledged_again(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats()
    quick: dict[str, Any] = {"heartbeat": 0.5, "reconnect_max": 0.2}
    async with on_stream(broker.url, ledger, "ORDERS", **quick) as service:
        notices = states(service)
        async with connect(broker.url, stream="ORDERS") as client, trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client.emit, "placed", number)
        await until_true(lambda: len(ledger.seen) == 200)
        await trio.to_thread.run_sync(broker.kill)
        await trio.to_thread.run_sync(broker.start)
        await until_true(lambda: ("connected", "") in notices)
        async with asking(broker.url) as on:
            # Well before the server would send them again by itself.
            await eventually(lambda: on(info_of, "ORDERS"), is_settled)


async def test_an_event_sent_twice_with_one_identity_is_stored_once(
    url: str, ledger: Ledger, name: str
) -> None:
    async with on_stream(url, ledger, name), connect(url, stream=name) as client:
        for _ in range(3):
            await client.emit("placed", 1, headers={"Nats-Msg-Id": "one"})
        await client.emit("placed", "last")
        await until_true(lambda: "last" in ledger.seen)

    assert sorted(ledger.seen, key=str) == [1, "last"]


async def test_an_event_for_another_stream_is_refused(url: str, ledger: Ledger, name: str) -> None:
    async with on_stream(url, ledger, name), connect(url, stream="OTHER") as client:
        with pytest.raises(ConnectionLost, match="the stream refused it: expected stream does"):
            await client.emit("placed", 1)


async def test_a_request_that_a_stream_stores_gets_the_answer_and_not_the_confirmation(
    url: str, ledger: Ledger, name: str
) -> None:
    prefix = url.partition("prefix=")[2]

    async def make(connection: NatsConnection) -> None:
        subjects = [f"{prefix}.>"]
        await connection.jetstream().add_stream(StreamConfig(name, subjects=subjects))

    async with asking(url) as on:
        await on(make)
        async with on_stream(url, ledger, name) as service, connect(url) as client:
            for number in range(10):
                assert await client.send("find", number) == number

            assert service.statistics().refused["troubles with the broker"] == 1


# -- what is refused ------------------------------------------------------------


class Both(Actor):
    @message_pattern("orders.find")
    async def find(self) -> None: ...

    @event_pattern("orders.placed")
    async def placed(self) -> None: ...


async def test_a_stream_that_would_store_requests_is_refused(
    nats_broker: Address, name: str
) -> None:
    options = {"stream": name, "durable": "orders", "subjects": "orders.>"}
    with pytest.raises(StartFailed) as caught:
        async with serving(nats_broker.url, child(Both), **options):
            pass
    assert "requests for 'orders.find' would be stored" in causes(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "ORDERS"}, "need both stream"),
        ({"durable": "orders"}, "need both stream"),
        ({"stream": "OR.DERS", "durable": "x"}, "letters, digits"),
        ({"subjects": "a"}, "name it"),
        ({"stream": "A", "durable": "b", "ack_wait": 0.1}, "ack_wait"),
        ({"service": "a b"}, "letters, digits"),
        ({"version": "new"}, "version"),
    ],
)
def test_options_that_cannot_work_are_refused_at_declaration(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        serve("nats://127.0.0.1", **options)
