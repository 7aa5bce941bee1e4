"""Fixtures of Kafka's tests: topics of the test's own, and a stranger on the broker."""

import itertools
import os
from typing import Final

import pytest

from tests.brokers.broker import Address

from ..shop import Notes
from .peer import Peer

_numbers: Final = itertools.count()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def url(kafka_broker: Address) -> str:
    return kafka_broker.url


@pytest.fixture
def peer(url: str) -> Peer:
    return Peer(url)


@pytest.fixture
def name() -> str:
    """What stands before this test's topics, and is its group's name."""
    return f"test-{os.getpid()}-{next(_numbers)}"
