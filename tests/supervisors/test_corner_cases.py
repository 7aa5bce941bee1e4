"""Where supervision is easy to get wrong: what happens while something else happens.

The rules themselves are in test_supervisor.py and test_supervisor_children.py; here
is what they mean at the edges. Erlang/OTP's `supervisor` is the reference.
"""

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped, Ignore, StartFailed
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import Crash, Incarnation, SupervisorGaveUp
from understudy.actors.lifecycle import (
    Crashed,
    Escalated,
    GaveUp,
    Notice,
    Restarting,
    Started,
    Stopped,
    Stopping,
)
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.keeper import KILL_GRACE
from understudy.supervisors.strategy import (
    Backoff,
    Restart,
    Strategy,
    one_for_all,
    one_for_one,
    rest_for_one,
)
from understudy.supervisors.supervisor import ChildEscalated
from understudy.supervisors.system import System, running

if TYPE_CHECKING:
    from tests.supervisors.conftest import Stage


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


def told(seen: list[Notice], *kinds: type[Notice]) -> list[tuple[str, str]]:
    return [(type(notice).__name__, notice.path) for notice in seen if isinstance(notice, kinds)]


def states(system: System) -> dict[str, str]:
    return {line.path: line.state for line in system.tree()[1:]}


SLOW_BACK = Backoff(5, 5, jitter=0, reset_after=99)


# -- a crash while something else goes on -----------------------------------------


