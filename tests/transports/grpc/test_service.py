"""What callers of a gRPC service get: every kind of method, every kind of failure."""

import logging
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import trio

from understudy.actors.errors import StartFailed
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.grpc.library import DecodeError, health_pb2
from understudy.transports.grpc.messages import BadRequest, Status

from ..serving import Service, hosting, serving, until
from .orders import Notes, Orders
from .peers import ORDERS, SHOP, Stub, calling, finished, shop

URL: Final = "grpc://127.0.0.1:0"


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def service(notes: Notes) -> AsyncIterator[Service]:
    async with serving(URL, child(Orders, notes, concurrency=16), proto=SHOP) as service:
        yield service
        notes.gate.set()


@pytest.fixture
async def stub(service: Service) -> AsyncIterator[Stub]:
    async with calling(service.url) as stub:
        yield stub


def message(name: str, **fields: Any) -> bytes:
    """A message of the shop, written by protobuf."""
    return bytes(kind(name)(**fields).SerializeToString())


def kind(name: str) -> Any:
    rpcs = shop().by_path
    kinds = {
        "Query": rpcs[f"{ORDERS}Find"].request,
        "Order": rpcs[f"{ORDERS}Find"].answer,
        "Refusal": rpcs[f"{ORDERS}Refuse"].request,
        "Line": rpcs[f"{ORDERS}Upload"].request,
        "Struct": rpcs[f"{ORDERS}Context"].answer,
    }
    return kinds[name]


def lines(*skus: str) -> list[bytes]:
    return [message("Line", sku=sku) for sku in skus]


# -- what is answered ---------------------------------------------------------------


