"""A whole tree of actors: mail across restarts, what is injected, and how trees end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import (
    ActorCrashed,
    ActorStopped,
    DeclarationError,
    StartFailed,
    UnderstudyError,
)
from understudy.actors.handlers import event_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import (
    Crashed,
    GaveUp,
    Notice,
    Restarting,
    Stopped,
    Undelivered,
)
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child, needs
from understudy.supervisors.delivery.intake import Inbound
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store import MemoryStore
from understudy.supervisors.resource import resource
from understudy.supervisors.strategy import one_for_all, rest_for_one
from understudy.supervisors.system import System, running


@attrs.frozen
class Crash:
    """Ends the incarnation that handles it."""


@attrs.frozen
class Work:
    """Keeps its actor busy for some seconds."""

    seconds: float


class Life(Request[int]):
    """Which incarnation is it?"""


class Given(Request[list[Any]]):
    """What was it given?"""


class Worker(Actor[Crash | Work | Life | Given]):
    """Tells what it did in `told`, does what it is asked."""

    def __init__(self, told: list[str], *given: Any) -> None:
        self.told = told
        self.given = given

    async def stopping(self) -> None:
        self.told.append(f"{self.path} stopping")

    async def receive(self, message: Crash | Work | Life | Given) -> Any:
        match message:
            case Crash():
                raise OSError(f"{self.path} crashed")
            case Work(seconds):
                await trio.sleep(seconds)
                self.told.append(f"{self.path} worked")
                return None
            case Life():
                return self.incarnation
            case Given():
                return list(self.given)

    @event_pattern("poison")
    async def poison(self) -> None:
        raise OSError("poisoned")


class Nothing:
    """A settlement nobody looks at."""

    def acknowledge(self) -> None: ...

    def give_back(self) -> bool:
        return True


POISON = Inbound(transport="test", source="", pattern="poison", data=b"null", message_id="1")


@pytest.fixture
def told() -> list[str]:
    return []


def workers(told: list[str], names: str = "a b", **options: Any) -> list[Any]:
    return [child(Worker, told, name=name, **options) for name in names.split()]


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


def of(seen: list[Notice], kind: type[Notice]) -> list[str]:
    return [notice.path for notice in seen if isinstance(notice, kind)]


# -- mail and references across restarts ----------------------------------------------


async def test_mail_that_waits_at_a_crash_reaches_the_next_incarnation(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        worker = system.ref("a")
        worker.tell(Crash())
        worker.tell(Work(1))

        assert await worker.ask(Life()) == 2
        assert told == ["top/a worked"]


async def test_only_the_ask_in_hand_fails_at_a_crash(told: list[str], clock: MockClock) -> None:
    lives: list[int] = []

    async def ask_life(worker: Ref[Worker]) -> None:
        lives.append(await worker.ask(Life()))

    async with running(Supervisor("top", workers(told))) as system:
        worker: Ref[Worker] = system.ref("a")
        worker.tell(Work(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_with_crash, worker)
            await settled()
            nursery.start_soon(ask_life, worker)

    assert lives == [2]


async def fails_with_crash(worker: Any) -> None:
    with pytest.raises(ActorCrashed, match=r"top/a \(incarnation 1\) crashed") as caught:
        await worker.ask(Crash())
    assert str(caught.value.__cause__) == "top/a crashed"


async def test_mail_of_siblings_survives_the_restart_of_their_group(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told), strategy=one_for_all)) as system:
        sibling = system.ref("b")
        for message in (Work(1), Work(2)):
            sibling.tell(message)
        system.ref("a").tell(Crash())

        assert await sibling.ask(Life()) == 2
        assert told == ["top/b worked", "top/b stopping", "top/b worked"]


async def test_mail_sent_during_the_delay_of_a_restart_waits(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        worker = system.ref("a")
        worker.tell(Crash())
        worker.tell(Crash())  # the second crash has a delay
        await settled()
        began = trio.current_time()

        assert await worker.ask(Life()) == 3
        assert trio.current_time() - began == pytest.approx(0.11, abs=0.011)


def rebuilt(told: list[str]) -> Supervisor:
    """A tree whose inner supervisor is rebuilt at the first crash below it."""
    inner = Supervisor("inner", workers(told), max_restarts=0)
    return Supervisor("top", [inner])


async def test_references_reach_the_actors_of_a_rebuilt_subtree(
    told: list[str], clock: MockClock
) -> None:
    async with running(rebuilt(told)) as system:
        one, other = system.ref("a"), system.ref("b")
        one.tell(Crash())
        await settled()

        assert [await one.ask(Life()), await other.ask(Life())] == [2, 2]


async def test_references_reach_a_rebuilt_subtree_that_had_other_children_meanwhile(
    told: list[str], clock: MockClock
) -> None:
    inner = Supervisor("inner", workers(told, restart="temporary"), max_restarts=0)
    extra = child(Worker, told, name="extra")
    async with running(Supervisor("top", [inner])) as system:
        worker = system.ref("a")
        worker.tell(Crash())  # temporary: it leaves the tree
        started = await system.start_child(extra, under="top/inner")
        started.tell(Crash())
        await settled()

        assert await worker.ask(Life()) == 2
        assert system.ref("a") is worker
        assert [line.path for line in system.tree()][2:] == ["top/inner/a", "top/inner/b"]


async def test_asks_that_wait_fail_when_their_subtree_is_rebuilt(
    told: list[str], clock: MockClock
) -> None:
    async with running(rebuilt(told)) as system:
        waiting = system.ref("b")
        waiting.tell(Work(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_with_stop, waiting)
            await settled()
            system.ref("a").tell(Crash())
        await settled()

        assert await waiting.ask(Life()) == 2


async def fails_with_stop(worker: Ref[Any]) -> None:
    with pytest.raises(ActorStopped, match="top/inner/b will not answer: it has stopped"):
        await worker.ask(Life())


async def test_mail_to_a_child_that_was_stopped_is_undelivered(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        seen, worker = watched(system), system.ref("a")
        await system.stop_child("top/a")
        worker.tell(Crash())

    (undelivered,) = [notice for notice in seen if isinstance(notice, Undelivered)]
    assert (undelivered.path, undelivered.message) == ("top/a", "Crash")


# -- crashes on messages from outside ---------------------------------------------------


async def test_a_crash_on_an_outside_message_restarts_its_actor_alone_and_spends_nothing(
    told: list[str], clock: MockClock
) -> None:
    tree = Supervisor("top", workers(told), strategy=one_for_all, max_restarts=0)

    async with running(tree) as system:
        seen = watched(system)
        system.registry.events["poison"] = system.registry.events["poison"][:1]
        await system.intake.event(POISON, Nothing())
        await trio.sleep(30)
        assert await system.ref("b").ask(Life()) == 1

    lefts = [notice.left for notice in seen if isinstance(notice, Restarting)]
    assert lefts == [None] * 5


async def test_blame_actor_makes_outside_messages_count_as_in_otp(
    told: list[str], clock: MockClock
) -> None:
    tree = Supervisor("top", workers(told, "a", blame="actor"), max_restarts=0)

    async def poison() -> None:
        async with running(tree) as system:
            await system.intake.event(POISON, Nothing())
            await trio.sleep_forever()

    with pytest.raises(SupervisorGaveUp):
        await poison()


# -- what is injected -------------------------------------------------------------------


@asynccontextmanager
async def pool() -> AsyncIterator[str]:
    yield "the pool"


async def test_needs_gives_references_and_the_objects_of_resources(
    told: list[str], clock: MockClock
) -> None:
    children = [
        resource(pool, name="pool"),
        child(Worker, told, needs("pool"), needs("later"), name="a"),
        child(Worker, told, name="later"),
    ]
    async with running(Supervisor("top", children)) as system:
        assert await system.ref("a").ask(Given()) == ["the pool", system.ref("later")]


async def test_needs_looks_among_the_siblings_of_the_supervisors_above(
    told: list[str], clock: MockClock
) -> None:
    inner = Supervisor("inner", [child(Worker, told, needs("pool"), name="a")])

    async with running(Supervisor("top", [resource(pool, name="pool"), inner])) as system:
        assert await system.ref("a").ask(Given()) == ["the pool"]


def test_an_unknown_name_is_refused_before_anything_starts(told: list[str]) -> None:
    tree = Supervisor("top", [child(Worker, told, needs("pol"), name="a"), resource(pool)])

    with pytest.raises(DeclarationError, match="top/a needs 'pol', but no sibling"):
        System(tree)


async def test_an_unknown_name_in_a_child_added_later_fails_its_start(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        with pytest.raises(StartFailed, match="top/c") as caught:
            await system.start_child(child(Worker, told, needs("pol"), name="c"))

    assert "it needs 'pol', but no sibling of it" in str(caught.value.__cause__.__cause__)  # type: ignore[union-attr]


async def test_an_actor_is_given_the_new_object_after_its_resource_restarted(
    told: list[str], clock: MockClock
) -> None:
    made: list[trio.Event] = []

    @asynccontextmanager
    async def fragile() -> AsyncIterator[int]:
        made.append(trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_break, made[-1])
            yield len(made)
            nursery.cancel_scope.cancel()

    children = [resource(fragile, name="db"), child(Worker, told, needs("db"), name="a")]
    async with running(Supervisor("top", children, strategy=rest_for_one)) as system:
        made[0].set()
        await settled()

        assert await system.ref("a").ask(Given()) == [2]


async def _break(when: trio.Event) -> None:
    await when.wait()
    raise OSError("connection lost")


# -- the end of a tree --------------------------------------------------------------------


async def test_leaving_the_block_stops_after_the_mail_that_waits(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        system.ref("a").tell(Work(1))
        system.ref("a").tell(Work(1))

    assert told == ["top/b stopping", "top/a worked", "top/a worked", "top/a stopping"]


async def test_a_cancellation_from_outside_stops_in_order_and_counts_nothing(
    told: list[str], clock: MockClock
) -> None:
    seen: list[Notice] = []
    with trio.CancelScope() as scope:
        async with running(Supervisor("top", workers(told), max_restarts=0)) as system:
            system.bus.subscribe(seen.append)
            system.ref("a").tell(Work(1))
            await settled()
            scope.cancel()
            await trio.sleep_forever()

    assert told == ["top/b stopping", "top/a worked", "top/a stopping"]
    assert of(seen, Stopped) == ["top/b", "top/a", "top"]
    assert of(seen, Restarting) == of(seen, Crashed) == []


async def test_a_block_that_ends_although_it_was_cancelled_stops_in_order_too(
    told: list[str], clock: MockClock
) -> None:
    with trio.CancelScope() as scope:
        async with running(Supervisor("top", workers(told))) as system:
            system.ref("a").tell(Work(1))
            await settled()
            scope.cancel()

    assert told == ["top/b stopping", "top/a worked", "top/a stopping"]


async def test_a_cancellation_while_it_stops_already_hurries(
    told: list[str], clock: MockClock
) -> None:
    inner = Supervisor("inner", workers(told, shutdown=3600))

    seen: list[Notice] = []
    with trio.move_on_after(10):
        async with running(Supervisor("top", [inner])) as system:
            system.bus.subscribe(seen.append)
            for name in ("a", "b"):
                system.ref(name).tell(Work(1000))
            await settled()

    assert (told, trio.current_time()) == ([], 10)
    assert of(seen, Stopped) == ["top/inner/b", "top/inner/a", "top/inner", "top"]


async def test_a_kill_cancels_everything_in_the_order_of_the_stop(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        seen = watched(system)
        system.ref("a").tell(Work(1000))
        await settled()
        system.kill()
        await trio.sleep_forever()

    assert (told, trio.current_time()) == ([], 0)
    assert of(seen, Stopped) == ["top/b", "top/a", "top"]


async def test_shutdown_zero_runs_no_stopping(told: list[str], clock: MockClock) -> None:
    async with running(Supervisor("top", workers(told, shutdown=0))):
        pass

    assert told == []


async def test_a_tree_that_is_asked_to_stop_before_it_began_never_starts(
    told: list[str], clock: MockClock
) -> None:
    system = System(Supervisor("top", workers(told)))
    seen = watched(system)
    async with trio.open_nursery() as nursery:
        system.stop()
        await system.run(nursery)
        await system.finish()

    assert [type(notice).__name__ for notice in seen] == ["Stopping", "Stopped"]


async def test_an_error_of_the_block_stops_the_tree_and_comes_out_as_it_is(
    told: list[str], clock: MockClock
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with running(Supervisor("top", workers(told))):
            _ = 1 / 0

    assert told == ["top/b stopping", "top/a stopping"]


async def ask_for_ever(told: list[str]) -> None:
    async with running(Supervisor("top", workers(told), max_restarts=0)) as system:
        system.ref("b").tell(Crash())
        system.ref("a").tell(Work(9))
        await system.ref("a").ask(Life(), timeout=99)


async def test_a_block_that_fails_because_its_tree_ended_tells_why(
    told: list[str], clock: MockClock
) -> None:
    with pytest.raises(SupervisorGaveUp, match="top gave up") as caught:
        await ask_for_ever(told)

    assert caught.value.__notes__ == [
        "Meanwhile: ActorStopped: top/a will not answer: it has stopped."
    ]


async def test_whoever_waits_for_the_end_is_told_why_it_came(
    told: list[str], clock: MockClock
) -> None:
    errors: list[str] = []

    async def wait(system: System) -> None:
        try:
            await system.stopped()
        except UnderstudyError as error:
            errors.append(type(error).__name__)

    async def give_up() -> None:
        async with running(Supervisor("top", workers(told), max_restarts=0)) as system:
            nursery.start_soon(wait, system)
            system.ref("a").tell(Crash())
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(SupervisorGaveUp):
            await give_up()

    assert errors == ["SupervisorGaveUp"]


class BadStore(MemoryStore):
    """A store whose file is not one, or goes away; it never gets to write."""

    def __init__(self, life: float) -> None:
        super().__init__()
        self.life = life

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        await trio.sleep_forever()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            if self.life:
                await nursery.start(super().run)
                task_status.started()
                await trio.sleep(self.life)
            raise DeclarationError("dead.sqlite: not a dead-letter store.")


async def test_a_store_that_cannot_be_opened_fails_the_start(
    told: list[str], clock: MockClock
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running(Supervisor("top", workers(told)), dead_letters=BadStore(0)):
            pytest.fail("the tree must not run")

    assert caught.group_contains(DeclarationError, match="not a dead-letter store")
    assert told == []


async def test_a_store_that_fails_for_good_ends_the_tree_in_order(
    told: list[str], clock: MockClock
) -> None:
    async def leave_a_dead_letter() -> None:
        async with running(Supervisor("top", workers(told)), dead_letters=BadStore(5)) as system:
            system.ref("a").tell(Crash())
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await leave_a_dead_letter()

    assert caught.group_contains(DeclarationError, match="not a dead-letter store")
    assert told == ["top/b stopping", "top/a stopping"]


# -- looking at a tree --------------------------------------------------------------------


async def test_the_tree_is_listed_parents_first_with_state_and_incarnation(
    told: list[str], clock: MockClock
) -> None:
    children = [resource(pool), Supervisor("inner", workers(told, "a"))]

    async with running(Supervisor("top", children)) as system:
        system.ref("a").tell(Crash())
        await settled()
        lines = system.tree()

    assert [(line.path, line.kind, line.incarnation, line.depth) for line in lines] == [
        ("top", "supervisor", 1, 0),
        ("top/pool", "resource", 1, 1),
        ("top/inner", "supervisor", 1, 1),
        ("top/inner/a", "actor", 2, 2),
    ]
    assert {line.state for line in lines} == {"running"}


async def test_a_system_is_healthy_while_all_its_children_run(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        assert system.healthy
        system.ref("a").tell(Crash())
        system.ref("a").tell(Crash())
        await settled()
        assert not system.healthy  # the second restart waits
        await trio.sleep(1)
        assert system.healthy


async def test_a_supervisor_that_is_not_there_is_an_error(
    told: list[str], clock: MockClock
) -> None:
    async with running(Supervisor("top", workers(told))) as system:
        with pytest.raises(LookupError, match="no supervisor at 'top/a'"):
            system.supervision("top/a")


async def test_two_systems_share_nothing(told: list[str], clock: MockClock) -> None:
    tree = Supervisor("top", workers(told))

    async with running(tree) as one, running(tree) as other:
        one.ref("a").tell(Crash())
        await settled()
        assert (await one.ref("a").ask(Life()), await other.ref("a").ask(Life())) == (2, 1)


async def test_a_supervisor_that_gives_up_tells_the_last_cause(
    told: list[str], clock: MockClock
) -> None:
    async with running(rebuilt(told)) as system:
        seen = watched(system)
        system.ref("a").tell(Crash())
        await settled()

    (gave_up,) = [notice for notice in seen if isinstance(notice, GaveUp)]
    assert (gave_up.path, gave_up.max_restarts) == ("top/inner", 0)
    assert str(gave_up.cause) == "top/inner/a crashed"


# -- dead letters by call


class Mailer(Actor[str]):
    """Fails until its template is mended."""

    def __init__(self, template: list[str], sent: list[str]) -> None:
        self.template, self.sent = template, sent

    def receive(self, message: str) -> None:
        self.sent.append(self.template[0].format(name=message))


async def test_a_dead_letter_is_read_and_replayed_by_the_program_itself(clock: MockClock) -> None:
    template, sent = ["dear {nam}"], list[str]()
    async with running(Supervisor("top", [child(Mailer, template, sent)])) as system:
        system.ref(Mailer).tell("ada")
        await settled()
        (letter,) = await system.dead_letters()
        template[0] = "dear {name}"
        assert await system.replay(letter.id) == 1
        await settled()
        (letter,) = await system.dead_letters()

    assert (letter.reason, letter.status, sent) == ("crashed", "replayed", ["dear ada"])
