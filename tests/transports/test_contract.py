"""What every transport promises, written once over the table of transports."""

import gc
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from weakref import ref

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.context import MessageContext
from understudy.actors.errors import (
    AskTimeout,
    ConnectionLost,
    DeclarationError,
    NoResponders,
    PayloadError,
    RequestTimeout,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.calls import Call
from understudy.transports.client import connect
from understudy.transports.options import shown

from .serving import BROKERS, DIRECT, NOWHERE, Service, hosting, serving, until, url_of
from .shop import Auditor, Line, Notes, Order, Shop


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(params=[*DIRECT, *BROKERS])
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


only_direct = pytest.mark.parametrize("url", DIRECT, indirect=True)
"""What nobody can promise who has a broker in between."""

as_nest = pytest.mark.parametrize(
    "url", [name for name in (*DIRECT, *BROKERS) if name != "grpc"], indirect=True
)
directly_as_nest = pytest.mark.parametrize(
    "url", [name for name in DIRECT if name != "grpc"], indirect=True
)
"""gRPC is here in nestrs's dialect, whose errors look otherwise, and which has no streams.

The other one has a method for each pattern, and tests of its own for all of this.
"""


@pytest.fixture
async def shop(url: str, notes: Notes) -> AsyncIterator[Service]:
    async with serving(url, child(Shop, notes, concurrency=64)) as service:
        yield service
        for gate in (notes.gate, *notes.gates.values()):
            gate.set()


ORDER = Order(7, [Line("tea", 2), Line("jam", 3)])
TRICKY = {"s": 'héllo ✓ 😀 #12#{"\\ \x00 \u2028', "n": 1.5, "l": [None, True, {"": []}]}
INTERNAL = {"status": "error", "message": "Internal server error"}
NOBODY = "There is no matching message handler defined in the remote service."


class Till(Actor):
    """Takes its events ten at a time; one of them makes it fail."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("paid", batch=10, within=0.05)
    async def paid(self, amounts: list[int]) -> None:
        if 13 in amounts:
            raise ValueError("poison")
        self.notes.seen.extend(amounts)


async def test_of_a_batch_all_but_the_poison_event_are_handled(url: str, notes: Notes) -> None:
    async with serving(url, child(Till, notes)) as till, till.client() as client:
        for amount in range(20):
            await client.emit("paid", amount)
        await until(lambda: len(notes.seen) == 19)
        dead: list[Any] = []
        with trio.fail_after(10):
            while not dead:
                dead = await till.dead_letters()

    assert sorted(notes.seen) == [amount for amount in range(20) if amount != 13]
    assert [letter.body for letter in dead] == [b"13"]


# -- requests -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "data", "answer"),
    [
        ({"cmd": "total"}, {"id": 7, "lines": [{"sku": "tea", "quantity": 4}]}, 4),
        ("echo", TRICKY, TRICKY),
        ("echo", 0, 0),
        ("echo", "", ""),
        ("echo", None, None),
        ("echo", "😀" * 200_000, "😀" * 200_000),
        ("nothing", None, None),
    ],
    ids=["typed", "odd characters", "zero", "empty text", "null", "0.8 MB", "no value"],
)
async def test_a_request_is_answered(shop: Service, pattern: Any, data: Any, answer: Any) -> None:
    async with shop.client() as client:
        assert await client.send(pattern, data) == answer


async def test_a_method_stands_for_its_pattern_and_types_the_answer(shop: Service) -> None:
    async with shop.client() as client:
        assert await client.send(Shop.total, ORDER) == 5
        assert await client.send(Shop.find, 7) == Order(7, [Line("tea", 2)], "in a hurry")
        assert await client.send("find", 7, returns=Order) == Order(
            7, [Line("tea", 2)], "in a hurry"
        )


@as_nest
@pytest.mark.parametrize(
    ("error", "answer"),
    [
        ("no tea", {"status": "error", "message": "no tea"}),
        ({"status": 404, "message": "no tea"}, {"status": 404, "message": "no tea"}),
        (["no", "tea"], ["no", "tea"]),
        (None, {"status": "error", "message": None}),
        (0, {"status": "error", "message": 0}),
    ],
    ids=["text", "object", "list", "null", "zero"],
)
async def test_an_rpc_error_reaches_the_caller(shop: Service, error: Any, answer: Any) -> None:
    async with shop.client() as client:
        with pytest.raises(RpcError) as caught:
            await client.send("refuse", error)

    assert caught.value.error == answer


@as_nest
@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        ("crash", INTERNAL),
        ("unwritable", INTERNAL),
        ("later", {"status": 503, "message": "Service unavailable"}),
    ],
    ids=["a crash", "an answer that is no JSON", "not now"],
)
async def test_what_goes_wrong_inside_is_answered_and_not_told(
    shop: Service, pattern: str, answer: Any
) -> None:
    async with shop.client() as client:
        with pytest.raises(RpcError) as caught:
            await client.send(pattern)

        assert caught.value.error == answer
        assert await client.send("echo", 1) == 1


@as_nest
async def test_a_request_that_nobody_handles_fails_at_once(shop: Service) -> None:
    async with shop.client() as client:
        with trio.fail_after(1), pytest.raises((RpcError, NoResponders)) as caught:
            await client.send("nobody.home", timeout=60)

    nobody = f"{shop.where}: nobody listens for 'nobody.home'. "
    assert str(caught.value) == NOBODY or str(caught.value).startswith(nobody)


@as_nest
async def test_a_payload_that_does_not_fit_is_refused_with_every_wrong_field(
    shop: Service,
) -> None:
    async with shop.client() as client:
        with pytest.raises(RpcError) as caught:
            await client.send({"cmd": "total"}, {"id": "x", "lines": [{"sku": 1, "quantity": 2}]})

    assert caught.value.error == {
        "status": 400,
        "message": "the payload does not fit: id: expected an integer, got a string; "
        "lines[0].sku: expected a string, got an integer",
        "errors": [
            {"path": "id", "message": "expected an integer, got a string"},
            {"path": "lines[0].sku", "message": "expected a string, got an integer"},
        ],
    }


async def test_an_answer_that_does_not_fit_fails_the_call(shop: Service) -> None:
    async with shop.client() as client:
        with pytest.raises(PayloadError, match=r"\$: expected a string, got an integer"):
            await client.send("echo", 1, returns=str)


async def test_a_request_to_an_events_pattern_runs_it_and_has_no_value(
    shop: Service, notes: Notes
) -> None:
    notes.gate.set()
    async with shop.client() as client:
        assert await client.send("sold", "tea") is None

    assert notes.seen == ["tea"]


async def test_answers_come_in_any_order(shop: Service, notes: Notes) -> None:
    answers: list[int] = []
    async with shop.client() as client, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers.append(await client.send("wait", number))

        for number in range(64):
            nursery.start_soon(ask, number)
        await until(lambda: len(notes.seen) == 64)
        for number in reversed(range(64)):
            notes.gates[number].set()
            await until(lambda n=number: n in answers)  # type: ignore[misc]

    assert answers == list(reversed(range(64)))


async def test_a_client_with_enough_in_flight_is_not_read(url: str, notes: Notes) -> None:
    async with serving(url, child(Shop, notes, concurrency=64), in_flight=2) as shop:
        async with shop.client() as client, trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(client.send, "wait", number)
                await wait_all_tasks_blocked(0.005)
            held = len(notes.seen)
            for gate in notes.gates.values():
                gate.set()

    assert held == 2
    assert sorted(notes.seen) == list(range(6))


async def test_ten_clients_at_once_get_each_their_own_answers(shop: Service) -> None:
    answers: dict[int, list[int]] = {}

    async def talk(number: int) -> None:
        async with shop.client() as client:
            answers[number] = [await client.send("echo", number * 100 + i) for i in range(20)]

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(talk, number)

    assert answers == {n: [n * 100 + i for i in range(20)] for n in range(10)}


async def test_a_thousand_failing_requests_harm_neither_service_nor_connection(
    shop: Service,
) -> None:
    failing: list[Any] = ["refuse", {"cmd": "total"}, "nobody.home", "unwritable"] * 6 + ["crash"]
    failures: list[str] = []

    async with shop.client() as client:
        for pattern in failing * 40:
            with pytest.raises((RpcError, NoResponders)) as caught:
                await client.send(pattern, 1)
            failures.append(str(caught.value))

        assert await client.send("echo", "still here") == "still here"
    assert len(failures) == 1000
    if shop.url.partition(":")[0] in DIRECT:
        # One connection; those of gRPC are not ours to count.
        assert getattr(shop.statistics(), "accepted", 1) == 1


# -- streams ------------------------------------------------------------------


@as_nest
@pytest.mark.parametrize("count", [0, 1, 3, 1000], ids=["empty", "one", "three", "many"])
async def test_a_stream_brings_its_items_in_order(shop: Service, count: int) -> None:
    async with shop.client() as client:
        assert [item async for item in client.stream(Shop.count, count)] == list(range(count))


@as_nest
@pytest.mark.parametrize(
    ("error", "answer"),
    [("no tea", {"status": "error", "message": "no tea"}), ("crash", INTERNAL)],
    ids=["refused", "crashed"],
)
async def test_a_stream_that_fails_midway_brings_its_items_first(
    shop: Service, error: str, answer: Any
) -> None:
    async with shop.client() as client:
        items = client.stream("count.fail", error)
        assert await anext(items) == 1
        with pytest.raises(RpcError) as caught:
            await anext(items)

    assert caught.value.error == answer


@directly_as_nest
async def test_a_generator_that_waits_ends_when_its_caller_leaves(
    shop: Service, notes: Notes
) -> None:
    async with shop.client() as client:
        async with aclosing(client.stream("count.wait")) as items:
            assert await anext(items) == 1
        assert await client.send("echo", 1) == 1

    await until(lambda: notes.seen == ["ended"])


@directly_as_nest
async def test_a_generator_ends_when_its_caller_leaves(shop: Service, notes: Notes) -> None:
    async with shop.client() as client:
        async with aclosing(client.stream("count.on")) as items:
            assert await anext(items) == "tick" * 1000

    await until(lambda: notes.seen == ["ended"])


# -- events -------------------------------------------------------------------


async def test_an_event_reaches_every_handler_of_its_pattern(url: str, notes: Notes) -> None:
    notes.gate.set()
    async with serving(url, child(Shop, notes), child(Auditor, notes)) as shop:
        async with shop.client() as client:
            await client.emit("sold", "tea")
            await until(lambda: len(notes.seen) == 2)

    assert sorted(notes.seen) == ["audited tea", "tea"]


async def test_an_event_to_a_requests_pattern_runs_its_handler(shop: Service, notes: Notes) -> None:
    notes.gates[5].set()
    async with shop.client() as client:
        await client.emit("wait", 5)
        await until(lambda: notes.seen == [5])

    assert await shop.dead_letters() == []


@only_direct
async def test_a_full_mailbox_slows_the_sender_and_loses_nothing(url: str, notes: Notes) -> None:
    sent: list[int] = []
    options = {"queue": 4} if url.startswith("memory") else {}
    async with serving(url, child(Shop, notes, mailbox=2), **options) as shop:
        async with shop.client() as client, trio.open_nursery() as nursery:

            async def sell() -> None:
                for number in range(300):
                    await client.emit("sold", {"number": number, "pad": "x" * 100_000})
                    sent.append(number)

            nursery.start_soon(sell)
            await wait_all_tasks_blocked(0.05)
            assert len(sent) < 300
            notes.gate.set()
        await until(lambda: len(notes.seen) == 300)

    assert notes.seen == list(range(300))


async def test_an_event_that_keeps_crashing_becomes_a_dead_letter(
    shop: Service, notes: Notes
) -> None:
    async with shop.client() as client:
        await client.emit("poison", {"item": "tea"})
        await until(lambda: len(notes.seen) == 3)
    (letter,) = await shop.dead_letters()

    assert (letter.pattern, letter.body, letter.attempts) == ("poison", b'{"item":"tea"}', 3)
    assert letter.reason == "crashed"
    assert [run["attempt"] for run in notes.seen] == [1, 2, 3]
    assert [run["redelivered"] for run in notes.seen] == [False, True, True]
    assert len({run["message_id"] for run in notes.seen}) == 1


@only_direct
@pytest.mark.parametrize(
    ("pattern", "reason", "error"),
    [
        ("nobody.home", "no handler", "NoHandler: .*: no handler for the pattern 'nobody.home'"),
        ({"cmd": "total"}, "does not fit", "PayloadError: the payload does not fit: .*"),
    ],
    ids=["nobody handles it", "it does not fit"],
)
async def test_an_event_that_cannot_be_handled_is_a_dead_letter_at_once(
    shop: Service, pattern: Any, reason: str, error: str
) -> None:
    async with shop.client() as client:
        await client.emit(pattern, {"id": "?"})
        await client.send("echo")
    (letter,) = await shop.dead_letters()

    assert (letter.reason, letter.body) == (reason, b'{"id":"?"}')
    assert letter.transport == shop.url.partition(":")[0]
    assert re.fullmatch(error, letter.error)


# -- context ------------------------------------------------------------------


async def test_a_handler_knows_where_a_request_came_from(shop: Service) -> None:
    async with shop.client() as client:
        first = await client.send("context", 1)
        second = await client.send("context", 1)

    assert first["transport"] == shop.url.partition(":")[0]
    assert first["source"] == second["source"] != ""
    assert (first["pattern"], first["headers"]) == ("context", {})
    assert (first["attempt"], first["redelivered"]) == (1, False)
    assert first["correlation_id"] in first["message_id"]
    assert first["message_id"] != second["message_id"]


class Audit(Actor):
    """Takes what nobody else takes, and sees every sale."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @message_pattern("audit.*")
    def ask(self, data: Any, context: MessageContext) -> Any:
        return [context.pattern, data]

    @message_pattern("audit.exact")
    def exact(self, data: Any) -> str:
        return "exact"

    @event_pattern("sale/#")
    def sale(self, data: Any, context: MessageContext) -> None:
        self.seen.append((context.pattern, data))


@directly_as_nest
async def test_wildcard_patterns_take_what_no_exact_pattern_takes(url: str) -> None:
    seen: list[Any] = []
    async with serving(url, child(Audit, seen)) as service, service.client() as client:
        assert await client.send("audit.one", 1) == ["audit.one", 1]
        assert await client.send("audit.exact", 1) == "exact"
        with pytest.raises(RpcError, match=re.escape(NOBODY)):
            await client.send("audit.one.more", 1)
        await client.emit("sale/eu/7", 7)
        await until(lambda: seen)

    assert seen == [("sale/eu/7", 7)]


# -- the client's side --------------------------------------------------------


async def test_a_call_without_an_answer_times_out_and_says_where_and_what(
    shop: Service,
) -> None:
    async with shop.client() as client:
        with pytest.raises(RequestTimeout) as caught:
            await client.send("wait", 1, timeout=0.05)

    assert str(caught.value) == (
        f"{shop.where}: no answer to 'wait' within 0.05 s. "
        "The service may still be at work, or nobody handles the pattern there."
    )
    assert (caught.value.where, caught.value.pattern) == (shop.where, "wait")


class CallIt(Request[None]):
    """Answered when the service has answered."""


class Caller(Actor[CallIt]):
    """Calls the service it lives in, and would wait for a minute."""

    def __init__(self, url: str, given_up: trio.Event) -> None:
        self.url = url
        self.given_up = given_up

    async def receive(self, message: CallIt) -> None:
        async with connect(self.url) as client:
            try:
                await client.send("wait", 1, timeout=60)
            except RequestTimeout:
                self.given_up.set()


async def test_a_handlers_call_waits_no_longer_than_the_handlers_own_asker(shop: Service) -> None:
    given_up = trio.Event()
    async with running(Supervisor("near", [child(Caller, shop.url, given_up)])) as near:
        with pytest.raises(AskTimeout):
            await near.ref(Caller).ask(CallIt(), timeout=0.1)
        with trio.fail_after(5):
            await given_up.wait()


async def test_nothing_is_kept_of_calls_that_have_ended(shop: Service) -> None:
    async with shop.client() as client:
        for _ in range(10):
            with pytest.raises(RequestTimeout):
                await client.send("wait", 1, timeout=0.001)
        gc.collect()
        kept = [thing for thing in gc.get_objects() if isinstance(thing, Call)]

    assert len(kept) <= 1  # the traceback of the last one may still be around


async def test_the_late_answer_to_a_cancelled_call_is_nobodys(shop: Service, notes: Notes) -> None:
    async with shop.client() as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, "wait", 1)
                await until(lambda: notes.seen == [1])
                scope.cancel()
        notes.gates[1].set()
        notes.gates[2].set()

        assert await client.send("wait", 2) == 2


