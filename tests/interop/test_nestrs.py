"""Ours and nestrs's, each as the service of the other, as real programs.

A transport is one row of `TRANSPORTS`. nestrs listens to the whole broker unless it is given
a prefix, so it is given one; with a prefix ours answers for every pattern under it, as nestrs
does. On MQTT nestrs ends at a packet of more than 10 KiB, so that there are no long texts.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from understudy.actors.errors import ConnectionLost, RequestTimeout, RpcError
from understudy.transports.client import connect

from .nestrs_peer import nestrs_program
from .processes import INTEROP, call, free_port, started

pytestmark = pytest.mark.timeout(1200)  # the first run builds the peer


@attrs.frozen
class Transport:
    """What is known of one transport before anything runs on it."""

    broker: str | None = None
    """The fixture of its broker; none where the two are connected."""
    option: str | None = None
    """What keeps its user apart from others there."""
    nestrs_cases: int = 24
    our_cases: int = 14


TRANSPORTS = {
    "tcp": Transport(),
    "nats": Transport("nats_broker", "--prefix"),
    "redis": Transport("redis_broker", "--prefix"),
    "rmq": Transport("rabbitmq_broker", "--queue"),
    "kafka": Transport("kafka_broker", "--prefix"),
    "mqtt": Transport("mqtt_broker", "--prefix", nestrs_cases=22, our_cases=13),
    "grpc": Transport(),
}


@attrs.frozen
class Place:
    """Where a service and a client meet; the end of both their command lines."""

    transport: str
    url: str
    name: str

    @property
    def known(self) -> Transport:
        return TRANSPORTS[self.transport]

    @property
    def words(self) -> list[str]:
        option = self.known.option
        return [self.transport, self.url, *([option, self.name] if option else [])]

    @property
    def in_dialect(self) -> list[str]:
        """For our service: TCP's hears the dialect from the first byte."""
        return self.words if self.transport == "tcp" else [*self.words, "--dialect", "nestrs"]


@pytest.fixture(scope="session")
def peer() -> str:
    return nestrs_program()


@pytest.fixture(params=TRANSPORTS)
def place(request: pytest.FixtureRequest) -> Place:
    transport = request.param
    broker = TRANSPORTS[transport].broker
    direct = f"{transport}://127.0.0.1:{free_port()}"
    url = request.getfixturevalue(broker).url if broker else direct
    return Place(transport, url, f"nestrs-{uuid.uuid4().hex}")


@pytest.fixture
def nestrs_url(peer: str, tmp_path: Path) -> Iterator[str]:
    """Where a nestrs service listens on TCP."""
    url = f"tcp://127.0.0.1:{free_port()}"
    with started([peer, "serve", "tcp", url], tmp_path / "log"):
        yield url


def test_a_nestrs_client_finds_in_our_service_all_it_knows_of_its_own(
    peer: str, place: Place, tmp_path: Path
) -> None:
    with started([*INTEROP, "serve", *place.in_dialect], tmp_path / "log"):
        code, cases = call([peer, "call", *place.words])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.nestrs_cases)


def test_our_client_finds_in_a_nestrs_service_all_it_knows_of_ours(
    peer: str, place: Place, tmp_path: Path
) -> None:
    with started([peer, "serve", *place.words], tmp_path / "log"):
        code, cases = call([*INTEROP, "call", *place.words, "--dialect", "nestrs"])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.our_cases)


def test_a_nestrs_client_finds_all_it_expects_in_a_nestrs_service(
    peer: str, place: Place, tmp_path: Path
) -> None:
    """Otherwise a failure of the tests above would say nothing about ours."""
    with started([peer, "serve", *place.words], tmp_path / "log"):
        code, cases = call([peer, "call", *place.words])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, place.known.nestrs_cases)


async def test_an_error_of_nestrs_is_raised_with_its_details(nestrs_url: str) -> None:
    async with connect(nestrs_url, dialect="nestrs") as client:
        with pytest.raises(RpcError) as caught:
            await client.send("fail.rpc", {})

    assert caught.value.error == {"message": "nope", "details": {"status": 404}}


async def test_a_late_answer_of_nestrs_is_not_taken_for_the_next_one(nestrs_url: str) -> None:
    async with connect(nestrs_url, dialect="nestrs") as client:
        with pytest.raises(RequestTimeout, match=r"no answer to 'wait' within 0\.05 s"):
            await client.send("wait", 200, timeout=0.05)
        assert await client.send("echo", "mine") == "mine"


async def test_the_end_of_a_nestrs_service_fails_its_calls_at_once(
    peer: str, tmp_path: Path
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    with started([peer, "serve", "tcp", url], tmp_path / "log") as service:
        async with connect(url, dialect="nestrs") as client:
            service.process.terminate()
            with pytest.raises(ConnectionLost):
                await client.send("wait", 50_000, timeout=60)


def test_a_nestrs_service_ends_with_the_program_that_started_it(
    peer: str, place: Place, tmp_path: Path
) -> None:
    with started([peer, "serve", *place.words], tmp_path / "log") as service:
        assert service.process.stdin is not None
        service.process.stdin.close()
        assert service.process.wait(timeout=15) == 0
