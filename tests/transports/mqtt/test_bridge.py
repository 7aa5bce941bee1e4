"""The bridge among strangers: recorded NestJS exchanges, odd messages, sessions and shares."""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import DeclarationError, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.client import connect
from understudy.transports.mqtt.packets import packed

from ...brokers.broker import Address
from ..serving import hosting, serving, until
from .peer import Peer, causes, peer, properties

RECORDED = json.loads(Path(__file__).with_name("nestjs_12_1_1.json").read_text())["cases"]

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"mqtt-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def url(mqtt_broker: Address, prefix: str) -> str:
    return f"{mqtt_broker.url}?prefix={prefix}"


class Recorded(Actor):
    """The handlers of the NestJS service whose answers were recorded."""

    def __init__(self) -> None:
        self.users: list[Any] = []

    @message_pattern({"cmd": "sum"})
    def sum(self, numbers: list[int]) -> int:
        return sum(numbers)

    @message_pattern("math.sum")
    def math_sum(self, numbers: list[int]) -> int:
        return sum(numbers)

    @message_pattern("echo")
    def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern("fail.rpc")
    def fail_rpc(self, data: Any) -> None:
        raise RpcError({"status": 404, "message": "nope"})

    @message_pattern("fail.plain")
    def fail_plain(self, data: Any) -> None:
        raise ValueError("a secret")

    @message_pattern("fail.text")
    def fail_text(self, data: Any) -> None:
        raise RpcError("just text")

    @message_pattern("stream.count")
    async def count(self, data: Any) -> AsyncIterator[int]:
        for number in (1, 2, 3):
            yield number

    @message_pattern("stream.slow")
    async def slow(self, data: Any) -> AsyncIterator[int]:
        for number in (1, 2, 3):
            await trio.sleep(0.01)
            yield number

    @message_pattern("stream.fail")
    async def fail(self, data: Any) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise RpcError({"status": 500, "message": "mid"})

    @message_pattern("void")
    def void(self, data: Any) -> None: ...

    @message_pattern("give.null")
    def null(self, data: Any) -> Any:
        return RECORDED and None

    @message_pattern({"z": 1, "a": {"y": "s", "b": 2}})
    def object(self, data: Any) -> Any:
        return {"got": data}

    @event_pattern("user.created")
    def created(self, user: Any) -> None:
        self.users.append(user)

    @message_pattern("seen")
    def seen(self, data: Any) -> Any:
        return self.users


@pytest.mark.parametrize("version", [311, 5])
async def test_every_recorded_message_is_answered_as_by_nestjs(
    mqtt_broker: Address, version: int
) -> None:
    """Without a prefix, as it was recorded; over each version of MQTT, the peer over 3.1.1."""
    topics = {case["topic"] + "/reply" for case in RECORDED}
    async with serving(mqtt_broker.url, child(Recorded), version=version):
        with peer(mqtt_broker.url, *topics, version=311) as stranger:
            for case in RECORDED:
                stranger.got.clear()
                stranger.publish(case["topic"], case["sent"].encode())
                stranger.publish("echo", b'{"data":"the last one","id":"last"}')
                await until(lambda: any(got.json.get("id") == "last" for got in stranger.got))
                with contextlib.suppress(trio.TooSlowError):  # the next lines say what is missing
                    await until(partial(_came, stranger, len(case["got"]) + 1))
                found = [[got.topic, got.json] for got in stranger.got if got.json["id"] != "last"]
                assert (case["case"], found) == (case["case"], case["got"])
                assert {got.qos for got in stranger.got} == {0}


def _came(stranger: Peer, count: int) -> bool:
    return len(stranger.got) >= count


class Notes:
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.contexts: list[MessageContext] = []
        self.gate = trio.Event()
        self.gate.set()


