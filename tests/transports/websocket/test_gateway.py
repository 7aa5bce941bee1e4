"""NestJS's gateways: what they answer is recorded, and what ours answers is the same.

The record is asked of the real program again where Node is there.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.websocket.clients import Clients

from ...interop.processes import nest_folder, started
from ..serving import Service, serving, until
from .talk import URL, Socket, socketed

RECORDED: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "nestjs_12_1_1_gateway.json").read_text()
)
PROBE: Final = '{"event":"bare","data":"probe"}'


class Gateway(Actor):
    """The events of tests/peers/nest/gateway.mjs, with the same answers."""

    def __init__(self, clients: Clients, seen: list[Any]) -> None:
        self.clients, self.seen = clients, seen

    @message_pattern("echo")
    def echo(self, data: Any = None) -> Any:
        return {"event": "echoed"} if data is None else {"event": "echoed", "data": data}

    @message_pattern("bare")
    def bare(self, data: Any = None) -> Any:
        return data

    @message_pattern("nothing")
    def nothing(self) -> None:
        pass

    @message_pattern("fail.text")
    def fail_text(self) -> None:
        raise RpcError("refused")

    @message_pattern("fail.object")
    def fail_object(self) -> None:
        raise RpcError({"status": 404, "message": "nope"})

    @message_pattern("fail.plain")
    def fail_plain(self) -> None:
        raise ValueError("a secret that no caller may see")

    @message_pattern("stream")
    async def stream(self, n: int) -> AsyncIterator[Any]:
        for number in range(n):
            yield {"event": "item", "data": number}

    @message_pattern("stream.fail")
    async def stream_fail(self) -> AsyncIterator[Any]:
        yield {"event": "item", "data": 1}
        raise RpcError("mid")

    @message_pattern("announce")
    def announce(self, data: Any) -> None:
        self.clients.emit("news", data)

    @message_pattern("ids")
    def ids(self, data: Any, context: MessageContext) -> Any:
        return [context.message_id, context.correlation_id]

    @event_pattern("told")
    def told(self, data: int) -> None:
        self.seen.append(data)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
async def gateway(seen: list[Any]) -> AsyncIterator[Service]:
    clients = Clients()
    spec = child(Gateway, clients, seen)
    async with serving(URL, spec, dialect="gateway", clients=clients) as service:
        yield service


async def answers(socket: Socket, message: str) -> list[str]:
    """Everything that comes for a message, up to the answer to the next one."""
    await socket.send(message, PROBE)
    found: list[str] = []
    while (answer := await socket.inner.get_message()) != '"probe"':
        found.append(str(answer))
    return found


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["sent"])
async def test_ours_answers_as_nestjs_does(gateway: Service, case: dict[str, Any]) -> None:
    async with socketed(gateway.url) as socket:
        assert await answers(socket, case["sent"]) == case["answers"]


async def test_nestjs_answers_as_is_recorded(tmp_path: Path) -> None:
    command = ["node", str(nest_folder() / "gateway.mjs")]
    with started(command, tmp_path / "log") as peer:
        async with socketed(peer.said[-1]) as socket:
            found = [
                {"sent": case["sent"], "answers": await answers(socket, case["sent"])}
                for case in RECORDED
            ]

    assert found == RECORDED


async def test_an_event_that_only_events_handle_has_no_answer_and_is_kept_if_it_does_not_fit(
    gateway: Service, seen: list[Any]
) -> None:
    async with socketed(gateway.url) as socket:
        assert await answers(socket, '{"event":"told","data":1}') == []
        assert await answers(socket, '{"event":"told","data":"x"}') == []
        await until(lambda: seen == [1])
    (letter,) = await gateway.dead_letters()

    assert (letter.pattern, letter.body, letter.reason) == ("told", b'"x"', "does not fit")


async def test_data_that_does_not_fit_is_an_exception_with_every_wrong_field(
    gateway: Service,
) -> None:
    async with socketed(gateway.url) as socket:
        (answer,) = await answers(socket, '{"event":"stream","data":"x"}')

    error = json.loads(answer)
    assert (error["event"], error["data"]["status"]) == ("exception", 400)
    assert error["data"]["errors"] == [
        {"path": "$", "message": "expected an integer, got a string"}
    ]


async def test_every_message_has_an_id_of_its_own(gateway: Service) -> None:
    async with socketed(gateway.url) as socket:
        (first,) = await answers(socket, '{"event":"ids"}')
        (second,) = await answers(socket, '{"event":"ids"}')

    assert json.loads(first) != json.loads(second)
    assert json.loads(first)[0].startswith("ws-1-127.0.0.1:")


async def test_what_nobody_handles_is_counted_and_not_stored(gateway: Service) -> None:
    async with socketed(gateway.url) as socket:
        assert await answers(socket, '{"event":"nobody","data":1}') == []

    assert gateway.statistics().refused == {"requests without a handler": 1}
    assert await gateway.dead_letters() == []
