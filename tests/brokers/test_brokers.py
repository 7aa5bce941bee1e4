"""The brokers of the tests: they answer, keep their data, and leave nothing behind."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiokafka
import nats
import paho.mqtt.publish
import paho.mqtt.subscribe
import pytest
import redis
import trio

from ..missing import missing
from .broker import Address, Broker
from .certificates import Certificates
from .fixtures import VARIABLES, own_brokers, shared_broker
from .kafka import KafkaBroker
from .mosquitto import MosquittoBroker
from .nats import NatsBroker
from .rabbitmq import RabbitmqBroker
from .redis import RedisBroker

OWN: dict[type[Broker], str] = {
    NatsBroker: "own_nats",
    RedisBroker: "own_redis",
    RabbitmqBroker: "own_rabbitmq",
    MosquittoBroker: "own_mqtt",
    KafkaBroker: "own_kafka",
}
SHARED = {kind: fixture.replace("own_", "") + "_broker" for kind, fixture in OWN.items()}
LOGIN = {"user": "ada", "password": "tea"}

every_broker = pytest.mark.parametrize("kind", OWN, ids=[kind.service for kind in OWN])
every_quick_broker = pytest.mark.parametrize(
    "kind", [NatsBroker, RedisBroker, MosquittoBroker], ids=["nats", "redis", "mosquitto"]
)


# -- one message through each broker's own client ------------------------------


async def _nats_keeps(broker: Broker | Address, **options: Any) -> None:
    client = await nats.connect(broker.url, **options)
    await client.jetstream().add_stream(name="kept", subjects=["kept"])
    await client.jetstream().publish("kept", b"tea")
    await client.close()


async def _nats_kept(broker: Broker | Address) -> list[bytes]:
    client = await nats.connect(broker.url)
    subscription = await client.jetstream().pull_subscribe("kept", "reader", stream="kept")
    found = [message.data for message in await subscription.fetch(1, timeout=5)]
    await client.close()
    return found


def _redis_keeps(broker: Broker | Address, **options: Any) -> None:
    with redis.Redis.from_url(broker.url, **options) as client:
        client.set("kept", b"tea")


def _redis_kept(broker: Broker | Address) -> list[object]:
    with redis.Redis.from_url(broker.url) as client:
        return [client.get("kept")]


async def _rabbitmq_keeps(broker: Broker | Address, **options: Any) -> None:
    connection = await aio_pika.connect(broker.url, **options)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True)
        message = aio_pika.Message(b"tea", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept")


async def _rabbitmq_kept(broker: Broker | Address) -> list[bytes]:
    connection = await aio_pika.connect(broker.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("kept", durable=True)
        message = await queue.get(timeout=5, no_ack=True)
        return [message.body]


def _mosquitto_keeps(broker: Broker | Address, **options: Any) -> None:
    for _ in range(2):  # when it confirms the second one, the first is on the disk
        paho.mqtt.publish.single(
            "kept", b"tea", qos=1, retain=True, **_mosquitto_at(broker), **options
        )


def _mosquitto_kept(broker: Broker | Address) -> list[object]:
    subscribed: Any = paho.mqtt.subscribe.simple  # it has no types
    message = subscribed("kept", **_mosquitto_at(broker))
    return [message.payload]


def _mosquitto_at(broker: Broker | Address) -> dict[str, Any]:
    parts = urlsplit(broker.url)
    login = {"username": parts.username, "password": parts.password} if parts.username else None
    return {"hostname": parts.hostname, "port": parts.port, "auth": login}


async def _kafka_keeps(broker: Broker | Address, **options: Any) -> None:
    parts = urlsplit(broker.url)
    at = f"{parts.hostname}:{parts.port}"
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=at, acks="all", **options) as producer:
        await producer.send_and_wait("kept", b"tea")


async def _kafka_kept(broker: Broker | Address) -> list[bytes | None]:
    parts = urlsplit(broker.url)
    at = f"{parts.hostname}:{parts.port}"
    first: Any = {"auto_offset_reset": "earliest"}
    async with aiokafka.AIOKafkaConsumer("kept", bootstrap_servers=at, **first) as consumer:
        async with asyncio.timeout(5):
            return [(await consumer.getone()).value]


def keep(broker: Broker, **options: Any) -> None:
    """Have the broker confirm that it has stored a message."""
    if isinstance(broker, NatsBroker):
        asyncio.run(_nats_keeps(broker, **options))
    elif isinstance(broker, RedisBroker):
        _redis_keeps(broker, **options)
    elif isinstance(broker, MosquittoBroker):
        _mosquitto_keeps(broker, **options)
    elif isinstance(broker, KafkaBroker):
        asyncio.run(_kafka_keeps(broker, **options))
    else:
        asyncio.run(_rabbitmq_keeps(broker, **options))


def kept(broker: Broker) -> Sequence[object]:
    if isinstance(broker, NatsBroker):
        return asyncio.run(_nats_kept(broker))
    if isinstance(broker, RedisBroker):
        return _redis_kept(broker)
    if isinstance(broker, MosquittoBroker):
        return _mosquitto_kept(broker)
    if isinstance(broker, KafkaBroker):
        return asyncio.run(_kafka_kept(broker))
    return asyncio.run(_rabbitmq_kept(broker))


@pytest.fixture
def own(kind: type[Broker], request: pytest.FixtureRequest) -> Callable[..., Broker]:
    start: Callable[..., Broker] = request.getfixturevalue(OWN[kind])
    return start


# -- what they promise --------------------------------------------------------


@every_broker
def test_what_is_stored_survives_a_kill_and_a_restart_on_the_same_port(
    own: Callable[..., Broker],
) -> None:
    broker = own()
    keep(broker)
    before = broker.url
    broker.kill()
    assert not broker.answers()

    broker.restart()

    assert (kept(broker), broker.url) == ([b"tea"], before)


@every_broker
def test_a_frozen_broker_is_silent_until_it_is_thawed(own: Callable[..., Broker]) -> None:
    broker = own()
    broker.freeze()
    assert not broker.answers()

    broker.thaw()

    assert broker.answers()


@every_quick_broker
def test_an_orderly_stop_ends_even_a_frozen_broker(own: Callable[..., Broker]) -> None:
    broker = own()
    broker.freeze()

    broker.restart()

    assert broker.answers()


@every_broker
def test_nothing_is_left_of_a_broker_that_was_killed(kind: type[Broker], tmp_path: Path) -> None:
    if kind.executable() is None:
        missing(f"{kind.program} is not installed")
    with kind(tmp_path) as broker:
        assert _processes_with(tmp_path) >= {broker.pid}

    _await_none(tmp_path)


@every_quick_broker
def test_a_broker_ends_with_tests_that_are_killed(kind: type[Broker], tmp_path: Path) -> None:
    if kind.executable() is None:
        missing(f"{kind.program} is not installed")
    program = (
        f"import pathlib\nfrom {kind.__module__} import {kind.__name__}\n"
        f"{kind.__name__}(pathlib.Path({str(tmp_path)!r})).start()\n"
        "print('started', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == b"started\n"
        tests.send_signal(signal.SIGKILL)

    _await_none(tmp_path)


@every_broker
def test_the_shared_brokers_have_a_url_and_cannot_be_stopped(
    kind: type[Broker], request: pytest.FixtureRequest
) -> None:
    shared = request.getfixturevalue(SHARED[kind])

    assert shared.url.startswith(kind.schemes)
    assert not hasattr(shared, "kill")


@every_broker
def test_a_broker_named_in_the_environment_is_used_as_it_is(
    kind: type[Broker], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES[kind], "some://where:1")

    with shared_broker(kind, tmp_path_factory) as address:
        assert address == Address("some://where:1")
    with pytest.raises(pytest.skip.Exception, match="not ours to stop"):
        with own_brokers(kind, tmp_path_factory):
            pass


@every_broker
def test_a_missing_program_is_named_with_its_package_and_fails_where_peers_are_required(
    kind: type[Broker], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "executable", classmethod(lambda _: None))
    monkeypatch.delenv(VARIABLES[kind], raising=False)
    monkeypatch.delenv("UNDERSTUDY_REQUIRE_PEERS", raising=False)
    assert "apt-get install " in kind.lacking()
    advice = f"{re.escape(kind.lacking())}.*docker compose up {kind.service}"

    with pytest.raises(pytest.skip.Exception, match=advice), own_brokers(kind, tmp_path_factory):
        pass
    monkeypatch.setenv("UNDERSTUDY_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match=advice), own_brokers(kind, tmp_path_factory):
        pass


def test_a_broker_that_cannot_start_says_why(own_nats: Callable[..., NatsBroker]) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1 before it answered(.|\n)*nonsense"):
        own_nats(settings=["nonsense: 1"])


async def test_brokers_can_be_driven_from_trio(own_redis: Callable[..., RedisBroker]) -> None:
    broker = own_redis()
    await trio.to_thread.run_sync(broker.kill)
    await trio.to_thread.run_sync(broker.start)

    assert await trio.to_thread.run_sync(broker.answers)


# -- logins and TLS -----------------------------------------------------------


def _said(broker: Broker, words: bytes, lines: int) -> list[bytes]:
    """What it answers on a bare socket: a client whose login is refused leaks its own."""
    with socket.create_connection((broker.host, broker.port), timeout=5) as connection:
        connection.sendall(words)
        with connection.makefile("rb") as answers:
            return [answers.readline() for _ in range(lines)]


def test_nats_asks_for_its_user_and_password(own_nats: Callable[..., NatsBroker]) -> None:
    broker = own_nats(**LOGIN)
    keep(broker)

    lines = _said(broker, b'CONNECT {"user": "ada", "pass": "milk"}\r\nPING\r\n', 2)
    assert lines[0].startswith(b"INFO ")
    assert lines[1] == b"-ERR 'Authorization Violation'\r\n"


def test_redis_asks_for_its_user_and_password_also_after_a_restart(
    own_redis: Callable[..., RedisBroker],
) -> None:
    broker = own_redis(**LOGIN)
    keep(broker)
    broker.restart()

    wrong, nobody = _said(broker, b"AUTH ada milk\r\nGET kept\r\n", 2)
    assert wrong.startswith(b"-WRONGPASS")
    assert nobody.startswith(b"-NOAUTH")


def test_nats_speaks_tls(own_nats: Callable[..., NatsBroker], certificates: Certificates) -> None:
    keep(own_nats(tls=certificates), tls=certificates.context())


def test_redis_speaks_tls(
    own_redis: Callable[..., RedisBroker], certificates: Certificates
) -> None:
    keep(own_redis(tls=certificates), ssl_ca_certs=str(certificates.authority))


def test_mosquitto_asks_for_its_user_and_password(
    own_mqtt: Callable[..., MosquittoBroker],
) -> None:
    broker = own_mqtt(**LOGIN)
    keep(broker)

    nobody = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
    with socket.create_connection((broker.host, broker.port), timeout=5) as connection:
        connection.sendall(nobody)
        assert connection.recv(4) == b"\x20\x02\x00\x05"  # not authorized


def test_mosquitto_speaks_tls(
    own_mqtt: Callable[..., MosquittoBroker], certificates: Certificates
) -> None:
    keep(own_mqtt(tls=certificates), tls={"ca_certs": str(certificates.authority)})


def test_rabbitmq_asks_for_its_user_and_password_and_speaks_tls(
    own_rabbitmq: Callable[..., RabbitmqBroker], certificates: Certificates
) -> None:
    broker = own_rabbitmq(**LOGIN, tls=certificates)
    keep(broker, ssl_context=certificates.context())

    with pytest.raises(aio_pika.exceptions.AMQPConnectionError):
        asyncio.run(
            _rabbitmq_keeps(
                Address(broker.url.replace("tea", "milk")), ssl_context=certificates.context()
            )
        )


# -- processes ----------------------------------------------------------------


def _processes_with(folder: Path) -> set[int]:
    """The processes that work in a folder or have it among their arguments or variables."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            facts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            facts += os.readlink(entry / "cwd").encode()
        except OSError:
            continue
        if str(folder).encode() in facts:
            found.add(int(entry.name))
    return found


def _await_none(folder: Path) -> None:
    """Port programs of Erlang end by themselves when it is gone, a moment later."""
    deadline = time.monotonic() + 10
    while left := _processes_with(folder):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)
