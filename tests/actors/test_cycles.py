"""Rings of asks: refused at once if nobody in them can answer, and never otherwise."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.context import Hand
from understudy.actors.cycles import refuse_cycle
from understudy.actors.errors import ActorCrashed, AskCycle, AskTimeout
from understudy.actors.handlers import message_pattern
from understudy.actors.mailbox import Mailbox
from understudy.actors.ref import Ref
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.pool import pool
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

    async def receive(self, step: Step) -> Any:
        return await step(self)


def tree(names: str, **options: Any) -> Supervisor:
    return Supervisor("t", [child(Node, name=name, **options) for name in names], max_restarts=99)


def asks(*names: str, timeout: float = 5.0) -> Step:
    """The one who runs this asks the first, which asks the second, and so on."""

    @Step
    async def step(node: Node) -> Any:
        if not names:
            return f"answer of {node.path}"
        return await node.lookup(names[0]).ask(asks(*names[1:]), timeout=timeout)

    return step


async def cause(awaitable: Awaitable[Any]) -> BaseException | None:
    """What went wrong at the end of a chain of asks."""
    with pytest.raises(ActorCrashed) as caught:
        await awaitable
    error: BaseException | None = caught.value
    while isinstance(error, ActorCrashed | ExceptionGroup):
        error = error.__cause__ if isinstance(error, ActorCrashed) else error.exceptions[0]
    return error


def with_pool(size: int, **options: Any) -> Supervisor:
    pooled = pool(Node, size=size, name="p", max_restarts=99, **options)
    return Supervisor("t", [child(Node, name="a"), pooled], max_restarts=99)


# -- refused


@pytest.mark.parametrize("way", ["a", "ba", "bca", "bcdefgha"], ids=["self", "2", "3", "8"])
async def test_a_ring_of_asks_is_refused_at_once(way: str, clock: MockClock) -> None:
    async with running(tree("abcdefgh")) as system:
        error = await cause(system.ref("a").ask(asks(*way)))
        assert isinstance(error, AskCycle)
        ends = way[-2:-1] or "a"
        ring = [f"t/{name}" for name in (ends + "a" + way)[: len(way) + 1]]
        assert error.paths == tuple(ring)
        assert trio.current_time() == 0


async def test_the_error_says_who_waits_for_whom_and_what_to_do(clock: MockClock) -> None:
    async with running(tree("ab")) as system:
        error = await cause(system.ref("a").ask(asks("a")))
        assert str(error) == (
            "t/a asks itself, while it is busy with the message in hand. "
            "Use tell, or answer before asking (reply_later)."
        )
        error = await cause(system.ref("a").ask(asks("b", "a")))
        assert "none can answer: t/b -> t/a -> t/b." in str(error)


async def test_a_refused_ask_may_be_caught_and_leaves_nothing_behind(clock: MockClock) -> None:
    @Step
    async def step(node: Node) -> Any:
        with pytest.raises(AskCycle):
            await node.lookup(node.path).ask(asks())
        return await asks("b")(node)

    async with running(tree("ab")) as system:
        assert await system.ref("a").ask(step) == "answer of t/b"
        assert await system.ref("b").ask(asks("a")) == "answer of t/a"


async def test_a_self_ask_in_started_is_refused(clock: MockClock) -> None:
    errors: list[AskCycle] = []

    class Eager(Actor):
        @message_pattern("x")
        async def x(self) -> None: ...

        async def started(self) -> None:
            with pytest.raises(AskCycle) as caught:
                await self.ref.ask(Eager.x, None)
            errors.append(caught.value)

        async def stopping(self) -> None:
            with pytest.raises(AskCycle) as caught:
                await self.ref.ask(Eager.x, None)
            errors.append(caught.value)

    async with isolated(Eager):
        pass

    assert len(errors) == 2
    assert trio.current_time() == 0


async def test_asking_back_one_that_waits_in_started_is_refused(clock: MockClock) -> None:
    errors: list[BaseException | None] = []

    class Late(Node):
        async def started(self) -> None:
            errors.append(await cause(self.lookup("a").ask(asks("late"))))

    spec = Supervisor("t", [child(Node, name="a"), child(Late)])
    async with running(spec):
        assert isinstance(errors[0], AskCycle)
        assert trio.current_time() == 0


async def test_a_ring_whose_every_lane_waits_is_refused(clock: MockClock) -> None:
    async with running(tree("ab", concurrency=2)) as system:
        error = await cause(system.ref("a").ask(asks("b", "a", "b", "a")))
        assert isinstance(error, AskCycle)
        assert trio.current_time() == 0


async def test_a_member_of_a_pool_that_asks_back_is_refused(clock: MockClock) -> None:
    async with running(with_pool(3)) as system:
        error = await cause(system.ref("a").ask(asks("p", "a")))
        assert isinstance(error, AskCycle)
        assert error.paths == ("t/p/1", "t/a", "t/p/1")
        assert trio.current_time() == 0


async def test_the_only_member_of_a_pool_that_asks_its_pool_is_refused(clock: MockClock) -> None:
    async with running(with_pool(1)) as system:
        error = await cause(system.ref("p").ask(asks("p")))
        assert isinstance(error, AskCycle)
        assert error.paths == ("t/p/1", "t/p/1")
        assert trio.current_time() == 0


async def test_asking_a_pool_whose_chosen_member_waits_for_this_one_is_refused(
    clock: MockClock,
) -> None:
    begun: list[str] = []

    @Step
    async def begin(node: Node) -> None:
        begun.append(node.path)

    @Step
    async def ask_the_pool(node: Node) -> str:
        await trio.sleep(1)
        with pytest.raises(AskCycle, match="t/a -> t/p/1 -> t/a"):
            await node.lookup("p").ask(begin)
        return "refused"

    async with running(with_pool(1)) as system:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.ref("a").ask, ask_the_pool)
            await wait_all_tasks_blocked()
            assert await system.ref("p").ask(asks("a")) == "answer of t/a"
        assert trio.current_time() == 1

    assert begun == []


# -- not refused


async def test_a_free_lane_makes_it_no_cycle(clock: MockClock) -> None:
    async with running(tree("ab", concurrency=2)) as system:
        assert await system.ref("a").ask(asks("a")) == "answer of t/a"
        assert await system.ref("a").ask(asks("b", "a", "b")) == "answer of t/b"


async def test_an_ask_of_a_task_beside_the_lane_is_no_cycle(clock: MockClock) -> None:
    answers: list[Any] = []

    async with running(tree("a")) as system, trio.open_nursery() as nursery:

        @Step
        async def step(node: Node) -> None:
            async def beside() -> None:
                answers.append(await node.lookup(node.path).ask(asks()))

            nursery.start_soon(beside)

        await system.ref("a").ask(step)

    assert answers == ["answer of t/a"]


async def test_the_end_of_an_ask_beside_does_not_hide_that_of_the_lane(clock: MockClock) -> None:
    @Step
    async def step(node: Node) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks("c"), node)  # is over long before the lane's own
            return await asks("b")(node)

    @Step
    async def slow(node: Node) -> Any:
        await trio.sleep(1)
        return await asks("a")(node)

    @Step
    async def asks_slow(node: Node) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks("c"), node)
            return await node.lookup("b").ask(slow)

    async with running(tree("abc")) as system:
        assert await system.ref("a").ask(step) == "answer of t/b"
        assert isinstance(await cause(system.ref("a").ask(asks_slow)), AskCycle)


async def test_an_ask_that_was_cancelled_or_timed_out_is_no_wait(clock: MockClock) -> None:
    @Step
    async def impatient(node: Node) -> Any:
        with trio.move_on_after(1):
            await node.lookup("b").ask(sleeps(3))
        with pytest.raises(AskTimeout):
            await node.lookup("b").ask(sleeps(3), timeout=1)
        node.lookup("b").tell(asks_a)
        await trio.sleep(10)

    @Step
    async def asks_a(node: Node) -> None:
        answers.append(await node.lookup("a").ask(asks(), timeout=60))

    answers: list[Any] = []
    async with running(tree("ab")) as system:
        await system.ref("a").ask(impatient, timeout=60)
        await trio.sleep(60)

    assert answers == ["answer of t/a"]


def sleeps(seconds: float) -> Step:
    @Step
    async def step(node: Node) -> None:
        await trio.sleep(seconds)

    return step


async def test_who_was_just_answered_waits_no_longer(clock: MockClock) -> None:
    answers: list[Any] = []

    @Step
    async def asks_back(node: Node) -> None:
        answers.append(await node.lookup("a").ask(asks()))

    @Step
    async def step(node: Node) -> Any:
        # Handled right after the ask below, before this task has run again.
        node.lookup("b").tell(sleeps(1))
        trio.lowlevel.spawn_system_task(tell_soon, node.lookup("b"))
        return await asks("b")(node)

    async def tell_soon(b: Ref[Any]) -> None:
        await wait_all_tasks_blocked()
        b.tell(asks_back)

    async with running(tree("ab")) as system:
        assert await system.ref("a").ask(step) == "answer of t/b"
        await trio.sleep(1)

    assert answers == ["answer of t/a"]


async def test_answering_before_asking_back_is_no_cycle(clock: MockClock) -> None:
    @Step
    async def step(node: Node) -> Any:
        reply = node.reply_later()
        reply.succeed("early")
        return await asks("a")(node)

    @Step
    async def ask_b(node: Node) -> Any:
        return await node.lookup("b").ask(step)

    async with running(tree("ab")) as system:
        assert await system.ref("a").ask(ask_b) == "early"
        await wait_all_tasks_blocked()
        assert system.ref("b").alive
        assert await system.ref("b").ask(asks()) == "answer of t/b"


async def test_a_message_left_for_somebody_else_to_answer_is_no_wait_for_its_first_actor(
    clock: MockClock,
) -> None:
    answers: list[Any] = []

    @Step
    async def forwards(node: Node) -> None:
        node.forward(node.lookup("c"), sleeps_and_answers)

    @Step
    async def sleeps_and_answers(node: Node) -> str:
        await trio.sleep(1)
        return "answer of c"

    @Step
    async def ask_b(node: Node) -> Any:
        return await node.lookup("b").ask(forwards)

    @Step
    async def asks_a(node: Node) -> None:
        answers.append(await node.lookup("a").ask(asks()))

    async with running(tree("abc")) as system, trio.open_nursery() as nursery:
        nursery.start_soon(system.ref("a").ask, ask_b)
        await wait_all_tasks_blocked()
        await system.ref("b").ask(asks_a)

    assert answers == ["answer of t/a"]


async def test_an_actor_that_restarts_is_taken_to_be_able_to_answer(clock: MockClock) -> None:
    class Fragile(Node):
        async def started(self) -> None:
            if self.incarnation > 1:
                await trio.sleep(2)

    @Step
    async def crash(node: Node) -> None:
        raise ZeroDivisionError

    async with running(Supervisor("t", [child(Node, name="a"), child(Fragile, name="b")])) as s:
        s.ref("b").tell(crash)
        await wait_all_tasks_blocked()
        assert await s.ref("a").ask(asks("b")) == "answer of t/b"


@pytest.mark.parametrize(("size", "concurrency"), [(2, 1), (1, 2)])
async def test_another_member_or_lane_of_a_pool_makes_it_no_cycle(
    size: int, concurrency: int, clock: MockClock
) -> None:
    async with running(with_pool(size, concurrency=concurrency)) as system:
        assert await system.ref("p").ask(asks("p")) == f"answer of t/p/{size}"


async def test_a_pool_whose_free_member_is_chosen_is_no_cycle(clock: MockClock) -> None:
    @Step
    async def ask_the_pool(node: Node) -> Any:
        await trio.sleep(1)
        return await asks("p")(node)

    async with running(with_pool(2, by="least_busy")) as system, trio.open_nursery() as nursery:
        nursery.start_soon(system.ref("t/p/1").ask, asks("a"))
        nursery.start_soon(system.ref("t/p/2").ask, asks())
        assert await system.ref("a").ask(ask_the_pool) == "answer of t/p/2"


# -- against a simulation


@attrs.define(eq=False)
class Waits:
    """An ask as the graph sees it."""

    mailbox: Mailbox
    open: bool = True
    aside: bool = False

    @property
    def path(self) -> str:
        return self.mailbox.path


LANES = st.lists(st.integers(1, 3), min_size=1, max_size=6)


@given(lanes=LANES, data=st.data())
def test_an_ask_is_refused_if_and_only_if_nobody_could_ever_answer(
    lanes: list[int], data: st.DataObject
) -> None:
    boxes = [Mailbox(str(number), 8) for number in range(len(lanes))]
    for box, most in zip(boxes, lanes, strict=True):
        box.concurrency = most
        box.hands = [Hand(None) for _ in range(data.draw(st.integers(0, most)))]
    busy = [(box, hand) for box in boxes for hand in box.hands]
    for _, hand in busy:
        asked, state = data.draw(st.sampled_from(boxes)), data.draw(st.integers(0, 7))
        if state:
            hand.waits_for = Waits(asked, open=state != 1, aside=state == 2)
    if not busy:
        return
    _, hand = data.draw(st.sampled_from(busy))
    hand.waits_for, ask = None, Waits(data.draw(st.sampled_from(boxes)))
    before = [(box.concurrency, [one.waits_for for one in box.hands]) for box in boxes]
    refused = False
    try:
        refuse_cycle(hand, ask)
    except AskCycle:
        refused = True
    position = next(n for n, box in enumerate(boxes) if hand in box.hands)
    before[position][1][boxes[position].hands.index(hand)] = ask
    assert refused is not answered(ask, boxes, before)
    assert hand.waits_for is (None if refused else ask)


def answered(ask: Waits, boxes: list[Mailbox], lanes: list[tuple[int, list[Any]]]) -> bool:
    """Play it through: whoever has a lane free answers all who wait for it, until nothing moves."""
    state = [[wait for wait in waits if wait is not None] for _, waits in lanes]
    state = [[wait for wait in waits if wait.open and not wait.aside] for waits in state]
    while True:
        able = {
            id(box)
            for box, (most, _), now in zip(boxes, lanes, state, strict=True)
            if len(now) < most
        }
        after = [[wait for wait in now if id(wait.mailbox) not in able] for now in state]
        if after == state:
            return not any(wait is ask for now in state for wait in now)
        state = after


def test_the_path_of_a_ring_leads_back_to_who_asks() -> None:
    names = ["asker", "x", "y", "z"]
    boxes = {name: Mailbox(name, 8) for name in names}

    class Life:
        path = "asker"

    def waits(name: str, *for_whom: str) -> None:
        hands = [Hand(None) for _ in for_whom]
        for hand, asked in zip(hands, for_whom, strict=True):
            hand.waits_for = Waits(boxes[asked])
        boxes[name].hands, boxes[name].concurrency = hands, len(hands)

    waits("x", "y", "z")
    waits("y", "x")
    waits("z", "asker")
    hand: Any = Hand(None)
    hand.incarnation = Life()
    boxes["asker"].hands = [hand]

    with pytest.raises(AskCycle) as caught:
        refuse_cycle(hand, Waits(boxes["x"]))

    assert caught.value.paths == ("asker", "x", "z", "asker")


@given(st.data())
def test_no_ask_among_actors_that_all_answer_in_time_is_refused(data: st.DataObject) -> None:
    order = data.draw(st.permutations("abcd"))
    edges = st.integers(0, 3).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 3)))
    plan = data.draw(st.lists(edges.filter(lambda edge: edge[0] < edge[1]), max_size=12))
    delays = data.draw(st.lists(st.sampled_from([0, 0, 1]), min_size=12, max_size=12))
    refused: list[BaseException] = []
    chains = [(order[a], order[b], delay) for (a, b), delay in zip(plan, delays, strict=False)]
    trio.run(_ask_downwards, chains, refused, clock=MockClock(autojump_threshold=0))
    assert refused == []


async def _ask_downwards(chains: list[tuple[str, str, int]], refused: list[Any]) -> None:
    """Asks go one way only at any moment, but turn round between rounds."""

    async def ask(system: System, asker: str, asked: str, delay: float) -> None:
        @Step
        async def step(node: Node) -> Any:
            await trio.sleep(delay)
            return await node.lookup(asked).ask(sleeps(delay), timeout=1000)

        try:
            await system.ref(asker).ask(step, timeout=1000)
        except ActorCrashed as error:
            refused.append(error)

    async with running(tree("abcd")) as system:
        for turn in (1, -1, 1):
            async with trio.open_nursery() as nursery:
                for asker, asked, delay in chains:
                    first, second = (asker, asked) if turn > 0 else (asked, asker)
                    nursery.start_soon(ask, system, first, second, delay)
