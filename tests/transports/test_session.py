"""A session's end, whenever and however often it is told to end."""

import asyncio
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.asyncio_queues import Inlet, Outlet
from understudy.actors.asyncio_thread import asyncio_thread
from understudy.transports.broker.session import BrokerAway, Session


class Slow(Session[bytes, bytes]):
    """Says good-bye at length.

    Its task loses the first cancellation if it is `deaf`, all of them while it is `deafer`.
    """

    def begin(self) -> None:
        self.connecting, self.begun, self.closing = trio.Event(), trio.Event(), trio.Event()
        self.closed = self.slow_to_connect = self.deaf = self.deafer = False

    async def connect(self) -> None:
        self.thread.back(self.connecting.set)
        self.spawn(self._work())
        if self.slow_to_connect:
            await _sleep_through_one_cancellation()

    async def _work(self) -> None:
        if self.deaf:
            await _sleep_through_one_cancellation()
        while self.deafer:
            await _sleep_through_one_cancellation()
            if not self.deafer:
                return
        await asyncio.sleep(60)

    async def write(self, burst: list[bytes]) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def close(self) -> None:
        self.thread.back(self.closing.set)
        await asyncio.sleep(0.1)
        self.closed = True


async def _sleep_through_one_cancellation() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


@pytest.fixture
async def session() -> Slow:
    thread = asyncio_thread("brokers")
    slow = Slow(thread, Inlet(thread, 1), Outlet(thread), connect_timeout=5)
    slow.begin()
    return slow


async def _run(session: Slow) -> None:
    await session.thread.call(session.run, session.begun.set)


async def test_a_session_that_is_cancelled_closes_its_connection(session: Slow) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        await session.begun.wait()
        nursery.cancel_scope.cancel()

    assert session.closed


async def test_a_session_that_is_cancelled_while_it_closes_has_closed_all_the_same(
    session: Slow,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        await session.begun.wait()
        session.outlet.close()
        await session.closing.wait()
        nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()

    assert session.closed


async def test_a_task_that_has_lost_its_cancellation_does_not_keep_its_session(
    session: Slow,
) -> None:
    session.deaf = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        await session.begun.wait()
        session.outlet.close()

    assert session.closed


async def test_a_task_that_minds_no_cancellation_does_not_keep_its_session_for_ever(
    session: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.transports.broker.session.CLOSING", 0.5)
    session.deafer = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        await session.begun.wait()
        session.outlet.close()
        with trio.fail_after(5):
            await session.closing.wait()

    assert session.closed
    session.deafer = False


async def test_a_session_whose_connecting_has_lost_its_cancellation_ends(session: Slow) -> None:
    session.slow_to_connect = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, session)
        await session.connecting.wait()
        nursery.cancel_scope.cancel()

    assert session.closed
    assert not session.begun.is_set()


async def test_a_session_that_is_lost_raises_why_and_closes(session: Slow) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_lose, session)
        with pytest.raises(BrokerAway, match="the wire was cut"):
            await _run(session)

    assert session.closed


async def _lose(session: Slow) -> None:
    await session.begun.wait()
    session.thread.soon(session.lose, BrokerAway("the wire was cut"))
