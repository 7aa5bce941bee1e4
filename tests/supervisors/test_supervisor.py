"""Supervision, rule for rule, in virtual time; Erlang/OTP's `supervisor` is the reference.

The children are puppets: they start, end, crash and linger as a test says, and
tell what they did in `stage.story`.
"""

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.errors import (
    StartFailed,
    StartTimedOut,
)
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import (
    Crashed,
    Escalated,
    GaveUp,
    Notice,
    Restarting,
    Started,
    Stopped,
    Stuck,
)
from understudy.supervisors.child import Supervisor
from understudy.supervisors.strategy import (
    Backoff,
    Restart,
    Strategy,
    one_for_all,
    one_for_one,
    rest_for_one,
)
from understudy.supervisors.supervisor import KILL_GRACE
from understudy.supervisors.system import System, running

if TYPE_CHECKING:
    from tests.supervisors.conftest import Stage


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


def told(seen: list[Notice], *kinds: type[Notice]) -> list[tuple[str, str]]:
    return [(type(notice).__name__, notice.path) for notice in seen if isinstance(notice, kinds)]


# -- start ------------------------------------------------------------------------


async def test_each_child_is_up_before_the_next_one_starts(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow = {"a": 3, "b": 1}

    async with running(stage.tree("a b")):
        assert stage.news() == ["a starts", "a is up", "b starts", "b is up"]


async def test_a_failing_start_stops_those_already_up_in_reverse(
    stage: "Stage", clock: MockClock
) -> None:
    stage.failing["c"] = 1

    with pytest.raises(StartFailed, match=r"^top/c \(incarnation 1\) could not be started"):
        async with running(stage.tree("a b c d")):
            pytest.fail("the tree must not run")

    assert stage.story[4:] == ["c starts", "b stops", "b is down", "a stops", "a is down"]


async def test_a_failing_start_tells_the_cause(stage: "Stage", clock: MockClock) -> None:
    stage.failing["a"] = 1

    with pytest.raises(StartFailed) as caught:
        async with running(stage.tree("a")):
            pytest.fail("the tree must not run")

    assert isinstance(caught.value.__cause__, OSError)


async def test_a_start_below_fails_the_start_above_with_the_whole_chain(
    stage: "Stage", clock: MockClock
) -> None:
    stage.failing["a"] = 1

    with pytest.raises(StartFailed, match="top/inner") as caught:
        async with running(Supervisor("top", [Supervisor("inner", [stage.puppet("a")])])):
            pytest.fail("the tree must not run")

    inner = caught.value.__cause__
    assert isinstance(inner, StartFailed)
    assert (inner.path, type(inner.__cause__)) == ("top/inner/a", OSError)


async def test_a_start_that_takes_too_long_is_cancelled_and_fails(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["a"] = 60

    with pytest.raises(StartFailed) as caught:
        async with running(Supervisor("top", [stage.puppet("a", start_timeout=2)])):
            pytest.fail("the tree must not run")

    assert isinstance(caught.value.__cause__, StartTimedOut)
    assert "started() was not done after 2 s" in str(caught.value.__cause__)
    assert trio.current_time() == pytest.approx(2)


async def test_a_child_that_ends_before_it_is_up_has_failed_to_start(
    stage: "Stage", clock: MockClock
) -> None:
    stage.leaving.add("a")

    with pytest.raises(StartFailed) as caught:
        async with running(stage.tree("a")):
            pytest.fail("the tree must not run")

    assert str(caught.value.__cause__) == "it ended (normal) before its start was complete"


async def test_a_restart_that_ends_early_is_tried_again_whatever_the_type(
    stage: "Stage", clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", restart="transient")], max_restarts=2)

    def crash_and_end_early() -> None:
        stage.crash("a")
        stage.leaving.add("a")

    with pytest.raises(SupervisorGaveUp, match="more than 2 restarts"):
        await stage.until_end(tree, crash_and_end_early)


async def test_a_crash_right_after_the_start_is_a_crash_and_no_failed_start(
    stage: "Stage", clock: MockClock
) -> None:
    stage.dying["a"] = 1

    async with running(stage.tree("a b")):
        await settled()
        assert stage.news() == [
            *("a starts", "a is up", "b starts"),
            *("b is up", "a starts", "a is up"),
        ]


# -- stop -------------------------------------------------------------------------


async def test_children_stop_in_reverse_order_one_after_the_other_also_nested(
    stage: "Stage",
    clock: MockClock,
) -> None:
    stage.lingers = dict.fromkeys("abcd", 1.0)
    inner = Supervisor("inner", [stage.puppet("b"), stage.puppet("c")])

    async with running(Supervisor("top", [stage.puppet("a"), inner, stage.puppet("d")])):
        stage.news()

    assert stage.story == [f"{name} {does}" for name in "dcba" for does in ("stops", "is down")]
    assert trio.current_time() == pytest.approx(4)


async def test_each_child_has_its_own_time_to_stop_and_is_cancelled_then(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers = {"a": 60, "b": 60}
    children = [stage.puppet(name, shutdown=0.3) for name in "ab"]

    async with running(Supervisor("top", children)) as system:
        seen = watched(system)
        stage.news()

    assert stage.story == ["b stops", "a stops"]
    assert trio.current_time() == pytest.approx(0.6)
    assert [n.how for n in seen if isinstance(n, Stopped)] == ["killed", "killed", "shutdown"]


async def test_shutdown_zero_cancels_at_once_without_an_ordered_stop(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", shutdown=0)])):
        stage.news()

    assert stage.story == []


async def test_a_stuck_child_is_left_behind_and_its_supervisor_goes_on(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded["b"] = 3600
    tree = stage.tree("a b", strategy=one_for_all)

    async with running(tree) as system:
        seen = watched(system)
        stage.news()
        stage.crash("a")
        await trio.sleep(5 + KILL_GRACE + 0.1)
        assert stage.news() == ["b stops", "a starts", "a is up", "b starts", "b is up"]
        stage.shielded.clear()

    stuck = [notice for notice in seen if isinstance(notice, Stuck)]
    assert stuck == [Stuck(path="top/b", incarnation=1, after=KILL_GRACE)]


async def test_what_a_stuck_child_does_later_changes_nothing(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded["a"] = 60

    async with running(Supervisor("top", [stage.puppet("a", start_timeout=9)])) as system:
        await trio.sleep(1)
        stage.end("a")
        await trio.sleep(1)
        seen = watched(system)
        system.kill()
        await trio.sleep(KILL_GRACE + 1)
        told_before = list(seen)

    assert told(told_before, Stuck) == [("Stuck", "top/a")]
    assert told(seen, Stopped) == [("Stopped", "top/a"), ("Stopped", "top")]


# -- restart ----------------------------------------------------------------------

ORDERS: list[tuple[Strategy, list[str]]] = [
    (one_for_one, ["b starts", "b is up"]),
    (
        rest_for_one,
        ["c stops", "c is down", "b starts", "b is up", "c starts", "c is up"],
    ),
    (
        one_for_all,
        ["c stops", "c is down", "a stops", "a is down"]
        + ["a starts", "a is up", "b starts", "b is up", "c starts", "c is up"],
    ),
]


@pytest.mark.parametrize(("strategy", "story"), ORDERS, ids=[s.value for s, _ in ORDERS])
async def test_a_group_stops_in_reverse_order_and_starts_in_order(
    stage: "Stage", clock: MockClock, strategy: Strategy, story: list[str]
) -> None:
    async with running(stage.tree("a b c", strategy=strategy)):
        stage.news()
        stage.crash("b")
        await settled()

        assert stage.news() == story


@pytest.mark.parametrize(
    ("restart", "crashes", "comes_back"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, True),
        ("transient", False, False),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_restart_type_decides_who_comes_back(
    stage: "Stage", clock: MockClock, restart: Restart, crashes: bool, comes_back: bool
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", restart=restart)])):
        stage.news()
        if crashes:
            stage.crash("a")
        else:
            stage.end("a")
        await settled()

        assert ("a is up" in stage.news()) is comes_back


async def test_a_clean_end_of_a_permanent_child_counts_as_a_restart(
    stage: "Stage", clock: MockClock
) -> None:
    with pytest.raises(SupervisorGaveUp):
        await stage.until_end(stage.tree("a", max_restarts=0), lambda: stage.end("a"))


async def test_max_restarts_zero_allows_no_restart_at_all(stage: "Stage", clock: MockClock) -> None:
    with pytest.raises(SupervisorGaveUp, match=r"^top gave up: restarting top/a .* 0 restarts in"):
        await stage.until_end(stage.tree("a", max_restarts=0), lambda: stage.crash("a"))

    assert stage.story == []


@pytest.mark.parametrize(
    ("pause", "gives_up"), [(5.0, True), (5.1, False)], ids=["on its edge", "beyond it"]
)
async def test_a_restart_on_the_edge_of_the_window_still_counts(
    stage: "Stage", clock: MockClock, pause: float, gives_up: bool
) -> None:
    async def crash_twice() -> None:
        async with running(stage.tree("a", max_restarts=1, within=5)):
            stage.crash("a")
            await trio.sleep(pause)
            stage.crash("a")
            await settled()

    if gives_up:
        with pytest.raises(SupervisorGaveUp):
            await crash_twice()
    else:
        await crash_twice()


async def test_failed_restarts_count_so_that_three_allowed_are_three_tried(
    stage: "Stage", clock: MockClock
) -> None:
    def crash_for_good() -> None:
        stage.crash("a")
        stage.failing["a"] = 100

    with pytest.raises(SupervisorGaveUp) as caught:
        await stage.until_end(stage.tree("a", max_restarts=3), crash_for_good)

    assert stage.story == ["a starts"] * 3
    assert str(caught.value.__cause__) == "a cannot start"


async def test_a_restart_counts_once_however_many_siblings_it_takes(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b c d", strategy=one_for_all, max_restarts=1)) as system:
        seen = watched(system)
        stage.crash("b")
        await settled()

    (restarting,) = [notice for notice in seen if isinstance(notice, Restarting)]
    assert (restarting.path, restarting.left) == ("top/b", 0)
    assert restarting.siblings == ("top/a", "top/c", "top/d")


async def test_siblings_that_crash_together_are_both_told_and_count_once(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b", strategy=one_for_all, max_restarts=1)) as system:
        seen = watched(system)
        stage.crash("a")
        stage.crash("b")
        await settled()

    assert sorted(told(seen, Crashed)) == [("Crashed", "top/a"), ("Crashed", "top/b")]
    assert len(told(seen, Restarting)) == 1


async def test_temporary_siblings_of_a_restarted_group_are_dropped(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("t", restart="temporary"), stage.puppet("b")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        stage.news()
        stage.crash("b")
        await settled()

        assert stage.news()[-4:] == ["a starts", "a is up", "b starts", "b is up"]
        assert [line.path for line in system.tree()] == ["top", "top/a", "top/b"]


async def test_a_child_that_ended_cleanly_comes_back_with_its_group(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a", restart="transient"), stage.puppet("b")]

    async with running(Supervisor("top", children, strategy=one_for_all)):
        stage.end("a")
        await settled()
        stage.news()
        stage.crash("b")
        await settled()

        assert stage.news() == ["a starts", "a is up", "b starts", "b is up"]


async def test_a_group_start_that_fails_leaves_those_after_it_down_and_begins_anew(
    stage: "Stage",
    clock: MockClock,
) -> None:
    async with running(stage.tree("a b c", strategy=one_for_all)):
        stage.news()
        stage.failing["b"] = 1
        stage.crash("c")
        await settled()

        assert stage.news()[4:] == [
            *("a starts", "a is up", "b starts"),
            *("a stops", "a is down"),
            *("a starts", "a is up", "b starts", "b is up", "c starts", "c is up"),
        ]


async def test_a_stop_is_served_between_attempts_to_restart(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b", max_restarts=10**9)):
        stage.failing["b"] = 10**9
        stage.crash("b")
        for _ in range(50):
            await trio.lowlevel.checkpoint()

    assert stage.story.count("b starts") > 2
    assert stage.story[-2:] == ["a stops", "a is down"]


async def test_a_crash_disturbs_no_sibling_at_its_work(stage: "Stage", clock: MockClock) -> None:
    stage.slow["b"] = 5

    async with running(stage.tree("a")) as system:
        stage.news()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.start_child, stage.puppet("b"))
            await trio.sleep(1)
            stage.crash("a")

    assert stage.story[:4] == ["b starts", "b is up", "a starts", "a is up"]


async def test_an_exception_group_is_reported_whole(stage: "Stage", clock: MockClock) -> None:
    group = ExceptionGroup("both", [OSError("one"), ValueError("two")])

    async with running(stage.tree("a")) as system:
        seen = watched(system)
        stage.crash("a", group)
        await settled()

    assert [notice.error for notice in seen if isinstance(notice, Crashed)] == [group]


async def test_a_life_is_told_with_the_number_of_its_incarnation(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        seen = watched(system)
        stage.crash("a")
        await settled()

    facts = [(type(n), n.incarnation) for n in seen if n.path == "top/a"]
    assert facts[:3] == [(Crashed, 1), (Restarting, 2), (Started, 2)]


# -- back-off ---------------------------------------------------------------------


async def starts_of(stage: "Stage", backoff: Backoff | None, **options: Any) -> list[float]:
    """When a child started that crashes as soon as it is up, seven times."""
    stage.dying["a"] = 7
    stage.starts.clear()
    began = trio.current_time()
    tree = Supervisor("top", [stage.puppet("a", backoff=backoff)], max_restarts=99)
    async with running(tree, **options):
        await trio.sleep(100)
    return [round(at - began, 6) for at in stage.starts]


async def test_delays_between_restarts_double_up_to_their_maximum(
    stage: "Stage", clock: MockClock
) -> None:
    starts = await starts_of(stage, Backoff(0.1, 1, jitter=0, reset_after=50))

    assert starts == [0, 0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5]


async def test_without_backoff_every_restart_comes_at_once(
    stage: "Stage", clock: MockClock
) -> None:
    assert await starts_of(stage, None) == [0] * 8


async def test_a_delay_longer_than_the_quiet_time_does_not_begin_anew(
    stage: "Stage", clock: MockClock
) -> None:
    starts = await starts_of(stage, Backoff(1, 4, jitter=0, reset_after=2))

    assert starts == [0, 0, 1, 3, 7, 11, 15, 19]


async def test_delays_begin_anew_after_a_quiet_time(stage: "Stage", clock: MockClock) -> None:
    backoff = Backoff(1, 4, jitter=0, reset_after=2)
    async with running(Supervisor("top", [stage.puppet("a", backoff=backoff)])):
        stage.dying["a"] = 1
        stage.crash("a")  # back at once, crashes, back after 1 s
        await trio.sleep(1 + 2.5)
        stage.crash("a")
        await settled()

    assert stage.starts == [0, 0, 1, 3.5]


async def test_jitter_repeats_itself_with_the_seed(stage: "Stage", clock: MockClock) -> None:
    backoff = Backoff(1, 1, jitter=0.5, reset_after=50)
    first = await starts_of(stage, backoff, seed=1)

    assert await starts_of(stage, backoff, seed=1) == first
    assert await starts_of(stage, backoff, seed=2) != first


async def test_a_delay_that_a_greater_group_overtakes_starts_nobody(
    stage: "Stage", clock: MockClock
) -> None:
    def slow(seconds: float) -> Backoff:
        return Backoff(seconds, seconds, jitter=0, reset_after=99)

    children = [stage.puppet("a", backoff=slow(20)), stage.puppet("b", backoff=slow(5))]
    async with running(Supervisor("top", children, strategy=rest_for_one, max_restarts=9)):
        for name in ("a", "b", "b", "a"):  # at once, at once, in 5 s, in 20 s with b
            stage.crash(name)
            await settled()
        stage.news()
        await trio.sleep(19)
        assert stage.news() == []
        await trio.sleep(2)
        assert stage.news() == ["a starts", "a is up", "b starts", "b is up"]


# -- escalation -------------------------------------------------------------------


def nested(stage: "Stage", **options: Any) -> Supervisor:
    inner = Supervisor("inner", [stage.puppet("b")], max_restarts=1, backoff=None, **options)
    return Supervisor("top", [stage.puppet("a"), inner], max_restarts=1)


async def test_a_supervisor_that_gives_up_is_restarted_with_an_empty_window(
    stage: "Stage", clock: MockClock
) -> None:
    stage.dying["b"] = 2

    async with running(nested(stage)) as system:
        seen = watched(system)
        await settled()
        assert told(seen, Escalated, GaveUp) == [("GaveUp", "top/inner"), ("Escalated", "top")]
        stage.news()
        stage.crash("b")
        await settled()

        assert stage.news() == ["b starts", "b is up"]


async def test_a_transient_supervisor_that_gave_up_comes_back(
    stage: "Stage", clock: MockClock
) -> None:
    stage.dying["b"] = 2

    async with running(nested(stage, restart="transient")):
        await settled()

        assert stage.news()[-2:] == ["b starts", "b is up"]


async def test_a_supervisor_that_gives_up_stops_its_other_children_in_reverse(
    stage: "Stage",
    clock: MockClock,
) -> None:
    with pytest.raises(SupervisorGaveUp):
        await stage.until_end(stage.tree("a b c", max_restarts=0), lambda: stage.crash("b"))

    assert stage.story == ["c stops", "c is down", "a stops", "a is down"]


async def test_what_nobody_could_mend_comes_out_with_its_causes(
    stage: "Stage", clock: MockClock
) -> None:
    stage.dying["b"] = 99

    with pytest.raises(SupervisorGaveUp, match="top gave up: restarting top/inner") as caught:
        async with running(nested(stage)):
            await trio.sleep_forever()

    inner = caught.value.__cause__
    assert isinstance(inner, SupervisorGaveUp)
    assert (inner.path, inner.child, str(inner.__cause__)) == ("top/inner", "top/inner/b", "b died")
