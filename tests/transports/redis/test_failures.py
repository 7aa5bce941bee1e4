"""What becomes of messages when Redis is killed, frozen, full, somebody else's, or too slow."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from understudy.actors.actor import Actor
from understudy.actors.errors import ConnectionLost, NoResponders, RequestTimeout
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.broker import Broker
from ...brokers.certificates import Certificates
from ...brokers.redis import RedisBroker
from ..serving import serving, until
from .ledgers import Echo, Orders, add, eventually, pending, plain, refusal

Start = Callable[..., RedisBroker]
READING: dict[str, Any] = {"stream": "orders", "group": "g", "consumer": "one"}
QUICK: dict[str, Any] = {"heartbeat": 0.5, "reconnect_max": 0.2}


async def off_the_loop(act: Callable[[], object]) -> None:
    """Brokers' methods block."""
    await trio.to_thread.run_sync(act)


@pytest.fixture
def seen() -> list[Any]:
    return []


async def test_a_killed_broker_that_comes_back_is_subscribed_to_and_read_again(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    async with serving(broker.url, child(Orders, seen), **READING, **QUICK) as service:
        async with connect(broker.url, stream="orders", **QUICK) as client:
            await client.emit("placed", 1)
            await off_the_loop(broker.kill)
            await eventually(lambda: not service.statistics().connected)
            await off_the_loop(broker.start)
            await client.emit("placed", 2)
            await until(lambda: len(seen) == 2)
            await eventually(lambda: service.statistics().connected)
            assert await client.send("echo", 3) == 3
        await eventually(lambda: pending(broker.url, "orders") == 0)

    assert [number for number, _, _ in seen] == [1, 2]


async def test_what_is_handled_while_the_broker_is_away_is_acknowledged_and_not_run_again(
    own_redis: Start, seen: list[Any]
) -> None:
    broker, gate = own_redis(), trio.Event()
    async with serving(
        broker.url, child(Orders, seen, gate, concurrency=8), **READING, **QUICK
    ) as service:
        add(broker.url, "orders", 1, 2, 3)
        await until(lambda: len(seen) == 3)
        await off_the_loop(broker.kill)
        await eventually(lambda: not service.statistics().connected)
        gate.set()
        await until(lambda: service.statistics().in_flight == 0)
        await off_the_loop(broker.start)
        await eventually(lambda: pending(broker.url, "orders") == 0)

    assert seen == [(1, 1, False), (2, 1, False), (3, 1, False)]


async def test_an_acknowledgement_that_was_lost_with_the_broker_is_sent_again(
    own_redis: Start, seen: list[Any]
) -> None:
    broker, gate = own_redis(), trio.Event()
    async with serving(broker.url, child(Orders, seen, gate), **READING, **QUICK) as service:
        add(broker.url, "orders", 1)
        await until(lambda: seen)
        broker.freeze()
        gate.set()
        await until(lambda: service.statistics().in_flight == 0)
        await trio.sleep(0.1)
        await off_the_loop(broker.kill)
        await off_the_loop(broker.start)
        assert pending(broker.url, "orders") == 1
        await eventually(lambda: pending(broker.url, "orders") == 0)

    assert seen == [(1, 1, False)]


async def test_what_is_in_hand_across_a_reconnection_runs_once(
    own_redis: Start, seen: list[Any]
) -> None:
    broker, gate = own_redis(), trio.Event()
    async with serving(
        broker.url, child(Orders, seen, gate, concurrency=8), **READING, **QUICK
    ) as service:
        add(broker.url, "orders", 1, 2, 3)
        await until(lambda: len(seen) == 3)
        with plain(broker.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: service.statistics().connections == 2)
        add(broker.url, "orders", 4)
        await until(lambda: len(seen) == 4)
        with plain(broker.url) as client:
            held: Any = client.xpending_range("orders", "g", "-", "+", 9)
        assert [entry["times_delivered"] for entry in held] == [1, 1, 1, 1]
        gate.set()
        await eventually(lambda: pending(broker.url, "orders") == 0)

    assert seen == [(number, 1, False) for number in (1, 2, 3, 4)]


async def test_a_frozen_broker_is_given_up_and_found_again(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    async with serving(broker.url, child(Orders, seen), **READING, **QUICK) as service:
        async with connect(broker.url, stream="orders", **QUICK) as client:
            await client.emit("placed", 1)
            broker.freeze()
            began = time.monotonic()
            await eventually(lambda: not service.statistics().connected)
            took = time.monotonic() - began
            broker.thaw()
            await client.emit("placed", 2)
            await until(lambda: len({number for number, _, _ in seen}) == 2, within=10)
            await eventually(lambda: service.statistics().connected)
            assert await client.send("echo", 1) == 1

    assert took < 2


async def test_an_event_in_a_freeze_is_added_again_under_its_identity_and_runs_once(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    options = {**READING, **QUICK, "drop_duplicates": True}
    async with serving(broker.url, child(Orders, seen), **options):
        async with connect(broker.url, stream="orders", connect_timeout=20.0, **QUICK) as client:
            async with trio.open_nursery() as nursery:
                broker.freeze()
                for number in range(20):
                    nursery.start_soon(client.emit, "placed", number)
                await trio.sleep(1.6)
                broker.thaw()
            await until(lambda: len(seen) >= 20)
            await eventually(lambda: pending(broker.url, "orders") == 0)

    assert sorted(number for number, _, _ in seen) == list(range(20))


async def test_an_emitter_is_told_when_nothing_confirms_its_event(own_redis: Start) -> None:
    broker = own_redis()
    async with connect(broker.url, stream="orders", connect_timeout=0.5) as client:
        broker.freeze()
        with pytest.raises(ConnectionLost, match=r"'placed' was not confirmed within 0\.5 s"):
            await client.emit("placed", 1)
        broker.thaw()


async def test_a_full_server_is_told_to_the_emitter_at_once(own_redis: Start) -> None:
    broker = own_redis()
    async with connect(broker.url, stream="orders") as client:
        with plain(broker.url) as other:
            other.config_set("maxmemory", 1)
        with pytest.raises(ConnectionLost, match="did not take it: OOM command not allowed") as e:
            await client.emit("placed", 1)

    assert e.value.sent is False


async def test_a_reader_starts_and_reads_at_a_full_server(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    add(broker.url, "orders", 1)
    with plain(broker.url) as client:
        client.xgroup_create("orders", "g", "0")
        client.config_set("maxmemory", 1)
    async with serving(broker.url, child(Orders, seen), **READING):
        await until(lambda: seen)
        await eventually(lambda: pending(broker.url, "orders") == 0)


async def test_a_replica_is_told_to_the_emitter_and_is_waited_for(own_redis: Start) -> None:
    master, replica = own_redis(), own_redis()
    with plain(replica.url) as client:
        client.replicaof(master.host, master.port)
    async with connect(replica.url, stream="orders", connect_timeout=0.5) as client:
        with pytest.raises(ConnectionLost, match="is a read-only replica, not the master"):
            await client.emit("placed", 1)
        with plain(replica.url) as other:
            other.replicaof("no", "one")
        with trio.fail_after(10):
            while True:
                try:
                    await client.emit("placed", 1)
                    break
                except ConnectionLost:
                    await trio.sleep(0.05)


async def test_the_calls_of_a_killed_broker_fail_at_once(own_redis: Start, seen: list[Any]) -> None:
    broker, gate = own_redis(), trio.Event()

    class Waiting(Actor):
        @message_pattern("echo")
        async def echo(self, data: Any = None) -> None:
            seen.append(data)
            await gate.wait()

    async with serving(broker.url, child(Waiting)), connect(broker.url) as client:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ConnectionLost, match="the server closed the connection"):
                    await client.send("echo", 1, timeout=30)

            nursery.start_soon(ask)
            await until(lambda: seen)
            with trio.fail_after(2):
                await off_the_loop(broker.kill)
        gate.set()


async def test_who_is_cut_off_because_it_was_too_slow_comes_back(
    own_redis: Start, seen: list[Any]
) -> None:
    """Redis ends a subscriber's connection that leaves too much unread."""
    broker = own_redis(settings=["client-output-buffer-limit pubsub 16kb 16kb 1"])
    async with serving(broker.url, child(Echo, seen), **QUICK) as service:
        with plain(broker.url) as client:
            client.publish("echo", b'{"pattern":"echo","data":"%b"}' % (b"x" * 100_000))
        await eventually(lambda: service.statistics().connections > 1)
        await eventually(lambda: service.statistics().connected)
        async with connect(broker.url) as client2:
            assert await client2.send("echo", 1) == 1


async def test_a_call_nobody_answers_in_time_is_a_timeout(own_redis: Start) -> None:
    broker = own_redis()
    with plain(broker.url) as other:
        listening = other.pubsub()
        listening.subscribe("echo")
        listening.get_message(timeout=0.2)
        async with connect(broker.url) as client:
            with pytest.raises(RequestTimeout):
                await client.send("echo", timeout=0.1)
            with pytest.raises(NoResponders):
                await client.send("other", timeout=0.1)
        listening.close()


# -- who is let in ------------------------------------------------------------

LOGIN = {"user": "ada", "password": "t/e@a"}


def with_login(broker: Broker, login: str) -> str:
    return f"{broker.schemes[broker.tls is not None]}://{login}@{broker.host}:{broker.port}"


async def test_a_user_and_a_password_log_in_also_again(own_redis: Start, seen: list[Any]) -> None:
    broker = own_redis(**LOGIN)
    url = with_login(broker, "ada:t%2Fe%40a")
    async with serving(url, child(Orders, seen), **READING, **QUICK) as service:
        await off_the_loop(broker.restart)
        await eventually(lambda: service.statistics().connections > 1)
        await eventually(lambda: service.statistics().connected)
        async with connect(url, stream="orders") as client:
            await client.emit("placed", 1)
            assert await client.send("echo", 1) == 1
        await until(lambda: seen)


@pytest.mark.parametrize(
    ("login", "text"),
    [("ada:milk", "WRONGPASS"), ("bob:tea", "WRONGPASS"), ("", "NOAUTH")],
    ids=["wrong password", "wrong user", "no login"],
)
async def test_who_is_not_let_in_does_not_start(own_redis: Start, login: str, text: str) -> None:
    broker = own_redis(**LOGIN)
    url = with_login(broker, login).replace("//@", "//")
    why = await refusal(lambda: serving(url, child(Echo, [])))

    assert f"the server refused: {text}" in why
    assert "milk" not in why
    with pytest.raises(ConnectionLost, match=text):
        async with connect(url, patience=30):
            pass


async def test_a_right_that_is_missing_fails_the_start(own_redis: Start) -> None:
    broker = own_redis()
    with plain(broker.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "eve", "on", ">pw", "~*", "+@all", "resetchannels", "&other"
        )
    url = with_login(broker, "eve:pw")

    assert "NOPERM" in await refusal(lambda: serving(url, child(Echo, [])))


async def test_tls_with_the_right_authority_and_without(
    own_redis: Start, certificates: Certificates, seen: list[Any]
) -> None:
    broker = own_redis(tls=certificates)
    trusting = {"tls_ca": str(certificates.authority)}
    async with serving(broker.url, child(Orders, seen), **READING, **trusting):
        async with connect(broker.url, stream="orders", tls=certificates.context()) as client:
            assert await client.send("echo", "é" * 100_000) == "é" * 100_000
            await client.emit("placed", 1)
        await until(lambda: seen)

    assert "TLS failed" in await refusal(lambda: serving(broker.url, child(Echo, [])))


async def test_tls_to_a_server_that_speaks_none_is_guessed(own_redis: Start) -> None:
    url = own_redis().url.replace("redis:", "rediss:")

    with pytest.raises(ConnectionLost, match="perhaps that port does not speak TLS"):
        async with connect(url, connect_timeout=2.0):
            pass


async def test_the_path_is_the_database_of_the_streams(own_redis: Start, seen: list[Any]) -> None:
    broker = own_redis()
    add(f"{broker.url}/3", "orders", 1)
    async with serving(f"{broker.url}/3", child(Orders, seen), **READING):
        await until(lambda: seen)

    assert "DB index is out of range" in await refusal(
        lambda: serving(f"{broker.url}/999", child(Echo, []))
    )


async def test_few_rights_are_enough_and_each_is_in_the_docs(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    rights = (Path(__file__).parents[3] / "docs/redis.md").read_text().split("**Rights.**")[1]
    named = re.findall(r"`([A-Z()|]+)`", rights.partition("; better")[0])
    commands = [name for each in named for name in _spelt_out(each)]
    with plain(broker.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "eve", "on", ">pw", "~orders", "allchannels", "-@all", *commands
        )
    url = with_login(broker, "eve:pw")
    async with serving(url, child(Orders, seen), claim_after=0.3, **READING, **QUICK) as service:
        async with connect(url, stream="orders", **QUICK) as other:
            await other.emit("placed", 1)
            assert await other.send("echo", 1) == 1
        await until(lambda: seen)
        await trio.sleep(1.2)
        assert (service.statistics().connections, service.statistics().refused) == (1, {})
    assert pending(broker.url, "orders") == 0


def _spelt_out(name: str) -> list[str]:
    if name == "(P)SUBSCRIBE":
        return [f"+{each}" for each in ("subscribe", "psubscribe", "unsubscribe", "punsubscribe")]
    return [f"+{name.lower()}"]


async def test_a_server_that_loads_its_data_again_is_no_crash(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis(settings=["enable-debug-command yes", "key-load-delay 200"])
    with plain(broker.url) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(5_000):
            pipe.set(f"key{number}", "x")
        pipe.execute()
        async with serving(broker.url, child(Orders, seen), **READING, **QUICK) as service:
            await trio.to_thread.run_sync(client.execute_command, "DEBUG", "RELOAD")
            add(broker.url, "orders", 1)
            await until(lambda: seen, within=20)
            await eventually(lambda: service.statistics().connected)
