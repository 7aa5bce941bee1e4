"""The fixtures that give tests a broker; `tests/conftest.py` hands them on.

`nats_broker`, `redis_broker`, `rabbitmq_broker` and `mqtt_broker` are shared by the whole
run: they have a URL and nothing else, because no test may stop them. Tests keep apart by
names of their own for subjects, channels, queues and topics. `own_nats`, `own_redis`,
`own_rabbitmq` and `own_mqtt` start one for a single test, with the options of its class, to
be killed and frozen at will.

The variables below name brokers that run already, such as those of compose.yaml. They
take the place of the shared ones; tests that need one of their own skip then.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TypeVar

import pytest

from ..missing import missing
from .broker import Address, Broker
from .certificates import Certificates
from .kafka import KafkaBroker
from .mosquitto import MosquittoBroker
from .nats import NatsBroker
from .rabbitmq import RabbitmqBroker
from .redis import RedisBroker

__all__ = [
    "VARIABLES",
    "certificates",
    "kafka_broker",
    "mqtt_broker",
    "nats_broker",
    "own_brokers",
    "own_kafka",
    "own_mqtt",
    "own_nats",
    "own_rabbitmq",
    "own_redis",
    "rabbitmq_broker",
    "redis_broker",
    "shared_broker",
]

VARIABLES: Final[dict[type[Broker], str]] = {
    NatsBroker: "UNDERSTUDY_NATS_URL",
    RedisBroker: "UNDERSTUDY_REDIS_URL",
    RabbitmqBroker: "UNDERSTUDY_RABBITMQ_URL",
    MosquittoBroker: "UNDERSTUDY_MQTT_URL",
    KafkaBroker: "UNDERSTUDY_KAFKA_URL",
}

B = TypeVar("B", bound=Broker)


@pytest.fixture(scope="session")
def nats_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A nats-server with JetStream that all tests share."""
    with shared_broker(NatsBroker, tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="session")
def redis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A redis-server that all tests share."""
    with shared_broker(RedisBroker, tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="session")
def rabbitmq_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A rabbitmq-server that all tests share."""
    with shared_broker(RabbitmqBroker, tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="session")
def mqtt_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A mosquitto that all tests share; it is never killed, so it need not write all the time."""
    with shared_broker(MosquittoBroker, tmp_path_factory, autosave=1800) as address:
        yield address


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A Kafka that all tests share."""
    with shared_broker(KafkaBroker, tmp_path_factory) as address:
        yield address


@pytest.fixture
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., NatsBroker]]:
    """Starts a nats-server for this test alone: `own_nats(jetstream=False)`."""
    with own_brokers(NatsBroker, tmp_path_factory) as start:
        yield start


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisBroker]]:
    """Starts a redis-server for this test alone: `own_redis(user="ada", password="tea")`."""
    with own_brokers(RedisBroker, tmp_path_factory) as start:
        yield start


@pytest.fixture
def own_rabbitmq(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., RabbitmqBroker]]:
    """Starts a rabbitmq-server for this test alone, which takes seconds: `own_rabbitmq()`."""
    with own_brokers(RabbitmqBroker, tmp_path_factory) as start:
        yield start


@pytest.fixture
def own_mqtt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., MosquittoBroker]]:
    """Starts a mosquitto for this test alone: `own_mqtt(autosave=1)`."""
    with own_brokers(MosquittoBroker, tmp_path_factory) as start:
        yield start


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., KafkaBroker]]:
    """Starts a Kafka for this test alone, which takes seconds: `own_kafka(partitions=4)`."""
    with own_brokers(KafkaBroker, tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For `own_nats(tls=certificates)`; its clients trust `certificates.context()`."""
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@contextmanager
def shared_broker(
    kind: type[Broker], folders: pytest.TempPathFactory, **options: Any
) -> Iterator[Address]:
    """The broker that the environment names, or else one that is started for it."""
    outside = os.environ.get(VARIABLES[kind])
    if outside:
        yield Address(outside)
        return
    with own_brokers(kind, folders) as start:
        yield Address(start(**options).url)


@contextmanager
def own_brokers(kind: type[B], folders: pytest.TempPathFactory) -> Iterator[Callable[..., B]]:
    """Starts brokers with the options given, and removes them and their data at the end."""
    if os.environ.get(VARIABLES[kind]):
        pytest.skip(
            f"{VARIABLES[kind]} names the {kind.name} to use, which is not ours to stop; "
            "without it, a broker is started for this test"
        )
    _require(kind)
    with ExitStack() as opened:

        def start(**options: Any) -> B:
            folder = folders.mktemp(kind.service)
            opened.callback(shutil.rmtree, folder, ignore_errors=True)
            broker = kind(folder, **options)
            opened.callback(broker.close)
            broker.start()
            return broker

        yield start


def _require(kind: type[Broker]) -> None:
    if kind.executable() is None:
        missing(
            f"{kind.lacking()}, and {VARIABLES[kind]} names no {kind.name} to use; "
            f"`docker compose up {kind.service}` starts one, see compose.yaml"
        )
