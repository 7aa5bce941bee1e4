"""A handler that is streamed to, where nothing of gRPC is in between."""

from collections.abc import AsyncIterator

import pytest

from understudy.actors.errors import RpcError
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running

from ..serving import serving
from .orders import Line, Notes, Order, Orders


async def two_lines() -> AsyncIterator[Line]:
    yield Line("tea")
    yield Line("jam")


async def test_an_actor_may_be_asked_with_a_stream() -> None:
    async with running(Supervisor("shop", [child(Orders, Notes())])) as system:
        assert await system.ref(Orders).ask(Orders.upload, two_lines()) == Order(2, [Line("tea")])


async def test_a_transport_without_such_requests_refuses_them() -> None:
    async with serving("memory://uploads", child(Orders, Notes())) as service:
        async with service.client() as client:
            with pytest.raises(RpcError, match="expected a stream of messages, got an array"):
                await client.send("Orders.Upload", [{"sku": "tea"}])
