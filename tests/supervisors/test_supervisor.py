"""Supervision, rule for rule, in virtual time; Erlang/OTP's `supervisor` is the reference.

The children are puppets: they start, end, crash and linger as a test says, and
tell what they did in `stage.story`.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    DeclarationError,
    StartFailed,
    StartTimedOut,
    UnderstudyError,
)
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import Incarnation, SupervisorGaveUp
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
from understudy.supervisors.child import ChildSpec, Supervisor, Wiring, child
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


class Stage:
    """Makes puppets and pulls their strings."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.starts: list[float] = []
        self.failing: Counter[str] = Counter()  # starts that fail
        self.dying: Counter[str] = Counter()  # lives that end in a crash at once
        self.leaving: set[str] = set()  # ends without having started
        self.slow: dict[str, float] = {}  # seconds to start
        self.lingers: dict[str, float] = {}  # seconds to stop
        self.shielded: dict[str, float] = {}  # seconds that no cancellation shortens
        self._cues: dict[str, tuple[trio.Event, list[BaseException]]] = {}

    def puppet(self, name: str, **options: Any) -> ChildSpec:
        return _Puppet(name=name, stage=self, **{"backoff": None, **options})

    def tree(self, names: str, **options: Any) -> Supervisor:
        return Supervisor("top", [self.puppet(name) for name in names.split()], **options)

    def end(self, name: str) -> None:
        self._cues[name][0].set()

    def crash(self, name: str, error: BaseException | None = None) -> None:
        cue, errors = self._cues[name]
        errors.append(error or OSError(f"{name} crashed"))
        cue.set()

    def news(self) -> list[str]:
        """The story since the last look."""
        news, self.story = self.story, []
        return news

    async def play(self, name: str, incarnation: Incarnation) -> None:
        self.story.append(f"{name} starts")
        self.starts.append(trio.current_time())
        await trio.sleep(self.slow.get(name, 0))
        if name in self.leaving:
            return
        if self.failing[name]:
            self.failing[name] -= 1
            raise OSError(f"{name} cannot start")
        cue, errors = self._cues[name] = (trio.Event(), [])
        incarnation.announce(self)
        self.story.append(f"{name} is up")
        if self.dying[name]:
            self.dying[name] -= 1
            raise OSError(f"{name} died")
        incarnation.on_stop(cue.set)
        await cue.wait()
        for error in errors:
            raise error
        await self._leave(name, incarnation)

    async def _leave(self, name: str, incarnation: Incarnation) -> None:
        if incarnation.stopping:
            self.story.append(f"{name} stops")
        with trio.CancelScope(shield=True):
            await trio.sleep(self.shielded.get(name, 0))
        await trio.sleep(self.lingers.get(name, 0))
        self.story.append(f"{name} is down")


@attrs.frozen(kw_only=True, eq=False)
class _Puppet(ChildSpec):
    stage: Stage

    def build(self, wiring: Wiring) -> "_Strings":
        return _Strings(self)


class _Strings:
    def __init__(self, spec: _Puppet) -> None:
        self._spec = spec

    async def run(self, incarnation: Incarnation) -> None:
        await self._spec.stage.play(self._spec.name, incarnation)

    def open(self) -> None: ...

    def close(self, why: str) -> None: ...


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def until_end(stage: Stage, tree: Supervisor, act: Callable[[], object]) -> None:
    """Run a tree, do something to it, and wait until it has ended by itself."""
    async with running(tree):
        stage.news()
        act()
        await trio.sleep_forever()


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


def told(seen: list[Notice], *kinds: type[Notice]) -> list[tuple[str, str]]:
    return [(type(notice).__name__, notice.path) for notice in seen if isinstance(notice, kinds)]


# -- start ------------------------------------------------------------------------


async def test_each_child_is_up_before_the_next_one_starts(stage: Stage, clock: MockClock) -> None:
    stage.slow = {"a": 3, "b": 1}

    async with running(stage.tree("a b")):
        assert stage.news() == ["a starts", "a is up", "b starts", "b is up"]


