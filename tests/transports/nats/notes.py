"""What the tests of NATS share: a service with events, and ways to look at a server's streams."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import nats
import trio
from nats.aio.client import Client as NatsConnection
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.asyncio_thread import asyncio_thread
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import StateChanged

from ..serving import Service, until

__all__ = ["Ledger", "Orders", "asking", "causes", "eventually", "states", "until_true"]

T = TypeVar("T")


class Ledger:
    """What a test and its service know together."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.contexts: list[tuple[str, int, bool]] = []
        self.gate = trio.Event()
        self.gate.set()


class Orders(Actor):
    """Handles one request, and events of one kind."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    @message_pattern("find")
    async def find(self, id: Any = None) -> Any:
        if id == "crash":
            raise ValueError("a secret")
        return id

    @event_pattern("placed")
    async def placed(self, item: Any, context: MessageContext) -> None:
        self.ledger.contexts.append((context.message_id, context.attempt, context.redelivered))
        await self.ledger.gate.wait()
        self.ledger.seen.append(item)

    @event_pattern("doubted")
    async def doubted(self, item: Any, context: MessageContext) -> None:
        self.ledger.seen.append((item, context.attempt))
        raise ValueError("a secret")


@asynccontextmanager
async def asking(url: str, **options: Any) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A connection of nats-py's own: `await on(function, ...)` runs `function(connection, ...)`."""
    thread = asyncio_thread("users")
    connection: NatsConnection = await thread.call(lambda: nats.connect(url, **options))

    async def on(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        return await thread.call(function, connection, *arguments)

    try:
        yield on
    finally:
        with trio.CancelScope(shield=True):
            await thread.call(connection.close)


async def until_true(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait for what comes from a broker, in real time."""
    await until(condition, within=within)


async def eventually(
    read: Callable[[], Awaitable[T]], wanted: Callable[[T], object], *, within: float = 10.0
) -> T:
    """What `read()` gives, once it is what is wanted."""
    with trio.fail_after(within):
        while not wanted(found := await read()):
            await wait_all_tasks_blocked(0.01)
    return found


def causes(error: BaseException) -> str:
    """The texts of an error and of what it came from."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    return " <- ".join(texts)


def states(service: Service) -> list[tuple[str, str]]:
    """Collects what the bridge says about its state: `(state, why)`."""
    found: list[tuple[str, str]] = []
    service.system.bus.subscribe(
        lambda n: found.append((n.state, n.why)) if isinstance(n, StateChanged) else None
    )
    return found
