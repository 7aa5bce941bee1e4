"""Links: two lives coupled, so that an abnormal end of the one is the end of the other."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.errors import DeathPact, Fenced, LinkBroken
from understudy.actors.handlers import message_pattern
from understudy.actors.lifecycle import Crashed
from understudy.actors.ref import Ref
from understudy.actors.watching import Exited
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import System, running

from .driven import Do


class Linked(Actor[Callable[..., Any]]):
    """Runs what it is given."""

    async def receive(self, message: Any) -> Any:
        answer = message(self)
        return await answer if hasattr(answer, "__await__") else answer


class Trapping(Actor[Any]):
    """Is told of ends instead of crashing."""

    trap_exits = True

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def receive(self, message: Any) -> Any:
        if isinstance(message, Exited):
            self.told.append((message.ref.path, message.how, type(message.error)))
            return None
        return message(self)


class Life:
    """A tree of linked actors, and what became of them."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.crashed: list[tuple[str, BaseException]] = []
        system.bus.subscribe(self._take)

    def __getitem__(self, name: str) -> Ref[Any]:
        return self.system.ref(f"life/{name}")

    @property
    def paths(self) -> list[str]:
        return [path.removeprefix("life/") for path, _ in self.crashed]

    async def link(self, one: str, other: str) -> None:
        theirs = self[other]
        await self[one].ask(Do(lambda self: self.link(theirs)))

    def fail(self, name: str) -> None:
        self[name].tell(_fail)

    def _take(self, notice: Any) -> None:
        if isinstance(notice, Crashed):
            self.crashed.append((notice.path, notice.error))


def _fail(_: Any) -> None:
    raise OSError("broken")


@asynccontextmanager
async def living(
    names: str = "a b", told: list[Any] | None = None, **options: Any
) -> AsyncIterator[Life]:
    """Actors by name; one called `trap` traps exits."""
    options = {"restart": "transient", "backoff": None} | options
    specs = [
        child(Trapping, [] if told is None else told, name=name, **options)
        if name == "trap"
        else child(Linked, name=name, **options)
        for name in names.split()
    ]
    async with running(Supervisor("life", specs, max_restarts=100)) as system:
        yield Life(system)


async def test_the_other_crashes_with_a_linked_actor_that_crashes(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "b")
        life.fail("a")
        await trio.sleep(1)

    assert life.paths == ["a", "b"]
    broken = life.crashed[1][1]
    assert isinstance(broken, LinkBroken)
    assert (broken.path, broken.linked, broken.how) == ("life/b", "life/a", "crashed")
    assert isinstance(broken.__cause__, OSError)


async def test_a_link_holds_in_both_directions(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "b")
        life.fail("b")
        await trio.sleep(1)

    assert life.paths == ["b", "a"]


async def test_a_chain_of_links_ends_together(clock: MockClock) -> None:
    async with living("a b c d") as life:
        await life.link("a", "b")
        await life.link("b", "c")
        life.fail("c")
        await trio.sleep(1)

    assert life.paths == ["c", "b", "a"]


async def test_a_ring_of_links_ends_once_each(clock: MockClock) -> None:
    async with living("a b c") as life:
        for one, other in ("ab", "bc", "ca"):
            await life.link(one, other)
        life.fail("a")
        await trio.sleep(1)

    assert sorted(life.paths) == ["a", "b", "c"]


async def test_a_second_link_is_the_same_one(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "b")
        await life.link("b", "a")
        await life.link("a", "b")
        life.fail("a")
        await trio.sleep(1)

    assert life.paths == ["a", "b"]


async def test_an_actor_linked_to_itself_ends_once(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "a")
        life.fail("a")
        await trio.sleep(1)
        await life["a"].ask(Do(lambda self: None))

    assert life.paths == ["a"]


async def test_a_link_ends_with_its_incarnations(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "b")
        life.fail("a")
        await trio.sleep(1)
        life.fail("a")
        life.fail("b")
        await trio.sleep(1)

    assert [type(error) for _, error in life.crashed] == [OSError, LinkBroken, OSError, OSError]


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_a_clean_end_breaks_no_link(restart: str, clock: MockClock) -> None:
    async with living(restart=restart) as life:
        await life.link("a", "b")
        life["a"].tell(lambda self: self.stop())
        await trio.sleep(1)
        assert await life["b"].ask(Do(lambda self: self.incarnation)) == 1

    assert life.paths == []


async def test_an_ordered_stop_breaks_no_link(clock: MockClock) -> None:
    async with living() as life:
        await life.link("a", "b")
        await life.system.stop_child("life/a")
        await trio.sleep(1)
        assert await life["b"].ask(Do(lambda self: self.incarnation)) == 1


async def test_a_kill_breaks_a_link(clock: MockClock) -> None:
    async with living("a b", shutdown=0) as life:
        await life.link("a", "b")
        await life.system.stop_child("life/a")
        await trio.sleep(1)

    ((path, error),) = life.crashed
    assert (path, isinstance(error, LinkBroken) and error.how) == ("life/b", "killed")


async def test_a_tree_of_linked_actors_stops_in_order(clock: MockClock) -> None:
    async with living("a b c") as life:
        await life.link("a", "b")
        await life.link("b", "c")

    assert life.paths == []


async def test_nothing_breaks_after_unlink_from_either_side(clock: MockClock) -> None:
    async with living("a b c") as life:
        a, b = life["a"], life["b"]
        await life.link("a", "b")
        await life.link("c", "b")
        await a.ask(Do(lambda self: self.unlink(b)))
        await b.ask(Do(lambda self: self.unlink(life["c"])))
        life.fail("b")
        await trio.sleep(1)

    assert life.paths == ["b"]