class Listens(Actor):
    """Takes events of one kind, and answers."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("placed")
    async def placed(self, item: Any, context: MessageContext) -> None:
        self.notes.contexts.append(context)
        await self.notes.gate.wait()
        self.notes.seen.append(item)

    @message_pattern("echo")
    def echo(self, item: Any) -> Any:
        return item

    @message_pattern("long")
    def long(self, size: int) -> str:
        return "x" * size


@pytest.fixture
def notes() -> Notes:
    return Notes()


# -- headers, and what is retained ---------------------------------------------


async def test_user_properties_are_headers(url: str, prefix: str, notes: Notes) -> None:
    async with serving(url, child(Listens, notes)):
        with peer(url) as stranger:
            headers = {"tenant": "a", "message_id": "m1"}
            sent = properties(headers, ContentType="application/json")
            stranger.tell(f"{prefix}/placed", 1, 1, properties=sent)
            await until(lambda: notes.seen)

    (context,) = notes.contexts
    assert context.headers == {"tenant": "a", "content_type": "application/json"}
    assert (context.message_id, context.source) == ("m1", f"{prefix}/placed")
    assert (context.transport, context.redelivered) == ("mqtt", False)


async def test_what_was_retained_says_so_and_does_not_come_again_with_each_connection(
    url: str, prefix: str, notes: Notes
) -> None:
    with peer(url) as stranger:
        stranger.tell(f"{prefix}/placed", "old", 1, retain=True)
        async with serving(url, child(Listens, notes), client_id=prefix):
            await until(lambda: notes.seen)
            stranger.tell(f"{prefix}/placed", "new", 1)
            await until(lambda: len(notes.seen) == 2)
        async with serving(url, child(Listens, notes), client_id=prefix):
            stranger.tell(f"{prefix}/placed", "newer", 1)
            await until(lambda: len(notes.seen) == 3)
        stranger.publish(f"{prefix}/placed", b"", 1, retain=True)

    assert notes.seen == ["old", "new", "newer"]
    assert [context.headers for context in notes.contexts] == [{"retain": "true"}, {}, {}]


async def test_a_user_property_that_ends_pahos_connection_is_only_a_header(
    url: str, prefix: str, notes: Notes
) -> None:
    async with serving(url, child(Listens, notes)) as service:
        with peer(url) as stranger:
            body = b'{"pattern":"placed","data":1}'
            spoilt = packed({"k": "a\ufeffb"})
            stranger.publish(f"{prefix}/placed", body, 1, properties=spoilt)
            await until(lambda: notes.seen)
        assert service.statistics().connections == 1

    assert notes.contexts[0].headers == {"k": "a\ufeffb"}


# -- QoS ------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 311])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_events_of_every_qos_are_taken(
    url: str, prefix: str, notes: Notes, qos: int, version: int
) -> None:
    async with serving(url, child(Listens, notes), qos=2, version=version) as service:
        with peer(url) as stranger:
            for number in range(50):
                stranger.tell(f"{prefix}/placed", number, qos)
            await until(lambda: len(notes.seen) == 50)
            await until(lambda: service.statistics().in_flight == 0)

    assert notes.seen == list(range(50))


async def test_qos_2_is_said_to_run_at_1(
    url: str, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(url, child(Listens, notes), qos=2):
        pass

    assert any("subscribed to at QoS 1" in record.message for record in caplog.records)


async def test_messages_at_qos_0_over_the_backlog_are_dropped_and_counted(
    url: str, prefix: str, notes: Notes
) -> None:
    notes.gate = trio.Event()
    one = child(Listens, notes, mailbox=1)
    async with serving(url, one, in_flight=4, backlog=8) as service:
        with peer(url) as stranger:
            for number in range(200):
                stranger.tell(f"{prefix}/placed", number)
            stranger.publish(f"{prefix}/placed", b'"last"', 1)
            await until(lambda: service.statistics().refused)
            notes.gate.set()
            await until(lambda: "last" in notes.seen)
            dropped = service.statistics().refused["messages that were dropped"]

    assert len(notes.seen) + dropped == 201
    assert dropped > 100


async def test_answers_go_out_at_reply_qos(url: str, prefix: str, notes: Notes) -> None:
    async with serving(url, child(Listens, notes), reply_qos=1):
        with peer(url, f"{prefix}/echo/reply", qos=2) as stranger:
            stranger.ask(f"{prefix}/echo", "tea")
            await until(lambda: stranger.got)

    (answer,) = stranger.got
    assert (answer.qos, answer.json["response"]) == (1, "tea")


async def test_what_a_session_has_left_at_qos_2_is_handled_and_does_not_stop_the_rest(
    url: str, prefix: str, notes: Notes
) -> None:
    topic = f"{prefix}/placed"
    options: dict[str, Any] = {"version": 311, "client_id": prefix, "clean_session": False}
    with peer(url, topic, qos=2, **options):
        pass
    with peer(url) as stranger:
        for number in range(50):
            stranger.tell(topic, number, 2)
        async with serving(url, child(Listens, notes), client_id=prefix, version=311):
            await until(lambda: len(notes.seen) == 50)
            stranger.tell(topic, "on", 2)
            await until(lambda: "on" in notes.seen)

    assert notes.seen == [*range(50), "on"]


# -- shared subscriptions and wildcards -----------------------------------------


async def served_twice(url: str, notes: Notes, stranger: Peer, **options: Any) -> list[int]:
    """How many events each of two services got."""
    first, second = notes, Notes()
    async with serving(url, child(Listens, first), **options):
        async with serving(url, child(Listens, second), **options):
            topic = url.partition("prefix=")[2] + "/placed"
            for number in range(20):
                stranger.tell(topic, number, 1)
            await until(lambda: len(first.seen) + len(second.seen) >= 20)
            await wait_all_tasks_blocked(0.05)
    return [len(first.seen), len(second.seen)]


@pytest.mark.parametrize("version", [5, 311])
async def test_of_services_with_one_share_one_gets_an_event(
    url: str, notes: Notes, version: int
) -> None:
    with peer(url) as stranger:
        first, second = await served_twice(url, notes, stranger, share="s", version=version)

    assert first + second == 20
    assert min(first, second) > 0


async def test_without_a_share_every_service_gets_every_event(url: str, notes: Notes) -> None:
    with peer(url) as stranger:
        assert await served_twice(url, notes, stranger) == [20, 20]


class Sharing(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @event_pattern("$share/g/orders/+")
    def order(self, item: Any, context: MessageContext) -> None:
        self.seen.append((context.pattern, item))

    @message_pattern("$share/g/ask")
    def ask(self, item: Any) -> Any:
        return item


async def test_a_pattern_may_name_its_own_share_as_in_nestjs(url: str, prefix: str) -> None:
    seen: list[Any] = []
    async with serving(url, child(Sharing, seen)), serving(url, child(Sharing, seen)):
        with peer(url, f"{prefix}/ask/reply") as stranger:
            stranger.tell(f"{prefix}/orders/7", 1, 1)
            stranger.ask(f"{prefix}/ask", "tea")
            await until(lambda: seen and stranger.got)
            await wait_all_tasks_blocked(0.05)

    assert seen == [("$share/g/orders/7", 1)]
    assert [got.json["response"] for got in stranger.got] == ["tea"]


class Wild(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @event_pattern("a/+")
    def below(self, item: Any, context: MessageContext) -> None:
        self.seen.append(("a/+", context.pattern, item))

    @event_pattern("+/b")
    def beside(self, item: Any, context: MessageContext) -> None:
        self.seen.append(("+/b", context.pattern, item))

    @event_pattern("a/#")
    def all(self, item: Any, context: MessageContext) -> None:
        self.seen.append(("a/#", context.pattern, item))

    @message_pattern("a/ask")
    def ask(self, item: Any) -> Any:
        return item


async def test_every_handler_whose_wildcard_matches_runs_once(url: str, prefix: str) -> None:
    seen: list[Any] = []
    async with serving(url, child(Wild, seen)) as service:
        with peer(url) as stranger:
            for topic in ("a/b", "x/b", "a/b/c", "a"):
                stranger.tell(f"{prefix}/{topic}", topic, 1)
            await until(lambda: len(seen) >= 6)
            await wait_all_tasks_blocked(0.05)
            await until(lambda: service.statistics().in_flight == 0)

    assert sorted(seen) == sorted(
        [("a/+", "a/b", "a/b"), ("a/#", "a/b", "a/b"), ("+/b", "a/b", "a/b")]
        + [("+/b", "x/b", "x/b"), ("a/#", "a/b/c", "a/b/c"), ("a/#", "a", "a")]
    )


async def test_a_wildcard_does_not_hear_the_answers_to_what_it_covers(
    url: str, prefix: str
) -> None:
    seen: list[Any] = []
    async with serving(url, child(Wild, seen)) as service:
        with peer(url, f"{prefix}/a/ask/reply") as stranger:
            stranger.ask(f"{prefix}/a/ask", 1)
            await until(lambda: stranger.got)
            await wait_all_tasks_blocked(0.05)
        assert await service.dead_letters() == []

    assert seen == []


# -- sessions -------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 311])
async def test_a_session_keeps_events_for_a_service_that_is_away(
    url: str, prefix: str, notes: Notes, version: int
) -> None:
    options = {"client_id": prefix, "version": version}
    async with serving(url, child(Listens, notes), **options):
        pass
    with peer(url) as stranger:
        stranger.tell(f"{prefix}/placed", 1, 1)
    async with serving(url, child(Listens, notes), **options):
        await until(lambda: notes.seen)


async def test_without_a_client_id_nothing_is_kept(url: str, prefix: str, notes: Notes) -> None:
    async with serving(url, child(Listens, notes)):
        pass
    with peer(url) as stranger:
        stranger.tell(f"{prefix}/placed", 1, 1)
        async with serving(url, child(Listens, notes)):
            stranger.tell(f"{prefix}/placed", 2, 1)
            await until(lambda: notes.seen)

    assert notes.seen == [2]


async def test_a_session_that_is_over_keeps_nothing(url: str, prefix: str, notes: Notes) -> None:
    options = {"client_id": prefix, "session_expiry": 1.0}
    async with serving(url, child(Listens, notes), **options):
        pass
    with peer(url) as stranger:
        stranger.tell(f"{prefix}/placed", 1, 1)
        await trio.sleep(2.5)
        async with serving(url, child(Listens, notes), **options):
            stranger.tell(f"{prefix}/placed", 2, 1)
            await until(lambda: notes.seen)

    assert notes.seen == [2]


async def test_an_unfinished_event_without_a_session_becomes_a_dead_letter_at_the_stop(
    url: str, prefix: str, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    notes.gate = trio.Event()
    slow = child(Listens, notes, shutdown=0.1)
    async with hosting(url, slow, shutdown=0.2) as service:
        with peer(url) as stranger:
            stranger.tell(f"{prefix}/placed", 1, 1)
            await until(lambda: notes.contexts)
        service.system.stop()
        await service.system.stopped()

    said = [record.message for record in caplog.records if "became dead letter" in record.message]
    assert len(said) == 1
    assert "(released" in said[0]


async def test_acknowledgements_go_out_in_the_order_of_receipt(
    url: str, prefix: str, notes: Notes
) -> None:
    """What is handled behind an unfinished one comes again if the process ends before it."""
    notes.gate = trio.Event()
    many = child(Slow, notes, concurrency=8)
    async with hosting(url, many, client_id=prefix) as service, connect(url) as client:
        for number in range(4):
            await client.emit("placed", number)
        await until(lambda: notes.seen == [1, 2, 3])
        service.system.kill()
    notes.gate.set()
    async with serving(url, child(Slow, notes, concurrency=8), client_id=prefix):
        await until(lambda: len(notes.seen) >= 7)

    assert sorted(notes.seen[3:]) == [0, 1, 2, 3]
    assert all(context.redelivered for context in notes.contexts[4:])


class Slow(Actor):
    """The first one waits for the gate."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("placed")
    async def placed(self, item: int, context: MessageContext) -> None:
        self.notes.contexts.append(context)
        if item == 0:
            await self.notes.gate.wait()
        self.notes.seen.append(item)


