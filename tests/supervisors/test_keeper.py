"""What a life failed of is let go at once: errors hold frames, and those messages.

The garbage collector is off here. It would free them one day; until then a service that
fails often would keep the payloads of all its failures.
"""

import gc
import logging
from collections.abc import Iterator
from weakref import ref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import Backoff
from understudy.supervisors.system import running


class Broken(Exception):
    pass


class Notes:
    def __init__(self) -> None:
        self.lives = 0
        self.errors: list[ref[Broken]] = []

    def broken(self) -> Broken:
        error = Broken()
        self.errors.append(ref(error))
        return error

    @property
    def kept(self) -> int:
        """Errors that are still there."""
        return sum(error() is not None for error in self.errors)


class Fails(Actor[str]):
    """Fails of every message; `in_start` makes every second life fail of its start."""

    def __init__(self, notes: Notes, in_start: bool = False) -> None:
        self.notes = notes
        self.in_start = in_start

    async def started(self) -> None:
        self.notes.lives += 1
        if self.in_start and self.notes.lives % 2 == 0:
            raise self.notes.broken()

    async def receive(self, message: str) -> None:
        raise self.notes.broken()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(autouse=True)
def _uncollected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "understudy")  # what is captured is kept
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("in_start", [False, True], ids=["message", "start"])
async def test_supervisors_let_go_at_a_restart_of_what_the_life_before_failed_of(
    notes: Notes, clock: MockClock, in_start: bool
) -> None:
    fails = child(Fails, notes, in_start, name="fails")
    async with running(Supervisor("top", [fails], max_restarts=9)) as system:
        for _ in range(3):
            system.ref("fails").tell("fail")
            await trio.sleep(60)

        assert len(notes.errors) == (6 if in_start else 3)
        assert notes.kept == 0


LONG = Backoff(minimum=60.0, maximum=60.0)
"""The first restart comes at once, the second not in this test."""


async def test_a_child_that_is_not_restarted_keeps_nothing(notes: Notes) -> None:
    fails = child(Fails, notes, name="fails", restart="temporary")
    other = child(Fails, notes, name="other")
    async with running(Supervisor("top", [fails, other])) as system:
        place = system.root.children["fails"]
        system.ref("fails").tell("fail")
        await wait_all_tasks_blocked()

        assert place.incarnation is not None
        assert (len(notes.errors), notes.kept) == (1, 0)


async def test_a_child_that_is_stopped_before_its_restart_keeps_nothing(notes: Notes) -> None:
    fails = child(Fails, notes, name="fails", backoff=LONG)
    async with running(Supervisor("top", [fails])) as system:
        place = system.root.children["fails"]
        for _ in range(2):
            system.ref("fails").tell("fail")
            await wait_all_tasks_blocked()
        assert (len(notes.errors), notes.kept) == (2, 1)
        await system.root.stop_child("fails")

        assert place.incarnation is not None
        assert notes.kept == 0


async def test_a_supervisor_that_has_ended_keeps_nothing_of_its_children(notes: Notes) -> None:
    fails = child(Fails, notes, name="fails", backoff=LONG)
    async with running(Supervisor("top", [fails])) as system:
        for _ in range(2):
            system.ref("fails").tell("fail")
            await wait_all_tasks_blocked()
        assert (len(notes.errors), notes.kept) == (2, 1)

    assert system is not None
    assert notes.kept == 0
