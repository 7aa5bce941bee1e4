"""What the tests of Redis share: actors that note what they see, and a plain client."""

from collections.abc import Callable
from typing import Any, cast

import redis
import trio

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern, message_pattern

__all__ = ["Echo", "Orders", "add", "causes", "eventually", "pending", "plain", "refusal"]


class Echo(Actor):
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        self.seen.append(data)
        return data


class Orders(Actor):
    """Notes the number of each order, its attempt, and whether it was flagged."""

    def __init__(self, seen: list[Any], gate: trio.Event | None = None) -> None:
        self.seen = seen
        self.gate = gate

    @event_pattern("placed")
    async def placed(self, number: int, context: MessageContext) -> None:
        self.seen.append((number, context.attempt, context.redelivered))
        if self.gate is not None:
            await self.gate.wait()

    @event_pattern("facts")
    async def facts(self, data: Any, context: MessageContext) -> None:
        self.seen.append((data, context.source, context.message_id, dict(context.headers)))

    @event_pattern("poison")
    async def poison(self, data: Any) -> None:
        self.seen.append(data)
        raise ValueError("poison")

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data


def plain(url: str) -> redis.Redis:
    """redis-py, to look and meddle with."""
    return redis.Redis.from_url(url)


def add(url: str, stream: str, *numbers: int, pattern: str = "placed") -> list[bytes]:
    """Entries as another program adds them."""
    with plain(url) as client:
        return [
            cast(
                bytes, client.xadd(stream, {"packet": f'{{"pattern":"{pattern}","data":{number}}}'})
            )
            for number in numbers
        ]


def pending(url: str, stream: str, group: str = "g") -> int:
    """How many entries are read and not acknowledged."""
    with plain(url) as client:
        return int(cast(Any, client.xpending(stream, group))["pending"])


async def eventually(condition: Callable[[], object], *, within: float = 20.0) -> None:
    """Look every now and then until it holds."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110  # what another process does tells nobody
            await trio.sleep(0.02)


def causes(error: BaseException) -> str:
    """All texts of an error and of what caused it."""
    found: list[str] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None:
            found.append(str(each))
            todo += [each.__cause__, *getattr(each, "exceptions", ())]
    return "\n".join(found)


async def refusal(start: Callable[[], Any]) -> str:
    """Why a service does not start."""
    try:
        async with start():
            return "it started"
    except Exception as error:  # noqa: BLE001  # whatever it is, its text is looked at
        return causes(error)
