"""What is wrong with a `.proto`, or with a handler beside it, is said before anything starts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError, StartFailed
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ..serving import serving
from .orders import Line, Order, Query
from .peers import PEER, SHOP

URL = "grpc://127.0.0.1:0"


def refusal(**options: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        serve(URL, **options)
    with pytest.raises(DeclarationError) as same:
        connect(URL, **options)
    assert str(same.value) == str(caught.value)
    return str(caught.value)


def test_a_proto_must_be_named() -> None:
    assert refusal().startswith(f"{URL}: name the .proto files of the service: proto=")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "no.proto"
    assert refusal(proto=str(file)) == f"{URL}: there is no file {file}."


def test_protocs_own_words_are_shown_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "bad.proto"
    file.write_text('syntax = "proto3";\nmessage A { strin name = 1; }\n')

    assert refusal(proto=str(file)) == (
        f'{URL}: protoc refuses the .proto:\n{file}:2:13: "strin" is not defined.'
    )


def test_a_package_without_services_is_refused() -> None:
    assert refusal(proto=PEER, package="shop") == f"{URL}: the .proto has no service in shop."


def write(folder: Path, name: str, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'syntax = "proto3";\n{text}')
    return str(folder / name)


async def test_several_files_may_import_from_other_folders(tmp_path: Path) -> None:
    write(tmp_path / "common", "text.proto", "package common; message Text { string text = 1; }")
    use = 'import "text.proto"; service Echo { rpc Say (common.Text) returns (common.Text); }'
    files = [write(tmp_path, f"{n}.proto", f"package {n}; {use}") for n in ("one", "two")]

    class Echo(Actor):
        @message_pattern("one.Echo.Say")
        async def one(self, data: Any) -> Any:
            return {"text": f"one {data['text']}"}

        @message_pattern("two.Echo.Say")
        async def two(self, data: Any) -> Any:
            return {"text": f"two {data['text']}"}

    options: Any = {"proto": files, "include": str(tmp_path / "common")}
    async with serving(URL, child(Echo), **options) as service:
        async with service.client(**options) as client:
            assert await client.send("one.Echo.Say", {"text": "a"}) == {"text": "one a"}
            assert await client.send("two.Echo.Say", {"text": "b"}) == {"text": "two b"}
            with pytest.raises(DeclarationError, match=r"could be one.Echo.Say or two.Echo.Say"):
                await client.send("Echo.Say", {})


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "a.proto", "message A {} service S { rpc B (A) returns (A); }")
    serve(URL, proto=file)
    write(tmp_path, "a.proto", "message A {} service S { rpc B (A) returns (C); }")

    assert '"C" is not defined' in refusal(proto=file)


@define
class Coloured:
    order_id: int
    colour: str


class Misspelt(Actor):
    @message_pattern("Orders.Fnid")
    async def find(self, query: Query) -> Order:
        return Order(1)


class NotStreaming(Actor):
    @message_pattern("Orders.Watch")
    async def find(self, query: Query) -> Order:
        return Order(1)


class Streaming(Actor):
    @message_pattern("Orders.Find")
    async def find(self, query: Query) -> AsyncIterator[Order]:
        yield Order(1)


class Single(Actor):
    @message_pattern("Orders.Upload")
    async def find(self, line: Line) -> Order:
        return Order(1)


class Several(Actor):
    @message_pattern("Orders.Find")
    async def find(self, queries: AsyncIterator[Query]) -> Order:
        return Order(1)


class Colours(Actor):
    @message_pattern("Orders.Find")
    async def find(self, query: Coloured) -> Order:
        return Order(1)


@pytest.mark.parametrize(
    ("actor", "text"),
    [
        (Misspelt, "handles 'Orders.Fnid', which is no method of the .proto. Did you mean"),
        (NotStreaming, "Orders.Watch, which answers with a stream by the .proto. Make it an"),
        (Streaming, "Orders.Find, which answers once by the .proto. Return its answer"),
        (Single, "Take an AsyncIterator[...] of Line, and iterate over it."),
        (Several, "Orders.Find, which gets one message by the .proto. Take Query itself."),
        (Colours, "is given shop.v1.Query, and that has no colour, which Coloured must have."),
    ],
)
async def test_a_handler_that_the_proto_does_not_allow_fails_the_start(
    actor: type[Actor[Any]], text: str
) -> None:
    tree = Supervisor("shop", [child(actor), serve(URL, proto=SHOP)])

    with pytest.raises(StartFailed) as caught:
        async with running(tree):
            pass
    assert isinstance(caught.value.__cause__, DeclarationError)
    assert text in str(caught.value.__cause__)


async def test_handlers_of_other_transports_do_not_matter() -> None:
    class Others(Actor):
        @message_pattern("orders.find")
        async def find(self, query: Query) -> None:
            pass

    async with serving(URL, child(Others), proto=SHOP):
        pass