@only_direct
async def test_calls_that_wait_fail_at_once_when_the_service_ends(url: str, notes: Notes) -> None:
    lost: list[ConnectionLost] = []
    async with hosting(url, child(Shop, notes)) as shop, shop.client() as client:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await client.send("wait", 1, timeout=60)
                lost.append(caught.value)

            nursery.start_soon(wait)
            await until(lambda: notes.seen == [1])
            shop.system.kill()

    assert [(error.where, error.sent) for error in lost] == [(shop.where, True)]


@only_direct
async def test_a_client_finds_the_next_service_and_calls_wait_for_it(
    url: str, notes: Notes
) -> None:
    async with hosting(url, child(Shop, notes)) as shop, shop.client() as client:
        shop.system.stop()
        await shop.system.stopped()
        with pytest.raises(ConnectionLost, match="gave up on 'echo' after") as caught:
            await client.send("echo", 1, timeout=0.01)
        async with serving(shop.url, child(Shop, notes)):
            assert await client.send("echo", 2) == 2

    assert not caught.value.sent


async def test_a_client_of_nobody_says_so(url: str) -> None:
    nobody = NOWHERE[url.partition(":")[0]]

    with pytest.raises(ConnectionLost, match=f"^{shown(nobody)}: .*noth") as caught:
        async with connect(nobody):
            pass
    assert not caught.value.sent


