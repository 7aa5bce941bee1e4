"""Core NATS: subjects, queue groups, headers, what goes wrong, and the bytes of NestJS."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from nats.aio.client import Client as NatsConnection

from understudy.actors.actor import Actor
from understudy.actors.asyncio_thread import asyncio_thread
from understudy.actors.context import MessageContext
from understudy.actors.errors import (
    ConnectionLost,
    NoResponders,
    RequestTimeout,
    RpcError,
    StartFailed,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.broker import Address
from ...brokers.nats import NatsBroker
from ..serving import hosting, serving
from .notes import Ledger, Orders, asking, causes, eventually, states, until_true

_numbers = itertools.count()

EDGES = json.loads(Path(__file__).with_name("nestjs_12_1_1_edges.json").read_text())["cases"]
"""What a NestJS 12.1.1 service with an `echo` handler answered."""


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def prefix() -> str:
    return f"core{next(_numbers)}"


@pytest.fixture
def url(nats_broker: Address, prefix: str) -> str:
    return f"{nats_broker.url}?prefix={prefix}"


class Echo(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        self.seen.append(data)
        return data

    @message_pattern("headers")
    async def headers(self, data: Any, context: MessageContext) -> dict[str, str]:
        return dict(context.headers)

    @message_pattern("long")
    async def long(self, size: int) -> str:
        return "x" * size


class Wild(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @event_pattern("a.*")
    async def one(self, item: Any) -> None:
        self.seen.append(("a.*", item))

    @event_pattern("a.>")
    async def rest(self, item: Any) -> None:
        self.seen.append(("a.>", item))

    @event_pattern("*.b")
    async def before(self, item: Any) -> None:
        self.seen.append(("*.b", item))

    @event_pattern("a.b")
    async def exact(self, item: Any) -> None:
        self.seen.append(("a.b", item))


# -- who gets what --------------------------------------------------------------


async def test_of_the_services_of_one_queue_group_one_gets_a_message(url: str) -> None:
    first: list[Any] = []
    second: list[Any] = []
    async with serving(url, child(Echo, first), queue="shop"):
        async with serving(url, child(Echo, second), queue="shop"):
            async with connect(url) as client:
                for number in range(60):
                    assert await client.send("echo", number) == number

    assert sorted(first + second) == list(range(60))
    assert first
    assert second


async def test_without_a_queue_group_every_service_gets_a_message(url: str) -> None:
    first: list[Any] = []
    second: list[Any] = []
    async with serving(url, child(Echo, first)), serving(url, child(Echo, second)):
        async with connect(url) as client:
            await client.emit("echo", 1)
        await until_true(lambda: (first, second) == ([1], [1]))


@pytest.mark.parametrize(
    ("subject", "handlers"),
    [
        ("a.b", ["*.b", "a.*", "a.>", "a.b"]),
        ("a.c", ["a.*", "a.>"]),
        ("a.c.d", ["a.>"]),
        ("c.b", ["*.b"]),
    ],
)
async def test_wildcards_that_overlap_run_each_handler_once(
    url: str, subject: str, handlers: list[str]
) -> None:
    seen: list[Any] = []
    async with serving(url, child(Wild, seen)), connect(url) as client:
        await client.emit(subject, 1)
        await client.emit("a.b", "last")
        await until_true(lambda: len(seen) == len(handlers) + 4)

    assert sorted(name for name, item in seen if item == 1) == handlers


async def test_headers_go_both_ways_between_us_and_others(
    url: str, nats_broker: Address, prefix: str
) -> None:
    async def request(connection: NatsConnection) -> Any:
        body = b'{"pattern":"headers","data":1,"id":"i1"}'
        return await connection.request(f"{prefix}.headers", body, headers={"Trace": "t-1"})

    async def listen(connection: NatsConnection) -> Any:
        return await connection.subscribe("heard")

    async def next_of(connection: NatsConnection, subscription: Any) -> Any:
        return await subscription.next_msg(timeout=5)

    async with serving(url, child(Echo, [])), asking(url) as on:
        answer = json.loads((await on(request)).data)["response"]
        heard = await on(listen)
        async with connect(nats_broker.url) as client:
            await client.emit("heard", 1, headers={"Trace": "t-2"})
            message = await on(next_of, heard)

    assert answer == {"Trace": "t-1"}
    assert message.headers == {"Trace": "t-2"}


async def test_a_request_that_nobody_listens_for_fails_within_50_ms(url: str) -> None:
    async with connect(url) as client:
        began = time.monotonic()
        with pytest.raises(NoResponders):
            await client.send("nobody")
        took = time.monotonic() - began

    assert took < 0.05


async def test_an_actor_that_starts_later_is_heard_and_one_that_ended_is_not(url: str) -> None:
    async with serving(url) as service, connect(url) as client:
        with pytest.raises(NoResponders):
            await client.send("echo", 1)
        echo = await service.system.root.start_child(child(Echo, [], name="echo"))

        async def answer() -> Any:
            try:
                return await client.send("echo", 1)
            except (NoResponders, RpcError):
                return None

        assert await eventually(answer, bool) == 1
        await service.system.root.stop_child("echo")
        assert await eventually(answer, lambda found: found is None) is None
        assert echo is not None


@pytest.mark.parametrize("pattern", ["with space", "a..b", ".a", "a.", "tab\tbed"])
async def test_a_pattern_that_cannot_be_a_subject_fails_the_start(url: str, pattern: str) -> None:
    class Odd(Actor):
        @message_pattern(pattern)
        async def odd(self) -> None: ...

    with pytest.raises(StartFailed) as caught:
        async with serving(url, child(Odd)):
            pass

    assert "cannot be a NATS subject" in causes(caught.value)


# -- what goes wrong ------------------------------------------------------------


async def test_an_answer_that_is_too_long_is_an_error_for_its_asker(url: str) -> None:
    async with serving(url, child(Echo, [])) as service, connect(url) as client:
        with pytest.raises(RpcError, match="Internal server error"):
            await client.send("long", 2_000_000)
        assert await client.send("echo", 1) == 1

        assert service.statistics().refused == {"answers that are too long": 1}


async def test_a_request_that_is_too_long_fails_at_its_client(url: str) -> None:
    async with serving(url, child(Echo, [])), connect(url) as client:
        with pytest.raises(ConnectionLost, match="takes 1048576 at most"):
            await client.send("echo", "x" * 2_000_000)
        assert await client.send("echo", 1) == 1


async def test_a_subject_that_is_not_utf_8_silences_nobody_for_long(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats(jetstream=False)
    async with serving(broker.url, child(Wild, ledger.seen), heartbeat=1.0) as service:
        await trio.to_thread.run_sync(_publish_raw, broker.port, b"PUB a.\xff\xfe 2\r\n{}\r\n")
        began = time.monotonic()
        await until_true(lambda: service.statistics().connections == 2, within=2)
        async with connect(broker.url) as client:
            await client.emit("a.c", 1)
        await until_true(lambda: ("a.>", 1) in ledger.seen)

    assert time.monotonic() - began < 2


async def test_what_nobody_has_room_for_is_dropped_counted_and_hurts_nobody(
    url: str, ledger: Ledger
) -> None:
    ledger.gate = trio.Event()
    orders = child(Orders, ledger, mailbox=2)
    async with serving(url, orders, backlog=10, in_flight=4) as service, connect(url) as client:
        for number in range(200):
            await client.emit("placed", number)
        refused = service.statistics
        await until_true(lambda: refused().refused.get("troubles with the broker", 0) > 100)
        ledger.gate.set()
        await until_true(lambda: ledger.seen and not service.statistics().in_flight)
        await client.emit("placed", "after")
        await until_true(lambda: "after" in ledger.seen)


async def test_a_service_that_is_cut_off_as_a_slow_consumer_connects_again(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats(jetstream=False, settings=['write_deadline: "100ms"', "max_pending: 1048576"])
    async with serving(broker.url, child(Echo, ledger.seen)) as service:
        notices = states(service)
        asyncio_thread("brokers").soon(time.sleep, 1)  # reads nothing meanwhile
        async with asking(broker.url) as on:
            await on(_flood)
        await until_true(lambda: ("connected", "") in notices)
        async with connect(broker.url) as client:
            assert await client.send("echo", 1) == 1

    assert notices[0][0] == "waiting"


async def _flood(connection: NatsConnection) -> None:
    for _ in range(5000):
        await connection.publish("echo", b"[" + b"1," * 2000 + b"1]")
    await connection.flush()


# -- the server's life ----------------------------------------------------------


async def test_what_was_received_before_a_stop_is_answered(url: str, ledger: Ledger) -> None:
    answers: list[Any] = []

    class Slow(Actor):
        @message_pattern("slow")
        async def slow(self, item: Any) -> Any:
            ledger.seen.append(item)
            await ledger.gate.wait()
            return item

    ledger.gate = trio.Event()
    async with connect(url) as client, trio.open_nursery() as nursery:
        async with hosting(url, child(Slow, concurrency=64)) as service:

            async def ask(number: int) -> None:
                answers.append(await client.send("slow", number, timeout=10))

            for number in range(20):
                nursery.start_soon(ask, number)
            await until_true(lambda: len(ledger.seen) == 20)
            notices = states(service)
            service.system.stop()
            await until_true(lambda: ("draining", "") in notices)
            ledger.gate.set()

    assert sorted(answers) == list(range(20))


async def test_a_server_that_is_killed_and_comes_back_is_a_state_and_no_crash(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats(jetstream=False)
    async with serving(broker.url, child(Echo, ledger.seen), reconnect_max=0.2) as service:
        notices = states(service)
        async with connect(broker.url, reconnect_max=0.2) as client:
            await trio.to_thread.run_sync(broker.kill)
            await until_true(lambda: notices)
            await trio.to_thread.run_sync(broker.restart)
            await until_true(lambda: ("connected", "") in notices)

            async def answer() -> Any:
                try:
                    return await client.send("echo", 1)
                except (NoResponders, ConnectionLost):
                    return None

            assert await eventually(answer, bool) == 1

    assert notices[0][0] == "waiting"
    assert all(why.strip() for state, why in notices if state == "waiting")


async def test_a_server_that_freezes_is_found_out_and_left(
    own_nats: Callable[..., NatsBroker], ledger: Ledger
) -> None:
    broker = own_nats(jetstream=False)
    options = {"heartbeat": 0.5, "connect_timeout": 0.5, "reconnect_max": 0.2}
    async with serving(broker.url, child(Echo, ledger.seen), **options) as service:
        notices = states(service)
        async with connect(broker.url, **options) as client:
            broker.freeze()
            with pytest.raises(ConnectionLost), trio.fail_after(3):
                await client.send("echo", 1, timeout=10)
            await until_true(lambda: len(notices) > 1, within=3)
            broker.thaw()
            await until_true(lambda: ("connected", "") in notices)

            async def answer() -> Any:
                try:
                    return await client.send("echo", 1)
                except (NoResponders, ConnectionLost):
                    return None

            assert await eventually(answer, bool) == 1

    assert all(why.strip() for state, why in notices if state == "waiting")


@pytest.mark.parametrize("heartbeat", [0.5, 60.0], ids=["found out", "not noticed"])
async def test_a_client_with_much_to_say_to_a_frozen_server_can_still_end(
    own_nats: Callable[..., NatsBroker], heartbeat: float
) -> None:
    broker = own_nats(jetstream=False)
    with trio.fail_after(20):
        async with connect(broker.url, heartbeat=heartbeat, connect_timeout=0.5) as client:
            broker.freeze()
            with suppress(ConnectionLost):
                for _ in range(400):
                    await client.emit("heard", "x" * 100_000)
            with pytest.raises((ConnectionLost, RequestTimeout)):
                await client.send("find", 1, timeout=2)


# -- dialects -------------------------------------------------------------------


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case["case"])
async def test_edges_are_answered_as_nestjs_answers_them(
    url: str, prefix: str, case: dict[str, Any]
) -> None:
    async def ask(connection: NatsConnection) -> list[str]:
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        found: list[str] = []
        await connection.publish(f"{prefix}.echo", case["sent"].encode(), inbox)
        # What comes before the answer to a second request is all that comes for the first.
        await connection.publish(f"{prefix}.echo", b'{"data":0,"id":"last"}', inbox)
        while '"last"' not in (body := (await answers.next_msg(timeout=5)).data.decode()):
            found.append(body)
        return found

    async with serving(url, child(Echo, [])), asking(url) as on:
        assert await on(ask) == case["got"]


@pytest.mark.parametrize("prefix_dot", ["", "nestrs.app."], ids=["no prefix", "prefix"])
async def test_nestrs_has_bare_payloads_on_its_subjects(
    own_nats: Callable[..., NatsBroker], prefix_dot: str
) -> None:
    seen: list[Any] = []
    broker = own_nats(jetstream=False)
    options = {"dialect": "nestrs", "prefix": prefix_dot.rstrip(".")}

    async def request(connection: NatsConnection) -> Any:
        return (await connection.request(f"{prefix_dot}echo", b'{"a":1}')).data

    async def event(connection: NatsConnection) -> None:
        await connection.publish(f"{prefix_dot}echo", b"2")
        await connection.flush()

    async with serving(broker.url, child(Echo, seen), **options), asking(broker.url) as on:
        answer = await on(request)
        await on(event)
        async with connect(broker.url, **options) as client:
            assert await client.send("echo", 3) == 3
        await until_true(lambda: len(seen) == 3)

    assert answer == b'{"ok":true,"payload":{"a":1}}'
    assert sorted(seen, key=str) == [2, 3, {"a": 1}]


def _publish_raw(port: int, command: bytes) -> None:
    """Publish as no client library would."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\n' + command + b"PING\r\n")
        heard = b""
        while b"PONG" not in heard:
            heard += connection.recv(4096)


