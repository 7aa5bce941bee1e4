"""Every call recorded between NestJS peers, to and from ours."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import attrs
import pytest
from attrs import frozen

from understudy.actors.actor import Actor
from understudy.actors.errors import NoResponders, RpcError
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ..serving import serving
from .peers import PEER, answering, calling

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "grpc.json"


@attrs.define
class Recorded:
    """One call: what was sent, what came back, and its status."""

    path: str
    sent: list[bytes] = attrs.field(factory=list)
    received: list[bytes] = attrs.field(factory=list)
    status: tuple[int, str] = (0, "")


def recorded() -> list[Recorded]:
    calls: dict[tuple[str, int], Recorded] = {}
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        frame = vector["decoded"] or {}
        key = (vector["conn"], frame.get("stream", 0))
        headers = dict(frame.get("headers", ()))
        if ":path" in headers:
            calls[key] = Recorded(headers[":path"])
        if "grpc-status" in headers:
            text = unquote(headers["grpc-message"])
            calls[key].status = int(headers["grpc-status"]), "" if text == "OK" else text
        for message in frame.get("grpc_messages", ()):
            body = bytes.fromhex(message["protobuf_hex"])
            ours = vector["direction"].startswith("nest-client")
            (calls[key].sent if ours else calls[key].received).append(body)
    return list(calls.values())


RECORDED: Final = recorded()


@frozen
class Number:
    value: int


@frozen
class Numbers:
    values: list[int]


@frozen
class Text:
    text: str


@frozen
class User:
    id: str
    name: str


class Peer(Actor):
    """What the recorded service does."""

    def __init__(self) -> None:
        self.users: list[User] = []

    @message_pattern("Peer.Sum")
    async def sum(self, numbers: Numbers) -> Number:
        return Number(sum(numbers.values))

    @message_pattern("Peer.Echo")
    async def echo(self, text: Text) -> Text:
        return text

    @message_pattern("Peer.FailRpc")
    async def fail_rpc(self) -> Text:
        raise RpcError({"code": 5, "message": "nope"})

    @message_pattern("Peer.FailPlain")
    async def fail_plain(self) -> Text:
        raise ValueError("a secret")

    @message_pattern("Peer.Count")
    async def count(self, to: Number) -> AsyncIterator[Number]:
        for number in range(to.value):
            yield Number(number + 1)

    @message_pattern("Peer.Collect")
    async def collect(self, numbers: AsyncIterator[Number]) -> Number:
        return Number(sum([number.value async for number in numbers]))

    @message_pattern("Peer.Chat")
    async def chat(self, texts: AsyncIterator[Text]) -> AsyncIterator[Text]:
        async for text in texts:
            yield Text(text.text.upper())

    @message_pattern("peer.Peer.UserCreated")
    async def user_created(self, user: User) -> None:
        self.users.append(user)

    @message_pattern("peer.Peer.Seen")
    async def seen(self) -> dict[str, list[User]]:
        return {"users": self.users}


async def test_every_recorded_call_is_answered_as_by_nestjs() -> None:
    assert len(RECORDED) == 13
    url = "grpc://127.0.0.1:0"
    async with serving(url, child(Peer), proto=PEER) as service, calling(service.url) as stub:
        for call in RECORDED:
            answer = await stub.ask(call.path, *call.sent)
            assert (answer.messages, answer.code, answer.text) == (call.received, *call.status)


def replaying(call: Recorded, seen: list[bytes]) -> Any:
    from understudy.transports.grpc.library import STATUS

    def replay(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        seen.extend(messages)
        yield from call.received
        if call.status[0]:
            context.abort(STATUS[call.status[0]], call.status[1])

    return replay


async def each(*items: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for item in items:
        yield item


NUMBERS: Final = [{"value": 1}, {"value": 2}, {"value": 3}]
ADA: Final = {"id": "858a528c-04a5-4769-bcf9-b610a3d8eb18", "name": "Ada"}


@pytest.mark.parametrize(
    ("method", "data", "result"),
    [
        ("Sum", {"values": [1, 2, 3]}, {"value": 6}),
        ("Echo", {"text": "héllo ✓ 😀"}, {"text": "héllo ✓ 😀"}),
        ("FailRpc", {}, {"code": 5, "message": "nope"}),
        ("FailPlain", {}, {"code": 2, "message": "Internal server error"}),
        ("Count", {"value": 3}, NUMBERS),
        ("Collect", NUMBERS, {"value": 6}),
        ("Chat", [{"text": "a"}, {"text": "b"}], [{"text": "A"}, {"text": "B"}]),
        ("Missing", {}, None),
        ("UserCreated", ADA, {}),
        ("Seen", {}, {"users": [ADA]}),
    ],
)
async def test_our_calls_are_those_of_nestjs_and_its_answers_are_understood(
    method: str, data: Any, result: Any
) -> None:
    call = next(call for call in RECORDED if call.path.endswith(f"/{method}"))
    seen: list[bytes] = []
    found: Any
    async with answering({call.path: replaying(call, seen)}) as url:
        async with connect(url, proto=PEER) as client:
            sent = each(*data) if isinstance(data, list) else data
            try:
                if isinstance(result, list):
                    found = [item async for item in client.stream(f"Peer.{method}", sent)]
                else:
                    found = await client.send(f"Peer.{method}", sent)
            except RpcError as error:
                found = error.error
            except NoResponders:
                found = None

    assert (found, seen) == (result, call.sent)