async def test_a_failing_start_stops_those_already_up_in_reverse(
    stage: Stage, clock: MockClock
) -> None:
    stage.failing["c"] = 1

    with pytest.raises(StartFailed, match=r"^top/c \(incarnation 1\) could not be started"):
        async with running(stage.tree("a b c d")):
            pytest.fail("the tree must not run")

    assert stage.story[4:] == ["c starts", "b stops", "b is down", "a stops", "a is down"]


async def test_a_failing_start_tells_the_cause(stage: Stage, clock: MockClock) -> None:
    stage.failing["a"] = 1

    with pytest.raises(StartFailed) as caught:
        async with running(stage.tree("a")):
            pytest.fail("the tree must not run")

    assert isinstance(caught.value.__cause__, OSError)


async def test_a_start_below_fails_the_start_above_with_the_whole_chain(
    stage: Stage, clock: MockClock
) -> None:
    stage.failing["a"] = 1

    with pytest.raises(StartFailed, match="top/inner") as caught:
        async with running(Supervisor("top", [Supervisor("inner", [stage.puppet("a")])])):
            pytest.fail("the tree must not run")

    inner = caught.value.__cause__
    assert isinstance(inner, StartFailed)
    assert (inner.path, type(inner.__cause__)) == ("top/inner/a", OSError)


async def test_a_start_that_takes_too_long_is_cancelled_and_fails(
    stage: Stage, clock: MockClock
) -> None:
    stage.slow["a"] = 60

    with pytest.raises(StartFailed) as caught:
        async with running(Supervisor("top", [stage.puppet("a", start_timeout=2)])):
            pytest.fail("the tree must not run")

    assert isinstance(caught.value.__cause__, StartTimedOut)
    assert "started() was not done after 2 s" in str(caught.value.__cause__)
    assert trio.current_time() == pytest.approx(2)


async def test_a_child_that_ends_before_it_is_up_has_failed_to_start(
    stage: Stage, clock: MockClock
) -> None:
    stage.leaving.add("a")

    with pytest.raises(StartFailed) as caught:
        async with running(stage.tree("a")):
            pytest.fail("the tree must not run")

    assert str(caught.value.__cause__) == "it ended (normal) before its start was complete"


async def test_a_restart_that_ends_early_is_tried_again_whatever_the_type(
    stage: Stage, clock: MockClock
) -> None:
    tree = Supervisor("top", [stage.puppet("a", restart="transient")], max_restarts=2)

    def crash_and_end_early() -> None:
        stage.crash("a")
        stage.leaving.add("a")

    with pytest.raises(SupervisorGaveUp, match="more than 2 restarts"):
        await until_end(stage, tree, crash_and_end_early)


async def test_a_crash_right_after_the_start_is_a_crash_and_no_failed_start(
    stage: Stage, clock: MockClock
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
    stage: Stage,
    clock: MockClock,
) -> None:
    stage.lingers = dict.fromkeys("abcd", 1.0)
    inner = Supervisor("inner", [stage.puppet("b"), stage.puppet("c")])

    async with running(Supervisor("top", [stage.puppet("a"), inner, stage.puppet("d")])):
        stage.news()

    assert stage.story == [f"{name} {does}" for name in "dcba" for does in ("stops", "is down")]
    assert trio.current_time() == pytest.approx(4)