async def test_unlinking_what_is_not_linked_is_nothing(clock: MockClock) -> None:
    async with living() as life:
        await life["a"].ask(Do(lambda self: self.unlink(life["b"])))
        await life["a"].ask(Do(lambda self: self.unlink(self.ref)))
        assert await life["a"].ask(Do(lambda self: self.incarnation)) == 1


async def test_a_link_to_one_that_has_ended_breaks_at_once(clock: MockClock) -> None:
    async with living() as life:
        life["b"].tell(lambda self: self.stop())
        await trio.sleep(1)
        await life.link("a", "b")
        await trio.sleep(1)

    ((path, error),) = life.crashed
    assert isinstance(error, LinkBroken)
    assert (path, error.how) == ("life/a", "not running")


async def test_a_link_to_one_that_waits_for_its_restart_breaks_at_once(clock: MockClock) -> None:
    from understudy.supervisors.strategy import Backoff

    async with living(backoff=Backoff(10, 10)) as life:
        life.fail("b")
        await trio.sleep(0.1)
        life.fail("b")
        await trio.sleep(0.1)
        await life.link("a", "b")
        await wait_all_tasks_blocked()

    assert life.paths == ["b", "b", "a"]


async def test_the_message_in_hand_is_handled_before_the_crash_and_mail_after_it(
    clock: MockClock,
) -> None:
    story: list[Any] = []

    async def slowly(self: Linked) -> None:
        await trio.sleep(2)
        story.append(("in hand", self.incarnation))

    async with living() as life:
        await life.link("a", "b")
        life["b"].tell(slowly)
        await wait_all_tasks_blocked()
        life["b"].tell(lambda self: story.append(("mail", self.incarnation)))
        life.fail("a")
        await trio.sleep(5)

    assert story == [("in hand", 1), ("mail", 2)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_idle_actor_and_one_with_lanes_crash_with_a_link(
    concurrency: int, clock: MockClock
) -> None:
    async with living(concurrency=concurrency) as life:
        await life.link("a", "b")
        life.fail("a")
        await wait_all_tasks_blocked()

    assert life.paths == ["a", "b"]


async def test_both_crashing_at_once_is_one_crash_each(clock: MockClock) -> None:
    async def fail_late(self: Linked) -> None:
        await trio.sleep(1)
        raise OSError

    async with living() as life:
        await life.link("a", "b")
        life["a"].tell(fail_late)
        life["b"].tell(fail_late)
        await trio.sleep(2)

    assert sorted(life.paths) == ["a", "b"]


async def test_a_leftover_of_an_ended_life_links_nothing(clock: MockClock) -> None:
    lives: list[Linked] = []
    async with living() as life:
        await life["a"].ask(Do(lambda self: lives.append(self)))
        life.fail("a")
        await trio.sleep(1)
        with pytest.raises(Fenced):
            lives[0].link(life["b"])


# -- exits that are trapped


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (_fail, ("life/a", "crashed", OSError)),
        (lambda self: self.stop(), ("life/a", "normal", type(None))),
    ],
    ids=["crash", "stop"],
)
async def test_who_traps_exits_is_told_of_every_end_and_lives_on(
    end: Callable[..., Any], told: tuple[Any, ...], clock: MockClock
) -> None:
    heard: list[Any] = []
    async with living("a trap", heard) as life:
        await life.link("a", "trap")
        life["a"].tell(end)
        await trio.sleep(1)
        assert await life["trap"].ask(Do(lambda self: self.incarnation)) == 1

    assert heard == [told]


async def test_who_traps_exits_is_told_of_a_link_to_a_dead_actor(clock: MockClock) -> None:
    heard: list[Any] = []
    async with living("a trap", heard) as life:
        a = life["a"]
        await life.system.stop_child("life/a")
        await life["trap"].ask(Do(lambda self: self.link(a)))
        await trio.sleep(1)

    assert heard == [("life/a", "not running", type(None))]


async def test_who_traps_exits_still_breaks_the_links_of_others(clock: MockClock) -> None:
    async with living("a trap") as life:
        await life.link("trap", "a")
        life.fail("trap")
        await trio.sleep(1)

    assert life.paths == ["trap", "a"]


async def test_who_traps_exits_but_takes_no_exited_makes_a_death_pact(clock: MockClock) -> None:
    class Strict(Actor[int]):
        trap_exits = True

        def receive(self, message: int) -> None: ...

        @message_pattern("link")
        async def couple(self, path: str) -> None:
            self.link(self.lookup(path))

    crashes: list[Any] = []
    specs = [child(Strict, backoff=None), child(Linked, backoff=None)]
    async with running(Supervisor("life", specs)) as system:
        system.bus.subscribe(lambda n: crashes.append(n) if isinstance(n, Crashed) else None)
        await system.ref(Strict).ask("link", "linked")
        system.ref(Linked).tell(_fail)
        await trio.sleep(1)

    assert [type(crash.error) for crash in crashes] == [OSError, DeathPact]
    assert (crashes[1].error.watched, crashes[1].error.how) == ("life/linked", "crashed")
    assert str(crashes[1].error) == (
        "life/strict is linked to life/linked, which ended: crashed. It sets trap_exits, so "
        "that it is told by a message, and takes no Exited message. Add Exited to its "
        "Actor[...] protocol and handle it in receive; or leave out trap_exits, to crash with "
        "an actor that ends abnormally; or watch instead of link."
    )
