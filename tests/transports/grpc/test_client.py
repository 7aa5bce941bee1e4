"""Our client against grpcio's own server: what is sent, and what each ending means."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import trio

from understudy.actors.errors import (
    ConnectionLost,
    DeclarationError,
    NoResponders,
    PayloadError,
    RequestTimeout,
    RpcError,
)
from understudy.supervisors.child import child
from understudy.transports.client import connect
from understudy.transports.grpc.library import STATUS
from understudy.transports.grpc.messages import AnyMessage, BadRequest, Status

from ..serving import serving, until
from .orders import Line, Notes, Order, Orders, Query
from .peers import ORDERS, SHOP, answering, shop

Method = Callable[[Iterator[bytes], Any], Iterator[bytes]]


def order(**fields: Any) -> bytes:
    return bytes(shop().by_path[f"{ORDERS}Find"].answer(**fields).SerializeToString())


def failing(code: int, text: str, **trailers: Any) -> Method:
    def fail(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.set_trailing_metadata(tuple(trailers.items()))
        context.abort(STATUS[code], text)
        yield b""

    return fail


def echoing(messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
    yield from messages


class Held:
    """A method that answers once, if at all, when it is let go; and whether its caller left."""

    def __init__(self) -> None:
        self.begun, self.gate, self.left = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(self._over)
        self.begun.set()
        yield order(order_id=1)
        self.gate.wait(10)

    def _over(self) -> None:
        self.left.set()
        self.gate.set()


async def a_few(*skus: str) -> AsyncIterator[Line]:
    for sku in skus:
        yield Line(sku)


# -- values -------------------------------------------------------------------------


async def test_a_method_stands_for_its_pattern_and_types_both_ways() -> None:
    notes = Notes()
    async with serving("grpc://127.0.0.1:0", child(Orders, notes), proto=SHOP) as service:
        async with service.client(proto=SHOP, package="shop.v1") as client:
            found = await client.send(Orders.find, Query(7))
            placed = await client.send("shop.v1.Orders.Place", found, returns=Order)
            plain = await client.send("Orders.Find", {"orderId": 7})
            followed = [one async for one in client.stream(Orders.follow, Query(3))]
            uploaded = await client.send(Orders.upload, a_few("tea", "jam"))
            chat = [one async for one in client.stream(Orders.chat, a_few("tea", "jam"))]
            await client.emit(Orders.find, Query(7))

    assert found == placed == Order(7, [Line("tea", 2)], "in a hurry")
    assert (plain["orderId"], plain["lines"]) == (7, [{"sku": "tea", "quantity": 2}])
    assert [one.order_id for one in followed] == [0, 1, 2]
    assert uploaded == Order(2, [Line("tea")])
    assert chat == [Line("TEA", 1), Line("JAM", 1)]


async def test_a_conversation_goes_to_and_fro() -> None:
    async with serving("grpc://127.0.0.1:0", child(Orders, Notes()), proto=SHOP) as service:
        async with service.client(proto=SHOP) as client:
            told, ask = trio.open_memory_channel[Line](1)
            async with ask, aclosing(client.stream(Orders.chat, ask)) as answers:
                for word in ("tea", "jam"):
                    await told.send(Line(word))
                    assert (await anext(answers)).sku == word.upper()


async def test_dictionaries_may_have_the_names_of_the_proto() -> None:
    async with answering({f"{ORDERS}Place": echoing}) as url:
        async with connect(url, proto=SHOP, keep_case=True) as client:
            found = await client.send("Orders.Place", {"order_id": 7, "paid": True})

    assert (found["order_id"], found["paid"]) == (7, True)


async def test_headers_and_deadline_go_along() -> None:
    seen: list[Any] = []

    def look(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        seen.append((dict(context.invocation_metadata()), context.time_remaining()))
        yield order()

    headers = {"X-Trace": "7", "x-raw-bin": "AAE="}
    async with answering({f"{ORDERS}Find": look}) as url:
        async with connect(url, proto=SHOP) as client:
            await client.send("Orders.Find", {}, timeout=7, headers=headers)

    (metadata, left) = seen[0]
    assert (metadata["x-trace"], metadata["x-raw-bin"]) == ("7", b"\0\1")
    assert 5 < left < 8


# -- endings ------------------------------------------------------------------------


async def test_a_status_is_an_error_with_all_its_parts() -> None:
    request = BadRequest()
    request.field_violations.add(field="order_id", description="is odd")
    detail = AnyMessage(
        type_url="type.googleapis.com/google.rpc.BadRequest", value=request.SerializeToString()
    )
    status = Status(code=3, message="no", details=[detail]).SerializeToString()
    trailers = {"grpc-status-details-bin": status, "x-why": "odd"}
    async with answering({f"{ORDERS}Find": failing(3, "no", **trailers)}) as url:
        async with connect(url, proto=SHOP) as client:
            with pytest.raises(RpcError) as caught:
                await client.send("Orders.Find", {})

    assert caught.value.error == {
        "code": 3,
        "message": "no",
        "errors": [{"path": "order_id", "message": "is odd"}],
        "metadata": {"x-why": "odd"},
    }


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (4, RequestTimeout, "no answer to 'Orders.Find' within 5 s"),
        (5, RpcError, "nope"),
        (12, NoResponders, "nobody listens for 'Orders.Find'"),
        (14, ConnectionLost, "nope"),
    ],
)
async def test_a_status_means_what_it_means_on_other_transports(
    code: int, error: type[Exception], text: str
) -> None:
    async with answering({f"{ORDERS}Find": failing(code, "nope")}) as url:
        async with connect(url, proto=SHOP) as client:
            with pytest.raises(error, match=text):
                await client.send("Orders.Find", {})
            with pytest.raises(error):
                await client.emit("Orders.Find", {})


async def test_a_stream_that_fails_midway_brings_its_items_first() -> None:
    def fail(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield order(order_id=1)
        context.abort(STATUS[5], "nope")

    async with answering({f"{ORDERS}Watch": fail}) as url, connect(url, proto=SHOP) as client:
        async with aclosing(client.stream("Orders.Watch", {}, returns=Order)) as items:
            assert (await anext(items)).order_id == 1
            with pytest.raises(RpcError, match="nope"):
                await anext(items)


@pytest.mark.parametrize("body", [b"\xff\xff", order(placed_at={"seconds": 1 << 60})])
async def test_an_answer_that_cannot_be_read_fails_the_call(body: bytes) -> None:
    def answer(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield body

    async with answering({f"{ORDERS}Find": answer}) as url, connect(url, proto=SHOP) as client:
        with pytest.raises(PayloadError):
            await client.send("Orders.Find", {})


async def test_an_answer_over_the_limit_fails_the_call() -> None:
    def answer(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield order(note="x" * 2000)

    async with answering({f"{ORDERS}Find": answer}) as url:
        async with connect(url, proto=SHOP, message_limit=1000) as client:
            with pytest.raises(RpcError) as caught:
                await client.send("Orders.Find", {})

    assert caught.value.error["code"] == 8


@pytest.mark.parametrize("method", ["send", "stream", "upload", "chat"])
async def test_a_caller_that_leaves_ends_its_call_at_the_service(method: str) -> None:
    held = Held()
    paths = [f"{ORDERS}{name}" for name in ("Watch", "Upload", "Chat", "Wait")]
    gate = trio.Event()

    async def endless() -> AsyncIterator[Line]:
        yield Line("tea")
        await gate.wait()

    async with answering(dict.fromkeys(paths, held)) as url, connect(url, proto=SHOP) as client:

        async def call() -> None:
            if method == "send":
                await client.send("Orders.Wait", {}, timeout=60)
            elif method == "upload":
                await client.send("Orders.Upload", endless(), timeout=60)
            else:
                name, data = ("Watch", {}) if method == "stream" else ("Chat", endless())
                async for _ in client.stream(f"Orders.{name}", data):
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await until(held.begun.is_set)
            nursery.cancel_scope.cancel()
        await until(held.left.is_set)


async def test_what_a_callers_own_stream_raises_ends_the_call_and_comes_out() -> None:
    async def breaking(held: Held) -> AsyncIterator[Any]:
        yield Line("tea")
        await until(held.begun.is_set)
        raise KeyError("mine")

    async def misfitting() -> AsyncIterator[Any]:
        yield {"sku": 7}

    upload, chat = Held(), Held()  # each: once its caller has left, one holds nothing any more
    async with answering({f"{ORDERS}Upload": upload, f"{ORDERS}Chat": chat}) as url:
        async with connect(url, proto=SHOP) as client:
            with pytest.raises(KeyError, match="mine"):
                await client.send("Orders.Upload", breaking(upload))
            await until(upload.left.is_set)
            with pytest.raises(KeyError, match="mine"):
                async for _ in client.stream("Orders.Chat", breaking(chat)):
                    pass
            await until(chat.left.is_set)
            with pytest.raises(TypeError, match=r"Line\.sku: this int does not fit"):
                await client.send("Orders.Upload", misfitting())


@pytest.mark.parametrize(
    ("method", "data", "text"),
    [
        ("Orders.Fin", {}, "'Orders.Fin' is no method of the .proto. Did you mean 'Orders.Find'?"),
        ("Orders.Watch", {}, "answers with a stream. Iterate over"),
        ("Orders.Upload", {}, "takes an async iterable of messages by the .proto, got dict"),
        ("Orders.Find", a_few(), "takes one message by the .proto, got async_generator"),
    ],
)
async def test_a_call_that_the_proto_does_not_have_is_refused(
    method: str, data: Any, text: str
) -> None:
    async with answering({}) as url, connect(url, proto=SHOP) as client:
        with pytest.raises(DeclarationError, match=text.replace("?", r"\?")):
            await client.send(method, data)


async def test_data_that_does_not_fit_is_refused_with_its_place() -> None:
    async with answering({}) as url, connect(url, proto=SHOP) as client:
        with pytest.raises(TypeError, match=r"shop.v1.Query has no field .* mean 'orderId'\?"):
            await client.send("Orders.Find", {"orderld": 7})
        with pytest.raises(TypeError, match=r"shop.v1.Query.order_id: this str does not fit"):
            await client.send("Orders.Find", {"orderId": "seven"})
        with pytest.raises(DeclarationError, match="metadata with the key 'é'"):
            await client.send("Orders.Find", {}, headers={"é": "x"})


# -- connections --------------------------------------------------------------------


async def test_a_lost_connection_fails_its_calls_and_is_made_again() -> None:
    held = Held()
    lost: list[ConnectionLost] = []

    async def serve_once(task_status: trio.TaskStatus[str]) -> None:
        async with answering({f"{ORDERS}Wait": held}) as url:
            task_status.started(url)
            await until(held.begun.is_set)

    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_once)
        async with connect(url, proto=SHOP) as client:
            with pytest.raises(ConnectionLost) as caught:
                await client.send("Orders.Wait", {}, timeout=60)
            lost.append(caught.value)
            with pytest.raises(ConnectionLost, match=r"gave up on 'Orders\.Place' after") as caught:
                await client.send("Orders.Place", {}, timeout=0.1)
            lost.append(caught.value)
            async with answering({f"{ORDERS}Place": echoing}, int(url.rpartition(":")[2])):
                again = await client.send("Orders.Place", {"orderId": 7}, returns=Order, timeout=20)

    assert [error.sent for error in lost] == [True, False]
    assert again.order_id == 7


async def test_a_first_connection_is_tried_for_as_long_as_one_is_patient() -> None:
    async with answering({}) as url:
        port = int(url.rpartition(":")[2])
    async with trio.open_nursery() as nursery:

        async def come_late() -> None:
            await trio.sleep(0.3)
            async with answering({f"{ORDERS}Place": echoing}, port):
                await done.wait()

        done = trio.Event()
        nursery.start_soon(come_late)
        async with connect(url, proto=SHOP, patience=20) as client:
            assert await client.send("Orders.Place", {"orderId": 7}, returns=Order) == Order(7)
        done.set()
