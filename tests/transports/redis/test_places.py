"""Where Redis is: what a URL and options may say, sentinels that know a master, a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from understudy.actors.errors import ConnectionLost, DeclarationError, RequestTimeout
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.client import connect
from understudy.transports.redis.options import glob_of, slot_of

from ...brokers.ports import free_port
from ...brokers.redis import RedisBroker
from ..serving import serving, until
from .ledgers import Echo, Orders, add, eventually, pending, plain, refusal

Start = Callable[..., RedisBroker]
QUICK: dict[str, Any] = {"heartbeat": 0.5, "reconnect_max": 0.2}


@pytest.fixture
def seen() -> list[Any]:
    return []


# -- what is declared ---------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("redis://", {}, "no transport URL"),
        ("redis:///3", {}, "has no host"),
        ("redis://h/three", {}, "the path of a Redis URL is the number of a database"),
        ("redis://h", {"stream": "orders"}, "a stream is read by a group: give both"),
        ("redis://h", {"group": "orders"}, "a stream is read by a group: give both"),
        ("redis://h", {"pubsub": False}, "nothing can come"),
        ("redis://h/1", {"cluster": True}, "neither databases nor sentinels"),
        (
            "redis://h",
            {"cluster": True, "stream": "a,b", "group": "g"},
            r"the same part in braces, as in \{shop\}\.orders",
        ),
        ("redis://h", {"servers": ":7"}, "is no host:port"),
        ("redis://h", {"claim_after": 0.0}, "claim_after"),
        ("redis://h", {"streams": "a"}, "Did you mean 'stream'"),
    ],
)
def test_what_can_never_work_is_refused_when_it_is_declared(
    url: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError, match=text):
        serve(url, **options)


def test_a_client_adds_to_one_stream_only() -> None:
    with pytest.raises(DeclarationError, match="adds to one stream only"):
        connect("redis://h", stream="a,b")


@pytest.mark.parametrize(
    ("route", "glob"),
    [
        ("a.*", "a.*"),
        ("a.>", "a.*"),
        (">", "*"),
        ("*.b?[c]", r"*.b\?\[c\]"),
        (r"a\b.*", r"a\\b.*"),
        ("x/+/y", "x/*/y"),
        ("x/#", "x*"),
        ("x/+/#", "x/**"),
        ("#", "*"),
    ],
)
def test_a_wildcard_becomes_a_glob_that_matches_at_least_as_much(route: str, glob: str) -> None:
    assert glob_of(route) == glob


@pytest.mark.parametrize(
    ("key", "slot"),
    [("123456789", 12739), ("foo", 12182), ("{foo}.a", 12182), ("a{}b", slot_of("a{}b"))],
)
def test_the_slot_of_a_key_is_the_clusters(key: str, slot: int) -> None:
    assert slot_of(key) == slot


async def test_of_several_servers_the_first_that_answers_is_taken(
    own_redis: Start, seen: list[Any]
) -> None:
    broker = own_redis()
    url = f"redis://127.0.0.1:1?servers={broker.host}:{broker.port}"
    async with serving(url, child(Echo, seen)), connect(url) as client:
        assert await client.send("echo", 1) == 1


async def test_when_no_server_answers_each_reason_is_told() -> None:
    with pytest.raises(ConnectionLost, match="connection refused"):
        async with connect("redis://127.0.0.1:1?servers=127.0.0.1:2"):
            pass


# -- sentinels ----------------------------------------------------------------


class Sentinel(RedisBroker):
    """One that watches a master alone, and gives it up quickly."""

    master: RedisBroker

    def _command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            f"bind {self.host}",
            f'dir "{self.folder}"',
            *self.settings,
            "sentinel down-after-milliseconds shop 500",
            "sentinel failover-timeout shop 3000",
        ]
        config.write_text("\n".join([*lines, ""]))
        return [self.executable() or self.program, str(config), "--sentinel"]


async def test_the_sentinels_master_is_used_and_after_its_death_the_next(
    own_redis: Start, tmp_path: Path, seen: list[Any]
) -> None:
    master, replica = own_redis(), own_redis()
    with plain(replica.url) as client:
        client.replicaof(master.host, master.port)
    with Sentinel(
        tmp_path, settings=[f"sentinel monitor shop {master.host} {master.port} 1"]
    ) as sentinel:
        place = {"sentinel": "shop", **QUICK}
        reading = {"stream": "orders", "group": "g", "consumer": "one"}
        async with serving(sentinel.url, child(Orders, seen), **reading, **place) as service:
            async with connect(
                sentinel.url, stream="orders", connect_timeout=30.0, **place
            ) as client:
                await client.emit("placed", 1)
                await until(lambda: len(seen) == 1)
                with plain(replica.url) as other:
                    await eventually(lambda: other.xlen("orders") == 1)
                with plain(sentinel.url) as other:
                    await eventually(lambda: other.sentinel_slaves("shop"))
                await trio.to_thread.run_sync(master.kill)
                await client.emit("placed", 2)
                await until(lambda: len({each[0] for each in seen}) == 2, within=20)
                await eventually(lambda: service.statistics().connected)
                assert await client.send("echo", 3) == 3
        assert pending(replica.url, "orders") == 0


async def test_a_name_that_no_sentinel_knows_is_told(own_redis: Start, tmp_path: Path) -> None:
    master = own_redis()
    with Sentinel(
        tmp_path, settings=[f"sentinel monitor shop {master.host} {master.port} 1"]
    ) as sentinel:
        with pytest.raises(ConnectionLost, match="knows no master 'store'"):
            async with connect(sentinel.url, sentinel="store"):
                pass


# -- a cluster ----------------------------------------------------------------


@pytest.fixture
async def nodes(own_redis: Start) -> list[RedisBroker]:
    """Three that share the slots among them."""
    found = [
        own_redis(settings=["cluster-enabled yes", f"cluster-port {free_port()}"]) for _ in range(3)
    ]
    for number, node in enumerate(found):
        with plain(node.url) as client:
            begin, end = number * 5462, min(16383, number * 5462 + 5461)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end)
            for other in found:
                if other is not node:
                    bus = other.settings[1].split()[1]
                    client.execute_command("CLUSTER", "MEET", other.host, other.port, bus)
    await eventually(lambda: _agree(found))
    return found


def _agree(nodes: list[RedisBroker]) -> bool:
    """Whether every node knows all the others, and that all slots are served."""
    for node in nodes:
        with plain(node.url) as client:
            info: Any = client.execute_command("CLUSTER INFO")
            if (info["cluster_state"], info["cluster_known_nodes"]) != ("ok", "3"):
                return False
    return True


@pytest.mark.parametrize("stream", ["a", "b", "c"])
async def test_in_a_cluster_streams_and_channels_are_found_from_any_node(
    nodes: list[RedisBroker], seen: list[Any], stream: str
) -> None:
    reading = {"stream": stream, "group": "g", "cluster": True}
    async with serving(nodes[0].url, child(Orders, seen), **reading):
        async with connect(nodes[2].url, stream=stream, cluster=True) as client:
            await client.emit("placed", 1)
            assert await client.send("echo", 1) == 1
        await until(lambda: seen)


async def test_in_a_cluster_nobody_can_tell_that_nobody_listens(
    nodes: list[RedisBroker],
) -> None:
    async with connect(nodes[0].url, cluster=True) as client:
        with pytest.raises(RequestTimeout):
            await client.send("nobody.home", timeout=0.1)


async def test_a_single_server_is_no_cluster(own_redis: Start) -> None:
    broker = own_redis()
    reading = {"stream": "a", "group": "g", "cluster": True}

    assert "cluster support disabled" in await refusal(
        lambda: serving(broker.url, child(Orders, []), **reading)
    )
    add(broker.url, "a", 1)