# -- the odd and the hostile -----------------------------------------------------


async def test_an_answer_that_is_too_long_is_an_error_to_its_asker(
    url: str, prefix: str, notes: Notes
) -> None:
    async with serving(url, child(Listens, notes), message_limit=4096) as service:
        with peer(url, f"{prefix}/long/reply") as stranger:
            stranger.ask(f"{prefix}/long", 10_000)
            await until(lambda: stranger.got)
            assert service.statistics().refused["answers that are too long"] == 1

    assert stranger.got[0].json["err"] == {"status": "error", "message": "Internal server error"}


async def test_a_message_that_is_too_long_is_kept_away_by_the_broker(
    url: str, prefix: str, notes: Notes
) -> None:
    async with serving(url, child(Listens, notes), message_limit=4096) as service:
        with peer(url) as stranger:
            stranger.tell(f"{prefix}/placed", "x" * 10_000, 1)
            stranger.tell(f"{prefix}/placed", "short", 1)
            await until(lambda: notes.seen)
        assert service.statistics().connections == 1

    assert notes.seen == ["short"]


@pytest.mark.parametrize("reply", ["a/+", "#", "a\u0001b", "$SYS/x", "x" * 70_000, "\U0001ffff"])
async def test_a_request_whose_answer_could_be_sent_nowhere_costs_no_connection(
    url: str, prefix: str, notes: Notes, reply: str
) -> None:
    async with serving(url, child(Listens, notes), dialect="nestrs") as service:
        with peer(url, "a/b") as stranger:
            wire = {"kind": "send", "pattern": "echo", "payload": 1, "reply": reply}
            stranger.publish(f"{prefix}/rpc/requests", wire, 1)
            stranger.publish(f"{prefix}/rpc/requests", {**wire, "reply": "a/b"}, 1)
            await until(lambda: stranger.got)
        assert service.statistics().connections == 1
        assert service.statistics().refused["answers that are wanted nowhere"] == 1


