"""What strangers and accidents do to a gRPC service, and what is left of calls."""

import gc
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import trio

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import AskTimeout
from understudy.actors.handlers import message_pattern
from understudy.actors.ref import Ref
from understudy.supervisors.child import child, needs
from understudy.transports.grpc.call import Call

from ..serving import Service, serving, until
from .orders import Notes, Order, Orders, Query
from .peers import ORDERS, SHOP, Stub, calling, finished, shop

URL = "grpc://127.0.0.1:0"
QUERY = shop().by_path[f"{ORDERS}Find"].request


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def service(notes: Notes) -> AsyncIterator[Service]:
    async with serving(URL, child(Orders, notes, concurrency=64), proto=SHOP) as service:
        yield service
        notes.gate.set()


@pytest.fixture
async def stub(service: Service) -> AsyncIterator[Stub]:
    async with calling(service.url) as stub:
        yield stub


def find(order_id: int = 0) -> bytes:
    return bytes(QUERY(order_id=order_id).SerializeToString())


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 10_000, b"PRI * HTTP/2.0\r\n"])
async def test_who_does_not_speak_grpc_hurts_nobody(
    service: Service, stub: Stub, said: bytes
) -> None:
    host, port = service.url.removeprefix("grpc://").split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(said)
        answer = await stub.ask(f"{ORDERS}Find", find(1))

    assert answer.code == 0


async def test_callers_that_leave_in_the_middle_of_their_answers_leave_nothing_behind(
    service: Service, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            async with calling(service.url) as stub:
                call = stub.call(f"{ORDERS}Watch", find(500))
                await trio.to_thread.run_sync(next, call)
                call.cancel()
        await until(lambda: notes.seen.count("ended") == 10)
        await until(lambda: service.statistics().in_flight == 0)

    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_nothing_is_kept_of_calls_that_have_ended(stub: Stub, service: Service) -> None:
    for method in ("Find", "Watch", "Upload", "Chat", "Refuse", "Forgotten"):
        for _ in range(20):
            await stub.ask(f"{ORDERS}{method}", find(3) if method in ("Find", "Watch") else b"")
    left = stub.call(f"{ORDERS}Wait", find(3))
    await until(lambda: service.statistics().in_flight == 1)
    left.cancel()
    await until(lambda: service.statistics().in_flight == 0)

    # Some are still in the hands of whoever has handled them last.
    def kept() -> int:
        gc.collect()
        return sum(isinstance(thing, Call) for thing in gc.get_objects())

    await until(lambda: kept() < 12, within=30)


class Count(Request[int]):
    """Is answered too late."""


class Slow(Actor[Count]):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    async def receive(self, message: Count) -> int:
        await self.notes.gate.wait()
        return 0


class Hurried(Actor):
    def __init__(self, slow: Ref[Count], notes: Notes) -> None:
        self.slow, self.notes = slow, notes

    @message_pattern("Orders.Find")
    async def find(self, query: Query) -> Order:
        begin = trio.current_time()
        try:
            await self.slow.ask(Count(), timeout=60)
        except AskTimeout:
            self.notes.seen.append(trio.current_time() - begin)
        return Order(0)


async def test_a_deadline_holds_for_what_a_handler_asks_meanwhile(notes: Notes) -> None:
    children = [child(Slow, notes, name="slow"), child(Hurried, needs("slow"), notes)]
    async with serving(URL, *children, proto=SHOP) as service, calling(service.url) as stub:
        await stub.ask(f"{ORDERS}Find", find(), timeout=0.3)
        await until(lambda: notes.seen)
        notes.gate.set()

    assert notes.seen[0] < 5


async def test_a_thousand_calls_at_once_are_all_answered(stub: Stub) -> None:
    calls = [stub.call(f"{ORDERS}Find", find(number)) for number in range(1000)]
    answers = [await trio.to_thread.run_sync(finished, call) for call in calls]

    kind = shop().by_path[f"{ORDERS}Find"].answer
    ids = [kind.FromString(answer.messages[0]).order_id for answer in answers]
    assert ids == list(range(1000))


def test_a_library_that_is_not_installed_is_told_with_the_line_that_mends_it() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "from understudy import serve\n"
        "serve('grpc://127.0.0.1:0')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "grpc:// needs grpcio, " in done.stderr
    assert "pip install 'understudy[grpc]'" in done.stderr
