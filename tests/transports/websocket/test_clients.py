"""Messages that clients did not ask for."""

from typing import Any

import pytest

from understudy.actors.errors import DeclarationError
from understudy.transports.bridge import serve
from understudy.transports.websocket.clients import Clients

from ..serving import serving, until
from .talk import URL, Scene, raw, socketed


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        ("nest", {"pattern": "news", "data": [1]}),
        ("nestrs", {"id": "0", "kind": "emit", "pattern": "news", "payload": [1]}),
        ("gateway", {"event": "news", "data": [1]}),
    ],
)
async def test_an_event_reaches_every_client_in_the_bridges_dialect(
    dialect: str, wanted: Any
) -> None:
    clients = Clients()
    async with serving(URL, Scene().desk(), dialect=dialect, clients=clients) as desk:
        async with socketed(desk.url) as one, socketed(desk.url) as other:
            await until(lambda: len(clients) == 2)
            assert clients.emit("news", [1]) == 2

            assert await one.receive() == await other.receive() == wanted
        await until(lambda: len(clients) == 0)
        assert clients.emit("news", [1]) == 0


async def test_one_client_is_found_by_the_source_of_its_messages() -> None:
    clients = Clients()
    async with serving(URL, Scene().desk(), clients=clients) as desk:
        async with socketed(desk.url) as one, socketed(desk.url) as other:
            source = (await one.ask("who"))[0]
            assert clients.emit("news", "for one", to=source) == 1
            assert clients.emit("news", to="nobody") == 0

            assert await one.receive() == {"pattern": "news", "data": "for one"}
            assert await other.ask("echo", "nothing before") == "nothing before"


async def test_our_clients_calls_are_not_disturbed() -> None:
    clients = Clients()
    async with serving(URL, Scene().desk(), clients=clients) as desk, desk.client() as client:
        await client.send("echo")
        clients.emit("news", 1)
        assert await client.send("echo", 2) == 2


async def test_a_client_that_does_not_read_is_cut_off_and_holds_no_memory() -> None:
    clients = Clients()
    options = {"clients": clients, "write_limit": 1_000_000}
    async with serving(URL, Scene().desk(), **options) as desk, socketed(desk.url) as good:
        async with raw(desk.url) as bad:
            await bad.upgrade()
            await until(lambda: len(clients) == 2)
            sent = 0
            while len(clients) == 2 and sent < 1000:
                clients.emit("news", "x" * 100_000)
                assert (await good.receive())["data"] == "x" * 100_000
                sent += 1

        assert sent < 1000
        assert desk.statistics().refused == {"peers that do not read": 1}
        assert await good.ask("echo", 1) == 1


async def test_before_and_after_the_bridge_there_is_nobody() -> None:
    clients = Clients()
    assert (clients.emit("news", 1), len(clients)) == (0, 0)
    async with serving(URL, Scene().desk(), clients=clients) as desk, socketed(desk.url):
        await until(lambda: len(clients) == 1)
    assert (clients.emit("news", 1), len(clients)) == (0, 0)


async def test_data_that_is_no_json_is_the_senders_error() -> None:
    clients = Clients()
    async with serving(URL, Scene().desk(), clients=clients) as desk, socketed(desk.url) as one:
        await until(lambda: len(clients) == 1)
        with pytest.raises(TypeError):
            clients.emit("news", object())
        assert await one.ask("echo", 1) == 1


def test_clients_must_be_clients() -> None:
    with pytest.raises(DeclarationError, match="clients"):
        serve(URL, clients=[])
