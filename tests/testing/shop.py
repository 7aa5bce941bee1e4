"""The small service that the tests of the kit use: orders, and the mail it sends."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import attrs
import trio

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child, needs
from understudy.transports.bridge import serve

__all__ = ["Add", "Count", "Mail", "Orders", "Worker", "shop"]


@attrs.frozen
class Add:
    number: int


class Count(Request[int]):
    pass


class Mail(Actor[Add | Count]):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.count = 0

    def receive(self, message: Add | Count) -> int | None:
        if isinstance(message, Add):
            self.count += message.number
            return None
        return self.count


class Orders(Actor):
    """Tells the mail of every order."""

    def __init__(self, mail: Ref[Mail]) -> None:
        self.mail = mail

    @message_pattern("orders.find")
    async def find(self, id: int) -> str:
        if id == 0:
            raise RpcError("there is no order 0")
        return f"order {id}"

    @message_pattern("orders.all")
    async def all(self, number: int) -> AsyncIterator[int]:
        for item in range(number):
            yield item

    @message_pattern("orders.thread", thread=True)
    def thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    @message_pattern("orders.sleep")
    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "awake"

    @event_pattern("orders.created")
    async def on_created(self, number: int) -> None:
        if number < 0:
            raise ValueError("no such number")
        if number == 0:
            raise Retry("not yet", after=60)
        self.mail.tell(Add(number))


class Worker(Actor):
    """One handler of every kind, so that faults meet all of them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @message_pattern("plain")
    def plain(self, data: Any) -> Any:
        return ["plain", data]

    @message_pattern("async")
    async def asynchronous(self, data: Any) -> Any:
        return ["async", data]

    @message_pattern("thread", thread=True)
    def thread(self, data: Any) -> Any:
        return ["thread", data]

    @message_pattern("asyncio", loop="asyncio")
    async def in_asyncio(self, data: Any) -> Any:
        return ["asyncio", data]

    @message_pattern("nap", loop="asyncio")
    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    @message_pattern("stream")
    async def stream(self, data: Any) -> AsyncIterator[Any]:
        yield "stream"
        yield data

    @event_pattern("batch", batch=3)
    async def batch(self, items: list[int]) -> None:
        self.seen.append(items)

    @message_pattern("seen")
    async def batches(self) -> list[Any]:
        return self.seen


def shop() -> Supervisor:
    """The tree as a program would have it, with bridges of its own."""
    front = Supervisor("front", [child(Orders, needs("mail")), serve("tcp://127.0.0.1:1")])
    bridge = serve("tcp://127.0.0.1:1", name="main")
    return Supervisor("shop", [child(Mail), bridge, front], max_restarts=5)
