"""gRPC calls that bring a stream, between ours and NestJS's gRPC service and client.

The service is streams.proto's; test_nestjs.py has the calls that bring one message.
"""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from attrs import frozen

from understudy.actors.actor import Actor
from understudy.actors.errors import RpcError
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from .processes import PEERS, call, free_port, started

pytestmark = pytest.mark.timeout(300)  # the first run installs NestJS

PROTO: Final[dict[str, Any]] = {"proto": str(PEERS / "streams.proto"), "package": "streams"}


@frozen
class Part:
    value: int


class Streams(Actor):
    @message_pattern("Streams.Total")
    async def total(self, parts: AsyncIterator[Part]) -> Part:
        return Part(sum([part.value async for part in parts]))

    @message_pattern("Streams.Running")
    async def running(self, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        total = 0
        async for part in parts:
            total += part.value
            yield Part(total)

    @message_pattern("Streams.Refuse")
    async def refuse(self, parts: AsyncIterator[Part]) -> Part:
        raise RpcError({"code": 9, "message": "not now"})


async def parts(count: int) -> AsyncIterator[Part]:
    for value in range(1, count + 1):
        yield Part(value)


async def test_a_nestjs_client_streams_to_our_service(nest: Path) -> None:
    tree = Supervisor("streams", [child(Streams), serve("grpc://127.0.0.1:0", **PROTO)])
    async with running(tree) as system:
        url = system.addresses()["streams/grpc"]
        command = ["node", "client.mjs", "grpc-streams", url]
        code, cases = await trio.to_thread.run_sync(partial(call, command, cwd=nest))

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, 7)


async def test_our_client_streams_to_a_nestjs_service(nest: Path, tmp_path: Path) -> None:
    url = f"grpc://127.0.0.1:{free_port()}"
    command = ["node", str(nest / "server.mjs"), "grpc-streams", url]
    with started(command, tmp_path / "log"):
        async with connect(url, **PROTO) as client:
            assert await client.send("Streams.Total", parts(1000), returns=Part) == Part(500_500)
            assert await client.send("Streams.Total", parts(0), returns=Part) == Part(0)
            totals = client.stream("Streams.Running", parts(3), returns=Part)
            assert [part.value async for part in totals] == [1, 3, 6]
            with pytest.raises(RpcError, match="not now") as caught:
                await client.send("Streams.Refuse", parts(3))

    assert caught.value.error["code"] == 9
