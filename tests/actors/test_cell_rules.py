"""What an actor does unless it is told otherwise, what it has before its first life, and
what it keeps from one task, instance or life to the next.
"""

import gc
from collections.abc import Callable
from contextvars import Context, copy_context
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock
from weakref import ref

import pytest
import sniffio
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell, CellOptions
from understudy.actors.envelope import Envelope
from understudy.actors.errors import Fenced, Retry
from understudy.actors.handlers import message_pattern
from understudy.actors.incarnation import Incarnation
from understudy.actors.lifecycle import Activated, Passivated, Undelivered
from understudy.actors.mailbox import Overflow
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated

from .driven import Do


class Quiet(Actor[str]):
    """Does nothing with what it is told."""

    def receive(self, message: str) -> None: ...


def new_cell(actor: type[Actor[Any]] = Quiet, **options: Any) -> Cell:
    services = cast("Any", SimpleNamespace(timers=None))
    return Cell("shop/quiet", actor, lambda: ((), {}), CellOptions(**options), services)


def test_an_actor_that_says_nothing_waits_holds_and_is_never_passive() -> None:
    options = new_cell().options

    assert (options.mailbox, options.overflow, options.concurrency) == (1024, "wait", 1)
    assert (options.crash_grace, options.max_age) == (1.0, 3600.0)
    assert (options.sick_after, options.on_sick, options.blame) == (10, "hold", "message")
    assert (options.key, options.passivate_after, options.retry) == (None, None, None)


def test_before_its_first_life_an_actor_has_nothing() -> None:
    cell = new_cell()

    assert (cell.instance, cell.state, cell.life, cell.links()) == (None, None, None, None)
    assert (cell.suspended, cell.tracer) == (False, None)
    assert (cell.occupied, cell.may_sleep) == (False, True)
    assert not cell.mailbox.is_open


class Keyed(Actor[Any]):
    """One of its handlers has a key of its own."""

    @message_pattern("keyed", key="id")
    def handle(self, message: Any) -> None: ...


def test_a_cell_has_keys_only_if_it_or_a_handler_is_told_of_any() -> None:
    assert new_cell().keys is None
    assert new_cell(key="id").keys is not None
    assert new_cell(Keyed).keys is not None


def test_whoever_looks_for_cycles_finds_the_lanes_and_the_actor_of_a_mailbox() -> None:
    cell = new_cell(concurrency=3)

    assert (cell.mailbox.concurrency, cell.mailbox.owner) == (3, cell)


@pytest.mark.parametrize(
    ("overflow", "drops"),
    [("wait", False), ("reject", False), ("drop_oldest", True), ("drop_newest", True)],
)
def test_an_actor_hears_of_what_its_mailbox_drops(overflow: Overflow, drops: bool) -> None:
    assert (new_cell(overflow=overflow).mailbox.drop is not None) is drops


def test_before_its_first_life_it_may_be_suspended_traced_and_failed() -> None:
    cell = new_cell()
    cell.suspend()
    cell.trace(None)
    cell.fail(OSError("lost"))

    assert (cell.suspended, cell.life) == (True, None)


def test_an_actor_that_is_closed_before_its_first_life_was_not_running() -> None:
    watcher = Mock()
    cell = new_cell()
    cell.add_watcher(watcher)
    cell.close("it was never started")

    ((of, notice),) = [call.args for call in watcher.ended.call_args_list]
    assert (of, notice.how, notice.error) == (cell, "not running", None)


def test_what_is_undelivered_before_the_first_life_is_told_of_number_0() -> None:
    seen: list[Any] = []
    cell = new_cell()
    cell.services.bus = cast("Any", SimpleNamespace(publish=seen.append))
    cell.undelivered("mail", "it does not run")

    assert [one.incarnation for one in seen] == [0]


def test_what_comes_back_to_a_closed_mailbox_is_undelivered() -> None:
    seen: list[Any] = []
    cell = new_cell()
    cell.services.bus = cast("Any", SimpleNamespace(publish=seen.append))
    cell.give_back(Envelope("mail"), "it was cancelled")

    assert [one.why for one in seen] == ["it was cancelled"]


def test_an_actor_with_mail_or_a_place_kept_for_some_is_occupied() -> None:
    with_mail, with_place = new_cell(), new_cell()
    with_mail.open()
    with_mail.mailbox.put(Envelope("mail"))
    with_place.mailbox.reserve()

    assert (with_mail.occupied, with_place.occupied) == (True, True)


def test_a_local_message_is_neither_taken_back_nor_let_go_if_nothing_was_put_aside() -> None:
    cell, message = new_cell(), Envelope("mail")

    assert (cell.retake(message), cell.let_go(message)) == (False, False)


