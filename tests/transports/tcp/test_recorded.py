"""Every byte recorded between NestJS peers, over a real socket to and from ours."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.interop import tree
from understudy.actors.errors import ConnectionLost, RpcError
from understudy.supervisors.system import running
from understudy.transports.client import connect
from understudy.transports.codec import nest

from .wire import Wire, answering, wired

VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED = [
    (vector["direction"] == "nest-client -> nest-server", vector["raw_text"].encode())
    for vector in json.loads((VECTORS / "tcp.json").read_text())["vectors"]
    if "raw_text" in vector  # messages over 3000 bytes were left out
][:-1]  # the last request was recorded without its answer
EDGES = json.loads((VECTORS / "tcp_edges.json").read_text())
SERVER_EDGES = {edge["case"]: edge for edge in EDGES if "sent" in edge}
CLIENT_EDGES = {edge["case"]: edge for edge in EDGES if "reply_frames" in edge}

# The recorded service says this where the one in examples/ says "refused".
OTHER_TEXT = (b'"message":"just text"', b'"message":"refused"')

# Where ours answers otherwise, on purpose: what it sends, whether it closes, and why.
SERVER_DEPARTURES = {
    "valid frame, invalid JSON, valid frame in one write": (
        b'46#{"response":1,"isDisposed":true,"id":"before"}',
        True,
        "docs/tcp.md: good frames before a bad one are answered",
    ),
    "no # at all, 200 bytes": (b"", True, "docs/tcp.md: the first byte tells the dialects apart"),
}
CLIENT_DEPARTURES = {
    "client gets: invalid JSON reply": "docs/tcp.md: an invalid reply fails the calls at once",
}


@asynccontextmanager
async def interop() -> AsyncIterator[str]:
    async with running(tree("tcp://127.0.0.1:0", {})) as system:
        yield system.addresses()["interop/tcp"]


def id_of(frame: bytes) -> Any:
    return msgspec.json.decode(frame.partition(b"#")[2]).get("id")


def by_id(frames: list[bytes]) -> dict[Any, list[bytes]]:
    found: dict[Any, list[bytes]] = {}
    for frame in frames:
        found.setdefault(id_of(frame), []).append(frame)
    return found


def reframed(frame: bytes, old: bytes, new: bytes) -> bytes:
    return nest.frame(frame.partition(b"#")[2].replace(old, new))


async def test_the_recorded_conversation_gets_the_recorded_bytes() -> None:
    expected: list[bytes] = []
    answers: list[bytes] = []
    async with interop() as url, wired(url) as wire:
        for is_request, frame in RECORDED:
            if is_request:
                answers += map(nest.frame, await wire.bodies(len(expected) - len(answers)))
                await wire.send(frame)
            else:
                expected.append(reframed(frame, *OTHER_TEXT))
        answers += map(nest.frame, await wire.bodies(len(expected) - len(answers)))

    assert len(expected) == 28
    assert by_id(answers) == by_id(expected)


@pytest.mark.parametrize("case", SERVER_EDGES)
async def test_the_service_answers_as_nestjs_does(case: str) -> None:
    edge = SERVER_EDGES[case]
    sent = [deep()] if edge["sent"] == "long" else [piece.encode() for piece in edge["sent"]]
    expected = (edge["received"].encode(), edge["connection_closed_by_nest"])
    answer, closes = SERVER_DEPARTURES.get(case, expected)[:2]

    async with interop() as url, wired(url) as wire:
        await wire.send(*sent)
        if closes:
            assert await wire.rest() == answer
        else:
            assert await wire.exactly(len(answer)) == answer
            assert await wire.probe() == b""


@pytest.mark.parametrize("case", CLIENT_EDGES)
async def test_the_client_takes_replies_as_nestjs_does(case: str) -> None:
    edge = CLIENT_EDGES[case]
    frames = [frame.encode() for frame in edge["reply_frames"] or []]
    ids: list[bytes] = []

    async def serve(wire: Wire) -> None:
        (body,) = await wire.bodies(1)
        ids.append(id_of(b"#" + body).encode())
        await wire.send(*(reframed(frame, b"<id>", ids[0]) for frame in frames))
        if frames:
            await wire.rest()

    async with answering(serve) as url, connect(url) as client:
        got = await outcome(client.stream("any", 1))

    assert got == expected_of(edge, ids[0].decode())


@pytest.mark.parametrize("table", [SERVER_DEPARTURES, CLIENT_DEPARTURES], ids=["server", "client"])
def test_departures_are_cases_that_were_recorded(table: dict[str, Any]) -> None:
    assert table.keys() <= {*SERVER_EDGES, *CLIENT_EDGES}


def deep() -> bytes:
    pattern = b"[" * 20_000 + b"]" * 20_000
    return nest.frame(b'{"pattern":' + pattern + b',"data":1,"id":"deep"}')


async def outcome(items: AsyncIterator[Any]) -> Any:
    values: list[Any] = []
    try:
        async for item in items:
            values.append(item)
    except RpcError as error:
        return {"error": error.error}
    except ConnectionLost:
        return {"error": "connection lost"}
    return {"values": values}


def expected_of(edge: dict[str, Any], id: str) -> Any:
    if not edge["reply_frames"] or edge["case"] in CLIENT_DEPARTURES:
        return {"error": "connection lost"}
    result = edge["nest_client_result"]
    recorded_id = json.dumps("ef3e6bf9a2e624e0a356d")
    return json.loads(json.dumps(result).replace(recorded_id, json.dumps(id)))
