"""TLS at both ends of TCP, certificates of callers, and bytes that are none of it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from examples.interop import tree
from understudy.actors.errors import ConnectionLost, DeclarationError
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.client import Client, connect
from understudy.transports.codec import nest

from ...brokers.certificates import Certificates
from ...interop.processes import call, nest_folder, started
from ..serving import Service, hosting, serving, until
from .desk import Scene
from .wire import PROBE, Wire, request, wired

URL = "tcps://127.0.0.1:0"


@attrs.frozen
class Tls:
    """What either side is given."""

    certificates: Certificates

    @property
    def server(self) -> dict[str, Any]:
        return {
            "tls_cert": str(self.certificates.chain),
            "tls_key": str(self.certificates.key),
        }

    @property
    def mutual(self) -> dict[str, Any]:
        return {**self.server, **self.client}

    @property
    def client(self) -> dict[str, Any]:
        return {"tls_ca": str(self.certificates.authority)}


@pytest.fixture
def tls(certificates: Certificates) -> Tls:
    return Tls(certificates)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
async def desk(scene: Scene, tls: Tls) -> AsyncIterator[Service]:
    async with serving(URL, scene.desk(), **tls.server) as service:
        yield at_its_port(service)
        scene.gate.set()


def at_its_port(service: Service) -> Service:
    return attrs.evolve(service, url=service.system.addresses()["shop/bridge"])


@asynccontextmanager
async def sealed(desk: Service, tls: Tls, *, strict: bool = False) -> AsyncIterator[Wire]:
    """A raw connection with TLS; a strict one insists on a good-bye."""
    async with wired(desk.url) as wire:
        stream = trio.SSLStream(
            wire.stream,
            tls.certificates.context(),
            server_hostname="127.0.0.1",
            https_compatible=not strict,
        )
        with trio.fail_after(5):
            await stream.do_handshake()
        yield Wire(wire.stream, stream)


# -- calls --------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["nest", "nestrs"])
async def test_calls_and_events_go_over_tls(
    desk: Service, scene: Scene, tls: Tls, dialect: str
) -> None:
    assert desk.url.startswith("tcps://127.0.0.1:")
    async with connect(desk.url, dialect=dialect, connections=2, **tls.client) as client:
        assert [await client.send("echo", number) for number in range(5)] == list(range(5))
        await client.emit("told", "é😀")
        await until(lambda: scene.seen == ["é😀"])


async def test_what_is_bigger_than_any_record_goes_over_tls_both_ways(
    desk: Service, tls: Tls
) -> None:
    async with connect(desk.url, **tls.client) as client:
        for size in (16_384, 65_536, 3_000_000):
            assert await client.send("echo", "x" * size) == "x" * size
        assert [n async for n in client.stream("count", 1000)] == list(range(1000))


async def test_many_calls_at_once_go_over_tls(desk: Service, tls: Tls) -> None:
    answers: list[Any] = []

    async def ask(client: Client, number: int) -> None:
        answers.append(await client.send("echo", [number, "x" * 1000]))

    async with connect(desk.url, **tls.client) as client:
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(ask, client, number)

    assert sorted(number for number, _ in answers) == list(range(500))


async def test_tls_may_come_byte_by_byte(desk: Service, tls: Tls) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = tls.certificates.context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    async with wired(desk.url) as wire:

        async def through(step: Any) -> Any:
            while True:
                try:
                    found = step()
                except ssl.SSLWantReadError:
                    found = None
                for byte in outgoing.read():
                    await wire.stream.send_all(bytes([byte]))
                    await trio.lowlevel.checkpoint()
                if found is not None:
                    return found
                incoming.write(await wire.stream.receive_some())

        def shake_hands() -> bool:
            peer.do_handshake()
            return True

        with trio.fail_after(10):
            await through(shake_hands)
            await through(lambda: peer.write(PROBE))
            assert b'"response":"probe"' in await through(lambda: peer.read(1000))


@pytest.mark.timeout(300)  # the first run installs NestJS
async def test_a_nestjs_client_with_a_certificate_finds_all_it_knows_in_our_service(
    tls: Tls,
) -> None:
    folder = nest_folder()
    async with running(tree(URL, tls.mutual)) as system:
        (url,) = system.addresses().values()
        command = ["node", "client.mjs", "tcps", url, str(tls.certificates.authority.parent)]
        code, cases = await trio.to_thread.run_sync(partial(call, command, cwd=folder))

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, 27)


@pytest.mark.timeout(300)
async def test_a_nestjs_service_that_asks_for_a_certificate_is_called(
    tls: Tls, tmp_path: Path
) -> None:
    folder = str(tls.certificates.authority.parent)
    command = ["node", str(nest_folder() / "server.mjs"), "tcps", URL, folder]
    with started(command, tmp_path / "log") as service:
        url = service.said[-1]
        async with connect(url, **tls.mutual) as client:
            assert await client.send("echo", "x" * 100_000) == "x" * 100_000
            assert [n async for n in client.stream("stream.count", {"n": 3})] == [1, 2, 3]
        async with connect(url, **tls.client) as client:
            with pytest.raises(ConnectionLost):
                await client.send("echo", 1)


# -- who is who ---------------------------------------------------------------


async def test_a_service_that_is_not_trusted_is_not_called(desk: Service) -> None:
    with pytest.raises(ConnectionLost, match="TLS failed: the certificate does not hold") as lost:
        async with connect(desk.url):
            pass

    assert not lost.value.sent
    await until(lambda: desk.statistics().refused == {"TLS that failed": 1})


async def test_a_service_that_is_not_the_one_that_was_asked_for_is_not_called(
    scene: Scene, tls: Tls
) -> None:
    async with serving("tcps://127.0.0.2:0", scene.desk(), **tls.server) as service:
        with pytest.raises(ConnectionLost, match=r"IP address mismatch.*127\.0\.0\.2"):
            async with connect(at_its_port(service).url, **tls.client):
                pass


async def test_a_caller_shows_its_certificate_where_it_is_asked_for_one(
    scene: Scene, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(URL, scene.desk(), **tls.mutual) as service:
        url = at_its_port(service).url
        async with connect(url, **tls.mutual) as client:
            assert await client.send("echo", 1) == 1
        async with connect(url, **tls.client, reconnect_max=60) as client:
            with pytest.raises(ConnectionLost, match="alert certificate required"):
                await client.send("echo", 1, timeout=5)

        assert set(service.statistics().refused) == {"TLS that failed"}
    assert "TLS failed (PEER_DID_NOT_RETURN_A_CERTIFICATE); the connection" in caplog.text


async def test_a_certificate_of_another_authority_is_refused(
    scene: Scene, tls: Tls, tmp_path: Path
) -> None:
    stranger = Tls(Certificates.issue(tmp_path))
    async with serving(URL, scene.desk(), **tls.mutual) as service:
        options = {**stranger.server, **tls.client}
        async with connect(at_its_port(service).url, **options) as client:
            with pytest.raises(ConnectionLost):
                await client.send("echo", 1, timeout=5)

        await until(lambda: service.statistics().refused.keys() == {"TLS that failed"})


# -- what is no TLS -----------------------------------------------------------


async def test_a_caller_without_tls_is_let_go_with_a_word_in_the_log(
    desk: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(desk.url) as wire:
        await wire.send(PROBE)
        await wire.rest()

    assert desk.statistics().refused == {"TLS that failed": 1}
    assert "TLS failed (" in caplog.text


async def test_a_service_without_tls_says_what_the_caller_tried(
    scene: Scene, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("tcp://127.0.0.1:0", scene.desk()) as service:
        with pytest.raises(ConnectionLost, match="does it speak TLS"):
            async with connect(service.url.replace("tcp:", "tcps:"), **tls.client):
                pass

    assert "but one of TLS, which is for tcps://" in caplog.text


async def test_a_handshake_that_does_not_come_is_not_waited_for(scene: Scene, tls: Tls) -> None:
    options = {**tls.server, "handshake_deadline": 0.1}
    async with serving(URL, scene.desk(), **options) as service:
        url = at_its_port(service).url
        async with wired(url) as silent, wired(url) as slow:
            await slow.send(b"\x16\x03\x01")
            assert await silent.rest() == b""
            assert await slow.rest() == b""

        assert service.statistics().refused == {"TLS that failed": 2}


async def test_a_handshake_in_time_is_not_held_against_its_peer(scene: Scene, tls: Tls) -> None:
    options = {**tls.server, "handshake_deadline": 0.2}
    async with serving(URL, scene.desk(), **options) as service:
        async with sealed(at_its_port(service), tls) as wire:
            await trio.sleep(0.5)
            assert await wire.probe() == b""


@pytest.mark.parametrize("garbage", [b"\x17\x03\x03\x00\x20" + b"x" * 32, b"3#[1]"], ids=repr)
async def test_bytes_that_were_tampered_with_end_the_connection(
    desk: Service, tls: Tls, garbage: bytes
) -> None:
    async with wired(desk.url) as wire:
        stream = trio.SSLStream(
            wire.stream, tls.certificates.context(), server_hostname="127.0.0.1"
        )
        await stream.do_handshake()
        await wire.send(garbage)
        await wire.rest()

    assert desk.statistics().refused == {"TLS that failed": 1}


# -- the end ------------------------------------------------------------------


async def test_the_end_of_a_connection_is_said_in_tls_too(desk: Service, tls: Tls) -> None:
    async with sealed(desk, tls, strict=True) as wire:
        await wire.send(b"GET /")
        with trio.fail_after(5):
            assert await wire.over.receive_some() == b""  # raises if it is cut off


async def test_a_peer_that_says_good_bye_is_answered_and_let_go(desk: Service, tls: Tls) -> None:
    async with sealed(desk, tls, strict=True) as wire:
        assert await wire.probe() == b""
        with trio.fail_after(5):
            await wire.over.aclose()  # waits for the service's own

        await until(lambda: desk.statistics().connections == 0)


async def test_big_answers_reach_a_peer_during_the_drain_in_tls(scene: Scene, tls: Tls) -> None:
    body = "x" * 2_000_000
    async with hosting(URL, scene.desk(), **tls.server) as service:
        async with sealed(at_its_port(service), tls) as wire:
            await wire.send(request("wait", f'"{body}"'))
            await until(lambda: scene.seen)
            service.system.stop()
            scene.gate.set()

            assert await wire.rest() == nest.frame(
                b'{"response":"%b","isDisposed":true,"id":"1"}' % body.encode()
            )


async def test_a_peer_that_takes_no_answers_is_cut_off_in_tls(scene: Scene, tls: Tls) -> None:
    options = {**tls.server, "write_deadline": 0.1}
    async with serving(URL, scene.desk(), **options) as service:
        async with sealed(at_its_port(service), tls) as wire:
            await wire.send(*[request("big", "2000000")] * 10)
            await until(lambda: not service.statistics().connections)

        assert service.statistics().refused == {"peers that do not read": 1}


# -- declarations -------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("tcps://h", {}, "tcps:// needs a certificate: tls_cert='server.pem'"),
        ("tcp://h", {"tls_cert": "x"}, "a certificate is for tcps://, not for tcp://"),
        ("tcps://h", {"tls_cert": "no.pem"}, "TLS cannot be set up: No such file"),
        ("tcp://h", {"tls_ca": "x"}, "tls_ca is for tcps:// with tls_cert"),
        ("tcps://h?tls=x", {}, "the option 'tls' is an object (SSLContext)"),
        ("tcps://h", {"tls": "x"}, "the option 'tls' must be of type SSLContext, got str"),
    ],
    ids=["no certificate", "no TLS", "no file", "no TLS for an authority", "text", "a text"],
)
def test_tls_that_cannot_work_for_a_service_is_refused(
    url: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        serve(url, **options)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("tcp://h", {"tls_ca": "x"}, "tls and tls_ca are for tcps://, not for tcp://"),
        ("tcps://h", {"tls_ca": "no.pem"}, "TLS cannot be set up: No such file"),
        ("tcps://h", {"tls_cert": "no.pem"}, "TLS cannot be set up: No such file"),
    ],
    ids=["no TLS", "no file", "no certificate"],
)
def test_tls_that_cannot_work_for_a_client_is_refused(
    url: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        connect(url, **options)

    assert text in str(caught.value)