def test_of_several_watchers_those_are_told_that_still_watch() -> None:
    first, second, third = Mock(), Mock(), Mock()
    cell = new_cell()
    cell.remove_watcher(first)
    for watcher in (first, second, third):
        cell.add_watcher(watcher)
    cell.remove_watcher(second)
    cell.close("it has stopped")

    assert [one.ended.call_count for one in (first, second, third)] == [1, 0, 1]


# -- falling asleep -------------------------------------------------------------------


class Doer(Actor[Any]):
    """Calls what it is sent."""

    def receive(self, message: Any) -> Any:
        return message(self)


def cell_of(actor: Isolated[Any]) -> Cell:
    return actor.system.registry.find(actor.path)


def life_of(actor: Isolated[Any]) -> Incarnation:
    life = cell_of(actor).life
    assert life is not None
    return life


async def test_an_actor_that_sleeps_keeps_nothing_of_what_has_run_it(clock: MockClock) -> None:
    tasks: list[Any] = []

    async with isolated(Doer) as actor:
        actor.tell(lambda _: tasks.append(ref(trio.lowlevel.current_task())))
        await trio.sleep(60)
        assert life_of(actor).asleep
        gc.collect()

        assert [task() for task in tasks] == [None]
        assert (cell_of(actor)._lanes, cell_of(actor).mailbox.hands) == (None, ())


async def test_a_stop_that_comes_as_it_falls_asleep_is_not_slept_through(clock: MockClock) -> None:
    async with isolated(Doer) as actor:
        actor.tell(lambda _: None)
        await settled()
        life, lanes = life_of(actor), cell_of(actor)._lanes
        assert lanes is not None
        lanes.rest()
        life.stop(drain=True)
        await settled()

        assert life.ending is not None
        assert life.ending.kind == "shutdown"


async def test_an_actor_that_has_ended_keeps_nothing_of_its_life(clock: MockClock) -> None:
    actors: list[Any] = []

    async with isolated(Doer, restart="transient") as actor:
        cell = cell_of(actor)
        actor.tell(lambda self: actors.append(ref(self)))
        actor.tell(lambda self: self.stop())
        await settled()
        gc.collect()

        assert [one() for one in actors] == [None]
        assert (cell.instance, cell._lanes, cell.mailbox.hands) == (None, None, ())


async def test_an_actor_may_be_passive_at_once_and_says_so(clock: MockClock) -> None:
    async with isolated(Doer, passivate_after=0) as actor:
        actor.tell(lambda _: None)
        await trio.sleep(5)

        assert [one.after for one in actor.lifecycle.of(Passivated)][:1] == [0.0]


class Leaver(Doer):
    """Stops itself before its first message."""

    async def started(self) -> None:
        self.stop()


async def test_an_actor_that_stops_itself_in_its_start_ends_without_mail(clock: MockClock) -> None:
    async with isolated(Leaver, restart="transient") as actor:
        life = life_of(actor)
        await settled()

        assert life.ending is not None
        assert life.ending.kind == "normal"


class Changing(Doer):
    """May be told to do nothing but this."""

    def other(self, message: Any) -> str:
        return "other"


async def test_an_actor_that_was_passive_has_its_first_state_again(clock: MockClock) -> None:
    async with isolated(Changing, passivate_after=10) as actor:
        await actor.ask(Do(lambda self: self.become(self.other)))
        assert await actor.ask(Do(lambda _: "first")) == "other"
        await trio.sleep(30)

        assert await actor.ask(Do(lambda _: "first")) == "first"


@pytest.mark.parametrize("end", [Incarnation.kill, lambda life: life.stop(drain=False)])
async def test_a_passive_actor_that_ends_as_mail_wakes_it_is_not_started_for_that(
    end: Callable[[Incarnation], None], clock: MockClock
) -> None:
    async with isolated(Doer, passivate_after=10, restart="temporary") as actor:
        await trio.sleep(30)
        assert cell_of(actor).instance is None
        life = life_of(actor)
        actor.tell(lambda _: None)
        end(life)
        await settled()

        assert life.ending is not None
        assert actor.lifecycle.of(Activated) == []


async def test_a_passive_actor_that_is_stopped_as_mail_wakes_it_handles_that_first(
    clock: MockClock,
) -> None:
    lives: list[int] = []

    async with isolated(Doer, passivate_after=10, restart="temporary") as actor:
        await trio.sleep(30)
        actor.tell(lambda self: lives.append(self.incarnation))
        life_of(actor).stop(drain=True)
        await settled()

        assert lives == [1]


class Starter(Doer):
    """Leaves something behind that runs in the context of its start."""

    def __init__(self, left: list[Context]) -> None:
        self.left = left

    async def started(self) -> None:
        self.left.append(copy_context())