async def test_a_closed_client_refuses_calls(shop: Service) -> None:
    async with shop.client() as client:
        pass

    with pytest.raises(ConnectionLost, match="the client was closed"):
        await client.send("echo", 1)


@pytest.mark.parametrize("pattern", [None, ["a"], 1.5j], ids=str)
async def test_a_pattern_that_no_service_can_have_is_refused(shop: Service, pattern: Any) -> None:
    async with shop.client() as client:
        with pytest.raises(DeclarationError, match="pattern"):
            await client.send(pattern)


# -- drain --------------------------------------------------------------------


async def test_requests_in_hand_at_the_stop_are_answered(url: str, notes: Notes) -> None:
    answers: list[int] = []
    async with hosting(url, child(Shop, notes, concurrency=4)) as shop, shop.client() as client:
        async with trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                answers.append(await client.send("wait", number))

            for number in range(8):
                nursery.start_soon(ask, number)
            await until(lambda: len(notes.seen) == 4)
            shop.system.stop()
            await wait_all_tasks_blocked(0.01)
            for gate in notes.gates.values():
                gate.set()

    assert sorted(answers) == list(range(8))


async def test_a_stopping_service_takes_no_new_requests(url: str, notes: Notes) -> None:
    async with hosting(url, child(Shop, notes, concurrency=4)) as shop, shop.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "wait", 1)
            await until(lambda: notes.seen == [1])
            shop.system.stop()
            await wait_all_tasks_blocked(0.01)
            with pytest.raises((RequestTimeout, ConnectionLost, NoResponders)):
                await client.send("wait", 2, timeout=0.05)
            notes.gates[1].set()

    assert notes.seen == [1]


