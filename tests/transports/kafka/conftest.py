"""Fixtures of Kafka's tests: topics of the test's own, and a stranger on the broker."""

import itertools
import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.brokers.broker import Address
from tests.brokers.fixtures import own_brokers
from tests.brokers.kafka import KafkaBroker

from ..shop import Notes
from .peer import Peer

_numbers: Final = itertools.count()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def url(kafka_broker: Address) -> str:
    return kafka_broker.url


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker on which there are the topics that somebody has made; it may be killed."""
    with own_brokers(KafkaBroker, tmp_path_factory) as start:
        yield start(settings=["auto.create.topics.enable=false"])


@pytest.fixture
def peer(url: str) -> Peer:
    return Peer(url)


@pytest.fixture
def name() -> str:
    """What stands before this test's topics, and is its group's name."""
    return f"test-{os.getpid()}-{next(_numbers)}"
