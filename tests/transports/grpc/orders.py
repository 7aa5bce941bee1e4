"""The service that these tests ask: what a handler of each kind of method may do."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import trio
from attrs import define, field

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import Retry, RpcError
from understudy.actors.handlers import message_pattern
from understudy.transports.grpc.upload import CallerLeft

__all__ = ["Line", "Notes", "Order", "Orders", "Query"]


@define
class Query:
    order_id: int


@define
class Line:
    sku: str
    quantity: int = 0


@define
class Order:
    order_id: int
    lines: list[Line] = field(factory=list)
    note: str | None = None
    placed_at: datetime | None = None


class Notes:
    """What a test and the actor know together."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = trio.Event()


class Orders(Actor):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @message_pattern("Orders.Find")
    async def find(self, query: Query) -> Order:
        return Order(query.order_id, [Line("tea", 2)], "in a hurry")

    @message_pattern("Orders.Place")
    async def place(self, order: Order) -> Order:
        return order

    @message_pattern("Orders.Refuse")
    async def refuse(self, refusal: dict[str, Any]) -> Any:
        match refusal["how"]:
            case "number":
                return 7
            case "unknown field":
                return {"orderld": 7}
            case "later":
                raise Retry("the till is closed")
            case "text":
                raise RpcError("no tea")
            case "metadata":
                metadata = {"x-why": "no tea", "x-raw-bin": b"\0\1"}
                raise RpcError({"code": 9, "message": "no", "metadata": metadata})
            case "bad metadata":
                raise RpcError({"code": 9, "message": "no", "metadata": {"é": "x"}})
            case "long":
                raise RpcError({"code": 3, "message": "é" * 100_000})
            case "odd code":
                raise RpcError({"code": 77, "message": "no"})
            case "details":
                raise RpcError({"code": 5, "message": "no", "details": "no tea today"})
        raise RpcError({"code": 5, "message": "nope"})

    @message_pattern("Orders.Crash")
    async def crash(self, query: Query) -> Order:
        raise ValueError("a secret")

    @message_pattern("Orders.Wait")
    async def wait(self, query: Query) -> Order:
        self.notes.seen.append(query.order_id)
        await self.notes.gate.wait()
        return Order(query.order_id)

    @message_pattern("Orders.Context")
    async def context(self, query: Query, context: MessageContext) -> dict[str, Any]:
        names = ("transport", "source", "pattern", "message_id", "correlation_id", "headers")
        found = {name: getattr(context, name) for name in names}
        return {**found, "seconds": min(context.deadline - trio.current_time(), 1e6)}

    @message_pattern("Orders.Watch")
    async def follow(self, query: Query) -> AsyncIterator[Order]:
        try:
            for number in range(query.order_id):
                self.notes.seen.append(number)
                yield Order(number, note="x" * 10_000)
            if not query.order_id:
                yield Order(0)
                await trio.sleep_forever()
        finally:
            self.notes.seen.append("ended")

    @message_pattern("Orders.Upload")
    async def upload(self, lines: AsyncIterator[Line]) -> Order:
        taken = []
        try:
            async for line in lines:
                taken.append(line)
                self.notes.seen.append(line.sku)
                if line.sku == "wait":
                    await self.notes.gate.wait()
                if line.sku == "enough":
                    return Order(len(taken))
            self.notes.seen.append("all of it")
        except CallerLeft as error:
            self.notes.seen.append(str(error))
            raise
        finally:
            self.notes.seen.append("ended")
        return Order(len(taken), taken[:1])

    @message_pattern("Orders.Chat")
    async def chat(self, lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        try:
            async for line in lines:
                self.notes.seen.append(line.sku)
                if line.sku == "stop":
                    return
                yield Line(line.sku.upper(), line.quantity + 1)
            self.notes.seen.append("all of it")
        finally:
            self.notes.seen.append("ended")
