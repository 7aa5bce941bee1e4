"""Resources: async context managers that are entered, offered and left as children."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.lifecycle import Crashed, Notice, Restarting, StateChanged
from understudy.supervisors.child import Supervisor, needs
from understudy.supervisors.resource import resource
from understudy.supervisors.strategy import Backoff
from understudy.supervisors.system import System, running


class Database:
    """Something to connect to, which may be away."""

    def __init__(self) -> None:
        self.away = 0
        self.tries: list[float] = []
        self.story: list[str] = []
        self.broken = trio.Event()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[str]:
        self.tries.append(trio.current_time())
        if self.away:
            self.away -= 1
            raise OSError("nobody there")
        self.story.append("connected")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._break)
            yield f"connection {len(self.tries)}"
            nursery.cancel_scope.cancel()
        self.story.append("closed")

    async def _break(self) -> None:
        await self.broken.wait()
        self.broken = trio.Event()
        raise OSError("connection lost")


@pytest.fixture
def database() -> Database:
    return Database()


def tree_of(database: Database, max_restarts: int = 3) -> Supervisor:
    spec = resource(database.connect, name="db", backoff=Backoff(0.1, 1, jitter=0))
    return Supervisor("top", [spec], max_restarts=max_restarts)


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


async def test_a_resource_is_entered_offered_and_left(database: Database, clock: MockClock) -> None:
    async with running(tree_of(database)) as system:
        assert system.offer("db") == "connection 1"
        assert database.story == ["connected"]

    assert database.story == ["connected", "closed"]


async def test_a_start_that_fails_is_tried_again_with_growing_delays(
    database: Database, clock: MockClock
) -> None:
    database.away = 6

    async with running(tree_of(database)):
        assert database.tries == pytest.approx([0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5])


async def test_tries_to_start_count_against_nobody(database: Database, clock: MockClock) -> None:
    async with running(tree_of(database, max_restarts=1)) as system:
        seen = watched(system)
        database.away = 20
        database.broken.set()
        await trio.sleep(100)
        assert (system.offer("db"), system.healthy) == ("connection 22", True)

    restarts = [notice for notice in seen if isinstance(notice, Restarting)]
    waits = [notice for notice in seen if isinstance(notice, StateChanged)]
    assert (len(restarts), len(waits)) == (1, 20)
    assert waits[0].state == "waiting"
    assert waits[0].why == "OSError: nobody there; tried again in 0.1 s"


async def test_an_error_after_the_start_is_a_crash_and_the_resource_is_entered_again(
    database: Database, clock: MockClock
) -> None:
    async with running(tree_of(database)) as system:
        seen = watched(system)
        database.broken.set()
        await settled()
        assert system.offer("db") == "connection 2"

    (crashed,) = [notice for notice in seen if isinstance(notice, Crashed)]
    assert isinstance(crashed.error, ExceptionGroup)
    assert crashed.error.subgroup(OSError) is not None


async def test_waiting_for_a_resource_ends_with_the_stop(
    database: Database, clock: MockClock
) -> None:
    database.away = 10**6

    with trio.move_on_after(30):
        async with running(tree_of(database)):
            pytest.fail("the resource never starts")

    assert trio.current_time() == 30


async def test_a_resource_that_does_not_run_offers_nothing(
    database: Database, clock: MockClock
) -> None:
    async with running(tree_of(database)) as system:
        database.away = 10
        database.broken.set()
        await settled()
        with pytest.raises(LookupError, match="top does not offer 'db' just now"):
            system.offer("db")


async def test_a_resource_is_given_what_it_needs(database: Database, clock: MockClock) -> None:
    @asynccontextmanager
    async def repository(connection: str) -> AsyncIterator[str]:
        yield f"repository on {connection}"

    children = [
        resource(database.connect, name="db"),
        resource(repository, needs("db"), name="repo"),
    ]

    async with running(Supervisor("top", children)) as system:
        assert system.offer("repo") == "repository on connection 1"
