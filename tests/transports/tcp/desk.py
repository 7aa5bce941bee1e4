"""The service that the tests of TCP talk to."""

from collections.abc import AsyncIterator
from typing import Any

import trio

from understudy.actors.actor import Actor
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child

__all__ = ["Desk", "Scene"]


class Desk(Actor):
    def __init__(self, gate: trio.Event, seen: list[Any]) -> None:
        self.gate, self.seen = gate, seen

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern("sum")
    async def sum(self, numbers: list[int]) -> int:
        return sum(numbers)

    @message_pattern("wait")
    async def wait(self, data: Any) -> Any:
        self.seen.append(data)
        await self.gate.wait()
        return data

    @message_pattern("flop")
    async def flop(self, _: Any) -> None:
        raise RpcError("flop")

    @message_pattern("big")
    async def big(self, size: int) -> str:
        return "x" * size

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @message_pattern("flood")
    async def flood(self, size: int) -> AsyncIterator[str]:
        try:
            for number in range(2_000):
                self.seen.append(number)
                yield "x" * size
        finally:
            self.seen.append("ended")

    @event_pattern("told")
    async def told(self, data: Any) -> None:
        self.seen.append(data)


class Scene:
    """What a test has in hand: the gate that holds `wait`, and what handlers have seen."""

    def __init__(self) -> None:
        self.gate, self.seen = trio.Event(), list[Any]()

    def desk(self, **options: Any) -> Any:
        return child(Desk, self.gate, self.seen, **{"concurrency": 64, **options})
