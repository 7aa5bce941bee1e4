"""Watching: exactly one `Terminated`, before all mail, and only to who still wants it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import DeathPact, Fenced
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Crashed
from understudy.actors.ref import Ref
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child, needs
from understudy.supervisors.system import System, running

from .driven import Do

Story = list[Any]


class Watcher(Actor[Terminated | Callable[..., Any]]):
    """Runs what it is given, and writes down who has ended."""

    def __init__(self, story: Story, other: Any) -> None:
        self.story = story
        self.other = other

    async def receive(self, message: Any) -> Any:
        if isinstance(message, Terminated):
            self.story.append((message.ref.path, message.how, message.error))
            return None
        answer = message(self)
        return await answer if hasattr(answer, "__await__") else answer

    @message_pattern("wait")
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Watched(Actor):
    """Ends in every way there is."""

    @message_pattern("end")
    async def end(self, how: str) -> None:
        if how == "crash":
            raise OSError("broken")
        if how == "stop":
            self.stop()


@asynccontextmanager
async def watching(
    story: Story, *, restart: Any = "transient", concurrency: int = 1, **options: Any
) -> AsyncIterator[tuple[System, Ref[Watcher], Ref[Watched]]]:
    """A watcher that watches already, and who it watches, under one supervisor."""
    tree = Supervisor(
        "top",
        [
            child(Watched, restart=restart, backoff=None),
            child(Watcher, story, needs("watched"), concurrency=concurrency, **options),
        ],
        max_restarts=100,
    )
    async with running(tree) as system:
        watcher = system.ref(Watcher)
        await watcher.ask(Do(lambda self: self.watch(self.other)))
        yield system, watcher, system.ref(Watched)


@pytest.fixture
def story() -> Story:
    return []


ENDED = "top/watched"


async def test_the_end_of_a_watched_actor_is_told_once(story: Story, clock: MockClock) -> None:
    async with watching(story) as (_, _watcher, watched):
        watched.tell("end", "stop")
        await trio.sleep(1)
        assert not watched.alive

    assert story == [(ENDED, "normal", None)]


async def test_an_abnormal_end_is_told_with_its_error(story: Story, clock: MockClock) -> None:
    async with watching(story, restart="temporary") as (_, _watcher, watched):
        watched.tell("end", "crash")
        await trio.sleep(1)

    ((path, how, error),) = story
    assert (path, how) == (ENDED, "crashed")
    assert isinstance(error, OSError)


async def test_an_actor_that_is_stopped_for_good_is_told_as_shutdown(
    story: Story, clock: MockClock
) -> None:
    async with watching(story) as (system, _watcher, _watched):
        await system.stop_child(ENDED)
        await trio.sleep(1)

    assert story == [(ENDED, "shutdown", None)]


async def test_a_restart_is_no_end(story: Story, clock: MockClock) -> None:
    async with watching(story, restart="permanent") as (system, _watcher, watched):
        watched.tell("end", "crash")
        watched.tell("end", "stop")
        await trio.sleep(1)
        assert (story, watched.alive) == ([], True)
        await system.stop_child(ENDED)
        await trio.sleep(1)

    assert [how for _, how, _ in story] == ["shutdown"]


@pytest.mark.parametrize("times", [1, 2])
async def test_watching_again_does_not_make_it_two(
    times: int, story: Story, clock: MockClock
) -> None:
    async with watching(story) as (_, watcher, watched):
        for _ in range(times):
            await watcher.ask(Do(lambda self: self.watch(self.other)))
        watched.tell("end", "stop")
        await trio.sleep(1)

    assert len(story) == 1


async def test_watching_again_after_its_end_was_put_on_the_way_does_not_make_it_two(
    story: Story, clock: MockClock
) -> None:
    async with watching(story) as (_, watcher, watched):

        async def watch_late(self: Watcher) -> None:
            watched.tell("end", "stop")
            await trio.sleep(1)
            self.watch(watched)

        await watcher.ask(Do(watch_late))
        await trio.sleep(1)

    assert [path for path, _, _ in story] == [ENDED]


async def test_an_actor_that_ended_before_is_told_at_once_and_once(
    story: Story, clock: MockClock
) -> None:
    def watch_twice(self: Watcher) -> None:
        self.watch(self.other)
        self.watch(self.other)

    async with watching(story) as (_, watcher, watched):
        await watcher.ask(Do(lambda self: self.unwatch(self.other)))
        watched.tell("end", "stop")
        await trio.sleep(1)
        await watcher.ask(Do(watch_twice))
        await trio.sleep(1)

    assert story == [(ENDED, "not running", None)]


async def test_it_may_be_watched_anew_after_its_end_was_told(
    story: Story, clock: MockClock
) -> None:
    async with watching(story) as (_, watcher, watched):
        watched.tell("end", "stop")
        await trio.sleep(1)
        await watcher.ask(Do(lambda self: self.watch(self.other)))
        await trio.sleep(1)

    assert [how for _, how, _ in story] == ["normal", "not running"]


async def test_it_comes_before_all_mail_that_waits(story: Story, clock: MockClock) -> None:
    async with watching(story) as (_, watcher, watched):
        watcher.tell("wait", 2)
        watcher.tell(lambda self: self.story.append("mail"))
        watched.tell("end", "stop")
        await trio.sleep(5)

    assert story == [(ENDED, "normal", None), "mail"]


async def test_it_comes_when_the_mailbox_is_full(story: Story, clock: MockClock) -> None:
    async with watching(story, mailbox=1) as (_, watcher, watched):
        watcher.tell("wait", 2)
        await wait_all_tasks_blocked()
        watcher.tell(lambda self: self.story.append("mail"))
        watched.tell("end", "stop")
        await trio.sleep(5)

    assert story == [(ENDED, "normal", None), "mail"]


async def test_it_comes_while_the_watcher_drains(story: Story, clock: MockClock) -> None:
    async with watching(story) as (system, watcher, watched):
        watched.tell("end", "stop")
        watcher.tell("wait", 2)
        await wait_all_tasks_blocked()
        await system.stop_child("top/watcher")

    assert story == [(ENDED, "normal", None)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_it_comes_once_whatever_the_concurrency(
    concurrency: int, story: Story, clock: MockClock
) -> None:
    async with watching(story, concurrency=concurrency) as (_, watcher, watched):
        for _ in range(concurrency - 1):
            watcher.tell("wait", 5)
        watched.tell("end", "stop")
        await trio.sleep(1)
        assert len(story) == 1
        await trio.sleep(10)

    assert len(story) == 1


# -- who does not want it any more


async def test_nothing_is_told_after_unwatch(story: Story, clock: MockClock) -> None:
    async with watching(story) as (_, watcher, watched):
        await watcher.ask(Do(lambda self: self.unwatch(self.other)))
        watched.tell("end", "stop")
        await trio.sleep(1)

    assert story == []


async def test_unwatch_takes_back_what_is_on_its_way(story: Story, clock: MockClock) -> None:
    async def unwatch_late(self: Watcher) -> None:
        self.other.tell("end", "stop")
        await trio.sleep(1)
        self.unwatch(self.other)

    async with watching(story) as (_, watcher, watched):
        await watcher.ask(Do(unwatch_late))
        await trio.sleep(1)
        assert not watched.alive

    assert story == []


async def test_unwatching_what_is_not_watched_is_nothing(story: Story, clock: MockClock) -> None:
    async with watching(story) as (_, watcher, watched):
        await watcher.ask(Do(lambda self: self.unwatch(self.ref)))
        watched.tell("end", "stop")
        await trio.sleep(1)

    assert len(story) == 1


async def test_the_next_incarnation_of_the_watcher_is_not_told(
    story: Story, clock: MockClock
) -> None:
    def fail(self: Watcher) -> None:
        raise ZeroDivisionError

    async with watching(story, backoff=None) as (_, watcher, watched):
        watcher.tell(fail)
        await trio.sleep(1)
        watched.tell("end", "stop")
        await trio.sleep(1)

    assert story == []


async def test_what_waits_at_the_watchers_crash_is_not_told_to_its_next_life(
    story: Story, clock: MockClock
) -> None:
    async def fail_late(self: Watcher) -> None:
        self.other.tell("end", "stop")
        await trio.sleep(1)
        raise ZeroDivisionError

    async with watching(story) as (_, watcher, _watched):
        watcher.tell(fail_late)
        await trio.sleep(2)

    assert story == []


async def test_a_leftover_of_an_ended_life_watches_nothing(story: Story, clock: MockClock) -> None:
    lives: list[Watcher] = []
    async with watching(story, backoff=None) as (_, watcher, watched):
        await watcher.ask(Do(lambda self: lives.append(self)))
        watcher.tell(lambda self: 1 / 0)
        await trio.sleep(1)
        with pytest.raises(Fenced):
            lives[0].watch(watched)


async def test_an_actor_that_watches_itself_hears_nothing(story: Story, clock: MockClock) -> None:
    async with watching(story) as (system, watcher, _watched):
        await watcher.ask(Do(lambda self: self.watch(self.ref)))
        await system.stop_child("top/watcher")

    assert story == []


async def test_a_watched_actor_forgets_who_does_not_watch_any_more(
    story: Story, clock: MockClock
) -> None:
    async with watching(story, backoff=None) as (system, watcher, _watched):
        for _ in range(3):
            watcher.tell(lambda self: 1 / 0)
            await watcher.ask(Do(lambda self: self.watch(self.other)))
        watchers = system.registry.find(Watched)._watchers
        assert watchers is not None
        assert len(watchers) == 1
        await watcher.ask(Do(lambda self: self.unwatch(self.other)))
        assert len(watchers) == 0


# -- death pact


async def test_a_watcher_that_takes_no_terminated_crashes_with_it(
    story: Story, clock: MockClock
) -> None:
    class Strict(Actor[int]):
        def __init__(self, other: Ref[Any]) -> None:
            self.other = other

        async def started(self) -> None:
            self.watch(self.other)

        def receive(self, message: int) -> None:
            story.append(message)

    tree = Supervisor(
        "top",
        [child(Watched, restart="transient"), child(Strict, needs("watched"))],
        max_restarts=0,
    )

    async def end_watched() -> None:
        async with running(tree) as system:
            system.ref(Watched).tell("end", "stop")
            await trio.sleep(1)

    with pytest.raises(SupervisorGaveUp) as caught:
        await end_watched()

    pact = caught.value.__cause__
    assert isinstance(pact, DeathPact)
    assert (pact.path, pact.watched) == ("top/strict", ENDED)
    assert "Add Terminated" in str(pact)


async def test_a_watcher_without_receive_crashes_with_it(clock: MockClock) -> None:
    class Deaf(Actor):
        def __init__(self, other: Ref[Any]) -> None:
            self.watch(other)

    crashes: list[Any] = []
    tree = Supervisor("top", [child(Watched, restart="transient"), child(Deaf, needs("watched"))])

    async def end_watched() -> None:
        async with running(tree) as system:
            system.bus.subscribe(lambda n: crashes.append(n) if isinstance(n, Crashed) else None)
            system.ref(Watched).tell("end", "stop")
            await trio.sleep(1)

    with pytest.raises(SupervisorGaveUp):
        await end_watched()

    assert {type(crash.error) for crash in crashes} == {DeathPact}


async def test_an_actor_that_does_not_say_what_it_takes_is_told(clock: MockClock) -> None:
    told: list[Any] = []

    class Open(Actor[Any]):
        def __init__(self, other: Ref[Any]) -> None:
            self.watch(other)

        def receive(self, message: Any) -> None:
            told.append(type(message))

    tree = Supervisor("top", [child(Watched, restart="transient"), child(Open, needs("watched"))])
    async with running(tree) as system:
        system.ref(Watched).tell("end", "stop")
        await trio.sleep(1)

    assert told == [Terminated]


# -- a supervisor


async def test_the_children_of_a_supervisor_that_ends_are_told_to_watchers_outside(
    story: Story, clock: MockClock
) -> None:
    inner = Supervisor("inner", [child(Watched)], restart="temporary", max_restarts=0)
    tree = Supervisor("top", [inner, child(Watcher, story, None)])
    async with running(tree) as system:
        watched, watcher = system.ref(Watched), system.ref(Watcher)
        await watcher.ask(Do(lambda self: self.watch(watched)))
        watched.tell("end", "crash")
        await trio.sleep(1)

    assert [(path, how) for path, how, _ in story] == [("top/inner/watched", "crashed")]


async def test_the_end_of_its_supervisor_is_told_once_though_the_reference_lives_again(
    story: Story, clock: MockClock
) -> None:
    inner = Supervisor("inner", [child(Watched)], max_restarts=0)
    tree = Supervisor("top", [inner, child(Watcher, story, None)])
    async with running(tree) as system:
        watched, watcher = system.ref(Watched), system.ref(Watcher)
        await watcher.ask(Do(lambda self: self.watch(watched)))
        for _ in range(2):
            watched.tell("end", "crash")
            await trio.sleep(1)
        assert watched.alive

    assert [(path, how) for path, how, _ in story] == [("top/inner/watched", "crashed")]


async def test_the_name_is_given_away_before_the_end_is_told(
    story: Story, clock: MockClock
) -> None:
    alive: list[bool] = []

    class Asking(Watcher):
        async def receive(self, message: Any) -> Any:
            if isinstance(message, Terminated):
                alive.append(message.ref.alive)
            return await super().receive(message)

    tree = Supervisor(
        "top", [child(Watched, restart="transient"), child(Asking, story, needs("watched"))]
    )
    async with running(tree) as system:
        await system.ref(Asking).ask(Do(lambda self: self.watch(self.other)))
        system.ref(Watched).tell("end", "stop")
        await trio.sleep(1)

    assert alive == [False]