async def test_what_a_start_has_left_behind_sends_nothing_once_its_life_is_over(
    clock: MockClock,
) -> None:
    left: list[Context] = []

    async with isolated(Doer) as other, isolated(Starter, left, restart="temporary") as actor:
        life_of(actor).kill()

        with pytest.raises(Fenced):
            left[0].run(other.tell, print)


class Foreign(Actor[Any]):
    """At home in asyncio."""

    loop = "asyncio"

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def stopping(self) -> None:
        self.log.append(sniffio.current_async_library())


async def test_an_actor_at_home_in_asyncio_tidies_up_there() -> None:
    log: list[str] = []

    async with isolated(Foreign, log):
        pass

    assert log == ["asyncio"]


class Tidy(Doer):
    """Says that it stops."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def stopping(self) -> None:
        self.log.append("stopping")


async def test_an_actor_that_is_killed_at_its_work_does_not_tidy_up(clock: MockClock) -> None:
    log: list[str] = []

    async with isolated(Tidy, log, restart="temporary") as actor:
        life = life_of(actor)
        actor.tell(lambda _: life.kill())
        await settled()

    assert (log, life.ending and life.ending.kind) == ([], "killed")


class Parent(Doer):
    """Has a child that it must end before it ends itself."""

    async def started(self) -> None:
        await self.start_child(child(Quiet))


async def test_an_actor_with_children_does_not_sleep(clock: MockClock) -> None:
    async with isolated(Parent) as actor:
        await trio.sleep(60)

        assert not life_of(actor).asleep


async def test_a_trace_leaves_a_sleeping_actor_asleep(clock: MockClock) -> None:
    async with isolated(Doer) as actor:
        cell_of(actor).trace(None)
        await settled()

        assert life_of(actor).asleep


# -- the end --------------------------------------------------------------------------


def put_off(seconds: float) -> None:
    raise Retry(after=seconds)


async def test_messages_that_were_put_off_are_given_up_once(clock: MockClock) -> None:
    async with isolated(Doer) as actor:
        cell = cell_of(actor)
        for _ in range(2):
            actor.tell(lambda _: put_off(60))
        await trio.sleep(1)
        cell.close("first")
        cell.close("second")
        await trio.sleep(100)

        told = [(one.why, one.incarnation) for one in actor.lifecycle.of(Undelivered)]
        assert told == [("first", 1)] * 2
        assert (cell.mailbox.reserved, cell.occupied) == (0, False)


async def test_a_message_may_come_back_at_its_greatest_age_but_not_after_it(
    clock: MockClock,
) -> None:
    times: list[float] = []

    def again(_: object) -> None:
        times.append(trio.current_time())
        put_off(30)

    async with isolated(Doer, max_age=60) as actor:
        await trio.sleep(100)
        actor.tell(again)
        await trio.sleep(200)
        assert cell_of(actor).mailbox.reserved == 0

    assert times == pytest.approx([100, 130, 160])


async def test_a_watcher_is_told_of_the_error_that_ended_an_actor(clock: MockClock) -> None:
    watcher, lost = Mock(), OSError("lost")

    def lose(_: object) -> None:
        raise lost

    async with isolated(Doer, restart="temporary") as actor:
        cell_of(actor).add_watcher(watcher)
        actor.tell(lose)
        await settled()

    ((_, notice),) = [call.args for call in watcher.ended.call_args_list]
    assert (notice.how, notice.error) == ("crashed", lost)


async def test_a_life_that_is_over_has_nothing_more(clock: MockClock) -> None:
    async with isolated(Doer, restart="transient") as actor:
        cell, life = cell_of(actor), life_of(actor)
        actor.tell(lambda self: self.stop())
        await settled()

        with pytest.raises(Fenced):
            cell.belongings(life)


class Forwarder(Actor[str]):
    """Passes a message on and goes on with something else."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def receive(self, message: str) -> None:
        self.seen.append(message)
        if message == "crash":
            raise OSError(message)
        self.forward(self.lookup(Heard), message)
        await trio.sleep_forever()


class Heard(Actor[str]):
    """Hears what was passed on."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def receive(self, message: str) -> None:
        self.seen.append(f"{message} heard")


async def test_a_forwarded_message_does_not_come_back_when_its_handler_is_cancelled(
    clock: MockClock,
) -> None:
    seen: list[Any] = []
    children = [child(Heard, seen), child(Forwarder, seen, concurrency=2)]

    async with running(Supervisor("top", children)) as system:
        system.ref(Forwarder).tell("mail")
        await settled()
        system.ref(Forwarder).tell("crash")
        await trio.sleep(5)

    assert seen == ["mail", "mail heard", "crash"]
