"""Redis' channels: patterns, wildcards, answers, who hears what, and the bytes of NestJS."""

import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from examples.interop import tree
from understudy.actors.actor import Actor
from understudy.actors.errors import NoResponders, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.supervisors.system import System, running
from understudy.transports.client import connect

from ...brokers.broker import Address
from ...brokers.redis import RedisBroker
from ..serving import serving, until
from .ledgers import Echo, eventually, plain

HERE = Path(__file__).parent
# What NestJS 12.1.1 published for what was published, and for what its own client asked.
EDGES = json.loads((HERE / "nestjs_12_1_1_edges.json").read_text())["cases"]
REQUESTS = json.loads((HERE / "nestjs_12_1_1_requests.json").read_text())["cases"]

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"pubsub{next(_numbers)}"


@pytest.fixture
def url(redis_broker: Address, prefix: str) -> str:
    return f"{redis_broker.url}?prefix={prefix}"


@pytest.fixture
def seen() -> list[Any]:
    return []


class Wild(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @event_pattern("a.*")
    def one(self, item: Any) -> None:
        self.seen.append(("a.*", item))

    @event_pattern("a.*.c")
    def middle(self, item: Any) -> None:
        self.seen.append(("a.*.c", item))

    @event_pattern("a.b.c")
    def exact(self, item: Any) -> None:
        self.seen.append(("a.b.c", item))

    @event_pattern("deep.>")
    def rest(self, item: Any) -> None:
        self.seen.append(("deep.>", item))

    @event_pattern("x/+/y")
    def level(self, item: Any) -> None:
        self.seen.append(("x/+/y", item))

    @event_pattern("m/#")
    def levels(self, item: Any) -> None:
        self.seen.append(("m/#", item))

    @event_pattern("what? [*] \\")
    def odd(self, item: Any) -> None:
        self.seen.append(("odd", item))

    @message_pattern("deep.ask")
    def ask(self, item: Any) -> Any:
        return item


@pytest.mark.parametrize(
    ("channel", "heard"),
    [
        ("a.b", ["a.*"]),
        ("a.b.c", ["a.b.c", "a.*.c"]),
        ("a.x.c", ["a.*.c"]),
        ("a.b.d", []),
        ("a.", ["a.*"]),
        ("deep.er.down", ["deep.>"]),
        ("deep", []),
        ("x/1/y", ["x/+/y"]),
        ("x/1/2/y", []),
        ("m", ["m/#"]),
        ("m/1/2", ["m/#"]),
        ("mm", []),
        ("what? [*] \\", ["odd"]),
        ("what! * \\", []),
    ],
)
async def test_an_event_runs_every_handler_it_matches_once(
    url: str, seen: list[Any], channel: str, heard: list[str]
) -> None:
    async with serving(url, child(Wild, seen)), connect(url) as client:
        await client.emit(channel, 1)
        await client.emit("x/last/y", 2)
        await until(lambda: ("x/+/y", 2) in seen)

    assert seen == [*((name, 1) for name in heard), ("x/+/y", 2)]


async def test_answers_are_no_events_for_the_wildcard_around_them(
    url: str, seen: list[Any]
) -> None:
    async with serving(url, child(Wild, seen)) as service, connect(url) as client:
        assert await client.send("deep.ask", "tea") == "tea"
        await client.emit("deep.last", 1)
        await until(lambda: ("deep.>", 1) in seen)
        assert service.statistics().refused == {}

    assert seen == [("deep.>", 1)]


async def test_a_request_nobody_listens_for_fails_at_once(url: str, seen: list[Any]) -> None:
    async with serving(url, child(Echo, seen)), connect(url) as client:
        assert await client.send("echo", 1) == 1
        began = time.monotonic()
        with pytest.raises(NoResponders, match=r"nobody listens for 'nobody\.home'"):
            await client.send("nobody.home", 1)

    assert time.monotonic() - began < 0.05


async def test_of_two_services_both_run_a_request_and_the_first_answer_counts(
    url: str, seen: list[Any]
) -> None:
    async with serving(url, child(Echo, seen)), serving(url, child(Echo, seen)):
        async with connect(url) as client:
            assert [await client.send("echo", number) for number in range(20)] == list(range(20))
            await until(lambda: len(seen) == 40)


async def test_two_clients_get_each_their_own_answers(url: str, seen: list[Any]) -> None:
    async with serving(url, child(Echo, seen)), connect(url) as one, connect(url) as other:
        async with trio.open_nursery() as nursery:

            async def ask(client: Any, number: int) -> None:
                assert await client.send("echo", number) == number

            for number in range(100):
                nursery.start_soon(ask, one, number)
                nursery.start_soon(ask, other, -number)


async def test_an_actor_that_starts_later_gets_its_channel(
    redis_broker: Address, url: str, prefix: str, seen: list[Any]
) -> None:
    async with serving(url, child(Wild, seen)) as service, connect(url) as client:
        await service.system.start_child(child(Echo, seen))
        with plain(redis_broker.url) as other:
            channel = f"{prefix}.echo"
            await eventually(lambda: other.pubsub_numsub(channel) == [(channel.encode(), 1)])
        assert await client.send("echo", 1) == 1


async def test_what_is_no_packet_is_counted_and_hurts_nothing(
    redis_broker: Address, url: str, prefix: str, seen: list[Any]
) -> None:
    async with serving(url, child(Echo, seen)) as service, connect(url) as client:
        with plain(redis_broker.url) as other:
            other.publish(f"{prefix}.echo", b'{"pattern":"echo","data":')
            other.publish(f"{prefix}.echo", b"\xff\xfe")
            other.publish(f"{prefix}.echo.reply", b"nonsense")
        assert await client.send("echo", 1) == 1

        assert service.statistics().refused == {"messages that cannot be read": 2}
    assert seen == [1]


async def test_a_channel_that_is_not_utf_8_is_left_out(
    redis_broker: Address, url: str, prefix: str, seen: list[Any]
) -> None:
    async with serving(url, child(Wild, seen)) as service, connect(url) as client:
        with plain(redis_broker.url) as other:
            other.publish(prefix.encode() + b".a.\xff", b"1")
        await client.emit("a.b", 1)
        await until(lambda: seen)

        assert service.statistics().refused == {"messages that cannot be read": 1}
    assert seen == [("a.*", 1)]


async def test_what_finds_no_room_is_dropped_and_counted(url: str, seen: list[Any]) -> None:
    gate = trio.Event()

    class Slow(Actor):
        @event_pattern("slow")
        async def slow(self, number: int) -> None:
            await gate.wait()
            seen.append(number)

    options: dict[str, Any] = {"backlog": 4}
    async with serving(url, child(Slow, mailbox=1), **options) as service, connect(url) as client:
        for number in range(64):
            await client.emit("slow", number)
        dropped = service.statistics().refused
        await until(lambda: dropped or service.statistics().refused)
        gate.set()
        await wait_all_tasks_blocked(0.05)
        lost = service.statistics().refused["messages that were dropped"]

    assert len(seen) + lost == 64
    assert len(seen) >= 4


async def test_the_log_says_at_the_start_that_events_on_channels_can_be_lost(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "understudy.transports.redis")
    async with serving(url, child(Wild, [])):
        pass

    [said] = [record.message for record in caplog.records if "lost" in record.message]
    assert said.startswith("shop/bridge: events on Redis' channels are lost while nobody listens")


# -- the bytes of NestJS ------------------------------------------------------


@pytest.fixture
async def interop(own_redis: Callable[..., RedisBroker]) -> AsyncIterator[tuple[str, System]]:
    """The interop service alone on a broker, for what it publishes on channels without prefix."""
    url = own_redis().url
    async with running(tree(url, {})) as system:
        yield url, system


async def published(url: str, channel: str, sent: str, wanted: int) -> list[tuple[str, str]]:
    with plain(url) as client:
        listening = client.pubsub(ignore_subscribe_messages=True)
        listening.psubscribe("*.reply")
        listening.get_message(timeout=0.2)
        client.publish(channel, sent)
        found: list[tuple[str, str]] = []
        deadline = time.monotonic() + (5 if wanted else 0.2)
        while time.monotonic() < deadline and len(found) < max(wanted, 1):
            message = listening.get_message()
            if message is None:
                await trio.sleep(0.005)
            else:
                found.append((message["channel"].decode(), message["data"].decode()))
        listening.close()
    return found


@pytest.mark.parametrize("case", REQUESTS, ids=[case["sent"][:40] for case in REQUESTS])
async def test_a_recorded_request_gets_the_recorded_answers(
    interop: tuple[str, System], case: dict[str, Any]
) -> None:
    got = await published(interop[0], case["channel"], case["sent"], len(case["answers"]))

    # The recorded service says "just text" where the one in examples/ says "refused".
    wanted = [(c, body.replace("just text", "refused")) for c, body in case["answers"]]
    assert got == wanted


@pytest.mark.parametrize("edge", EDGES, ids=[edge["case"] for edge in EDGES])
async def test_a_recorded_edge_has_the_recorded_outcome(
    interop: tuple[str, System], edge: dict[str, Any]
) -> None:
    got = await published(interop[0], edge["channel"], edge["sent"], len(edge["published"]))

    assert [list(each) for each in got] == edge["published"]


# -- nestrs -------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [False, True], ids=["without a prefix", "with a prefix"])
async def test_the_nestrs_dialect_answers_where_the_request_says(
    own_redis: Callable[..., RedisBroker], seen: list[Any], prefixed: bool
) -> None:
    broker = own_redis()
    url = f"{broker.url}?dialect=nestrs" + ("&prefix=shop" if prefixed else "")
    channel = "shop.echo" if prefixed else "echo"
    request = '{"kind":"send","pattern":"echo","payload":7,"reply":"__nestrs.reply.1"}'
    async with serving(url, child(Echo, seen)), connect(url) as client:
        with plain(broker.url) as other:
            listening = other.pubsub(ignore_subscribe_messages=True)
            listening.subscribe("__nestrs.reply.1")
            listening.get_message(timeout=0.2)
            assert other.publish(channel, request) == 1
            await until(lambda: seen == [7])
            answer = listening.get_message(timeout=2)
            listening.close()
        assert answer is not None
        assert answer["data"] == b'{"ok":true,"payload":7}'
        assert await client.send("echo", "mine") == "mine"
        await client.emit("echo", "event")
        await until(lambda: seen[-1] == "event")


async def test_under_a_prefix_nestrs_is_told_that_a_pattern_has_no_handler(
    own_redis: Callable[..., RedisBroker], seen: list[Any]
) -> None:
    url = f"{own_redis().url}?dialect=nestrs&prefix=shop"
    async with serving(url, child(Echo, seen)), connect(url) as client:
        with pytest.raises(RpcError) as caught:
            await client.send("nobody.home")

    assert caught.value.error == {"message": "no microservice handler for pattern `nobody.home`"}


async def test_two_nestrs_clients_of_ours_never_share_a_reply_channel(
    own_redis: Callable[..., RedisBroker], seen: list[Any]
) -> None:
    url = f"{own_redis().url}?dialect=nestrs"
    async with serving(url, child(Echo, seen)), connect(url) as one, connect(url) as other:
        async with trio.open_nursery() as nursery:

            async def ask(client: Any, number: int) -> None:
                assert await client.send("echo", number) == number

            for number in range(50):
                nursery.start_soon(ask, one, number)
                nursery.start_soon(ask, other, -number)
