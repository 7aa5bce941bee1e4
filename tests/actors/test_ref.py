"""References: tell, ask and stream, as their senders meet them."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    MailboxFull,
    NoHandler,
    PayloadError,
    Retry,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Undelivered
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated


@attrs.frozen
class FindOrder:
    id: int


@attrs.frozen
class Boom:
    pass


@attrs.frozen
class Slow(Request[str]):
    seconds: float


@attrs.frozen
class Life(Request[int]):
    pass


class Orders(Actor[Boom | Slow | Life]):
    """Its handlers answer, refuse, dawdle, crash and stream."""

    closed: list[str]

    def __init__(self, closed: list[str] | None = None) -> None:
        self.closed = closed if closed is not None else []

    async def receive(self, message: object) -> Any:
        match message:
            case Slow(seconds):
                await trio.sleep(seconds)
                return "done"
            case Life():
                return self.incarnation
            case _:
                raise ZeroDivisionError("boom")

    @message_pattern("orders.find_one")
    async def find_one(self, query: FindOrder) -> str:
        if query.id == 0:
            raise RpcError({"status": 404, "message": "order 0 not found"})
        return f"order {query.id}"

    @message_pattern("orders.later")
    async def later(self) -> None:
        raise Retry("not yet", after=2)

    @event_pattern("orders.created")
    async def on_created(self, order: FindOrder) -> None:
        self.closed.append(f"created {order.id}")

    @message_pattern("orders.numbers")
    async def numbers(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
        finally:
            self.closed.append("numbers")

    @message_pattern("orders.tail")
    async def tail(self, what: str) -> AsyncIterator[str]:
        try:
            yield what
            await trio.sleep_forever()
        finally:
            self.closed.append("tail")

    @message_pattern("orders.broken")
    async def broken(self, error: str) -> AsyncIterator[int]:
        yield 1
        await trio.sleep(1)
        yield 2
        raise RpcError("no more") if error == "refused" else ZeroDivisionError("broken")


# -- ask


async def test_an_ask_by_message_pattern_or_method_gets_the_answer(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        assert await orders.ask(Life()) == 1
        assert await orders.ask("orders.find_one", {"id": 7}) == "order 7"
        assert await orders.ask(Orders.find_one, FindOrder(7)) == "order 7"


async def test_an_rpc_error_is_an_answer_and_no_crash(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        with pytest.raises(RpcError, match="order 0 not found"):
            await orders.ask(Orders.find_one, FindOrder(0))

        assert await orders.ask(Life()) == 1


async def test_an_asker_learns_that_the_handler_asked_for_a_retry(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        with pytest.raises(Retry, match="not yet") as caught:
            await orders.ask("orders.later", None)

    assert caught.value.after == 2


async def test_only_the_asker_of_the_crashing_message_gets_the_crash(clock: MockClock) -> None:
    lives: list[int] = []

    async def ask_for_life(orders: Isolated[Orders]) -> None:
        lives.append(await orders.ask(Life()))

    async with isolated(Orders) as orders, trio.open_nursery() as nursery:
        orders.tell(Slow(1))
        nursery.start_soon(ask_for_life_after_crash, orders, lives)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask_for_life, orders)

    assert lives == [2]


async def ask_for_life_after_crash(orders: Isolated[Orders], lives: list[int]) -> None:
    with pytest.raises(ActorCrashed) as caught:
        await orders.ask(Boom())  # type: ignore[call-overload]  # it has no answer to type
    assert trio.current_time() == 1
    assert lives == []
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(caught.value) == (
        "isolated/orders (incarnation 1) crashed on this message. "
        "It was not tried again; the cause stands above."
    )


@pytest.mark.parametrize("timeout", [0.5, 5.0, 30.0])
async def test_an_ask_times_out_at_its_deadline(timeout: float, clock: MockClock) -> None:
    async with isolated(Orders, shutdown=0) as orders:
        with pytest.raises(AskTimeout) as caught:
            await orders.ask(Slow(1000), timeout=timeout)

        assert trio.current_time() == timeout
    assert str(caught.value) == (
        f"isolated/orders did not answer within {timeout:g} s; it may still be at work. "
        "Pass a longer timeout= if the work is known to take that long."
    )


async def test_asks_that_time_out_one_after_the_other_are_at_most_a_grain_late(
    clock: MockClock,
) -> None:
    late: list[float] = []

    async def ask(orders: Isolated[Orders], timeout: float) -> None:
        with pytest.raises(AskTimeout):
            await orders.ask(Slow(1000), timeout=timeout)
        late.append(trio.current_time() - timeout)

    async with isolated(Orders, shutdown=0) as orders, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, orders, 1 + number / 1000)

    assert len(late) == 100
    assert min(late) >= 0
    assert max(late) <= 0.0101


async def test_an_answer_that_comes_too_late_is_undelivered(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        with pytest.raises(AskTimeout):
            await orders.ask(Slow(2), timeout=1)
        notice = await orders.lifecycle.expect(Undelivered, within=2)

    assert (notice.why, notice.message) == ("its asker does not wait any more", "str")


async def test_a_question_nobody_waits_for_any_more_is_not_handled(clock: MockClock) -> None:
    done: list[str] = []
    async with isolated(Orders, done) as orders:
        orders.tell(Slow(2))
        with pytest.raises(AskTimeout):
            await orders.ask(Orders.on_created, FindOrder(1), timeout=1)

    assert done == []


async def test_a_cancelled_ask_leaves_nothing_behind(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        orders.tell(Slow(2))
        with trio.move_on_after(1):
            await orders.ask(Life(), timeout=100)

        assert not orders.system.timers.waiting
        await orders.ask(Life())
    assert orders.lifecycle.of(Undelivered) == []


async def test_an_ask_with_no_room_fails_at_its_deadline(clock: MockClock) -> None:
    async with isolated(Orders, mailbox=1, shutdown=0) as orders:
        orders.tell(Slow(1000))
        await wait_all_tasks_blocked()
        orders.tell(Slow(1000))
        with pytest.raises(MailboxFull, match="the mailbox is full"):
            await orders.ask(Life(), timeout=3)

        assert trio.current_time() == 3


async def test_an_ask_of_a_stopped_actor_fails_at_once(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        await orders.system.stop_child(orders.path)
        with pytest.raises(ActorStopped, match=r"isolated/orders will not answer: it has stopped"):
            await orders.ask(Life())

        assert trio.current_time() == 0
        assert orders.alive is False


async def test_an_ask_of_an_actor_whose_start_failed_fails_at_once(clock: MockClock) -> None:
    class Broken(Actor[Life]):
        async def started(self) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

        def receive(self, message: Life) -> int:
            return 1

    async with running(Supervisor("shop"), threads=False) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start_in_vain, system, Broken)
            await wait_all_tasks_blocked()
            broken = system.ref(Broken)
            with pytest.raises(ActorStopped, match="its start failed"):
                await broken.ask(Life())
        with pytest.raises(ActorStopped):
            await broken.ask(Life())
        assert trio.current_time() == 1


async def _start_in_vain(system: Any, actor: type[Actor[Any]]) -> None:
    with pytest.raises(Exception, match="could not be started"):
        await system.start_child(child(actor))


async def test_an_ask_waiting_in_a_mailbox_that_closes_fails_at_once(clock: MockClock) -> None:
    async def ask(orders: Isolated[Orders]) -> None:
        with pytest.raises(ActorStopped, match="it has ended"):
            await orders.ask(Life())

    async with isolated(Orders, restart="temporary") as orders, trio.open_nursery() as nursery:
        orders.tell(Slow(1))
        orders.tell(Boom())
        nursery.start_soon(ask, orders)


# -- tell


async def test_a_tell_never_fails_for_an_actor_that_has_ended(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        await orders.system.stop_child(orders.path)
        orders.tell(Boom())

    (notice,) = orders.lifecycle.of(Undelivered)
    assert (notice.why, notice.message) == ("the actor has ended", "Boom")


async def test_a_told_method_or_pattern_runs_its_handler(clock: MockClock) -> None:
    done: list[str] = []
    async with isolated(Orders, done) as orders:
        orders.tell(Orders.on_created, FindOrder(1))
        orders.tell("orders.created", {"id": 2})
        await orders.tell_wait("orders.created", {"id": 3})

    assert done == ["created 1", "created 2", "created 3"]


@pytest.mark.parametrize("how", ["tell", "ask", "tell_wait", "stream"])
async def test_what_the_actor_can_never_handle_fails_where_it_is_sent(
    how: str, clock: MockClock
) -> None:
    async with isolated(Orders) as orders:
        with pytest.raises(NoHandler, match=r"isolated/orders: no handler for the pattern 'nope'"):
            await _send(orders, how, "nope", {})
        with pytest.raises(PayloadError, match="the payload does not fit"):
            await _send(orders, how, "orders.find_one", {"id": "seven"})


async def _send(orders: Isolated[Orders], how: str, pattern: str, data: object) -> None:
    if how == "stream":
        _ = [item async for item in orders.stream(pattern, data)]
    elif how == "tell":
        orders.tell(pattern, data)
    elif how == "ask":
        await orders.ask(pattern, data)
    else:
        await orders.tell_wait(pattern, data)


async def test_an_actor_without_receive_takes_no_plain_messages(clock: MockClock) -> None:
    class Silent(Actor[Boom]):
        pass

    async with isolated(Silent) as silent:
        with pytest.raises(NoHandler, match=r"isolated/silent \(it has no receive method\)"):
            silent.tell(Boom())
        with pytest.raises(NoHandler, match="no handler for the pattern 'Life'"):
            await silent.ask(Life())


async def test_a_method_of_a_base_class_reaches_the_method_that_overrides_it(
    clock: MockClock,
) -> None:
    class Archive(Orders):
        @message_pattern("orders.find_one")
        async def find_one(self, query: FindOrder) -> str:
            return f"archived {query.id}"

    async with isolated(Archive) as archive:
        assert await archive.ask(Orders.find_one, FindOrder(1)) == "archived 1"
        assert await archive.ask(Archive.find_one, FindOrder(1)) == "archived 1"


# -- stream


async def test_a_stream_gives_every_item_and_ends(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        got = [number async for number in orders.stream(Orders.numbers, 40)]

    assert got == list(range(40))


async def test_a_streaming_handler_is_at_most_sixteen_items_ahead(clock: MockClock) -> None:
    made: list[int] = []

    class Numbers(Actor):
        @message_pattern("numbers")
        async def numbers(self, count: int) -> AsyncIterator[int]:
            for number in range(count):
                made.append(number)
                yield number

    async with isolated(Numbers) as numbers:
        stream = numbers.stream(Numbers.numbers, 100)
        assert await anext(stream) == 0
        await wait_all_tasks_blocked()

        assert len(made) == 1 + 16 + 1  # taken, waiting, and the one kept back
        assert [number async for number in stream] == list(range(1, 100))


@pytest.mark.parametrize("pattern", ["numbers", "tail"], ids=["yields on", "waits"])
async def test_leaving_a_stream_ends_its_generator(pattern: str, clock: MockClock) -> None:
    done: list[str] = []
    async with isolated(Orders, done) as orders:
        async for _ in orders.stream(f"orders.{pattern}", 1000 if pattern == "numbers" else "x"):
            break
        await wait_all_tasks_blocked()

        assert done == [pattern]
        assert await orders.ask(Life()) == 1


async def test_closing_a_stream_before_its_first_item_does_nothing(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        stream: Any = orders.stream(Orders.numbers, 3)
        await stream.aclose()

        assert await orders.ask(Life()) == 1


@pytest.mark.parametrize(
    ("error", "raised"), [("refused", RpcError), ("crash", ActorCrashed)], ids=["refusal", "crash"]
)
async def test_an_error_in_a_stream_comes_after_the_items_before_it(
    error: str, raised: type[Exception], clock: MockClock
) -> None:
    async with isolated(Orders) as orders:
        stream = orders.stream(Orders.broken, error)
        assert [await anext(stream), await anext(stream)] == [1, 2]
        with pytest.raises(raised):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_of_a_plain_handler_is_its_answer(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        items = [item async for item in orders.stream("orders.find_one", {"id": 1})]

    assert items == ["order 1"]


async def test_asking_a_streaming_handler_says_to_iterate(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        with pytest.raises(TypeError, match=r"Orders\.numbers streams\. Iterate over ref\.stream"):
            await orders.ask("orders.numbers", 3)


async def test_a_stream_from_a_stopped_actor_fails_at_once(clock: MockClock) -> None:
    async with isolated(Orders) as orders:
        await orders.system.stop_child(orders.path)
        with pytest.raises(ActorStopped):
            await anext(orders.stream(Orders.numbers, 3))


async def test_a_stream_whose_actor_is_killed_ends_in_an_error(clock: MockClock) -> None:
    async with isolated(Orders, shutdown=0) as orders:
        stream = orders.stream(Orders.tail, "x")
        assert await anext(stream) == "x"
        await orders.system.stop_child(orders.path)
        with pytest.raises(ActorStopped):
            await anext(stream)


# -- at length


class Flaky(Actor):
    """Crashes on every tenth message that it is asked."""

    @message_pattern("flaky.half")
    async def half(self, number: int) -> float:
        if number % 10 == 3:
            raise ValueError("a three at the end")
        return number / 2


async def test_ten_thousand_asks_over_a_thousand_crashes_all_end(clock: MockClock) -> None:
    outcomes: list[float | str] = []

    async def ask(flaky: Isolated[Flaky], first: int) -> None:
        for number in range(first, first + 100):
            try:
                outcomes.append(await flaky.ask(Flaky.half, number, timeout=1e6))
            except ActorCrashed:
                outcomes.append("crashed")

    async with isolated(Flaky, max_restarts=1000, backoff=None) as flaky:
        async with trio.open_nursery() as nursery:
            for first in range(0, 10_000, 100):
                nursery.start_soon(ask, flaky, first)

        assert flaky.incarnation in (1000, 1001)
    assert outcomes.count("crashed") == 1000
    assert sum(o for o in outcomes if isinstance(o, float)) == sum(
        n / 2 for n in range(10_000) if n % 10 != 3
    )
