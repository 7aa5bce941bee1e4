"""What a supervisor asks of its children, and what it tells: the rules in small print.

The children write down how they were asked to stop: `drained` (what waits is handled
first) or `at once`, and when they were opened for mail and closed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError, StartFailed, UnderstudyError
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
    Stuck,
)
from understudy.supervisors.child import ActorSpec, ChildSpec, Supervisor, Wiring, child
from understudy.supervisors.keeper import offer_of
from understudy.supervisors.pool import pool
from understudy.supervisors.strategy import Backoff, one_for_all, rest_for_one
from understudy.supervisors.supervisor import KILL_GRACE, ChildEscalated
from understudy.supervisors.system import System, running

if TYPE_CHECKING:
    from tests.supervisors.conftest import Stage


LATE = Backoff(5, 5, jitter=0, reset_after=99)
"""The first restart at once, every other after 5 s."""


@attrs.frozen(kw_only=True, eq=False)
class Scribe(ChildSpec):
    """A child that fails when it is told to, and writes into `book`."""

    book: list[str]
    acts: dict[str, Callable[[], None]] = attrs.field(factory=dict)
    broken: set[str] = attrs.field(factory=set)

    def build(self, wiring: Wiring) -> "_Scribbler":
        return _Scribbler(self)


class _Scribbler:
    def __init__(self, spec: Scribe) -> None:
        self._spec = spec

    def _note(self, text: str) -> None:
        self._spec.book.append(f"{self._spec.name} {text}")

    async def run(self, incarnation: Incarnation) -> None:
        over, errors = trio.Event(), list[BaseException]()

        def fail(error: BaseException | None = None) -> None:
            errors.extend([error] if error is not None else [])
            over.set()

        if self._spec.name in self._spec.broken:
            raise OSError("cannot start")
        self._spec.acts[self._spec.name] = fail
        incarnation.on_stop(over.set)
        incarnation.announce(self)
        try:
            await over.wait()
        finally:  # also when it is cancelled
            if incarnation.stopping:
                self._note("drained" if incarnation.draining else "at once")
        for error in errors:
            raise error

    def open(self) -> None:
        self._note("opened")

    def close(self, why: str) -> None:
        self._note(f"closed: {why}")


class Office:
    """Makes scribes that share a book."""

    def __init__(self) -> None:
        self.book: list[str] = []
        self.acts: dict[str, Any] = {}
        self.broken: set[str] = set()
        self.seen: list[Notice] = []
        self.states: list[list[str]] = []  # of the children, whenever one is told to stop

    async def until_end(self, tree: Supervisor, error: BaseException) -> None:
        """Run a tree, let its child `a` fail, and wait until it has ended by itself."""

        def look(notice: Notice) -> None:
            self.seen.append(notice)
            if isinstance(notice, Stopping):
                self.states.append([line.state for line in system.tree()[1:]])

        async with running(tree) as system:
            system.bus.subscribe(look)
            self.acts["a"](error)
            await trio.sleep_forever()

    def scribe(self, name: str, **options: Any) -> Scribe:
        shared = {"book": self.book, "acts": self.acts, "broken": self.broken}
        return Scribe(name=name, **{"backoff": None, **shared, **options})

    def tree(self, names: str, **options: Any) -> Supervisor:
        return Supervisor("top", [self.scribe(name) for name in names.split()], **options)

    def news(self) -> list[str]:
        news, self.book[:] = list(self.book), []
        return news


@pytest.fixture
def office() -> Office:
    return Office()


def noted(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


# -- who may still handle what waits --------------------------------------------------


async def test_a_child_stopped_for_good_handles_what_waits_first(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a b")) as system:
        seen = noted(system)
        office.news()
        await system.stop_child("top/a")

        assert office.news() == ["a drained", "a closed: it was stopped"]
        assert [one.why for one in seen if isinstance(one, Stopping)] == ["stop_child"]


async def test_children_of_a_tree_that_is_left_handle_what_waits_in_reverse(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a b")) as system:
        seen = noted(system)
        office.news()

    stops = [one.why for one in seen if isinstance(one, Stopping)]
    assert [line for line in office.book if "closed" not in line] == ["b drained", "a drained"]
    assert stops[-2:] == ["its supervisor stops"] * 2
    assert "a closed: it has stopped" in office.book
    assert office.book[-1] == "b closed: its supervisor top has ended"


async def test_siblings_restarted_with_a_crashed_one_stop_at_once_and_are_not_closed(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a b", strategy=one_for_all)):
        office.news()
        office.acts["a"](OSError("lost"))
        await settled()

        assert office.news() == ["b at once", "a opened", "b opened"]


async def test_a_temporary_sibling_of_a_restarted_group_is_closed(
    office: Office, clock: MockClock
) -> None:
    children = [office.scribe("a"), office.scribe("b", restart="temporary")]

    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        seen = noted(system)
        office.news()
        office.acts["a"](OSError("lost"))
        await settled()

        assert office.news() == ["b at once", "b closed: its group was restarted", "a opened"]
        assert [one.siblings for one in seen if isinstance(one, Restarting)] == [()]


async def test_siblings_of_a_child_that_nobody_can_mend_stop_at_once(
    office: Office, clock: MockClock
) -> None:
    with pytest.raises(SupervisorGaveUp):
        await office.until_end(office.tree("a b", max_restarts=0), OSError("lost"))

    assert "b at once" in office.book


async def test_siblings_of_an_escalated_child_stop_at_once(
    office: Office, clock: MockClock
) -> None:
    lost = OSError("lost")
    with pytest.raises(ChildEscalated) as caught:
        await office.until_end(office.tree("a b"), Crash(lost, directive="escalate"))

    assert "b at once" in office.book
    assert (caught.value.path, caught.value.child) == ("top", "top/a")
    assert caught.value.__cause__ is lost


async def test_siblings_of_a_child_that_cannot_start_stop_at_once(
    office: Office, clock: MockClock
) -> None:
    office.broken.add("b")

    with pytest.raises(StartFailed):
        async with running(office.tree("a b")):
            pytest.fail("the tree must not run")

    assert "a at once" in office.book


async def test_siblings_of_a_significant_child_that_ended_handle_what_waits(
    office: Office, clock: MockClock
) -> None:
    key = office.scribe("key", significant=True, restart="transient")

    async with running(Supervisor("top", [key, office.scribe("b")], auto_shutdown="any")):
        office.news()
        office.acts["key"]()
        await trio.sleep_forever()

    assert office.book[:2] == ["key closed: it has ended", "b drained"]


async def test_when_the_process_ends_children_are_told_so(office: Office, clock: MockClock) -> None:
    with pytest.raises(SystemExit):
        await office.until_end(office.tree("a b"), SystemExit(3))

    assert [one.why for one in office.seen if isinstance(one, Stopping)] == ["the process ends"]


async def test_a_child_that_ends_the_process_is_told_of_once_and_not_restarted(
    office: Office, clock: MockClock
) -> None:
    with pytest.raises(SystemExit):
        await office.until_end(office.tree("a b"), SystemExit(3))

    told = [(type(one).__name__, one.path) for one in office.seen]
    assert [kind for kind, path in told if path == "top/a"] == ["Stopped"]
    assert ("GaveUp", "top") not in told


# -- mail before a start ----------------------------------------------------------------


async def test_all_children_are_open_for_mail_before_the_first_starts(
    office: Office, clock: MockClock
) -> None:
    office.broken.add("a")

    with pytest.raises(StartFailed):
        async with running(office.tree("a b")):
            pytest.fail("the tree must not run")

    assert office.book[:2] == ["a opened", "b opened"]


async def test_a_child_that_is_added_is_open_before_it_starts_and_closed_if_it_cannot(
    office: Office, clock: MockClock
) -> None:
    office.broken.add("b")

    async with running(office.tree("a")) as system:
        office.news()
        with pytest.raises(StartFailed):
            await system.start_child(office.scribe("b"))

        assert office.news() == ["b opened", "b closed: its start failed"]


async def test_a_child_that_is_not_restarted_is_closed(office: Office, clock: MockClock) -> None:
    async with running(Supervisor("top", [office.scribe("a", restart="transient")])):
        office.news()
        office.acts["a"]()
        await settled()

        assert office.news() == ["a closed: it has ended"]


# -- directives, and names ----------------------------------------------------------------


async def test_a_child_that_crashed_for_good_is_gone_and_its_name_is_free(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a")) as system:
        office.acts["a"](Crash(OSError("lost"), directive="stop"))
        await settled()
        assert [line.path for line in system.tree()] == ["top"]

        await system.start_child(office.scribe("a"))
        assert office.news()[-1] == "a opened"


@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_of_children_that_ended_only_temporary_ones_are_gone(
    stage: "Stage", clock: MockClock, restart: Any
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", restart=restart)])) as system:
        stage.end("a")
        await settled()

        assert len(system.tree()) == (1 if restart == "temporary" else 2)


async def test_a_child_more_than_there_may_be_is_refused_in_its_first_incarnation(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a b", max_children=3)) as system:
        await system.start_child(office.scribe("c"))
        with pytest.raises(StartFailed) as caught:
            await system.start_child(office.scribe("d"))

    assert (caught.value.path, caught.value.incarnation) == ("top/d", 1)
    assert "max_children=3" in str(caught.value.__cause__)


async def test_a_child_whose_group_start_failed_makes_way_for_another(
    stage: "Stage", clock: MockClock
) -> None:
    backoff = Backoff(5, 5, jitter=0, reset_after=99)
    children = [stage.puppet("a"), stage.puppet("b", backoff=backoff), stage.puppet("c")]

    async with running(Supervisor("top", children, strategy=one_for_all, max_restarts=9)) as system:
        stage.failing["b"] = 2
        stage.crash("a")  # b fails twice: its next start is in 5 s, and c is down
        await trio.sleep(1)
        stage.news()
        await system.start_child(stage.puppet("c"))

        assert stage.news() == ["c starts", "c is up"]


async def test_a_tree_that_has_not_begun_takes_no_commands(
    stage: "Stage", clock: MockClock
) -> None:
    with pytest.raises(UnderstudyError, match="top is not running"):
        await System(stage.tree("a")).stop_child("top/a")


# -- what is told of a restart ------------------------------------------------------------


async def test_a_restart_tells_what_is_left_of_the_window_and_who_else_it_takes(
    office: Office, clock: MockClock
) -> None:
    async with running(office.tree("a b c", strategy=one_for_all, max_restarts=5)) as system:
        seen = noted(system)
        office.acts["b"](OSError("lost"))
        await settled()

    (told,) = [one for one in seen if isinstance(one, Restarting)]
    assert (told.path, told.incarnation, told.left, told.delay) == ("top/b", 2, 4, 0.0)
    assert told.siblings == ("top/a", "top/c")


async def test_a_rebuilt_supervisor_begins_with_the_children_of_its_spec_and_no_failures(
    stage: "Stage", clock: MockClock
) -> None:
    backoff = Backoff(5, 5, jitter=0, reset_after=99)
    inner = Supervisor(
        "inner", [stage.puppet("a", backoff=backoff)], max_restarts=2, within=100, backoff=None
    )

    async with running(Supervisor("top", [inner])) as system:
        await system.start_child(stage.puppet("b"), under="top/inner")
        for _ in range(3):  # at once, after 5 s, and one too many: `inner` is rebuilt
            stage.crash("a")
            await trio.sleep(6)
        stage.news()
        stage.crash("a")
        await settled()

        assert stage.news() == ["a starts", "a is up"]
        assert [line.path for line in system.tree()] == ["top", "top/inner", "top/inner/a"]


class Quiet(Actor[str]):
    """Does nothing with what it is told."""

    def receive(self, message: str) -> None: ...


async def test_an_actor_added_to_a_supervisor_that_is_rebuilt_has_left_the_tree(
    stage: "Stage", clock: MockClock
) -> None:
    inner = Supervisor("inner", [stage.puppet("a")], max_restarts=0, backoff=None)

    async with running(Supervisor("top", [inner])) as system:
        await system.start_child(ActorSpec(name="quiet", actor=Quiet), under="top/inner")
        assert system.ref("top/inner/quiet").path == "top/inner/quiet"
        stage.crash("a")
        await settled()

        with pytest.raises(LookupError):
            system.ref("top/inner/quiet")


async def test_a_child_of_the_spec_that_was_stopped_is_found_again_in_a_rebuilt_supervisor(
    stage: "Stage", clock: MockClock
) -> None:
    quiet = ActorSpec(name="quiet", actor=Quiet)
    inner = Supervisor("inner", [stage.puppet("a"), quiet], max_restarts=0, backoff=None)

    async with running(Supervisor("top", [inner])) as system:
        await system.stop_child("top/inner/quiet")
        with pytest.raises(LookupError):
            system.ref(Quiet)
        stage.crash("a")
        await settled()

        assert system.ref(Quiet).path == "top/inner/quiet"


class Teller(Actor[Any]):
    """Handles a pattern that only one may handle."""

    @message_pattern("tell")
    def tell_it(self) -> None: ...


async def test_a_pool_with_a_pattern_that_is_taken_leaves_no_member_behind(
    clock: MockClock,
) -> None:
    async with running(Supervisor("top", [child(Teller)])) as system:
        with pytest.raises(DeclarationError, match="'tell' has two handlers"):
            await system.start_child(pool(Teller, size=2, name="tellers"))

        assert list(system.registry.cells) == ["top/teller"]


async def test_a_child_that_does_not_run_offers_nothing(stage: "Stage", clock: MockClock) -> None:
    tree = Supervisor("top", [stage.puppet("a", backoff=LATE)], max_restarts=9)
    with pytest.raises(StartFailed):
        System(tree).root.offer("a", "top/b", 1)

    async with running(tree) as system:
        a = system.root.children["a"]
        offers = [offer_of(a)]
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        offers.append(offer_of(a))

    assert offers == [stage, None]


async def test_a_child_that_starts_is_seen_starting(stage: "Stage", clock: MockClock) -> None:
    stage.slow["b"] = 5

    async with trio.open_nursery() as nursery, running(stage.tree("a")) as system:
        nursery.start_soon(system.start_child, stage.puppet("b"))
        await trio.sleep(1)
        assert [line.state for line in system.tree()] == ["running", "running", "starting"]
        await trio.sleep(5)
        assert [line.state for line in system.tree()] == ["running"] * 3


async def test_a_start_that_fails_after_a_long_quiet_life_is_no_quiet_time(
    stage: "Stage", clock: MockClock
) -> None:
    backoff = Backoff(1, 4, jitter=0, reset_after=5)

    async with running(Supervisor("top", [stage.puppet("a", backoff=backoff)], max_restarts=9)):
        await trio.sleep(10)
        stage.failing["a"] = 4
        stage.crash("a")
        await trio.sleep(20)

    assert stage.starts == pytest.approx([0, 10, 10 + 1, 10 + 3, 10 + 7, 10 + 11])


async def test_a_tree_cancelled_while_it_starts_starts_nobody_else_and_has_not_failed(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["a"] = 5

    inner = Supervisor("inner", [stage.puppet("a"), stage.puppet("b")])
    with trio.move_on_after(1) as scope:
        async with running(Supervisor("top", [inner])):
            pytest.fail("the tree must not run")

    assert scope.cancelled_caught
    assert stage.story == ["a starts"]


@pytest.mark.parametrize(
    "error",
    [OSError("lost"), Crash(OSError("lost"), directive="escalate"), SystemExit(3)],
    ids=["it gives up", "it is escalated", "the process ends"],
)
async def test_while_siblings_stop_the_one_that_failed_is_seen_down(
    office: Office, clock: MockClock, error: BaseException
) -> None:
    with pytest.raises((SupervisorGaveUp, ChildEscalated, SystemExit)):
        await office.until_end(office.tree("a b", max_restarts=0), error)

    assert office.states == [["down", "stopping"]]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError("lost"), GaveUp), (Crash(OSError("lost"), directive="escalate"), Escalated)],
    ids=["it gives up", "it is escalated"],
)
async def test_why_a_supervisor_ends_is_told_before_its_children_are_told_to_stop(
    office: Office, clock: MockClock, error: BaseException, kind: type[Notice]
) -> None:
    with pytest.raises((SupervisorGaveUp, ChildEscalated)):
        await office.until_end(office.tree("a b", max_restarts=0), error)

    told = [type(one) for one in office.seen]
    assert told.index(kind) < told.index(Stopping)


@pytest.mark.parametrize("way", ["fails", "takes too long"])
async def test_a_significant_child_that_never_came_up_is_not_waited_for(
    stage: "Stage", clock: MockClock, way: str
) -> None:
    a = stage.puppet("a", significant=True, restart="transient")
    stage.failing["b"] = 1 if way == "fails" else 0
    stage.slow["b"] = 9

    async with running(Supervisor("top", [a], auto_shutdown="all")) as system:
        b = stage.puppet("b", significant=True, restart="transient", start_timeout=10)
        with pytest.raises(StartFailed):
            await system.start_child(b if way == "fails" else attrs.evolve(b, start_timeout=2))
        stage.end("a")
        with trio.move_on_after(5) as scope:
            await trio.sleep_forever()

    assert not scope.cancelled_caught


@pytest.mark.parametrize("mode", ["any", "all"])
async def test_a_child_of_no_significance_ends_nobody(
    stage: "Stage", clock: MockClock, mode: Any
) -> None:
    key = stage.puppet("key", significant=True, restart="transient")
    children = [key, stage.puppet("b", restart="transient")]

    async with running(Supervisor("top", children, auto_shutdown=mode)) as system:
        stage.end("b")
        await settled()
        assert [line.state for line in system.tree()] == ["running", "running", "ended"]


async def test_a_start_that_the_end_of_the_tree_breaks_off_tells_so(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["b"] = 60
    errors: list[BaseException | None] = []

    async def start() -> None:
        with pytest.raises(StartFailed) as caught:
            await system.start_child(stage.puppet("b"))
        errors.append(caught.value.__cause__)

    async with trio.open_nursery() as nursery:
        async with running(stage.tree("a")) as system:
            nursery.start_soon(start)
            await settled()

    assert [str(error) for error in errors] == ["it ended (killed) before its start was complete"]


async def test_a_child_that_ends_in_order_by_itself_is_told_as_stopped(
    office: Office, clock: MockClock
) -> None:
    async with running(Supervisor("top", [office.scribe("a", restart="transient")])) as system:
        seen = noted(system)
        office.acts["a"]()
        await settled()

        assert [one.how for one in seen if isinstance(one, Stopped)] == ["normal"]
        assert not any(isinstance(one, Crashed) for one in seen)


async def test_a_child_that_somebody_else_has_killed_is_told_as_crashed_and_comes_back(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        seen = noted(system)
        life = system.root.children["a"].incarnation
        assert life is not None
        life.kill()
        await settled()

        assert [str(one.error) for one in seen if isinstance(one, Crashed)] == ["it ended: killed"]
        assert [line.state for line in system.tree()] == ["running", "running"]


# -- ends that are waited for ---------------------------------------------------------------


async def test_a_cancelled_child_has_its_grace_and_is_left_behind_after_it(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded["a"] = 60

    async with running(stage.tree("a b")) as system:
        before = trio.current_time()
        await system.stop_child("top/a")
        assert trio.current_time() - before == pytest.approx(5 + KILL_GRACE)
        assert KILL_GRACE == 5.0


async def test_a_tree_stopped_together_waits_for_the_slowest_alone(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers = {"a": 3, "b": 2, "c": 1}

    async with running(stage.tree("a b c", stop_together=True)):
        stage.news()
        before = trio.current_time()

    assert trio.current_time() - before == pytest.approx(3)
    assert stage.story[-3:] == ["c is down", "b is down", "a is down"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(8, [("Stopped", 8)]), (60, [("Stuck", 5 + KILL_GRACE), ("Stopped", 5 + KILL_GRACE)])],
    ids=["in time", "stuck"],
)
async def test_children_stopped_together_have_their_grace_too(
    stage: "Stage", clock: MockClock, seconds: float, told: list[tuple[str, float]]
) -> None:
    stage.shielded["b"] = seconds
    seen: list[tuple[str, float]] = []

    def look(notice: Notice) -> None:
        if notice.path == "top/b" and not isinstance(notice, Stopping):
            seen.append((type(notice).__name__, round(trio.current_time(), 3)))

    async with running(stage.tree("a b", stop_together=True)) as system:
        system.bus.subscribe(look)

    assert seen == told


async def test_children_that_have_ended_are_not_asked_to_stop_with_the_others(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("b", restart="transient")]

    async with running(Supervisor("top", children, stop_together=True)):
        stage.end("b")
        await settled()
        stage.news()

    assert stage.story == ["a stops", "a is down"]


async def test_a_life_that_starts_is_told_with_its_number(office: Office, clock: MockClock) -> None:
    async with running(office.tree("a")) as system:
        seen = noted(system)
        office.acts["a"](OSError("lost"))
        await settled()

        assert [(one.path, one.incarnation) for one in seen if isinstance(one, Started)] == [
            ("top/a", 2)
        ]


async def test_when_a_sibling_fails_to_start_the_one_that_crashed_is_down_and_that_one_is_retried(
    stage: "Stage", clock: MockClock
) -> None:
    a = stage.puppet("a", backoff=Backoff(5, 5, jitter=0, reset_after=99))
    tree = Supervisor("top", [a, stage.puppet("b")], strategy=one_for_all, max_restarts=9)

    async with running(tree) as system:
        stage.failing["a"] = 2
        stage.crash("b")
        await trio.sleep(1)
        assert [line.state for line in system.tree()[1:]] == ["restarting", "down"]
        await trio.sleep(5)
        assert [line.state for line in system.tree()[1:]] == ["running", "running"]


@pytest.mark.parametrize(
    ("crashing", "failing", "states"),
    [("b", "a", ["restarting", "down"]), ("a", "b", ["running", "restarting"])],
    ids=["before it", "after it"],
)
async def test_when_a_sibling_cannot_be_restarted_only_that_one_is_to_come_back(
    stage: "Stage", clock: MockClock, crashing: str, failing: str, states: list[str]
) -> None:
    seen: list[list[str]] = []

    async with running(stage.tree("a b", strategy=one_for_all, max_restarts=9)) as system:

        def look(notice: Notice) -> None:
            if notice.path == f"top/{failing}" and isinstance(notice, Crashed):
                seen.append([one.state for one in system.root.children.values()])

        system.bus.subscribe(look)
        stage.failing[failing] = 1
        stage.crash(crashing)
        await settled()
        assert [line.state for line in system.tree()] == ["running"] * 3

    assert seen == [states]


# -- what comes while a group is to be started ------------------------------------------


async def test_a_delay_that_was_overtaken_does_not_shorten_the_next(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("b", backoff=LATE)]

    async with running(Supervisor("top", children, strategy=rest_for_one, max_restarts=9)):
        stage.dying["b"] = 1
        stage.crash("b")  # and again at once: its next start is at 5 s
        await trio.sleep(1)
        stage.crash("a")  # takes it along
        await trio.sleep(1)
        stage.crash("b")  # its next start is at 7 s
        await trio.sleep(8)

    assert stage.starts == pytest.approx([0, 0, 0, 1, 1, 7])


async def test_a_stop_while_a_group_starts_starts_nobody_else(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b", strategy=one_for_all)):
        stage.news()
        stage.slow["a"] = 5
        stage.crash("a")
        await trio.sleep(1)

    assert stage.story == ["b stops", "b is down", "a starts"]


def states_at(system: System, path: str) -> list[list[str]]:
    """Of the children at the top, whenever the one at `path` is told to stop."""
    seen: list[list[str]] = []

    def look(notice: Notice) -> None:
        if isinstance(notice, Stopping) and notice.path == path:
            seen.append([one.state for one in system.root.children.values()])

    system.bus.subscribe(look)
    return seen


async def test_a_child_whose_restart_a_stop_breaks_off_is_down(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b c")) as system:
        seen = states_at(system, "top/c")
        stage.slow["b"] = 5
        stage.crash("b")
        await trio.sleep(1)

    assert seen == [["running", "down", "stopping"]]


async def test_a_child_whose_start_took_too_long_before_a_stop_is_down(
    stage: "Stage", clock: MockClock
) -> None:
    async def play_late(name: str, incarnation: Incarnation) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(4)

    children = [stage.puppet("a"), stage.puppet("b", start_timeout=2), stage.puppet("c")]
    async with running(Supervisor("top", children)) as system:
        seen = states_at(system, "top/c")
        stage.play = play_late  # type: ignore[method-assign]
        stage.crash("b")
        await trio.sleep(3)  # it is cancelled after 2 s, and ends after 4 s

    assert seen == [["running", "down", "stopping"]]


async def test_a_start_that_a_stop_breaks_off_has_not_failed(
    stage: "Stage", clock: MockClock
) -> None:
    stage.slow["b"] = 5
    inner = Supervisor("in", [stage.puppet("a"), stage.puppet("b")])

    async def start() -> None:
        with pytest.raises(StartFailed):
            await system.start_child(inner)

    async with trio.open_nursery() as nursery, running(Supervisor("top")) as system:
        seen = noted(system)
        nursery.start_soon(start)
        await trio.sleep(1)

    stops = {one.path: one.why for one in seen if isinstance(one, Stopping)}
    assert stops["top/in/a"] == "its supervisor stops"


# -- stops, in order and in a hurry -----------------------------------------------------


@pytest.mark.parametrize("shutdown", [0, 2])
async def test_when_the_time_of_a_supervisor_is_over_nobody_is_asked_any_more(
    stage: "Stage", clock: MockClock, shutdown: float
) -> None:
    stage.lingers["b"] = 4
    inner = Supervisor("in", [stage.puppet("a"), stage.puppet("b")], shutdown=shutdown)

    async with running(Supervisor("top", [inner])):
        stage.news()

    assert stage.story == (["b stops"] if shutdown else [])
    assert trio.current_time() == pytest.approx(shutdown)


async def test_a_cancellation_while_the_tree_stops_ends_the_time_for_that(
    stage: "Stage", clock: MockClock
) -> None:
    stage.lingers["b"] = 4

    with trio.CancelScope() as scope:
        async with running(stage.tree("a b")) as system:
            stage.news()
            system.stop()
            await trio.sleep(1)
            scope.cancel()
            await trio.sleep_forever()

    assert (stage.story, trio.current_time()) == (["b stops"], 1)


async def test_a_child_that_is_cancelled_is_not_to_handle_what_waits(
    office: Office, clock: MockClock
) -> None:
    async with running(Supervisor("top", [office.scribe("a", shutdown=0)])):
        office.news()

    assert office.news()[0] == "a at once"


async def test_a_child_that_has_stopped_is_down_when_the_next_is_told(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b")) as system:
        seen = states_at(system, "top/a")

    assert seen == [["stopping", "down"]]


async def test_of_children_stopped_together_one_without_time_is_cancelled_in_its_turn(
    stage: "Stage", clock: MockClock
) -> None:
    children = [stage.puppet("a"), stage.puppet("b", shutdown=0)]
    killed: list[bool] = []

    async with running(Supervisor("top", children, stop_together=True)) as system:
        life = system.root.children["b"].incarnation

        def look(notice: Notice) -> None:
            if notice.path == "top/a" and isinstance(notice, Stopping):
                killed.append(life is not None and life.killed)

        system.bus.subscribe(look)

    assert killed == [True]


async def test_children_stuck_together_are_left_behind_at_the_same_time(
    stage: "Stage", clock: MockClock
) -> None:
    stage.shielded = {"a": 60, "b": 60}
    children = [stage.puppet(name, shutdown=1) for name in "ab"]
    stuck: list[float] = []

    def look(notice: Notice) -> None:
        if isinstance(notice, Stuck):
            stuck.append(trio.current_time())

    async with running(Supervisor("top", children, stop_together=True)) as system:
        system.bus.subscribe(look)

    assert stuck == pytest.approx([1 + KILL_GRACE] * 2)


async def test_what_was_left_behind_may_say_that_it_is_up_when_its_place_is_gone(
    stage: "Stage", clock: MockClock
) -> None:
    async def play_late(name: str, incarnation: Incarnation) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        incarnation.announce(stage)
        stage.story.append(f"{name} goes on")

    async with running(stage.tree("a")) as system:
        stage.play = play_late  # type: ignore[method-assign]
        with pytest.raises(StartFailed):
            await system.start_child(stage.puppet("b", start_timeout=1))
        stage.news()
        await trio.sleep(100)

    assert stage.story[0] == "b goes on"
