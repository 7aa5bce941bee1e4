"""Plain tests: what blocks, what stands still, and how failures come out."""

import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from understudy.actors.errors import AskTimeout, Retry, RpcError, StartFailed, UnderstudyError
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.testing import (
    Probe,
    blocking,
    crash_on,
    fail_start,
    fails,
    isolated_sync,
    service,
)

from .shop import Add, Count, Mail, Orders, shop


def test_an_actor_is_asked_told_and_streams() -> None:
    with isolated_sync(Mail) as mail:
        mail.tell(Add(2))
        assert mail.ask(Count()) == 2
    with isolated_sync(Orders, Probe(Mail)) as orders:
        assert orders.ask("orders.find", 7) == "order 7"
        assert orders.request(Orders.find, 7) == "order 7"
        assert orders.stream("orders.all", 3) == [0, 1, 2]
        with pytest.raises(RpcError, match="there is no order 0"):
            orders.ask("orders.find", 0)


def test_probes_are_waited_for() -> None:
    mail = Probe(Mail)
    with isolated_sync(Orders, mail) as orders:
        assert orders.event("orders.created", 5) == "acknowledged"
        assert orders.wait(mail.expect(Add)) == Add(5)
        with pytest.raises(AssertionError, match="mail: expected a Add within 3 s"):
            orders.wait(mail.expect(Add, within=3))


def test_an_hour_takes_no_time() -> None:
    began = time.monotonic()
    with isolated_sync(Orders, Probe(Mail)) as orders:
        orders.inject(fails(Retry("later", after=900), "orders.created", times=3))
        assert orders.event("orders.created", 5) == "acknowledged"
        orders.advance(900)
        assert orders.call(trio.current_time) >= 3600
        with pytest.raises(AskTimeout):
            orders.ask("orders.sleep", 60, timeout=50)
    assert time.monotonic() - began < 5


def test_between_calls_everything_stands_still() -> None:
    mail = Probe(Mail)
    with isolated_sync(Orders, mail) as orders:
        orders.tell("orders.created", 5)
        before = orders.call(trio.current_time)
        time.sleep(0.02)
        assert orders.call(trio.current_time) == before

        orders.advance(0)
        assert mail.received[0].message == Add(5)


def test_real_time_if_it_is_asked_for() -> None:
    with isolated_sync(Orders, Probe(Mail), virtual_time=False) as orders:
        began = time.monotonic()
        assert orders.ask("orders.sleep", 0.05) == "awake"
        assert time.monotonic() - began >= 0.05


def test_crashes_restarts_and_dead_letters_are_expected() -> None:
    with isolated_sync(Orders, Probe(Mail)) as orders:
        orders.inject(crash_on(1, error=ValueError("x")))
        orders.tell("orders.created", 5)
        assert str(orders.expect_crash(ValueError).error) == "x"
        assert orders.expect_restart().incarnation == 2
        assert orders.expect_dead_letter(Orders.on_created, reason="crashed").attempts == 1
        assert len(orders.dead_letters()) == 1

        orders.crash()
        orders.expect_restart()
        assert orders.restarts == 2
        assert "crashed" in orders.lifecycle.kinds()


def test_faults_end_with_their_block() -> None:
    with isolated_sync(Orders, Probe(Mail)) as orders:
        with orders.inject(fails(RpcError("closed"))) as injection:
            with pytest.raises(RpcError, match="closed"):
                orders.ask("orders.find", 7)
        assert (orders.ask("orders.find", 7), injection.happened) == ("order 7", 1)


def test_a_whole_service_can_be_waited_for() -> None:
    with blocking(service(shop())) as running:
        it = running.subject
        assert running.wait(it.client.send(Orders.find, 7)) == "order 7"
        running.wait(it.stop())
        assert it.lifecycle.kinds()[-1] == "stopped"


# -- failures -------------------------------------------------------------------


def test_an_error_in_the_block_comes_out_as_it_is_and_leaves_no_thread() -> None:
    with pytest.raises(ValueError, match="mine"):
        with isolated_sync(Orders, Probe(Mail)):
            raise ValueError("mine")
    assert not [one for one in threading.enumerate() if one.name == "understudy-test"]


def test_a_start_that_fails_is_raised_where_the_block_begins() -> None:
    with pytest.raises(StartFailed):
        with isolated_sync(Mail, faults=[fail_start()]):
            pytest.fail("the block must not run")


def test_a_tree_that_gives_up_says_so_to_who_waits_and_once() -> None:
    with isolated_sync(Orders, Probe(Mail), max_restarts=0) as orders:
        with orders.inject(crash_on(1)):
            orders.tell("orders.created", 5)
            with pytest.raises(SupervisorGaveUp):
                orders.advance(60)
        with pytest.raises(UnderstudyError, match="of this block has ended"):
            orders.ask("orders.find", 7)


def test_a_block_is_over_when_it_is_over() -> None:
    with isolated_sync(Mail) as mail:
        pass
    with pytest.raises(UnderstudyError, match="has ended"):
        mail.ask(Count())


def test_an_interrupt_of_a_call_that_never_ends_ends_the_block() -> None:
    def run() -> None:
        with isolated_sync(Orders, Probe(Mail), virtual_time=False, shutdown=0.1) as orders:
            main = threading.main_thread().ident
            assert main is not None
            interrupt = threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT])
            interrupt.start()
            try:
                orders.ask("orders.sleep", 3600, timeout=3600)
            finally:
                interrupt.join()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not [one for one in threading.enumerate() if one.name == "understudy-test"]


def test_what_a_manager_raises_at_its_end_is_raised_at_the_block_s_end() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[int]:
        yield 7
        raise OSError("the end failed")

    with pytest.raises(OSError, match="the end failed"):
        with blocking(failing()) as seven:
            assert seven.subject == 7


def test_a_manager_may_give_nothing() -> None:
    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield None

    with blocking(nothing()) as blocked:
        assert blocked.call(trio.lowlevel.in_trio_run)


async def test_in_an_async_test_it_is_refused() -> None:
    with pytest.raises(RuntimeError, match="In an async test use the async form"):
        with isolated_sync(Mail):
            pytest.fail("the block must not run")