async def test_a_crash_while_it_stops_is_told_and_neither_counted_nor_mended(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers["b"] = 1

    async with running(stage.tree("a b c", max_restarts=0)) as system:
        seen = watched(system)
        stage.news()
        system.stop()
        await settled()
        stage.shielded["b"] = 0
        await trio.sleep_forever()

    assert stage.news()[-2:] == ["a stops", "a is down"]
    assert told(seen, Restarting, GaveUp) == []


async def test_a_child_that_crashes_in_its_stop_is_told_as_crashed_and_stopped(
    stage: "Stage", clock: MockClock
) -> None:
    class Sour(Actor):
        async def stopping(self) -> None:
            raise OSError("in stopping")

    tree = Supervisor("top", [stage.puppet("a"), child(Sour), stage.puppet("b")], max_restarts=0)
    async with running(tree) as system:
        seen = watched(system)

    ends = told(seen, Crashed, Stopped)[1:-1]
    assert ends == [("Crashed", "top/sour"), ("Stopped", "top/sour"), ("Stopped", "top/a")]


async def test_a_sibling_that_crashes_while_its_group_is_stopped_counts_nothing(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers["c"] = 2

    async with running(stage.tree("a b c", strategy=one_for_all, max_restarts=1)) as system:
        seen = watched(system)
        stage.crash("b")
        await trio.sleep(1)
        stage.crash("a")  # c is being stopped just now
        await trio.sleep(5)

        assert stage.news()[-6:] == [f"{n} {d}" for n in "abc" for d in ("starts", "is up")]
    assert len(told(seen, Restarting)) == 1
    assert ("Crashed", "top/a") in told(seen, Crashed)


async def test_a_crash_while_another_child_starts_waits_its_turn(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["b"] = 5

    async with running(stage.tree("a")) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.start_child, stage.puppet("b"))
            await trio.sleep(1)
            stage.crash("a")
            await trio.sleep(1)
            assert stage.news() == ["a starts", "a is up", "b starts"]

        await settled()
        assert stage.news() == ["b is up", "a starts", "a is up"]


async def test_a_crash_of_a_child_that_waits_to_come_back_cannot_happen_twice(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", backoff=SLOW_BACK), stage.puppet("b")])

    async with running(tree) as system:
        seen = watched(system)
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        assert states(system) == {"top/a": "restarting", "top/b": "running"}
        await trio.sleep(9)
        assert states(system)["top/a"] == "running"

    assert told(seen, Crashed) == [("Crashed", "top/a")] * 2


async def test_a_group_takes_a_member_along_that_waits_to_come_back(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("b", backoff=SLOW_BACK)]

    async with running(Supervisor("top", children, strategy=rest_for_one, max_restarts=9)):
        stage.dying["b"] = 1
        stage.crash("b")
        await trio.sleep(1)
        stage.news()
        stage.crash("a")
        await settled()
        assert stage.news() == ["a starts", "a is up", "b starts", "b is up"]
        await trio.sleep(20)
        assert stage.news() == []


async def test_a_storm_of_crashes_is_mended_one_by_one(stage: "Stage", clock: MockClock) -> None:
    stage.dying["a"] = 2000

    async with running(stage.tree("a b", max_restarts=2000)) as system:
        while states(system)["top/a"] != "running" or stage.dying["a"]:
            await trio.lowlevel.checkpoint()

    assert stage.story.count("a starts") == 2001
    assert stage.story.count("b starts") == 1


async def test_a_kill_that_races_with_an_error_in_a_group_is_still_a_kill(
    clock: MockClock,
) -> None:
    class Messy(Actor):
        @message_pattern("mess")
        async def mess(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.clean_up_badly)

        async def clean_up_badly(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it was cancelled")

    async with running(Supervisor("top", [child(Messy, shutdown=0)])) as system:
        seen = watched(system)
        system.ref(Messy).tell("mess", None)
        await settled()

    (stopped,) = [
        notice for notice in seen if notice.path == "top/messy" and type(notice) is Stopped
    ]
    assert stopped.how == "killed"


# -- cleanup that takes its time --------------------------------------------------


async def test_cleanup_within_the_grace_after_a_kill_is_waited_for(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded["a"] = KILL_GRACE - 1

    async with running(Supervisor("top", [stage.puppet("a", shutdown=1)])) as system:
        seen = watched(system)

    assert trio.current_time() == pytest.approx(KILL_GRACE - 1)
    assert [notice.how for notice in seen if isinstance(notice, Stopped)] == ["killed", "shutdown"]


async def test_a_stuck_child_that_ends_later_does_not_end_its_successor(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded["b"] = 30

    async with running(stage.tree("a b", strategy=one_for_all)) as system:
        stage.crash("a")
        await trio.sleep(5 + KILL_GRACE + 1)
        stage.shielded.clear()
        await trio.sleep(60)

        assert states(system) == {"top/a": "running", "top/b": "running"}
        assert stage.story.count("b starts") == 2


async def test_a_start_that_was_left_behind_does_not_end_the_next_child_of_its_name(
    stage: "Stage", clock: MockClock
) -> None:
    play = stage.play

    async def play_late(name: str, incarnation: Incarnation) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
            incarnation.announce(stage)

    async with running(stage.tree("a")) as system:
        stage.play = play_late  # type: ignore[method-assign]
        with pytest.raises(StartFailed):
            await system.start_child(stage.puppet("b", start_timeout=1))
        stage.play = play  # type: ignore[method-assign]
        await system.start_child(stage.puppet("b"))
        seen = watched(system)
        await trio.sleep(100)

        assert (seen, states(system)["top/b"]) == ([], "running")


# -- escalation -------------------------------------------------------------------


def directed(directive: Any) -> Crash:
    return Crash(OSError("directed"), directive=directive)


def tower(stage: "Stage", **options: Any) -> Supervisor:
    low = Supervisor("low", [stage.puppet("c"), stage.puppet("d")], backoff=None, **options)
    middle = Supervisor("middle", [stage.puppet("b"), low], backoff=None, **options)
    return Supervisor("top", [stage.puppet("a"), middle], **options)


async def test_a_failure_goes_up_floor_by_floor_to_the_root(
    stage: "Stage", clock: MockClock
) -> None:
    with pytest.raises(SupervisorGaveUp) as caught:
        await stage.until_end(tower(stage, max_restarts=0), lambda: stage.crash("c"))

    chain: list[str] = []
    error: BaseException | None = caught.value
    while isinstance(error, SupervisorGaveUp):
        chain.append(error.path)
        error = error.__cause__
    assert (chain, type(error)) == (["top", "top/middle", "top/middle/low"], OSError)
    assert [line for line in stage.story if "stops" in line] == ["d stops", "b stops", "a stops"]


async def test_a_rebuilt_subtree_starts_in_order_with_empty_windows(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(tower(stage, max_restarts=1)) as system:
        for _ in range(4):  # low gives up twice, so does middle
            stage.crash("d")
            await settled()
        assert states(system)["top/middle"] == "running"
        stage.news()
        stage.crash("d")
        await settled()
        assert stage.news() == ["d starts", "d is up"]


async def test_an_escalated_failure_ends_the_supervisor_at_once_without_its_window(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(tower(stage, max_restarts=3)) as system:
        seen = watched(system)
        stage.news()
        stage.crash("c", directed("escalate"))
        await settled()

        assert stage.news() == [
            *("d stops", "d is down"),
            *("c starts", "c is up", "d starts", "d is up"),
        ]
    story = told(seen, Crashed, Escalated, GaveUp, Restarting)
    assert story == [
        ("Crashed", "top/middle/low/c"),
        ("Escalated", "top/middle/low"),
        ("Crashed", "top/middle/low"),
        ("Restarting", "top/middle/low"),
    ]


async def test_an_escalated_failure_at_the_root_comes_out_with_its_cause(
    stage: "Stage", clock: MockClock
) -> None:
    with pytest.raises(ChildEscalated, match="top ended with its child top/b, whose") as caught:
        await stage.until_end(stage.tree("a b c"), lambda: stage.crash("b", directed("escalate")))

    assert str(caught.value.__cause__) == "directed"
    assert stage.story == ["c stops", "c is down", "a stops", "a is down"]


class Outside:
    """The message that a crash is blamed on."""

    message_id = "m-1"


async def test_a_blamed_crash_is_escalated_if_it_is_to_be(stage: "Stage", clock: MockClock) -> None:
    blamed: Any = Outside()
    crash = Crash(OSError("poison"), blamed, "pattern", 1, "escalate")

    with pytest.raises(ChildEscalated):
        await stage.until_end(stage.tree("a b"), lambda: stage.crash("b", crash))


async def test_a_temporary_childs_failure_is_escalated_if_it_is_to_be(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", restart="temporary")])

    with pytest.raises(ChildEscalated):
        await stage.until_end(tree, lambda: stage.crash("a", directed("escalate")))


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_a_child_that_is_to_stop_after_its_failure_is_gone_for_good(
    stage: "Stage", clock: MockClock, restart: Restart
) -> None:
    children = [stage.puppet("a", restart=restart), stage.puppet("b")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        seen = watched(system)
        stage.news()
        stage.crash("a", directed("stop"))
        await settled()
        assert (stage.news(), states(system)) == ([], {"top/b": "running"})
        stage.crash("b")
        await settled()
        assert stage.news() == ["b starts", "b is up"]

    assert told(seen, Crashed)[0] == ("Crashed", "top/a")


async def test_a_significant_child_that_stops_after_a_failure_ends_its_supervisor(
    stage: "Stage", clock: MockClock
) -> None:
    a = stage.puppet("a", significant=True, restart="transient")

    tree = Supervisor("top", [a, stage.puppet("b")], auto_shutdown="any")
    await stage.until_end(tree, lambda: stage.crash("a", directed("stop")))

    assert stage.story == ["b stops", "b is down"]


# -- ignore -----------------------------------------------------------------------


class Shy(Actor):
    """Has nothing to do, mostly."""

    def __init__(self, starts: list[str], lives: set[int]) -> None:
        self.starts = starts
        self.lives = lives

    async def started(self) -> None:
        self.starts.append(self.path)
        if self.incarnation not in self.lives:
            raise Ignore("nothing to do")

    async def receive(self, message: str) -> str:
        raise OSError(message)


async def test_a_child_that_is_ignored_is_kept_and_does_not_run(
    stage: "Stage", clock: MockClock
) -> None:
    starts: list[str] = []

    async with running(Supervisor("top", [child(Shy, starts, set()), stage.puppet("a")])) as system:
        assert states(system) == {"top/shy": "ended", "top/a": "running"}
        assert system.healthy
        with pytest.raises(ActorStopped):
            await system.ref("shy").ask(cast(Any, "hello"))


async def test_a_temporary_child_that_is_ignored_is_dropped(
    stage: "Stage", clock: MockClock
) -> None:
    starts: list[str] = []

    async with running(stage.tree("a")) as system:
        seen = watched(system)
        await system.start_child(child(Shy, starts, set(), restart="temporary"))
        assert (starts, states(system)) == (["top/shy"], {"top/a": "running"})

    assert told(seen, Started, Crashed)[0:1] == []
    assert [n.how for n in seen if n.path == "top/shy" and isinstance(n, Stopped)] == ["ignored"]


async def test_an_ignored_child_is_asked_again_with_its_group(
    stage: "Stage", clock: MockClock
) -> None:
    starts: list[str] = []
    children = [child(Shy, starts, {2}), stage.puppet("a")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        stage.crash("a")
        await settled()

        assert states(system) == {"top/shy": "running", "top/a": "running"}


async def test_a_child_that_is_ignored_at_its_restart_counts_as_started(
    stage: "Stage", clock: MockClock
) -> None:
    starts: list[str] = []

    async with running(Supervisor("top", [child(Shy, starts, {1})], max_restarts=1)) as system:
        system.ref("shy").tell("crash")
        await trio.sleep(100)

        assert (states(system), len(starts)) == ({"top/shy": "ended"}, 2)


# -- children at run time ---------------------------------------------------------


async def test_no_more_children_than_max_children_are_started(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a", max_children=2)) as system:
        await system.start_child(stage.puppet("b"))
        with pytest.raises(StartFailed, match="top/c") as caught:
            await system.start_child(stage.puppet("c"))
        assert "top has 2 children, and max_children=2" in str(caught.value.__cause__)

        await system.stop_child("top/b")
        await system.start_child(stage.puppet("c"))


async def test_children_that_wait_to_come_back_count_against_max_children(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", backoff=SLOW_BACK)], max_children=1)

    async with running(tree) as system:
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        with pytest.raises(StartFailed):
            await system.start_child(stage.puppet("b"))


async def test_a_child_that_ended_makes_way_also_where_no_more_may_be_started(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", restart="transient")], max_children=1)

    async with running(tree) as system:
        stage.end("a")
        await settled()
        await system.start_child(stage.puppet("a"))

        assert states(system) == {"top/a": "running"}


async def test_a_restart_at_run_time_keeps_the_arguments_and_the_reference(
    clock: MockClock,
) -> None:
    starts: list[str] = []

    async with running(Supervisor("top")) as system:
        ref: Ref[Any] = await system.start_child(child(Shy, starts, {1, 2}, name="x"))
        ref.tell("crash")
        await settled()

        assert starts == ["top/x", "top/x"]
        assert system.ref("x") is ref


async def test_thousands_of_children_come_and_go_in_any_order(
    stage: "Stage", clock: MockClock
) -> None:
    many = [f"n{number}" for number in range(2000)]

    async with running(Supervisor("top")) as system:
        for name in many:
            await system.start_child(stage.puppet(name))
        for name in many[::2]:
            await system.stop_child(f"top/{name}")
        stage.news()

    assert stage.news()[::2] == [f"{name} stops" for name in reversed(many[1::2])]
    assert system.root._significant_up == 0


async def test_with_stop_together_all_children_share_one_time(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers = {"a": 60, "b": 60, "c": 0.1}
    children = [stage.puppet(name, shutdown=0.3) for name in "abc"]

    async with running(Supervisor("top", children, stop_together=True)) as system:
        seen = watched(system)
        stage.news()

    told = stage.news()
    assert set(told[:3]) == {"a stops", "b stops", "c stops"}  # at once, so in any order
    assert told[3:] == ["c is down"]
    assert trio.current_time() == pytest.approx(0.3)
    hows = [(n.path, n.how) for n in seen if isinstance(n, Stopped)][:-1]
    assert hows == [("top/c", "shutdown"), ("top/b", "killed"), ("top/a", "killed")]


async def test_with_stop_together_children_that_are_stuck_share_one_grace(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded = {"b": 20, "c": 20}
    children = [stage.puppet(name, shutdown=1) for name in "bc"]
    inner = Supervisor("in", children, stop_together=True, shutdown=60)

    async with running(Supervisor("top", [inner])) as system:
        seen = watched(system)
        began = trio.current_time()

    stops = [n for n in seen if isinstance(n, Stopped) and n.how == "stuck"]
    assert [n.path for n in stops] == ["top/in/c", "top/in/b"]
    assert trio.current_time() - began == pytest.approx(20)


async def test_a_start_that_nobody_waits_for_any_more_is_not_begun(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["b"] = 5

    async with running(stage.tree("a")) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.start_child, stage.puppet("b"))
            await settled()
            with trio.move_on_after(1):
                await system.start_child(stage.puppet("c"))
        await settled()

        assert states(system) == {"top/a": "running", "top/b": "running"}


async def test_a_name_is_found_again_after_a_restart_and_free_after_a_stop(
    clock: MockClock,
) -> None:
    starts: list[str] = []
    spec = child(Shy, starts, {1, 2}, name="x")

    async with running(Supervisor("top", [spec])) as system:
        before = system.ref("x")
        before.tell("crash")
        await settled()
        assert system.ref("x") is before
        await system.stop_child(before)
        with pytest.raises(LookupError):
            system.ref("x")
        after = await system.start_child(spec)

        assert (after is before, before.alive, after.alive) == (False, False, True)


# -- significant children ---------------------------------------------------------


def important(stage: "Stage", name: str, **options: Any) -> Any:
    return stage.puppet(name, significant=True, **{"restart": "transient", **options})


async def test_a_significant_bystander_that_is_stopped_with_a_group_ends_nobody(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), important(stage, "b", restart="temporary")]
    tree = Supervisor("top", children, strategy=one_for_all, auto_shutdown="any")

    async with running(tree) as system:
        stage.crash("a")
        await settled()

        assert states(system) == {"top/a": "running"}


async def test_a_significant_sibling_whose_crash_is_not_yet_mended_has_not_ended(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [important(stage, "a"), important(stage, "b")], auto_shutdown="all")

    async with running(tree) as system:
        stage.end("a")
        stage.crash("b")
        await settled()

        assert states(system) == {"top/a": "ended", "top/b": "running"}


async def test_significant_children_started_at_run_time_count_as_well(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(Supervisor("top", [important(stage, "a")], auto_shutdown="all")) as system:
        await system.start_child(important(stage, "b"))
        stage.end("a")
        await settled()
        assert states(system)["top/b"] == "running"
        stage.news()
        stage.end("b")
        await trio.sleep_forever()

    assert stage.story == ["b is down"]


# -- cancellation at any time -----------------------------------------------------

ORDER = "abcfde"  # in which the tree starts: f is the last one below `in`


def busy(stage: "Stage", strategy: Strategy) -> Supervisor:
    inner = Supervisor("in", [stage.puppet("b"), stage.puppet("c")], max_restarts=99)
    children = [stage.puppet("a"), inner, stage.puppet("d")]
    return Supervisor("top", children, strategy=strategy, max_restarts=99)


@pytest.mark.parametrize("steps", range(1, 81))
async def test_a_cancellation_at_any_step_ends_all_in_reverse_order(
    stage: "Stage", clock: MockClock, steps: int
) -> None:
    alive = observed(stage)
    at = 0

    async def cancel() -> None:
        nonlocal at
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        at = len(stage.story)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel)
            async with running(busy(stage, one_for_one)) as system:
                await act(stage, system)

    assert scope.cancelled_caught
    assert alive == set()
    stops = [line[0] for line in stage.story[at:] if line.endswith("stops")]
    assert stops == sorted(stops, key=ORDER.index, reverse=True)


@pytest.mark.parametrize("strategy", [one_for_all, rest_for_one])
@pytest.mark.parametrize("steps", range(1, 121, 3))
async def test_a_cancellation_while_groups_restart_leaves_no_child_behind(
    stage: "Stage", clock: MockClock, steps: int, strategy: Strategy
) -> None:
    alive = observed(stage)

    async def cancel() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel)
            async with running(busy(stage, strategy)) as system:
                await act(stage, system)

    assert scope.cancelled_caught
    assert alive == set()


def observed(stage: "Stage") -> set[str]:
    """The puppets that live, kept up to date."""
    alive: set[str] = set()
    play = stage.play

    async def observe(name: str, incarnation: Incarnation) -> None:
        alive.add(name)
        try:
            await play(name, incarnation)
        finally:
            alive.discard(name)

    stage.play = observe  # type: ignore[method-assign]
    return alive


async def act(stage: "Stage", system: System) -> None:
    """Crashes, starts and stops, one after the other and at the same time."""
    stage.crash("b")
    await system.start_child(stage.puppet("e"))
    stage.crash("d")
    stage.crash("c")
    await system.start_child(stage.puppet("f"), under="top/in")
    await system.stop_child("top/e")
    await trio.sleep_forever()


async def test_stops_are_told_in_the_order_in_which_they_happen(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(busy(stage, one_for_one)) as system:
        seen = watched(system)

    paths = [path for _, path in told(seen, Stopping)]
    assert paths == ["top", "top/d", "top/in", "top/in/c", "top/in/b", "top/a"]
