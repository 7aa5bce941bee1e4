"""The fixtures that give tests a broker; `tests/conftest.py` hands them on.

`nats_broker`, `redis_broker` and `rabbitmq_broker` are shared by the whole run: they have
a URL and nothing else, because no test may stop them. Tests keep apart by names of their
own for subjects, channels and queues. `own_nats`, `own_redis` and `own_rabbitmq` start
one for a single test, with the options of its class, to be killed and frozen at will.

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
from .nats import NatsBroker
from .rabbitmq import RabbitmqBroker
from .redis import RedisBroker

__all__ = [
    "VARIABLES",
    "certificates",
    "nats_broker",
    "own_brokers",
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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For `own_nats(tls=certificates)`; its clients trust `certificates.context()`."""
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@contextmanager
def shared_broker(kind: type[Broker], folders: pytest.TempPathFactory) -> Iterator[Address]:
    """The broker that the environment names, or else one that is started for it."""
    outside = os.environ.get(VARIABLES[kind])
    if outside:
        yield Address(outside)
        return
    with own_brokers(kind, folders) as start:
        yield Address(start().url)


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
            f"{kind.program} is not installed (Debian: apt-get install {kind.program}), and "
            f"{VARIABLES[kind]} names no {kind.name} to use; `docker compose up {kind.service}` "
            "starts one, see compose.yaml"
        )
