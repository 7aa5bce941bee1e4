"""The service that the contract suite asks: one handler for each thing that can happen."""

from collections.abc import AsyncIterator
from typing import Any

import trio
from attrs import define

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern

__all__ = ["Auditor", "Line", "Notes", "Order", "Shop"]


@define
class Line:
    sku: str
    quantity: int


@define
class Order:
    id: int
    lines: list[Line]
    note: str | None = None


class Notes:
    """What a test and the actors of its service know together."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = trio.Event()
        self.gates = {number: trio.Event() for number in range(64)}


class Shop(Actor):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern({"cmd": "total"})
    async def total(self, order: Order) -> int:
        return sum(line.quantity for line in order.lines)

    @message_pattern("find")
    async def find(self, id: int) -> Order:
        return Order(id, [Line("tea", 2)], "in a hurry")

    @message_pattern("nothing")
    async def nothing(self) -> None:
        pass

    @message_pattern("refuse")
    async def refuse(self, error: Any) -> None:
        raise RpcError(error)

    @message_pattern("crash")
    async def crash(self) -> None:
        raise ValueError("a secret")

    @message_pattern("later")
    async def later(self) -> None:
        raise Retry("the till is closed", after=0.1)

    @message_pattern("unwritable")
    async def unwritable(self) -> object:
        return object()

    @message_pattern("wait")
    async def wait(self, number: int) -> int:
        self.notes.seen.append(number)
        await self.notes.gates[number].wait()
        return number

    @message_pattern("context")
    async def context(self, data: Any, context: MessageContext) -> dict[str, Any]:
        return facts(context)

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @message_pattern("count.fail")
    async def count_fail(self, error: str) -> AsyncIterator[int]:
        yield 1
        if error == "crash":
            raise ValueError("a secret")
        raise RpcError(error)

    @message_pattern("count.on")
    async def count_on(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "tick" * 1000
                await trio.lowlevel.checkpoint()
        finally:
            self.notes.seen.append("ended")

    @message_pattern("count.wait")
    async def count_wait(self) -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            self.notes.seen.append("ended")

    @event_pattern("sold")
    async def sold(self, item: Any) -> None:
        await self.notes.gate.wait()
        self.notes.seen.append(item["number"] if isinstance(item, dict) else item)

    @event_pattern("poison")
    async def poison(self, item: Any, context: MessageContext) -> None:
        self.notes.seen.append(facts(context))
        raise ValueError("a secret")


class Auditor(Actor):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("sold")
    def sold(self, item: Any) -> None:
        self.notes.seen.append(f"audited {item}")


def facts(context: MessageContext) -> dict[str, Any]:
    names = ["transport", "source", "pattern", "message_id", "correlation_id", "headers"]
    return {name: getattr(context, name) for name in [*names, "attempt", "redelivered"]}
