"""Fixtures of RabbitMQ's tests: a queue of the test's own, and a stranger on the broker."""

import uuid
from collections.abc import AsyncIterator

import pytest
from pamqp import commands

from tests.brokers.broker import Address

from ..shop import Notes
from .peer import Peer, peer_of


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def url(rabbitmq_broker: Address) -> str:
    return rabbitmq_broker.url


@pytest.fixture
async def queue(url: str) -> AsyncIterator[str]:
    """The name of a queue that nobody else uses, and that is deleted at the end."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    async with peer_of(url) as peer:
        await peer.call(commands.Queue.Delete(queue=name))


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Peer]:
    async with peer_of(url) as found:
        yield found
