"""Ours and NestJS's, each as the service of the other, as real programs.

A transport is one row of `TRANSPORTS`. Each test starts its own service and ends it, since on
a shared NATS, Redis or mosquitto every service that listens would answer; RabbitMQ's queue and
Kafka's group have a name of their own each time.

What a transport cannot carry is no case there. Kafka has no object patterns, and no answer
from a topic that nobody reads; nor does NestJS's client learn of one on Redis and MQTT. gRPC
has the methods of interop.proto and no events.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from attrs import define
from msgspec import UNSET

from understudy.actors.errors import ConnectionLost, PayloadError, RequestTimeout, RpcError
from understudy.transports.client import connect

from .processes import INTEROP, call, free_port, started

pytestmark = pytest.mark.timeout(300)  # the first run installs NestJS


@attrs.frozen
class Transport:
    """What is known of one transport before anything runs on it."""

    broker: str | None
    """The fixture of its broker; none where the two are connected."""
    nest_cases: int
    """How many cases NestJS's client has there, its connection included."""
    our_cases: int = 15
    """How many ours has."""
    has_queue: bool = False


TRANSPORTS = {
    "tcp": Transport(None, nest_cases=27),
    "nats": Transport("nats_broker", nest_cases=27),
    "redis": Transport("redis_broker", nest_cases=26),
    "rmq": Transport("rabbitmq_broker", nest_cases=27, has_queue=True),
    "kafka": Transport("kafka_broker", nest_cases=24, our_cases=13, has_queue=True),
    "mqtt": Transport("mqtt_broker", nest_cases=26),
    "grpc": Transport(None, nest_cases=11, our_cases=6),
}


@attrs.frozen
class Place:
    """Where a service and a client meet."""

    transport: str
    url: str
    queue: str

    @property
    def known(self) -> Transport:
        return TRANSPORTS[self.transport]

    @property
    def for_nest(self) -> list[str]:
        """The end of a peer's command line."""
        return [self.transport, self.url, *([self.queue] if self.known.has_queue else [])]

    @property
    def for_ours(self) -> list[str]:
        queue = ["--queue", self.queue] if self.known.has_queue else []
        return [self.transport, self.url, *queue]


@define
class Item:
    sku: str
    quantity: int


@define
class Order:
    id: str
    items: list[Item]
    note: str | None = None


ORDER = Order("ä-1", [Item("tea 🍵", 2), Item("jam", 1)])


@pytest.fixture(scope="module")
def nest_url(nest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a NestJS service listens."""
    log = tmp_path_factory.mktemp("nest") / "log"
    with started(["node", str(nest / "server.mjs"), "tcp", "tcp://127.0.0.1:0"], log) as service:
        yield service.said[-1]


@pytest.fixture(params=TRANSPORTS)
def place(request: pytest.FixtureRequest) -> Place:
    transport = request.param
    broker = TRANSPORTS[transport].broker
    direct = f"{transport}://127.0.0.1:{free_port()}"
    url = request.getfixturevalue(broker).url if broker else direct
    return Place(transport, url, f"nestjs-{uuid.uuid4().hex}")


def test_a_nestjs_client_finds_in_our_service_all_it_knows_of_its_own(
    nest: Path, place: Place, tmp_path: Path
) -> None:
    with started([*INTEROP, "serve", *place.for_ours], tmp_path / "log"):
        code, cases = call(["node", "client.mjs", *place.for_nest], cwd=nest)

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.nest_cases)


def test_our_client_finds_in_a_nestjs_service_all_it_knows_of_ours(
    nest: Path, place: Place, tmp_path: Path
) -> None:
    with started(["node", str(nest / "server.mjs"), *place.for_nest], tmp_path / "log"):
        code, cases = call([*INTEROP, "call", *place.for_ours])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.our_cases)


def test_a_nestjs_client_finds_all_it_expects_in_a_nestjs_service(
    nest: Path, place: Place, tmp_path: Path
) -> None:
    """Otherwise a failure of the tests above would say nothing about ours."""
    with started(["node", str(nest / "server.mjs"), *place.for_nest], tmp_path / "log"):
        code, cases = call(["node", "client.mjs", *place.for_nest], cwd=nest)

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.nest_cases)


async def test_typed_calls_work_with_nestjs(nest_url: str) -> None:
    async with connect(nest_url) as client:
        assert await client.send("echo", ORDER, returns=Order) == ORDER
        assert await client.send({"cmd": "sum"}, [1, 2], returns=int) == 3
        items = client.stream("stream.count", {"n": 3}, returns=float)
        assert [item async for item in items] == [1.0, 2.0, 3.0]


async def test_an_answer_of_nestjs_that_does_not_fit_names_every_field(nest_url: str) -> None:
    wrong = {"id": 1, "items": [{"sku": "tea"}]}
    async with connect(nest_url) as client:
        with pytest.raises(PayloadError) as caught:
            await client.send("echo", wrong, returns=Order)

    assert caught.value.problems == (
        ("id", "expected a string, got an integer"),
        ("items[0].quantity", "is missing"),
    )


@pytest.mark.parametrize(
    ("pattern", "data", "error"),
    [
        ("fail.rpc", {}, {"status": 404, "message": "nope"}),
        ("fail.text", {}, {"status": "error", "message": "refused"}),
        ("fail.plain", {}, {"status": "error", "message": "Internal server error"}),
        ("math.sum", 5, {"status": "error", "message": "Internal server error"}),
        (
            "nobody.home",
            UNSET,
            "There is no matching message handler defined in the remote service.",
        ),
    ],
    ids=["an object", "text", "an exception", "a wrong payload", "no handler"],
)
async def test_errors_of_nestjs_are_raised_as_they_are(
    nest_url: str, pattern: str, data: Any, error: Any
) -> None:
    async with connect(nest_url) as client:
        with pytest.raises(RpcError) as caught:
            await client.send(pattern, data)

    assert caught.value.error == error


async def test_a_call_to_nestjs_times_out_by_our_clock(nest_url: str) -> None:
    async with connect(nest_url) as client:
        with pytest.raises(RequestTimeout, match=r"no answer to 'wait' within 0\.05 s"):
            await client.send("wait", 500, timeout=0.05)


async def test_the_end_of_a_nestjs_service_fails_its_calls_at_once(
    nest: Path, tmp_path: Path
) -> None:
    command = ["node", str(nest / "server.mjs"), "tcp", "tcp://127.0.0.1:0"]
    with started(command, tmp_path / "log") as service:
        async with connect(service.said[-1]) as client:
            service.process.terminate()
            with pytest.raises(ConnectionLost):
                await client.send("wait", 50_000, timeout=60)
