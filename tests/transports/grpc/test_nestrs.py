"""nestrs's service, to the byte: as prost writes and reads its messages."""

from collections.abc import Iterator
from typing import Any

import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import RpcError
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect
from understudy.transports.grpc.messages import EMIT, SEND

from ..serving import serving, until
from ..shop import Notes, Shop
from .peers import answering, calling

URL = "grpc://127.0.0.1:0"


def text(number: int, value: bytes) -> bytes:
    """A field of text or bytes, shorter than 128."""
    return bytes([number << 3 | 2, len(value)]) + value


def flag(number: int) -> bytes:
    return bytes([number << 3, 1])


class Strict(Actor):
    @message_pattern("refuse.details")
    async def refuse(self, error: dict[str, object]) -> None:
        raise RpcError(error)


@pytest.mark.parametrize(
    ("pattern", "payload", "answer"),
    [
        (b"echo", b'{"a":1}', flag(1) + text(2, b'{"a":1}')),
        (b"nothing", b"null", flag(1) + text(2, b"null")),
        (b"refuse", b'"no tea"', text(3, b"no tea")),
        (
            b"refuse.details",
            b'{"message":"no","status":404}',
            text(3, b"no") + text(4, b'{"status":404}') + flag(5),
        ),
        (b"crash", b"null", text(3, b"Internal server error")),
        (b"no.body", b"1", text(3, b"no microservice handler for pattern `no.body`")),
        (b"count", b"3", text(3, b"Internal server error")),
    ],
)
async def test_send_is_answered_as_by_nestrs(pattern: bytes, payload: bytes, answer: bytes) -> None:
    async with (
        serving(URL, child(Shop, Notes()), child(Strict), dialect="nestrs") as service,
        calling(service.url) as stub,
    ):
        found = await stub.ask(SEND, text(1, pattern) + text(2, payload))

    assert (found.code, found.messages) == (0, [answer])


async def test_emit_is_answered_when_it_is_taken() -> None:
    notes = Notes()
    async with (
        serving(URL, child(Shop, notes), dialect="nestrs") as service,
        calling(service.url) as stub,
    ):
        found = await stub.ask(EMIT, text(1, b"sold") + text(2, b'"tea"'))
        before = list(notes.seen)
        notes.gate.set()
        await until(lambda: notes.seen == ["tea"])
        lost = await stub.ask(EMIT, text(1, b"no.body") + text(2, b"1"))
        letters = await service.dead_letters()

    assert (found.messages, lost.messages, before) == ([flag(1)], [flag(1)], [])
    assert [(letter.pattern, letter.reason) for letter in letters] == [("no.body", "no handler")]


@pytest.mark.parametrize("path", [SEND, EMIT])
@pytest.mark.parametrize("payload", [b"{", b"", b"\xff"])
async def test_what_is_no_json_is_refused_as_by_nestrs(path: str, payload: bytes) -> None:
    async with (
        serving(URL, child(Shop, Notes()), dialect="nestrs") as service,
        calling(service.url) as stub,
    ):
        found = await stub.ask(path, text(1, b"find") + text(2, payload))

    assert (found.code, found.text) == (3, "invalid json payload")


async def test_our_requests_are_those_of_nestrs() -> None:
    seen: list[bytes] = []

    def answer(messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
        seen.extend(messages)
        yield flag(1)

    async with answering({SEND: answer, EMIT: answer}) as url:
        async with connect(url, dialect="nestrs") as client:
            assert await client.send("echo", {"a": 1}) is None
            await client.send("echo")
            await client.emit("sold", "tea")

    assert seen == [
        text(1, b"echo") + text(2, b'{"a":1}'),
        text(1, b"echo") + text(2, b"null"),
        text(1, b"sold") + text(2, b'"tea"'),
    ]


async def test_an_error_of_nestrs_has_its_message_and_details() -> None:
    def refuse(first: int) -> Any:
        def answer(_: Iterator[bytes], __: Any) -> Iterator[bytes]:
            yield text(first, b"no") + text(first + 1, b"[1]") + flag(first + 2)

        return answer

    async with answering({SEND: refuse(3), EMIT: refuse(2)}) as url:
        async with connect(url, dialect="nestrs") as client:
            with pytest.raises(RpcError) as sent:
                await client.send("echo", 1)
            with pytest.raises(RpcError) as emitted:
                await client.emit("echo", 1)

    assert sent.value.error == emitted.value.error == {"message": "no", "details": [1]}