async def test_a_request_is_read_as_its_class_and_its_answer_written(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Find", message("Query", order_id=7))

    order = kind("Order").FromString(answer.messages[0])
    assert (order.order_id, order.lines[0].sku, order.note) == (7, "tea", "in a hurry")
    assert (answer.code, answer.text) == (0, "")


async def test_a_stream_brings_its_items_in_order(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Watch", message("Query", order_id=200))

    ids = [kind("Order").FromString(body).order_id for body in answer.messages]
    assert (ids, answer.code) == (list(range(200)), 0)


async def test_what_a_caller_streams_is_iterated_over(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Upload", *lines(*map(str, range(200))))

    order = kind("Order").FromString(answer.messages[0])
    assert (order.order_id, order.lines[0].sku) == (200, "0")


async def test_a_handler_may_answer_before_its_caller_is_done(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Upload", *lines("enough", *map(str, range(200))))

    assert kind("Order").FromString(answer.messages[0]).order_id == 1


async def test_both_may_stream(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Chat", *lines("tea", "jam", "stop", "salt"))

    assert [kind("Line").FromString(body).sku for body in answer.messages] == ["TEA", "JAM"]


# -- failures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("coded", 5, "nope"),
        ("text", 2, "no tea"),
        ("details", 5, "no tea today"),
        ("odd code", 2, "no"),
        ("later", 14, "Service unavailable"),
        ("number", 2, "Internal server error"),
        ("unknown field", 2, "Internal server error"),
        ("bad metadata", 2, "Internal server error"),
    ],
)
async def test_an_error_has_its_status(stub: Stub, how: str, code: int, text: str) -> None:
    answer = await stub.ask(f"{ORDERS}Refuse", message("Refusal", how=how))

    assert (answer.code, answer.text, answer.messages) == (code, text, [])


async def test_an_errors_metadata_goes_along(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Refuse", message("Refusal", how="metadata"))

    assert answer.code == 9
    assert answer.trailers == {"x-why": "no tea", "x-raw-bin": b"\0\1"}


async def test_an_error_too_long_for_its_header_is_cut(stub: Stub) -> None:
    answer = await stub.ask(f"{ORDERS}Refuse", message("Refusal", how="long"))

    assert (answer.code, answer.text[:3], answer.text[-4:]) == (3, "ééé", "é...")


async def test_a_crash_is_answered_and_not_told(stub: Stub) -> None:
    crashed = await stub.ask(f"{ORDERS}Crash", message("Query", order_id=1))
    after = await stub.ask(f"{ORDERS}Find", message("Query", order_id=1))

    assert (crashed.code, crashed.text) == (2, "Internal server error")
    assert after.code == 0


async def test_a_payload_that_does_not_fit_names_every_wrong_field(stub: Stub) -> None:
    bad = message("Order", order_id=1, placed_at={"seconds": 1 << 60})
    answer = await stub.ask(f"{ORDERS}Place", bad)

    status = Status.FromString(answer.trailers["grpc-status-details-bin"])
    request = BadRequest.FromString(status.details[0].value)
    problems = [(one.field, one.description) for one in request.field_violations]
    assert answer.code == status.code == 3
    assert problems == [("$", "holds a google.protobuf.Timestamp that is out of range")]
    assert "google.protobuf.Timestamp that is out of range" in answer.text


@pytest.mark.parametrize(
    ("path", "name"), [(f"{ORDERS}Forgotten", "Forgotten"), ("/a.B/C", "/a.B/C"), ("/", "/")]
)
async def test_a_method_without_a_handler_is_unimplemented(
    stub: Stub, service: Service, path: str, name: str
) -> None:
    answer = await stub.ask(path, b"")

    assert (answer.code, answer.text) == (12, f"The server does not implement the method {name}")
    await until(lambda: service.statistics().refused)


@pytest.mark.parametrize("method", ["Find", "Upload"])
async def test_bytes_that_are_no_message_are_refused(stub: Stub, method: str) -> None:
    answer = await stub.ask(f"{ORDERS}{method}", b"\xff\xff\xff")

    assert answer.code == 13
    assert "cannot be read" in answer.text


async def test_a_message_over_the_limit_is_refused(notes: Notes) -> None:
    async with (
        serving(URL, child(Orders, notes), proto=SHOP, message_limit=1000) as service,
        calling(service.url) as stub,
    ):
        huge = await stub.ask(f"{ORDERS}Place", message("Order", note="x" * 1000))
        after = await stub.ask(f"{ORDERS}Place", message("Order", note="x" * 900))

    assert (huge.code, after.code) == (8, 0)


async def test_more_calls_than_may_be_are_refused(notes: Notes) -> None:
    async with (
        serving(URL, child(Orders, notes), proto=SHOP, max_calls=2) as service,
        calling(service.url) as stub,
    ):
        waiting = [stub.call(f"{ORDERS}Wait", message("Query", order_id=n)) for n in (1, 2)]
        await until(lambda: notes.seen and service.statistics().in_flight == 2)
        refused = await stub.ask(f"{ORDERS}Wait", message("Query", order_id=3))
        notes.gate.set()
        answers = [await trio.to_thread.run_sync(finished, call) for call in waiting]

    assert refused.code == 8
    assert [answer.code for answer in answers] == [0, 0]


async def test_a_caller_of_a_full_mailbox_waits_and_no_other_with_it(notes: Notes) -> None:
    class Others(Orders):
        pass

    async with (
        serving(URL, child(Orders, notes, mailbox=1), proto=SHOP) as service,
        calling(service.url) as stub,
    ):
        waiting = [stub.call(f"{ORDERS}Wait", message("Query", order_id=n)) for n in range(8)]
        await until(lambda: service.statistics().in_flight == 8)
        unknown = await stub.ask(f"{ORDERS}Forgotten", b"")
        notes.gate.set()
        answers = [await trio.to_thread.run_sync(finished, call) for call in waiting]

    assert unknown.code == 12
    assert [answer.code for answer in answers] == [0] * 8
    assert sorted(notes.seen) == list(range(8))


# -- callers that leave, and deadlines ----------------------------------------------


async def test_a_handler_knows_who_calls_and_until_when(stub: Stub) -> None:
    metadata = (("x-trace", "7"), ("x-trace", "8"), ("x-raw-bin", b"\0\1"))
    find = message("Query", order_id=1)
    answer = await stub.ask(f"{ORDERS}Context", find, timeout=9.0, metadata=metadata)

    context = dict(kind("Struct").FromString(answer.messages[0]))
    assert dict(context["headers"]) == {"x-trace": "7,8", "x-raw-bin": "AAE="}
    assert (context["transport"], context["pattern"]) == ("grpc", "Orders.Context")
    assert context["source"].startswith("127.0.0.1:")
    assert context["correlation_id"] in context["message_id"]
    assert 5 < context["seconds"] < 10


async def test_a_generator_ends_when_its_caller_leaves(
    stub: Stub, service: Service, notes: Notes
) -> None:
    call = stub.call(f"{ORDERS}Watch", message("Query"))
    assert await trio.to_thread.run_sync(next, call) == message("Order")
    call.cancel()

    await until(lambda: notes.seen == ["ended"])
    await until(lambda: service.statistics().in_flight == 0)


async def test_a_deadline_ends_the_handlers_stream_too(stub: Stub, notes: Notes) -> None:
    answer = await stub.ask(f"{ORDERS}Watch", message("Query"), timeout=0.2)

    assert answer.code == 4
    await until(lambda: notes.seen == ["ended"])


LEFT: Final = "the caller left before its stream's end"


@pytest.mark.parametrize(
    ("method", "seen"),
    [("Upload", ["tea", LEFT, "ended"]), ("Chat", ["tea", "ended"])],
    ids=["one answer", "a stream of answers"],
)
async def test_half_of_a_callers_stream_is_not_taken_for_all_of_it(
    service: Service,
    notes: Notes,
    caplog: pytest.LogCaptureFixture,
    method: str,
    seen: list[str],
) -> None:
    for _ in range(10):
        async with calling(service.url) as stub:
            left = threading.Event()
            call = stub.call(f"{ORDERS}{method}", *lines("tea"), until=left)
            await until(lambda: notes.seen == ["tea"])
            call.cancel()
            left.set()
            await until(lambda: "ended" in notes.seen)
        assert notes.seen == seen
        notes.seen.clear()

    await until(lambda: service.statistics().in_flight == 0)
    assert "crashed" not in caplog.text


async def test_all_of_a_callers_stream_is_known_to_be_all(stub: Stub, notes: Notes) -> None:
    for method in ("Upload", "Chat"):
        await stub.ask(f"{ORDERS}{method}", *lines("tea"))

    assert notes.seen == ["tea", "all of it", "ended"] * 2


async def test_a_request_that_waits_does_not_run_when_its_caller_has_left(notes: Notes) -> None:
    async with (
        serving(URL, child(Orders, notes), proto=SHOP) as service,
        calling(service.url) as stub,
    ):
        first = stub.call(f"{ORDERS}Wait", message("Query", order_id=1))
        await until(lambda: notes.seen == [1])
        second = stub.call(f"{ORDERS}Wait", message("Query", order_id=2))
        await until(lambda: service.statistics().in_flight == 2)
        second.cancel()
        await until(lambda: service.statistics().in_flight == 1)
        notes.gate.set()
        await trio.to_thread.run_sync(finished, first)
        await stub.ask(f"{ORDERS}Wait", message("Query", order_id=3))

    assert notes.seen == [1, 3]


# -- backpressure -------------------------------------------------------------------


async def test_a_slow_caller_slows_the_generator_down(stub: Stub, notes: Notes) -> None:
    call = stub.call(f"{ORDERS}Watch", message("Query", order_id=2000))
    assert await trio.to_thread.run_sync(next, call)
    before = -1
    while len(notes.seen) != before:
        before = len(notes.seen)
        await trio.sleep(0.1)
    answer = await trio.to_thread.run_sync(finished, call)

    assert before < 1000
    assert (len(answer.messages), answer.code) == (1999, 0)


async def test_a_slow_handler_slows_its_caller_down(stub: Stub, notes: Notes) -> None:
    sent: list[int] = []

    def many() -> Any:
        yield message("Line", sku="wait")
        for number in range(400):
            sent.append(number)
            yield message("Line", sku="x" * 100_000)

    call = stub.streaming(f"{ORDERS}Upload", many())
    await until(lambda: notes.seen)
    before = -1
    while len(sent) != before:
        before = len(sent)
        await trio.sleep(0.1)
    notes.gate.set()
    answer = await trio.to_thread.run_sync(finished, call)

    assert before < 200
    assert kind("Order").FromString(answer.messages[0]).order_id == 401


# -- beginning and end --------------------------------------------------------------


async def test_methods_without_a_handler_are_said_at_the_start(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "understudy.transports.grpc"):
        async with serving(URL, child(Orders, notes), proto=SHOP):
            pass

    assert "nobody handles Orders.Forgotten; callers get UNIMPLEMENTED" in caplog.text


async def test_a_port_that_is_taken_is_said(notes: Notes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"grpc://127.0.0.1:{taken.getsockname()[1]}"
        tree = Supervisor("shop", [child(Orders, notes), serve(url, proto=SHOP)])
        with pytest.raises(StartFailed) as caught:
            async with running(tree):
                pass

    assert "cannot listen there: Address already in use" in str(caught.value.__cause__)


async def test_calls_in_hand_at_the_stop_are_finished_and_balancers_told_before(
    notes: Notes,
) -> None:
    async with (
        hosting(URL, child(Orders, notes), proto=SHOP) as service,
        calling(service.url) as stub,
    ):
        watch = stub.call("/grpc.health.v1.Health/Watch", b"")
        states = [await trio.to_thread.run_sync(next, watch)]
        waiting = stub.call(f"{ORDERS}Wait", message("Query", order_id=1))
        await until(lambda: notes.seen == [1])
        service.system.stop()
        states.append(await trio.to_thread.run_sync(next, watch))
        late = await stub.ask(f"{ORDERS}Find", b"", timeout=0.3)
        notes.gate.set()
        answer = await trio.to_thread.run_sync(finished, waiting)
        await service.system.stopped()

    found = [health_pb2.HealthCheckResponse.FromString(state).status for state in states]
    assert found == [1, 2]  # SERVING, NOT_SERVING
    # Refused, or never answered; gRPC itself cancels a call that comes just as the stop does.
    assert late.code in (1, 4, 14)
    assert answer.code == 0


async def test_health_knows_each_service(stub: Stub) -> None:
    codes = {}
    for name in ("", "shop.v1.Orders", "shop.v1.Nobody"):
        request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        answer = await stub.ask("/grpc.health.v1.Health/Check", request)
        codes[name] = answer.code

    assert codes == {"": 0, "shop.v1.Orders": 0, "shop.v1.Nobody": 5}


@pytest.mark.parametrize("wanted", [True, False], ids=["on", "off"])
async def test_reflection_describes_the_service_on_request(notes: Notes, wanted: bool) -> None:
    from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]

    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="shop.v1.Orders"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    async with (
        serving(URL, child(Orders, notes), proto=SHOP, reflection=wanted) as service,
        calling(service.url) as stub,
    ):
        answer = await stub.ask(path, *[one.SerializeToString() for one in asked])

    if not wanted:
        assert answer.code == 12
        return
    found = [reflection_pb2.ServerReflectionResponse.FromString(one) for one in answer.messages]
    names = [one.name for one in found[0].list_services_response.service]
    assert "shop.v1.Orders" in names
    assert all(one.file_descriptor_response.file_descriptor_proto for one in found[1:])


def test_protobuf_itself_finds_what_we_call_unreadable() -> None:
    with pytest.raises(DecodeError):
        kind("Query").FromString(b"\xff\xff\xff")
