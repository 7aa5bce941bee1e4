"""The TCP client against services that come and go, stall or talk nonsense."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import ConnectionLost, RequestTimeout, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect
from understudy.transports.codec import nest

from ..serving import Service, hosting, serving, until
from .wire import Wire, answering

URL = "tcp://127.0.0.1:0"


class Desk(Actor):
    @message_pattern("echo")
    async def echo(self, data: Any = None) -> Any:
        return data

    @message_pattern("who")
    async def who(self, data: Any, context: MessageContext) -> str:
        return context.source

    @message_pattern("refuse")
    async def refuse(self) -> None:
        raise RpcError({"status": 404, "message": "nope"})

    @event_pattern("told")
    async def told(self, data: Any) -> None:
        pass


@pytest.fixture
async def desk() -> AsyncIterator[Service]:
    async with serving(URL, child(Desk)) as service:
        yield service


async def ignore(wire: Wire) -> None:
    """A service that reads and never answers."""
    await wire.rest()


async def say_yes(wire: Wire) -> None:
    while True:
        (body,) = await wire.bodies(1)
        id = body.partition(b'"id":')[2].rstrip(b"}")
        await wire.send(nest.frame(nest.value(id, b'"yes"')))


# -- the pool -----------------------------------------------------------------


async def test_calls_are_spread_over_the_connections(desk: Service) -> None:
    async with desk.client(connections=4) as client:
        sources = [await client.send("who", 1) for _ in range(8)]

    assert len(set(sources)) == 4
    assert sources[:4] == sources[4:]


async def test_one_connection_carries_all_calls_unless_more_are_asked_for(desk: Service) -> None:
    async with desk.client() as client:
        sources = {await client.send("who", 1) for _ in range(8)}

    assert len(sources) == 1


async def test_a_connection_that_is_lost_is_left_out_of_the_pool() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with connect(url, connections=2) as client, trio.open_nursery() as nursery:
        gone, kept = await listener.accept(), await listener.accept()
        await listener.aclose()
        await gone.aclose()
        nursery.start_soon(say_yes, Wire(kept))
        await wait_all_tasks_blocked(0.01)

        assert [await client.send("any", timeout=1) for _ in range(4)] == ["yes"] * 4
        nursery.cancel_scope.cancel()
        await kept.aclose()


# -- connections that end -----------------------------------------------------


async def test_calls_fail_at_once_when_their_connection_ends() -> None:
    async def hang_up(wire: Wire) -> None:
        await wire.bodies(3)

    async with answering(hang_up) as url, connect(url) as client:
        lost: list[ConnectionLost] = []

        async def ask() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await client.send("any", timeout=60)
            lost.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)

    assert [str(error) for error in lost] == [f"{url}: the service closed the connection."] * 3
    assert all(error.sent for error in lost)


async def test_a_stream_fails_when_its_connection_ends() -> None:
    async def begin(wire: Wire) -> None:
        (body,) = await wire.bodies(1)
        id = body.partition(b'"id":')[2].rstrip(b"}")
        await wire.send(nest.frame(nest.item(id, b"1")))

    async with answering(begin) as url, connect(url) as client:
        items = client.stream("any")
        assert await anext(items) == 1
        with pytest.raises(ConnectionLost, match="the service closed the connection"):
            await anext(items)


async def test_calls_made_while_the_service_is_away_wait_for_it() -> None:
    answers: list[Any] = []
    async with hosting(URL, child(Desk)) as desk, desk.client() as client:
        desk.system.stop()
        await desk.system.stopped()

        async def ask() -> None:
            await client.emit("told", 1)
            answers.append(await client.send("echo", "late"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked(0.01)
            async with serving(desk.url, child(Desk)):
                await until(lambda: answers == ["late"])


async def test_a_client_tries_again_ever_more_slowly() -> None:
    times: list[float] = []

    async def hang_up(wire: Wire) -> None:
        times.append(trio.current_time())

    async with answering(hang_up) as url, connect(url):
        await until(lambda: len(times) == 4)

    # The second attempt comes at once; clocks only say what has waited long enough.
    assert times[2] - times[1] >= 0.1
    assert times[3] - times[2] >= 0.2


async def test_a_call_that_waited_for_nothing_says_why_nothing_came() -> None:
    async with hosting(URL, child(Desk)) as desk, desk.client() as client:
        desk.system.stop()
        await desk.system.stopped()
        await wait_all_tasks_blocked(0.02)
        with pytest.raises(ConnectionLost) as caught:
            await client.send({"cmd": "sum"}, timeout=0.01)

    assert str(caught.value) == (
        f"{desk.url}: connection refused: nothing listens there; "
        "gave up on {'cmd': 'sum'} after 0.01 s."
    )
    assert caught.value.sent is False


# -- the first connection -----------------------------------------------------


async def test_a_first_connection_is_tried_for_as_long_as_patience_lasts() -> None:
    async with serving(URL, child(Desk)) as desk:
        url = desk.url
    got: list[Any] = []

    async def call() -> None:
        async with connect(url, patience=10) as client:
            got.append(await client.send("echo", 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked(0.05)
        async with serving(url, child(Desk)):
            await until(lambda: got == [1])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("tcp://127.0.0.1:1", "connection refused: nothing listens there"),
        ("tcp://[::1]:1", "tcp://[::1]:1: "),
        ("tcp://no.such.host.invalid:1", "tcp://no.such.host.invalid:1: "),
    ],
    ids=["refused", "IPv6", "unknown host"],
)
async def test_a_first_connection_that_cannot_be_made_says_why(url: str, text: str) -> None:
    with pytest.raises(ConnectionLost) as caught:
        async with connect(url):
            pass

    assert str(caught.value).startswith(f"{url}: ")
    assert text in str(caught.value)
    assert caught.value.sent is False


# -- services that stall or talk nonsense -------------------------------------


async def test_a_silent_service_costs_a_call_its_timeout() -> None:
    async with answering(ignore) as url, connect(url) as client:
        with pytest.raises(RequestTimeout, match="no answer to 'any' within"):
            await client.send("any", timeout=0.02)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"nonsense", "the service sent a broken frame (a frame does not begin with a length"),
        (b"5#{bad}", "the service answered what is no packet ("),
        (b"101#", "the service sent a broken frame (a frame of 101 is over the limit of 100"),
    ],
    ids=["no frame", "no JSON", "too big"],
)
async def test_nonsense_fails_the_calls_and_says_what_it_was(reply: bytes, why: str) -> None:
    async def talk(wire: Wire) -> None:
        await wire.bodies(1)
        await wire.send(reply)
        await wire.rest()

    async with answering(talk) as url, connect(url, frame_limit=100) as client:
        with pytest.raises(ConnectionLost) as caught:
            await client.send("any", timeout=60)

    assert why in str(caught.value)


async def stall(wire: Wire) -> None:
    """A service that reads nothing."""
    await trio.sleep_forever()


async def test_a_service_that_reads_nothing_slows_its_senders() -> None:
    sent: list[int] = []
    async with answering(stall) as url, connect(url) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def tell() -> None:
                    for number in range(400):
                        await client.emit("told", "x" * 100_000)
                        sent.append(number)

                nursery.start_soon(tell)
                await wait_all_tasks_blocked(0.05)
                scope.cancel()

    assert 0 < len(sent) < 400


async def test_calls_to_a_service_that_reads_nothing_are_not_piled_up() -> None:
    async with answering(stall) as url, connect(url) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(400):
                    nursery.start_soon(client.send, "any", "x" * 100_000)
                await wait_all_tasks_blocked(0.05)
                with pytest.raises(ConnectionLost, match="the service takes nothing") as caught:
                    await client.send("any", timeout=0.02)
                assert not caught.value.sent
                scope.cancel()


async def test_an_emit_does_not_wait_for_what_others_go_on_sending(desk: Service) -> None:
    async with desk.client() as client, trio.open_nursery() as nursery:

        async def chatter() -> None:
            while True:
                await client.send("echo", "x" * 10_000)

        for _ in range(8):
            nursery.start_soon(chatter)
        with trio.fail_after(5):
            for _ in range(20):
                await client.emit("told", 1)
        nursery.cancel_scope.cancel()


async def test_an_answer_may_be_bigger_than_a_request_may(desk: Service) -> None:
    async with desk.client() as client:
        assert await client.send("echo", "x" * 4_000_000) == "x" * 4_000_000


# -- the other dialect --------------------------------------------------------


async def test_a_nestrs_client_gets_answers_and_errors_of_its_dialect(desk: Service) -> None:
    async with desk.client(dialect="nestrs") as client:
        assert await client.send("echo", {"é": [1]}) == {"é": [1]}
        with pytest.raises(RpcError) as refused:
            await client.send("refuse")
        with pytest.raises(RpcError, match="no microservice handler for pattern `nobody`"):
            await client.send("nobody")

    assert refused.value.error == {"message": "nope", "details": {"status": 404}}
