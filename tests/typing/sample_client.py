"""What type checkers see of a client: checked, never run."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from understudy import Actor, Client, MessageContext, message_pattern


class Orders(Actor):
    @message_pattern("count")
    async def count(self) -> int:
        return 1

    @message_pattern("find")
    async def find(self, id: int) -> str:
        return str(id)

    @message_pattern("find.sync")
    def find_sync(self, id: int, context: MessageContext) -> str:
        return str(id)

    @message_pattern("all")
    async def all(self) -> AsyncIterator[str]:
        yield "one"

    @message_pattern("some")
    async def some(self, count: int) -> AsyncIterator[str]:
        yield "one"


async def send(client: Client) -> None:
    assert_type(await client.send(Orders.find, 7), str)
    assert_type(await client.send(Orders.find_sync, 7), str)
    assert_type(await client.send(Orders.count), int)
    assert_type(await client.send(Orders.count, None), int)
    assert_type(await client.send("find", 7, returns=str), str)
    assert_type(await client.send("find", 7), Any)
    await client.send(Orders.find, "7")  # type: ignore[arg-type]
    await client.emit(Orders.find, "7")  # type: ignore[arg-type]


async def stream(client: Client) -> None:
    async for item in client.stream(Orders.some, 3):
        assert_type(item, str)
    async for item in client.stream(Orders.all):
        assert_type(item, str)
    async for number in client.stream("some", returns=int):
        assert_type(number, int)
