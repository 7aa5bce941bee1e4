"""Faults on purpose: what each kind does, to which messages, and that it ends."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.errors import (
    ActorCrashed,
    AskTimeout,
    DeclarationError,
    NoHandler,
    RequestTimeout,
    Retry,
    RpcError,
    StartFailed,
)
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Restarting
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.pool import pool
from understudy.supervisors.system import running
from understudy.testing import (
    Injected,
    Probe,
    crash_on,
    drop,
    fail_start,
    fails,
    inject,
    isolated,
    slow,
)

from .shop import Add, Count, Mail, Orders, Worker

KINDS = ["plain", "async", "thread", "asyncio"]


async def test_a_crash_comes_with_the_message_that_was_named(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        inject(worker, crash_on(3))
        assert await worker.ask("plain", 1) == ["plain", 1]
        assert await worker.ask("async", 2) == ["async", 2]
        with pytest.raises(ActorCrashed) as caught:
            await worker.ask("plain", 3)
        assert isinstance(caught.value.__cause__, Injected)
        assert await worker.ask("plain", 4) == ["plain", 4]
        assert (worker.incarnation, worker.restarts) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slow_handler_of_any_kind_still_answers(kind: str, clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        with inject(worker, slow(2.5)) as injection:
            assert await worker.ask(kind, 1) == [kind, 1]
            assert (trio.current_time(), injection.happened) == (2.5, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_of_any_kind_can_be_made_to_fail(kind: str, clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        inject(worker, fails(RpcError("closed"), kind, times=2))
        for _ in range(2):
            with pytest.raises(RpcError, match="closed"):
                await worker.ask(kind, 1)
        assert await worker.ask(kind, 1) == [kind, 1]
        assert worker.incarnation == 1


async def test_a_stream_can_be_slow_and_fail(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        with inject(worker, slow(3), fails(RpcError("no"), after=1)):
            assert [item async for item in worker.stream("stream", 7)] == ["stream", 7]
            assert trio.current_time() == 3
            with pytest.raises(RpcError, match="no"):
                await worker.request("stream", 7)


async def test_a_batch_counts_as_one_message(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        with inject(worker, drop("batch", times=1)) as injection:
            deliveries = [await worker.event("batch", number) for number in range(6)]
            assert [await one.settled() for one in deliveries] == ["acknowledged"] * 6
        assert (await worker.ask("seen", None), injection.happened) == ([[3, 4, 5]], 1)


@pytest.mark.parametrize("on", [Add, None], ids=["a type", "all"])
async def test_what_is_told_can_be_lost(on: Any, clock: MockClock) -> None:
    async with isolated(Mail) as mail:
        with inject(mail, drop(on, after=1, times=1)):
            for number in (1, 10, 100):
                mail.tell(Add(number))
            await wait_all_tasks_blocked()
        assert await mail.ask(Count()) == 101
        assert await mail.dead_letters() == []


async def test_who_asks_for_what_is_lost_waits_in_vain(clock: MockClock) -> None:
    async with isolated(Orders, Probe(Mail)) as orders:
        inject(orders, drop(Orders.find))
        with pytest.raises(AskTimeout):
            await orders.ask("orders.find", 1, timeout=7)
        assert trio.current_time() == 7
        with pytest.raises(RequestTimeout):
            await orders.request("orders.find", 1)
        assert await orders.ask("orders.sleep", 0) == "awake"


async def test_an_event_that_is_lost_is_acknowledged(clock: MockClock) -> None:
    mail = Probe(Mail)
    async with isolated(Orders, mail) as orders:
        inject(orders, drop("orders.created"))
        delivery = await orders.event("orders.created", 5)
        assert await delivery.settled() == "acknowledged"
        await mail.expect_nothing()
        assert await orders.dead_letters() == []


async def test_a_retry_is_tried_again(clock: MockClock) -> None:
    mail = Probe(Mail)
    async with isolated(Orders, mail) as orders:
        inject(orders, fails(Retry("closed", after=30), Orders.on_created, times=2))
        delivery = await orders.event("orders.created", 5)
        assert await delivery.settled(within=120) == "acknowledged"
        assert trio.current_time() >= 60
        assert await mail.expect(Add) == Add(5)


async def test_an_event_fails_so_often_that_it_is_a_dead_letter(clock: MockClock) -> None:
    error = ValueError("broken")
    async with isolated(Orders, Probe(Mail)) as orders:
        inject(orders, fails(error, "orders.created"))
        await orders.event("orders.created", 5)
        letter = await orders.expect_dead_letter(Orders.on_created, reason="crashed", attempts=5)
        assert letter.error == "ValueError: broken"
        assert (await orders.expect_crash(ValueError)).error is error


async def test_faults_are_over_when_they_are_removed(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        first, second = inject(worker, slow(1)), inject(worker, slow(2))
        await worker.ask("plain", 1)
        assert trio.current_time() == 3
        first.remove()
        first.remove()
        await worker.ask("plain", 1)
        assert trio.current_time() == 5
        second.remove()
        await worker.ask("plain", 1)
        assert trio.current_time() == 5
        assert worker.system.registry.find(Worker).stand_in is None


async def test_faults_meet_all_lanes_of_an_actor(clock: MockClock) -> None:
    async with isolated(Orders, Probe(Mail), concurrency=3) as orders:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(orders.ask, "orders.sleep", 1)
        inject(orders, slow(2))
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(orders.ask, "orders.find", 1)
        assert trio.current_time() == 1 + 2 + 2


async def test_faults_do_not_end_a_trace_nor_does_a_trace_end_them(clock: MockClock) -> None:
    async with isolated(Worker) as worker:
        inject(worker, slow(1))
        with worker.system.debug(worker).trace() as trace:
            await worker.ask("plain", 1)
        await worker.ask("plain", 1)
        assert (trace.statistics().handled, trio.current_time()) == (1, 2)


# -- starts -------------------------------------------------------------------


async def test_a_first_start_can_fail(clock: MockClock) -> None:
    with pytest.raises(StartFailed) as caught:
        async with isolated(Worker, faults=[fail_start()]):
            pytest.fail("the block must not run")
    assert isinstance(caught.value.__cause__, Injected)


async def test_starts_after_a_crash_can_fail(clock: MockClock) -> None:
    async with isolated(Worker, max_restarts=5) as worker:
        inject(worker, fail_start(2, error=OSError("no disk")))
        await worker.crash()
        for _ in range(2):
            await worker.expect_crash(OSError, match="no disk", within=10)
        await worker.lifecycle.expect(Restarting, lambda notice: notice.incarnation == 4)
        assert await worker.ask("plain", 1) == ["plain", 1]
        assert worker.incarnation == 4


async def test_starts_that_fail_too_often_end_the_tree(clock: MockClock) -> None:
    async def run() -> None:
        async with isolated(Worker, max_restarts=2) as worker:
            inject(worker, fail_start(times=9))
            await worker.crash()
            await trio.sleep(100)

    with pytest.raises(SupervisorGaveUp):
        await run()


# -- where and what -------------------------------------------------------------


async def test_any_actor_of_a_running_tree_can_be_met(clock: MockClock) -> None:
    tree = Supervisor("tree", [child(Mail, name="a"), child(Mail, name="b")])
    async with running(tree, threads=False) as system:
        inject(system.ref("tree/b"), fails(RpcError("only b")))
        assert await system.ref("a").ask(Count()) == 0
        with pytest.raises(RpcError, match="only b"):
            await system.ref("b").ask(Count())


async def test_what_cannot_be_injected_is_refused(clock: MockClock) -> None:
    async with isolated(Orders, Probe(Mail)) as orders:
        with pytest.raises(NoHandler, match=r"isolated/orders: no handler .*'orders\.fnid'"):
            inject(orders, drop("orders.fnid"))
        with pytest.raises(NoHandler, match=r"Worker\.plain"):
            inject(orders, drop(Worker.plain))
        with pytest.raises(DeclarationError, match="name at least one fault"):
            inject(orders)
        with pytest.raises(DeclarationError, match="is no fault"):
            inject(orders, Injected())  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match=r"<Probe mail> is not one actor"):
        inject(Probe(Mail), drop())


async def test_of_a_pool_a_member_is_named(clock: MockClock) -> None:
    async with running(Supervisor("tree", [pool(Mail, size=2)]), threads=False) as system:
        with pytest.raises(DeclarationError, match="name a member: 'tree/mail/1'"):
            inject(system.ref("mail"), drop())
        inject(system.ref("tree/mail/1"), drop())


@pytest.mark.parametrize(
    "wrong",
    [lambda: crash_on(0), lambda: slow(-1), lambda: drop(times=0), lambda: drop(after=-1)],
    ids=["no message", "negative time", "never", "negative count"],
)
def test_a_fault_that_can_never_happen_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"a fault|counted from 1"):
        wrong()