async def test_bad_bytes_at_qos_0_are_counted_and_stop_nobody(
    url: str, prefix: str, notes: Notes
) -> None:
    async with serving(url, child(Listens, notes)) as service:
        with peer(url) as stranger:
            for body in (b"{", b"\xff", b'{"data":', b"tea", b"\0"):
                stranger.publish(f"{prefix}/placed", body)
            stranger.tell(f"{prefix}/placed", "fine")
            await until(lambda: notes.seen)
        assert service.statistics().refused["messages that cannot be read"] == 5


async def test_the_will_is_sent_when_the_process_is_gone_and_not_at_a_stop(
    url: str, prefix: str, notes: Notes
) -> None:
    will = {"will_topic": "state", "will_payload": "gone", "will_qos": 1}
    with peer(url, f"{prefix}/state") as stranger:
        async with serving(url, child(Listens, notes), **will):
            pass
        await trio.sleep(0.05)
        assert stranger.got == []
        async with serving(url, child(Listens, notes), **will) as service:
            bridge: Any = service.system.offer("bridge")
            connection = bridge._session._connection
            await bridge.thread.call(_cut, connection)
            await until(lambda: stranger.got)

    assert [got.body for got in stranger.got] == [b"gone"]


async def _cut(connection: Any) -> None:
    connection.abort()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"version": 4}, "version"),
        ({"qos": 3}, "qos"),
        ({"share": "a/b"}, "no slash"),
        ({"share": "#"}, "cannot be part of a topic"),
        ({"prefix": "a/+"}, "cannot be part of a topic"),
        ({"will_payload": "gone"}, "needs its will_topic"),
        ({"client_id": "a\x00"}, "client_id"),
    ],
    ids=["version", "qos", "share", "wild share", "wild prefix", "will", "client id"],
)
def test_options_that_cannot_work_are_refused(options: Any, why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        serve("mqtt://127.0.0.1", **options)


@pytest.mark.parametrize("pattern", ["a+", "a/#/b", "tab\t"])
async def test_a_pattern_that_is_no_topic_fails_the_start(url: str, pattern: str) -> None:
    class Odd(Actor):
        @event_pattern(pattern)
        def odd(self, item: Any) -> None: ...

    with pytest.raises(Exception) as caught:
        async with serving(url, child(Odd)):
            pass

    assert "cannot be an MQTT topic" in causes(caught.value)


async def test_a_pattern_of_natss_kind_is_told_and_the_rest_served(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Dotted(Actor):
        @event_pattern("orders.*")
        def orders(self, item: Any) -> None: ...

        @message_pattern("echo")
        def echo(self, item: Any) -> Any:
            return item

    caplog.set_level(logging.WARNING, "understudy.transports.mqtt")
    async with serving(url, child(Dotted)), connect(url) as client:
        assert await client.send("echo", 1) == 1

    assert any("'orders.*' is a wildcard of NATS's kind" in r.message for r in caplog.records)


async def test_actors_that_come_later_are_subscribed_to(url: str, prefix: str) -> None:
    seen: list[Any] = []
    async with serving(url) as service:
        with peer(url) as stranger:
            await service.system.start_child(child(Sharing, seen, name="late"))
            with trio.fail_after(5):
                while not seen:
                    stranger.tell(f"{prefix}/orders/1", 1, 1)
                    await wait_all_tasks_blocked(0.01)


async def test_what_an_actor_had_when_it_was_stopped_is_delivered_again_here(
    url: str, prefix: str, notes: Notes
) -> None:
    """MQTT takes nothing back; the next actor gets it, and the broker its acknowledgement."""
    notes.gate = trio.Event()
    async with serving(url, client_id=prefix) as service:
        await service.system.start_child(child(Listens, notes, name="first", shutdown=0.1))
        with peer(url) as stranger:
            with trio.fail_after(5):
                while not notes.contexts:
                    stranger.tell(f"{prefix}/placed", 1, 1)
                    await wait_all_tasks_blocked(0.01)
        await service.system.stop_child("first")
        notes.gate.set()
        await service.system.start_child(child(Listens, notes, name="second"))
        await until(lambda: notes.seen)
        bridge: Any = service.system.offer("bridge")
        await until(lambda: not len(bridge.ledger))
        assert await service.dead_letters() == []

    assert notes.contexts[-1].redelivered


async def test_events_for_a_pattern_that_is_gone_are_dead_letters(
    url: str, prefix: str, notes: Notes
) -> None:
    async with serving(url, child(Listens, notes), client_id=prefix):
        pass
    async with serving(url, child(Recorded), client_id=prefix) as service:
        with peer(url) as stranger:
            stranger.tell(f"{prefix}/placed", 1, 1)
        with trio.fail_after(5):
            while not (letters := await service.dead_letters()):
                await wait_all_tasks_blocked(0.01)

    assert [letter.pattern for letter in letters] == ["placed"]
