"""Children that come and go at run time, those that end their supervisor, and the process."""

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    DeclarationError,
    StartFailed,
    UnderstudyError,
)
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import Incarnation
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import (
    Backoff,
    Restart,
    one_for_all,
)
from understudy.supervisors.system import running

if TYPE_CHECKING:
    from tests.supervisors.conftest import Stage


# -- children come and go ---------------------------------------------------------


async def test_a_child_is_started_after_the_others_and_stopped_before_them(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        await system.start_child(stage.puppet("b"))
        assert stage.news()[-2:] == ["b starts", "b is up"]

    assert stage.story == ["b stops", "b is down", "a stops", "a is down"]


async def test_a_stopped_child_is_gone_and_its_name_is_free(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a b")) as system:
        await system.stop_child("top/b")
        assert [line.path for line in system.tree()] == ["top", "top/a"]

        started = await system.start_child(stage.puppet("b"))
        assert started is stage
        assert [(line.path, line.state) for line in system.tree()][2:] == [("top/b", "running")]


async def test_a_child_that_ended_makes_way_for_a_new_one_of_its_name(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(Supervisor("top", [stage.puppet("a", restart="transient")])) as system:
        stage.end("a")
        await settled()
        await system.start_child(stage.puppet("a"))

        assert [(line.path, line.state) for line in system.tree()][1:] == [("top/a", "running")]


async def test_a_name_that_is_taken_is_refused(stage: "Stage", clock: MockClock) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(
            DeclarationError, match=r"top already has a child 'a'. Give the new one"
        ):
            await system.start_child(stage.puppet("a"))


async def test_a_child_that_fails_to_start_leaves_nothing_behind(
    stage: "Stage", clock: MockClock
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
    stage: "Stage", clock: MockClock
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
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(DeclarationError, match="needs auto_shutdown='any' or 'all'"):
            await system.start_child(stage.puppet("b", significant=True, restart="transient"))


async def test_stopping_a_child_that_is_not_there_is_an_error(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        with pytest.raises(KeyError, match="top has no child 'b'"):
            await system.stop_child("top/b")


async def test_a_supervisor_that_has_ended_takes_no_commands(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(stage.tree("a")) as system:
        pass

    with pytest.raises(UnderstudyError, match="top is not running"):
        await system.stop_child("top/a")


async def test_a_command_that_waits_when_the_supervisor_ends_is_answered(
    stage: "Stage", clock: MockClock
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
    stage: "Stage", clock: MockClock
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
    stage: "Stage", clock: MockClock
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


def significant(stage: "Stage", mode: Any, restart: Restart = "transient") -> Supervisor:
    children = [stage.puppet(name, significant=True, restart=restart) for name in "ab"]
    return Supervisor("inner", [*children, stage.puppet("c")], auto_shutdown=mode)


@pytest.mark.parametrize(
    ("mode", "ended", "goes_on"),
    [("any", "a", False), ("all", "a", True), ("all", "ab", False)],
    ids=["any, one has ended", "all, one has ended", "all, both have ended"],
)
async def test_ends_of_significant_children_end_their_supervisor(
    stage: "Stage", clock: MockClock, mode: str, ended: str, goes_on: bool
) -> None:
    async with running(significant(stage, mode)) as system:
        for name in ended:
            stage.end(name)
        with trio.CancelScope(shield=True):  # the end of the tree cancels this block
            await settled()
        assert system.tree()[0].state == ("running" if goes_on else "down")
        assert ("c is down" in stage.story) is not goes_on


async def test_an_ended_tree_leaves_the_block_without_an_error(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(significant(stage, "any")):
        stage.news()
        stage.end("a")
        await trio.sleep_forever()

    assert stage.story == ["a is down", "c stops", "c is down", "b stops", "b is down"]


async def test_a_crash_of_a_significant_child_is_mended(stage: "Stage", clock: MockClock) -> None:
    async with running(significant(stage, "any")):
        stage.news()
        stage.crash("a")
        await settled()

    assert stage.news()[:4] == ["a starts", "a is up", "c stops", "c is down"]


async def test_a_significant_sibling_about_to_come_back_has_not_ended(
    stage: "Stage", clock: MockClock
) -> None:
    slow_back = Backoff(5, 5, jitter=0, reset_after=99)
    a = stage.puppet("a", significant=True, restart="transient", backoff=slow_back)
    b = stage.puppet("b", significant=True, restart="transient")

    async with running(Supervisor("top", [a, b], auto_shutdown="all")):
        stage.dying["a"] = 1
        stage.crash("a")
        await trio.sleep(1)
        stage.end("b")
        stage.news()
        await trio.sleep(5)

    assert stage.news() == ["b is down", "a starts", "a is up", "a stops", "a is down"]


async def test_a_significant_child_that_is_stopped_ends_nobody(
    stage: "Stage", clock: MockClock
) -> None:
    async with running(significant(stage, "any")) as system:
        await system.stop_child("inner/a")
        await settled()
        stage.news()

    assert stage.story == ["c stops", "c is down", "b stops", "b is down"]


# -- what ends the process ----------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["ctrl-c", "exit"])
async def test_what_ends_the_process_ends_the_tree_in_order_and_comes_out(
    stage: "Stage", clock: MockClock, error: BaseException
) -> None:
    inner = Supervisor("inner", [stage.puppet("b"), stage.puppet("c")])

    tree = Supervisor("top", [stage.puppet("a"), inner], max_restarts=0)

    with pytest.raises(type(error)) as caught:
        await stage.until_end(tree, lambda: stage.crash("b", error))

    assert caught.value is error
    assert stage.story == ["c stops", "c is down", "a stops", "a is down"]


async def test_an_exit_while_a_group_is_stopped_is_not_lost(
    stage: "Stage", clock: MockClock
) -> None:
    def crash_both() -> None:
        stage.crash("b")
        stage.crash("a", SystemExit(5))

    with pytest.raises(SystemExit, match="5"):
        await stage.until_end(stage.tree("a b", strategy=one_for_all), crash_both)


async def test_an_exit_while_starting_comes_out_as_it_is(stage: "Stage", clock: MockClock) -> None:
    tree = stage.tree("a")

    async def leave(name: str, incarnation: Incarnation) -> None:
        raise SystemExit(4)

    stage.play = leave  # type: ignore[method-assign]
    with pytest.raises(SystemExit, match="4"):
        async with running(tree):
            pytest.fail("the tree must not run")