async def test_events_in_hand_at_the_stop_are_finished(url: str, notes: Notes) -> None:
    async with hosting(url, child(Shop, notes)) as shop, shop.client() as client:
        await client.emit("sold", 1)
        await client.emit("sold", 2)
        await until(lambda: shop.statistics().in_flight == 2)
        shop.system.stop()
        await wait_all_tasks_blocked(0.01)
        notes.gate.set()

    assert notes.seen == [1, 2]


async def test_a_service_that_has_ended_is_freed_with_all_that_failed_in_it(
    url: str, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "understudy")  # what is captured is kept, frames and all
    notes.gate.set()
    async with serving(url, child(Shop, notes)) as service, service.client() as client:
        system = ref(service.system)
        await client.emit("sold", 1)
        await until(lambda: notes.seen == [1])
        for _ in range(3):
            with pytest.raises(RpcError):
                await client.send("crash")
    del service, client

    def is_freed() -> bool:
        gc.collect()
        return system() is None

    await until(is_freed)


# -- declaration --------------------------------------------------------------


@pytest.mark.parametrize("declare", [serve, connect], ids=["serve", "connect"])
def test_an_unknown_option_is_refused_with_the_nearest_right_one(url: str, declare: Any) -> None:
    wrong, right = ("in_fligth", "in_flight") if declare is serve else ("patiense", "patience")

    with pytest.raises(DeclarationError) as caught:
        declare(url, **{wrong: 1})
    assert str(caught.value) == (
        f"{shown(url)}: there is no option '{wrong}'. Did you mean '{right}'?"
    )


@pytest.mark.parametrize("declare", [serve, connect], ids=["serve", "connect"])
def test_an_option_that_cannot_work_is_refused(url: str, declare: Any) -> None:
    name, value = ("in_flight", 0) if declare is serve else ("patience", -1)

    with pytest.raises(DeclarationError, match=f"^{shown(url)}: '{name}' must be"):
        declare(url, **{name: value})
