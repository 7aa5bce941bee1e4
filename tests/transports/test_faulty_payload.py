"""A bug in a payload's class costs its message, not the bridge that read it."""

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from understudy import (
    Actor,
    RpcError,
    Supervisor,
    child,
    connect,
    event_pattern,
    message_pattern,
    running,
    serve,
)


def _buggy(instance: object, attribute: object, value: int) -> None:
    raise AttributeError("a bug of the program")


@attrs.define
class Faulty:
    number: int = attrs.field(validator=_buggy)


class Shop(Actor):
    @message_pattern("ask")
    async def ask(self, data: Faulty) -> int:
        return data.number

    @event_pattern("told")
    async def told(self, data: Faulty) -> None: ...

    @message_pattern("echo")
    async def echo(self, data: int) -> int:
        return data


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "memory://faulty"], ids=["tcp", "memory"])
async def test_a_payload_class_that_fails_ends_neither_the_bridge_nor_the_connection(
    url: str,
) -> None:
    tree = Supervisor("shop", [child(Shop), serve(url, name="bridge")], max_restarts=0)
    async with running(tree) as system:
        async with connect(system.addresses().get("shop/bridge", url)) as client:
            with pytest.raises(RpcError, match="Internal server error"):
                await client.send("ask", {"number": 1})
            await client.emit("told", {"number": 1})
            assert await client.send("echo", 7) == 7
        await wait_all_tasks_blocked()
        (letter,) = await system.dead_letters()

    assert (letter.reason, letter.error) == ("crashed", "AttributeError: a bug of the program")
