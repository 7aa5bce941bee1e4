"""Deadlines travel along: who waits for a handler waits for what it asks, and no longer."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor, Request
from understudy.actors.context import MessageContext
from understudy.actors.errors import ActorCrashed, AskTimeout
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import System, running
from understudy.testing import isolated


@attrs.frozen
class Step(Request[Any]):
    """What an actor is to do, as a message: a test says it in place."""

    function: Callable[["Node"], Awaitable[Any]]

    def __call__(self, node: "Node") -> Awaitable[Any]:
        return self.function(node)


class Node(Actor[Any]):
    """Does whatever it is sent."""

    async def receive(self, step: Any) -> Any:
        return await step(self)


def tree(names: str) -> Supervisor:
    return Supervisor("t", [child(Node, name=name) for name in names], max_restarts=99)


@Step
async def forever(node: Node) -> None:
    await trio.sleep_forever()


class Waits(Request[Any]):
    """Asks an actor that never answers, and remembers when it gave up."""

    def __init__(self, whom: str = "c", timeout: float = 5.0) -> None:
        self.whom, self.timeout = whom, timeout
        self.gave_up_at: float | None = None

    async def __call__(self, node: Node) -> str:
        try:
            await node.lookup(self.whom).ask(forever, timeout=self.timeout)
        except AskTimeout:
            self.gave_up_at = trio.current_time()
        return "gave up"


async def ask(system: System, step: Request[Any], timeout: float) -> None:
    """Ask b, and go on when the answer or the timeout has come."""
    with trio.move_on_after(1000):
        try:
            await system.ref("b").ask(step, timeout=timeout)
        except (AskTimeout, ActorCrashed):
            await trio.sleep(100)


@pytest.mark.parametrize(
    ("parent", "own", "at"), [(2, 5, 2), (5, 2, 2), (3, 3, 3)], ids=["parent's", "own", "both"]
)
async def test_the_earlier_deadline_holds(
    parent: float, own: float, at: float, clock: MockClock
) -> None:
    waits = Waits(timeout=own)
    async with running(tree("bc")) as system:
        await ask(system, waits, parent)

    assert waits.gave_up_at == pytest.approx(at, abs=0.02)


async def test_a_deadline_travels_through_several_actors(clock: MockClock) -> None:
    waits = Waits("d", timeout=50)

    @Step
    async def onward(node: Node) -> Any:
        return await node.lookup("c").ask(waits, timeout=60)

    async with running(tree("bcd")) as system:
        await ask(system, onward, 2)

    assert waits.gave_up_at == pytest.approx(2, abs=0.02)


async def test_an_ask_after_the_deadline_fails_at_once(clock: MockClock) -> None:
    waits = Waits()

    @Step
    async def late(node: Node) -> Any:
        await trio.sleep(10)
        return await waits(node)

    async with running(tree("bc")) as system:
        await ask(system, late, 2)

    assert waits.gave_up_at == pytest.approx(10, abs=0.02)


async def test_the_error_names_the_seconds_that_were_left(clock: MockClock) -> None:
    errors: list[AskTimeout] = []

    @Step
    async def step(node: Node) -> None:
        await trio.sleep(1)
        with pytest.raises(AskTimeout) as caught:
            await node.lookup("c").ask(forever)
        errors.append(caught.value)

    async with running(tree("bc")) as system:
        await ask(system, step, 3)

    assert errors[0].timeout == pytest.approx(2)


async def test_a_tell_in_between_carries_no_deadline(clock: MockClock) -> None:
    waits = Waits("d", timeout=5)

    @Step
    async def tells(node: Node) -> None:
        node.lookup("c").tell(waits)

    async with running(tree("bcd")) as system:
        await ask(system, tells, 2)
        await trio.sleep(20)

    assert waits.gave_up_at == pytest.approx(5, abs=0.02)


async def test_a_timer_in_between_carries_no_deadline(clock: MockClock) -> None:
    waits = Waits(timeout=5)

    @Step
    async def later(node: Node) -> None:
        node.after(1, waits)

    async with running(tree("bc")) as system:
        await ask(system, later, 2)
        await trio.sleep(20)

    assert waits.gave_up_at == pytest.approx(6, abs=0.02)


async def test_a_handler_without_an_asker_waits_as_long_as_it_likes(clock: MockClock) -> None:
    waits = Waits(timeout=30)
    async with running(tree("bc")) as system:
        system.ref("b").tell(waits)
        await trio.sleep(40)

    assert waits.gave_up_at == pytest.approx(30, abs=0.02)


async def test_the_next_message_is_not_bound_by_the_deadline_of_the_last(clock: MockClock) -> None:
    waits = Waits(timeout=5)

    @Step
    async def nothing(node: Node) -> None: ...

    async with running(tree("bc")) as system:
        await ask(system, nothing, 1)
        await ask(system, waits, 50)

    assert waits.gave_up_at == pytest.approx(5, abs=0.02)


async def test_a_forwarded_message_keeps_its_deadline(clock: MockClock) -> None:
    waits = Waits("d", timeout=50)

    @Step
    async def forwards(node: Node) -> None:
        node.forward(node.lookup("c"), waits)

    async with running(tree("bcd")) as system:
        await ask(system, forwards, 2)

    assert waits.gave_up_at == pytest.approx(2, abs=0.02)


async def test_a_message_to_be_answered_later_keeps_its_deadline(clock: MockClock) -> None:
    waits = Waits(timeout=50)
    replies: list[Any] = []

    @Step
    async def later(node: Node) -> Any:
        replies.append(node.reply_later())
        return await waits(node)

    async with running(tree("bc")) as system:
        await ask(system, later, 2)
        replies[0].succeed()

    assert waits.gave_up_at == pytest.approx(2, abs=0.02)


async def test_asks_of_tasks_within_a_handler_are_bound_too(clock: MockClock) -> None:
    waits = Waits(timeout=50)

    @Step
    async def beside(node: Node) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, node)

    async with running(tree("bc")) as system:
        await ask(system, beside, 2)

    assert waits.gave_up_at == pytest.approx(2, abs=0.02)


async def test_an_outside_request_has_a_deadline_and_an_outside_event_has_none(
    clock: MockClock,
) -> None:
    seen: list[float] = []

    class Reads(Actor):
        @event_pattern("event")
        async def on_event(self, _: Any, context: MessageContext) -> None:
            seen.append(context.deadline)

        @message_pattern("request")
        async def on_request(self, _: Any, context: MessageContext) -> None:
            seen.append(context.deadline)

    async with isolated(Reads) as reads:
        await (await reads.event("event", 1)).settled()
        await reads.request("request", 1, timeout=3)

    assert seen == [float("inf"), 3]


async def test_waiting_for_room_is_bound_too(clock: MockClock) -> None:
    failed_at: list[float] = []

    @Step
    async def fill(node: Node) -> None:
        full: Ref[Any] = node.lookup("c")
        full.tell(forever)
        await trio.sleep(0.1)
        full.tell(forever)
        try:
            await full.ask(forever, timeout=50)
        finally:
            failed_at.append(trio.current_time())

    spec = Supervisor("t", [child(Node, name="b"), child(Node, name="c", mailbox=1)])
    async with running(spec) as system:
        await ask(system, fill, 2)

    assert failed_at == [pytest.approx(2, abs=0.02)]


async def test_an_answer_in_time_is_not_touched_by_the_deadline(clock: MockClock) -> None:
    @Step
    async def answers(node: Node) -> str:
        await trio.sleep(1)
        return "here"

    @Step
    async def step(node: Node) -> Any:
        return await node.lookup("c").ask(answers)

    async with running(tree("bc")) as system:
        assert await system.ref("b").ask(step, timeout=1.5) == "here"


async def test_a_crash_further_down_comes_before_the_deadline(clock: MockClock) -> None:
    @Step
    async def crashes(node: Node) -> None:
        raise ZeroDivisionError

    @Step
    async def step(node: Node) -> Any:
        return await node.lookup("c").ask(crashes)

    async with running(tree("bc")) as system:
        with pytest.raises(ActorCrashed):
            await system.ref("b").ask(step, timeout=2)
        assert trio.current_time() == 0