async def test_an_actor_that_starts_after_an_outage_is_heard(
    own_nats: Callable[..., NatsBroker],
) -> None:
    broker = own_nats()
    async with serving(broker.url, reconnect_max=0.1) as service:
        notices = states(service)
        await trio.to_thread.run_sync(broker.kill)
        await until_true(lambda: len(notices) >= 2)
        # A pattern that has to wait for the next connection, over several tries to make one.
        await service.system.root.start_child(child(Orders, Ledger(), name="orders"))
        await until_true(lambda: len(notices) >= 4)
        await trio.to_thread.run_sync(broker.restart)
        await until_true(lambda: notices[-1][0] == "connected")
        await service.system.root.start_child(child(Echo, [], name="echo"))

        async with connect(broker.url) as client:

            async def answer() -> Any:
                with suppress(NoResponders):
                    return await client.send("echo", 1)

            assert await eventually(answer, bool) == 1


class Both(Actor):
    """Answers when two requests are in hand: whether each may have been handled before."""

    def __init__(self, runs: list[bool]) -> None:
        self.runs = runs

    @message_pattern("both")
    async def both(self, data: Any, context: MessageContext) -> bool:
        self.runs.append(context.redelivered)
        await until_true(lambda: len(self.runs) == 2)
        return context.redelivered


async def test_requests_with_one_identity_are_both_answered_and_the_second_is_flagged(
    nats_broker: Address, prefix: str, url: str
) -> None:
    async def ask_twice() -> list[bytes]:
        connection = NatsConnection()
        await connection.connect(nats_broker.url)
        body, headers = b'{"pattern":"both","data":1,"id":"i"}', {"Nats-Msg-Id": "same"}
        asked = (connection.request(f"{prefix}.both", body, 5, headers=headers) for _ in range(2))
        answers = await asyncio.gather(*asked)
        await connection.close()
        return [answer.data for answer in answers]

    async with serving(url, child(Both, [], concurrency=2)):
        answers = await asyncio_thread("users").call(ask_twice)

    assert sorted(json.loads(answer)["response"] for answer in answers) == [False, True]
