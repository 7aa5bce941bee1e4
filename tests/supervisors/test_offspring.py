"""Children of an actor: they are supervised, and end with the life that started them."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import DeclarationError, StartFailed
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Crashed, GaveUp, Notice, Stopped, Stuck
from understudy.actors.ref import Ref
from understudy.supervisors.child import ChildSpec, Supervisor, child, needs
from understudy.supervisors.keeper import KILL_GRACE
from understudy.supervisors.pool import pool
from understudy.supervisors.resource import resource
from understudy.supervisors.system import System, running


@attrs.frozen
class Crash:
    """Ends the incarnation that handles it."""

    error: BaseException = attrs.field(factory=lambda: OSError("crashed"))


@attrs.frozen
class Hang:
    """Keeps it busy, whatever is asked of it."""

    seconds: float
    shielded: bool = False


@attrs.frozen
class Start(Request[Any]):
    spec: ChildSpec


@attrs.frozen
class Stop(Request[None]):
    name: str


class Children(Request[list[str]]):
    """Which children has it?"""


@attrs.frozen
class Find(Request[str]):
    wanted: Any


class Life(Request[int]):
    """Which incarnation is it?"""


Message = Crash | Hang | Start | Stop | Children | Find | Life


class Parent(Actor[Message]):
    """Starts what it is told to, and tells in `story` what it does."""

    def __init__(self, story: list[str], *first: ChildSpec) -> None:
        self.story = story
        self.first = first

    async def started(self) -> None:
        self.story.append(f"{self.path} starts")
        for spec in self.first:
            await self.start_child(spec)

    async def stopping(self) -> None:
        self.story.append(f"{self.path} stops")

    @message_pattern("family.name")
    def name(self) -> str:
        return self.path

    async def receive(self, message: Message) -> Any:
        match message:
            case Crash(error):
                raise error
            case Hang(seconds, shielded):
                with trio.CancelScope(shield=shielded):
                    await trio.sleep(seconds)
            case Start(spec):
                return await self.start_child(spec)
            case Stop(name):
                await self.stop_child(name)
            case Children():
                return list(self.children)
            case Find(wanted):
                return self.lookup(wanted).path
            case Life():
                return self.incarnation
        return None


@pytest.fixture
def story() -> list[str]:
    return []


def tree(story: list[str], *first: ChildSpec, **options: Any) -> Supervisor:
    return Supervisor("top", [child(Parent, story, *first, name="a")], **options)


def kids(story: list[str], names: str, **options: Any) -> list[ChildSpec]:
    return [child(Parent, story, name=name, **options) for name in names.split()]


def paths(system: System) -> list[str]:
    return [line.path for line in system.tree()]


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


# -- start and stop ---------------------------------------------------------------


async def test_a_child_stands_under_its_actor_and_is_up_when_it_is_offered(
    story: list[str], clock: MockClock
) -> None:
    (spec,) = kids(story, "b")

    async with running(tree(story)) as system:
        kid = await system.ref("a").ask(Start(spec))

        assert (type(kid), await kid.ask(Life())) == (Ref, 1)
        assert paths(system) == ["top", "top/a", "top/a/b"]
        assert [line.depth for line in system.tree()] == [0, 1, 2]


async def test_children_started_in_started_are_there_before_the_first_message(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b c"))) as system:
        assert await system.ref("a").ask(Children()) == ["b", "c"]


async def test_children_end_in_reverse_order_before_their_actor_stops(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b c"))):
        story.clear()

    assert story == ["top/a/c stops", "top/a/b stops", "top/a stops"]


async def test_grandchildren_end_before_children(story: list[str], clock: MockClock) -> None:
    grandchild = child(Parent, story, name="c")

    async with running(tree(story, child(Parent, story, grandchild, name="b"))) as system:
        assert paths(system)[-1] == "top/a/b/c"
        story.clear()

    assert story == ["top/a/b/c stops", "top/a/b stops", "top/a stops"]


async def test_a_crash_of_the_actor_ends_its_children_before_its_next_life(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story)) as system:
        actor = system.ref("a")
        await actor.ask(Start(kids(story, "b")[0]))
        story.clear()
        actor.tell(Crash())
        await settled()

        assert story == ["top/a/b stops", "top/a starts"]
        assert await actor.ask(Children()) == []
        assert list(system.registry.cells) == ["top/a"]


async def test_a_kill_of_the_actor_cancels_its_children(story: list[str], clock: MockClock) -> None:
    async with running(tree(story, *kids(story, "b"))) as system:
        kid = system.ref("top/a/b")
        kid.tell(Hang(1000))
        await settled()
        system.kill()
        await trio.sleep_forever()

    assert trio.current_time() == pytest.approx(0)
    assert "top/a/b stops" not in story


async def test_a_cancellation_from_outside_ends_children_in_order(
    story: list[str], clock: MockClock
) -> None:
    with trio.CancelScope() as scope:
        async with running(tree(story, *kids(story, "b c"))):
            story.clear()
            scope.cancel()
            await trio.sleep_forever()

    assert story == ["top/a/c stops", "top/a/b stops", "top/a stops"]


async def test_a_child_that_was_stopped_is_gone_and_its_name_free(
    story: list[str], clock: MockClock
) -> None:
    (spec,) = kids(story, "b")

    async with running(tree(story, spec)) as system:
        actor = system.ref("a")
        await actor.ask(Stop("b"))
        assert (await actor.ask(Children()), paths(system)) == ([], ["top", "top/a"])
        await actor.ask(Start(spec))
        assert await actor.ask(Children()) == ["b"]


async def test_a_child_that_is_not_there_cannot_be_stopped(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story)) as system:
        brood = system.offspring("top/a", lambda _: None)
        with pytest.raises(LookupError, match="top/a has no child 'b'"):
            await brood.stop("b")


async def test_a_child_that_cannot_start_leaves_nothing_behind(
    story: list[str], clock: MockClock
) -> None:
    failing = child(Parent, story, needs("nobody"), name="b")

    async with running(tree(story)) as system:
        brood = system.offspring("top/a", lambda _: None)
        with pytest.raises(StartFailed, match="top/a/b"):
            await brood.start(failing)
        assert (brood.children, list(system.registry.cells)) == ({}, ["top/a"])
        await brood.end(kill=False)


async def test_two_children_of_a_name_are_refused(story: list[str], clock: MockClock) -> None:
    (spec,) = kids(story, "b")

    async with running(tree(story)) as system:
        brood = system.offspring("top/a", lambda _: None)
        await brood.start(spec)
        with pytest.raises(DeclarationError, match="top/a already has a child 'b'"):
            await brood.start(spec)
        await brood.end(kill=False)


@pytest.mark.parametrize("kill", [False, True], ids=["in order", "at once"])
async def test_children_may_be_ended_before_the_first_is_up(
    story: list[str], clock: MockClock, kill: bool
) -> None:
    async with running(tree(story)) as system:
        brood = system.offspring("top/a", lambda _: None)
        with trio.CancelScope() as scope:
            scope.cancel()
            await brood.start(kids(story, "b")[0])
        await brood.end(kill=kill)

        assert (paths(system), system._broods) == (["top", "top/a"], {})


async def test_children_that_ended_start_no_more(story: list[str], clock: MockClock) -> None:
    async with running(tree(story)) as system:
        brood = system.offspring("top/a", lambda _: None)
        await brood.end(kill=False)
        with pytest.raises(Exception, match="top/a is ending and starts no more children"):
            await brood.start(kids(story, "b")[0])


# -- restarts ---------------------------------------------------------------------


async def test_a_child_that_crashes_is_restarted_alone(story: list[str], clock: MockClock) -> None:
    async with running(tree(story, *kids(story, "b c"))) as system:
        story.clear()
        system.ref("top/a/b").tell(Crash())
        await settled()

        assert story == ["top/a/b starts"]
        assert await system.ref("top/a").ask(Life()) == 1


async def test_children_beyond_mending_crash_their_actor_with_the_reason(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b", backoff=None))) as system:
        seen = watched(system)
        for _ in range(4):
            system.ref("top/a/b").tell(Crash())
            await settled()

        assert [notice.path for notice in seen if isinstance(notice, GaveUp)] == ["top/a"]
        crash = [notice for notice in seen if isinstance(notice, Crashed)][-1]
        assert (crash.path, type(crash.error)) == ("top/a", SupervisorGaveUp)
        assert await system.ref("top/a").ask(Life()) == 2
        assert await system.ref("top/a/b").ask(Life()) == 1


async def test_what_ends_the_process_comes_out_of_a_child_too(
    story: list[str], clock: MockClock
) -> None:
    async def run() -> None:
        async with running(tree(story, *kids(story, "b"))) as system:
            system.ref("top/a/b").tell(Crash(SystemExit(7)))
            await trio.sleep_forever()

    with pytest.raises(SystemExit, match="7"):
        await run()


async def test_children_of_an_actor_that_is_stuck_are_over_before_others_start(
    story: list[str], clock: MockClock
) -> None:
    parent = child(Parent, story, *kids(story, "b"), name="a")

    async with running(Supervisor("top", [Supervisor("in", [parent])])) as system:
        seen = watched(system)
        system.ref("top/in/a").tell(Hang(KILL_GRACE * 4, shielded=True))
        await settled()
        await system.stop_child("top/in/a")
        await system.start_child(parent, under="top/in")

        assert [notice.path for notice in seen if isinstance(notice, Stuck)] == ["top/in/a"]
        about = [type(n).__name__ for n in seen if n.path == "top/in/a/b"]
        assert about == ["Stopping", "Stopped", "Started"]
        assert await system.ref("top/in/a/b").ask(Life()) == 1
        assert paths(system)[-1] == "top/in/a/b"


# -- who finds whom ---------------------------------------------------------------


async def test_children_of_one_class_handle_no_patterns_from_outside(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b c"))) as system:
        target = system.registry.request("family.name")
        assert target is not None
        assert target.cell.path == "top/a"
        assert await system.ref("top/a/c").ask(Parent.name, None) == "top/a/c"


async def test_a_name_is_looked_up_among_the_children_then_the_siblings_then_upwards(
    story: list[str], clock: MockClock
) -> None:
    inner = child(Parent, story, *kids(story, "x y"), name="b")
    other = Supervisor("other", [child(Other, name="y"), child(Other, name="z")])

    async with running(Supervisor("top", [inner, child(Other, name="x"), other])) as system:
        actor, kid = system.ref("top/b"), system.ref("top/b/x")

        assert await actor.ask(Find("x")) == "top/b/x"
        assert await kid.ask(Find("y")) == "top/b/y"
        assert await kid.ask(Find("b")) == "top/b"
        assert await actor.ask(Find("z")) == "top/other/z"
        assert await actor.ask(Find("other/y")) == "top/other/y"
        assert await actor.ask(Find("top/x")) == "top/x"


class Other(Actor):
    """Somebody else."""


async def test_a_class_is_looked_up_nearest_first(story: list[str], clock: MockClock) -> None:
    inner = Supervisor("in", [child(Parent, story, name="p"), child(Other, name="near")])

    async with running(Supervisor("top", [inner, child(Other, name="far")])) as system:
        assert system.lookup(Other, "top/in/p").path == "top/in/near"
        with pytest.raises(LookupError, match="any of top/in/near, top/far"):
            system.lookup(Other, "top")
        with pytest.raises(LookupError, match="no actor 'nobody' in this tree; there are: top/in"):
            system.lookup("nobody", "top/in/p")


async def test_a_child_needs_what_stands_beside_it_or_beside_its_actor(
    story: list[str], clock: MockClock
) -> None:
    class Given(Actor[Children]):
        def __init__(self, *given: Ref[Any]) -> None:
            self.given = [ref.path for ref in given]

        async def receive(self, message: Children) -> list[str]:
            return self.given

    given = child(Given, needs("b"), needs("x"), name="c")
    actor = child(Parent, story, *kids(story, "b"), given, name="a")

    async with running(Supervisor("top", [actor, child(Other, name="x")])) as system:
        assert await system.ref("top/a/c").ask(Children()) == ["top/a/b", "top/x"]


async def test_subtrees_pools_and_resources_may_be_children_of_an_actor(
    story: list[str], clock: MockClock
) -> None:
    subtree = Supervisor("sub", kids(story, "b"))
    members = pool(Other, size=2)
    thing = resource(lambda: trio.open_nursery(), name="thing")

    async with running(tree(story, subtree, members, thing)) as system:
        assert await system.ref("a").ask(Children()) == ["sub", "other", "thing"]
        assert "top/a/other/2" in paths(system)
        assert system.supervision("top/a/sub").path == "top/a/sub"
        assert system.healthy


async def test_a_system_whose_actors_child_waits_to_come_back_is_not_healthy(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b"))) as system:
        for _ in range(2):
            system.ref("top/a/b").tell(Crash())
            await settled()

        assert not system.healthy
        await trio.sleep(1)
        assert system.healthy


async def test_a_child_of_an_actor_is_stopped_by_its_reference(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story, *kids(story, "b"))) as system:
        seen = watched(system)
        await system.stop_child(system.ref("top/a/b"))

        assert [notice.path for notice in seen if isinstance(notice, Stopped)] == ["top/a/b"]


async def test_an_actor_that_has_no_children_costs_nothing(
    story: list[str], clock: MockClock
) -> None:
    async with running(tree(story)) as system:
        await system.ref("a").ask(Life())

        assert system._broods == {}
        with pytest.raises(LookupError, match="no supervisor at 'top/a'"):
            system.supervision("top/a")