async def test_each_child_has_its_own_time_to_stop_and_is_cancelled_then(
    stage: Stage, clock: MockClock
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
    stage: Stage, clock: MockClock
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", shutdown=0)])):
        stage.news()

    assert stage.story == []


async def test_a_stuck_child_is_left_behind_and_its_supervisor_goes_on(
    stage: Stage, clock: MockClock
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
    stage: Stage, clock: MockClock
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
    stage: Stage, clock: MockClock, strategy: Strategy, story: list[str]
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
    stage: Stage, clock: MockClock, restart: Restart, crashes: bool, comes_back: bool
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
    stage: Stage, clock: MockClock
) -> None:
    with pytest.raises(SupervisorGaveUp):
        await until_end(stage, stage.tree("a", max_restarts=0), lambda: stage.end("a"))


async def test_max_restarts_zero_allows_no_restart_at_all(stage: Stage, clock: MockClock) -> None:
    with pytest.raises(SupervisorGaveUp, match=r"^top gave up: restarting top/a .* 0 restarts in"):
        await until_end(stage, stage.tree("a", max_restarts=0), lambda: stage.crash("a"))

    assert stage.story == []


@pytest.mark.parametrize(
    ("pause", "gives_up"), [(5.0, True), (5.1, False)], ids=["on its edge", "beyond it"]
)
async def test_a_restart_on_the_edge_of_the_window_still_counts(
    stage: Stage, clock: MockClock, pause: float, gives_up: bool
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
    stage: Stage, clock: MockClock
) -> None:
    def crash_for_good() -> None:
        stage.crash("a")
        stage.failing["a"] = 100

    with pytest.raises(SupervisorGaveUp) as caught:
        await until_end(stage, stage.tree("a", max_restarts=3), crash_for_good)

    assert stage.story == ["a starts"] * 3
    assert str(caught.value.__cause__) == "a cannot start"


async def test_a_restart_counts_once_however_many_siblings_it_takes(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a b c d", strategy=one_for_all, max_restarts=1)) as system:
        seen = watched(system)
        stage.crash("b")
        await settled()

    (restarting,) = [notice for notice in seen if isinstance(notice, Restarting)]
    assert (restarting.path, restarting.left) == ("top/b", 0)
    assert restarting.siblings == ("top/a", "top/c", "top/d")


async def test_siblings_that_crash_together_are_both_told_and_count_once(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a b", strategy=one_for_all, max_restarts=1)) as system:
        seen = watched(system)
        stage.crash("a")
        stage.crash("b")
        await settled()

    assert sorted(told(seen, Crashed)) == [("Crashed", "top/a"), ("Crashed", "top/b")]
    assert len(told(seen, Restarting)) == 1


async def test_temporary_siblings_of_a_restarted_group_are_dropped(
    stage: Stage, clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("t", restart="temporary"), stage.puppet("b")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        stage.news()
        stage.crash("b")
        await settled()

        assert stage.news()[-4:] == ["a starts", "a is up", "b starts", "b is up"]
        assert [line.path for line in system.tree()] == ["top", "top/a", "top/b"]


async def test_a_child_that_ended_cleanly_comes_back_with_its_group(
    stage: Stage, clock: MockClock
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
    stage: Stage,
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


async def test_a_stop_is_served_between_attempts_to_restart(stage: Stage, clock: MockClock) -> None:
    async with running(stage.tree("a b", max_restarts=10**9)):
        stage.failing["b"] = 10**9
        stage.crash("b")
        for _ in range(50):
            await trio.lowlevel.checkpoint()

    assert stage.story.count("b starts") > 2
    assert stage.story[-2:] == ["a stops", "a is down"]


async def test_a_crash_disturbs_no_sibling_at_its_work(stage: Stage, clock: MockClock) -> None:
    stage.slow["b"] = 5

    async with running(stage.tree("a")) as system:
        stage.news()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.start_child, stage.puppet("b"))
            await trio.sleep(1)
            stage.crash("a")

    assert stage.story[:4] == ["b starts", "b is up", "a starts", "a is up"]


async def test_an_exception_group_is_reported_whole(stage: Stage, clock: MockClock) -> None:
    group = ExceptionGroup("both", [OSError("one"), ValueError("two")])

    async with running(stage.tree("a")) as system:
        seen = watched(system)
        stage.crash("a", group)
        await settled()

    assert [notice.error for notice in seen if isinstance(notice, Crashed)] == [group]


async def test_a_life_is_told_with_the_number_of_its_incarnation(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        seen = watched(system)
        stage.crash("a")
        await settled()

    facts = [(type(n), n.incarnation) for n in seen if n.path == "top/a"]
    assert facts[:3] == [(Crashed, 1), (Restarting, 2), (Started, 2)]


# -- back-off ---------------------------------------------------------------------


async def starts_of(stage: Stage, backoff: Backoff | None, **options: Any) -> list[float]:
    """When a child started that crashes as soon as it is up, seven times."""
    stage.dying["a"] = 7
    stage.starts.clear()
    began = trio.current_time()
    tree = Supervisor("top", [stage.puppet("a", backoff=backoff)], max_restarts=99)
    async with running(tree, **options):
        await trio.sleep(100)
    return [round(at - began, 6) for at in stage.starts]


async def test_delays_between_restarts_double_up_to_their_maximum(
    stage: Stage, clock: MockClock
) -> None:
    starts = await starts_of(stage, Backoff(0.1, 1, jitter=0, reset_after=50))

    assert starts == [0, 0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5]


async def test_without_backoff_every_restart_comes_at_once(stage: Stage, clock: MockClock) -> None:
    assert await starts_of(stage, None) == [0] * 8


async def test_a_delay_longer_than_the_quiet_time_does_not_begin_anew(
    stage: Stage, clock: MockClock
) -> None:
    starts = await starts_of(stage, Backoff(1, 4, jitter=0, reset_after=2))

    assert starts == [0, 0, 1, 3, 7, 11, 15, 19]


async def test_delays_begin_anew_after_a_quiet_time(stage: Stage, clock: MockClock) -> None:
    backoff = Backoff(1, 4, jitter=0, reset_after=2)
    async with running(Supervisor("top", [stage.puppet("a", backoff=backoff)])):
        stage.dying["a"] = 1
        stage.crash("a")  # back at once, crashes, back after 1 s
        await trio.sleep(1 + 2.5)
        stage.crash("a")
        await settled()

    assert stage.starts == [0, 0, 1, 3.5]


async def test_jitter_repeats_itself_with_the_seed(stage: Stage, clock: MockClock) -> None:
    backoff = Backoff(1, 1, jitter=0.5, reset_after=50)
    first = await starts_of(stage, backoff, seed=1)

    assert await starts_of(stage, backoff, seed=1) == first
    assert await starts_of(stage, backoff, seed=2) != first


# -- escalation -------------------------------------------------------------------


def nested(stage: Stage, **options: Any) -> Supervisor:
    inner = Supervisor("inner", [stage.puppet("b")], max_restarts=1, backoff=None, **options)
    return Supervisor("top", [stage.puppet("a"), inner], max_restarts=1)


async def test_a_supervisor_that_gives_up_is_restarted_with_an_empty_window(
    stage: Stage, clock: MockClock
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
    stage: Stage, clock: MockClock
) -> None:
    stage.dying["b"] = 2

    async with running(nested(stage, restart="transient")):
        await settled()

        assert stage.news()[-2:] == ["b starts", "b is up"]


async def test_a_supervisor_that_gives_up_stops_its_other_children_in_reverse(
    stage: Stage,
    clock: MockClock,
) -> None:
    with pytest.raises(SupervisorGaveUp):
        await until_end(stage, stage.tree("a b c", max_restarts=0), lambda: stage.crash("b"))

    assert stage.story == ["c stops", "c is down", "a stops", "a is down"]


async def test_what_nobody_could_mend_comes_out_with_its_causes(
    stage: Stage, clock: MockClock
) -> None:
    stage.dying["b"] = 99

    with pytest.raises(SupervisorGaveUp, match="top gave up: restarting top/inner") as caught:
        async with running(nested(stage)):
            await trio.sleep_forever()

    inner = caught.value.__cause__
    assert isinstance(inner, SupervisorGaveUp)
    assert (inner.path, inner.child, str(inner.__cause__)) == ("top/inner", "top/inner/b", "b died")


# -- children come and go ---------------------------------------------------------


async def test_a_child_is_started_after_the_others_and_stopped_before_them(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        await system.start_child(stage.puppet("b"))
        assert stage.news()[-2:] == ["b starts", "b is up"]

    assert stage.story == ["b stops", "b is down", "a stops", "a is down"]


async def test_a_stopped_child_is_gone_and_its_name_is_free(stage: Stage, clock: MockClock) -> None:
    async with running(stage.tree("a b")) as system:
        await system.stop_child("top/b")
        assert [line.path for line in system.tree()] == ["top", "top/a"]

        started = await system.start_child(stage.puppet("b"))
        assert (started.path, started.state) == ("top/b", "running")


async def test_a_child_that_ended_makes_way_for_a_new_one_of_its_name(
    stage: Stage, clock: MockClock
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", restart="transient")])) as system:
        stage.end("a")
        await settled()
        await system.start_child(stage.puppet("a"))

        assert [(line.path, line.state) for line in system.tree()][1:] == [("top/a", "running")]


async def test_a_name_that_is_taken_is_refused(stage: Stage, clock: MockClock) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(
            DeclarationError, match=r"top already has a child 'a'. Give the new one"
        ):
            await system.start_child(stage.puppet("a"))


async def test_a_child_that_fails_to_start_leaves_nothing_behind(
    stage: Stage, clock: MockClock
) -> None:
    stage.failing["b"] = 1

    async with running(stage.tree("a")) as system:
        with pytest.raises(StartFailed, match="top/b") as caught:
            await system.start_child(stage.puppet("b"))
        assert str(caught.value.__cause__) == "b cannot start"
        assert [line.path for line in system.tree()] == ["top", "top/a"]


class Teller(Actor):
    @message_pattern("tell")
    def tell_it(self) -> None: ...


async def test_a_subtree_with_a_pattern_that_is_taken_leaves_nothing_behind(
    stage: Stage, clock: MockClock
) -> None:
    other = Supervisor("sub", [child(Teller, name="one"), child(Teller, name="two")])

    async with running(stage.tree("a")) as system:
        with pytest.raises(DeclarationError, match="'tell' has two handlers"):
            await system.start_child(other)
        assert ([line.path for line in system.tree()], system.registry.cells) == (
            ["top", "top/a"],
            {},
        )


async def test_what_cannot_be_a_child_is_refused_at_run_time_too(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(DeclarationError, match="needs auto_shutdown='any' or 'all'"):
            await system.start_child(stage.puppet("b", significant=True, restart="transient"))


async def test_stopping_a_child_that_is_not_there_is_an_error(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(KeyError, match="top has no child 'b'"):
            await system.stop_child("top/b")


async def test_a_supervisor_that_has_ended_takes_no_commands(
    stage: Stage, clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        pass

    with pytest.raises(UnderstudyError, match="top is not running"):
        await system.stop_child("top/a")


async def test_a_command_that_waits_when_the_supervisor_ends_is_answered(
    stage: Stage, clock: MockClock
) -> None:
    stage.slow["b"] = 60
    errors: list[str] = []

    async def start(name: str) -> None:
        try:
            await system.start_child(stage.puppet(name))
        except UnderstudyError as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery:
        async with running(stage.tree("a")) as system:
            nursery.start_soon(start, "b")
            await settled()
            nursery.start_soon(start, "c")
            await settled()

    assert errors == ["top/b (incarnation 1) could not be started.", "top has ended."]


async def test_a_child_stopped_during_its_delay_does_not_come_back(
    stage: Stage, clock: MockClock
) -> None:
    slow_back = stage.puppet("a", backoff=Backoff(5, 5, jitter=0, reset_after=99))
    children = [slow_back, stage.puppet("b")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        stage.dying["a"] = 1
        stage.crash("a")  # the second crash of two has a delay of 5 s
        await trio.sleep(1)
        await system.stop_child("top/b")
        stage.news()
        await trio.sleep(10)

        assert stage.news() == ["a starts", "a is up"]


async def test_a_stop_during_the_delay_of_a_restart_is_final(
    stage: Stage, clock: MockClock
) -> None:
    backoff = Backoff(5, 5, jitter=0, reset_after=99)

    async with running(Supervisor("top", [stage.puppet("a", backoff=backoff)])) as system:
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        await system.stop_child("top/a")
        stage.news()
        await trio.sleep(10)

        assert stage.news() == []


# -- significant children -----------------------------------------------------------


def significant(stage: Stage, mode: Any, restart: Restart = "transient") -> Supervisor:
    children = [stage.puppet(name, significant=True, restart=restart) for name in "ab"]
    return Supervisor("inner", [*children, stage.puppet("c")], auto_shutdown=mode)


@pytest.mark.parametrize(
    ("mode", "ended", "goes_on"),
    [("any", "a", False), ("all", "a", True), ("all", "ab", False)],
    ids=["any, one has ended", "all, one has ended", "all, both have ended"],
)
async def test_ends_of_significant_children_end_their_supervisor(
    stage: Stage, clock: MockClock, mode: str, ended: str, goes_on: bool
) -> None:
    async with running(significant(stage, mode)) as system:
        for name in ended:
            stage.end(name)
        await settled()
        assert system.tree()[0].state == ("running" if goes_on else "down")
        assert ("c is down" in stage.story) is not goes_on


async def test_an_ended_tree_leaves_the_block_without_an_error(
    stage: Stage, clock: MockClock
) -> None:
    async with running(significant(stage, "any")):
        stage.end("a")
        await trio.sleep_forever()


async def test_a_crash_of_a_significant_child_is_mended(stage: Stage, clock: MockClock) -> None:
    async with running(significant(stage, "any")) as system:
        stage.crash("a")
        await settled()

        assert system.healthy


async def test_a_significant_sibling_about_to_come_back_has_not_ended(
    stage: Stage, clock: MockClock
) -> None:
    slow_back = Backoff(5, 5, jitter=0, reset_after=99)
    a = stage.puppet("a", significant=True, restart="transient", backoff=slow_back)
    b = stage.puppet("b", significant=True, restart="transient")

    async with running(Supervisor("top", [a, b], auto_shutdown="all")) as system:
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        stage.end("b")
        await trio.sleep(5)

        assert [line.state for line in system.tree()] == ["running", "running", "ended"]


async def test_a_significant_child_that_is_stopped_ends_nobody(
    stage: Stage, clock: MockClock
) -> None:
    async with running(significant(stage, "any")) as system:
        await system.stop_child("inner/a")

        assert system.tree()[0].state == "running"


# -- what ends the process ----------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["ctrl-c", "exit"])
async def test_what_ends_the_process_ends_the_tree_in_order_and_comes_out(
    stage: Stage, clock: MockClock, error: BaseException
) -> None:
    inner = Supervisor("inner", [stage.puppet("b"), stage.puppet("c")])

    tree = Supervisor("top", [stage.puppet("a"), inner], max_restarts=0)

    with pytest.raises(type(error)) as caught:
        await until_end(stage, tree, lambda: stage.crash("b", error))

    assert caught.value is error
    assert stage.story == ["c stops", "c is down", "a stops", "a is down"]


async def test_an_exit_while_a_group_is_stopped_is_not_lost(stage: Stage, clock: MockClock) -> None:
    def crash_both() -> None:
        stage.crash("b")
        stage.crash("a", SystemExit(5))

    with pytest.raises(SystemExit, match="5"):
        await until_end(stage, stage.tree("a b", strategy=one_for_all), crash_both)


async def test_an_exit_while_starting_comes_out_as_it_is(stage: Stage, clock: MockClock) -> None:
    tree = stage.tree("a")

    async def leave(name: str, incarnation: Incarnation) -> None:
        raise SystemExit(4)

    stage.play = leave  # type: ignore[method-assign]
    with pytest.raises(SystemExit, match="4"):
        async with running(tree):
            pytest.fail("the tree must not run")
