"""A service and its clients on any transport: what the transports' tests run on."""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import ChildSpec, Supervisor
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.system import System, running
from understudy.transports.bridge import serve
from understudy.transports.client import Client, connect
from understudy.transports.options import shown

__all__ = [
    "BROKERS",
    "DIRECT",
    "NOWHERE",
    "Service",
    "hosting",
    "serving",
    "until",
    "url_of",
]

DIRECT: Final = {
    "tcp": "tcp://127.0.0.1:0",
    "ws": "ws://127.0.0.1:0",
    "memory": "memory://shop",
    "grpc": "grpc://127.0.0.1:0?dialect=nestrs",
}
"""Transports without anything between a client and the service."""

BROKERS: Final = {
    "nats": ("nats_broker", "prefix"),
    "redis": ("redis_broker", "prefix"),
    "amqp": ("rabbitmq_broker", "queue"),
    "mqtt": ("mqtt_broker", "prefix"),
}
"""Transports with a broker: its fixture, and the option that keeps tests apart."""

NOWHERE: Final = {
    "tcp": "tcp://127.0.0.1:1",
    "ws": "ws://127.0.0.1:1",
    "memory": "memory://shop",
    "nats": "nats://127.0.0.1:1",
    "kafka": "kafka://127.0.0.1:1?group=nowhere",
    "redis": "redis://127.0.0.1:1",
    "amqp": "amqp://127.0.0.1:1?queue=nowhere",
    "mqtt": "mqtt://127.0.0.1:1",
    "grpc": "grpc://127.0.0.1:1?dialect=nestrs",
}
"""Where nothing listens."""

_numbers: Final = itertools.count()


def url_of(transport: str, request: pytest.FixtureRequest) -> str:
    """Where a test may serve and call on a transport, with its broker running."""
    if transport in DIRECT:
        return DIRECT[transport]
    fixture, option = BROKERS[transport]
    broker = request.getfixturevalue(fixture)
    return f"{broker.url}?{option}=contract-{os.getpid()}-{next(_numbers)}"


AT_ONCE: Final = RetryPolicy(attempts=3, delays=(0.0,))


@attrs.frozen
class Service:
    """A running service: where clients find it, and its tree."""

    url: str
    system: System

    @property
    def where(self) -> str:
        """The URL as errors show it."""
        return shown(self.url)

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        return connect(self.url, **options)

    def statistics(self) -> Any:
        """What its bridge says about itself."""
        return self.system.offer("bridge").statistics()

    async def dead_letters(self) -> list[DeadLetter]:
        await self.system.office.flush()
        return list(await self.system.office.store.find(limit=100))


@asynccontextmanager
async def serving(url: str, *children: ChildSpec, **options: Any) -> AsyncIterator[Service]:
    """Serve `children` at `url`; `options` are the bridge's. Events are retried at once.

    A tree that ends cancels the block: here that is an error. See `hosting`.
    """
    tree = Supervisor("shop", [*children, serve(url, name="bridge", **options)])
    done = False
    async with running(tree, events=AT_ONCE) as system:
        yield Service(_found_at(url, system), system)
        done = True
    assert done, "the service ended before its block: what the block had still to do was left out"


@asynccontextmanager
async def hosting(url: str, *children: ChildSpec, **options: Any) -> AsyncIterator[Service]:
    """As `serving`, for a service that the block stops: the block goes on without it."""

    async def host(task_status: trio.TaskStatus[Service]) -> None:
        tree = Supervisor("shop", [*children, serve(url, name="bridge", **options)])
        async with running(tree, events=AT_ONCE) as system:
            task_status.started(Service(_found_at(url, system), system))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        service = await nursery.start(host)
        yield service
        service.system.stop()


def _found_at(url: str, system: System) -> str:
    direct = url.partition(":")[0] in DIRECT
    _, mark, options = url.partition("?")
    return f"{system.addresses()['shop/bridge']}{mark}{options}" if direct else url


async def until(condition: Callable[[], object], *, within: float = 5.0) -> None:
    """Let everybody else go on until `condition` holds."""
    with trio.fail_after(within):
        while not condition():
            await wait_all_tasks_blocked(0.001)
