"""A tree beside a model of it: whatever is done to it, both say the same.

The model is what a reader of docs/supervision.md would write down: a table of children,
each with its total, its life and its restart type, and the times of the restarts. It knows
nothing of tasks, mailboxes or scopes. Random sequences of starts, messages, crashes,
stops and waits are played to both, and everything that can be seen from outside is
compared after each step.
"""

import os
from collections import deque
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import ActorCrashed, ActorStopped, DeclarationError
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import Restart
from understudy.supervisors.system import System, running

NAMES = ("a", "b", "c")
MAX_RESTARTS, WITHIN = 3, 10.0

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "prove"
EXAMPLES = 2_000 if LONG else 40
"""With 50 steps each at most; the long campaign plays at least 100,000 in all."""


@attrs.frozen
class Add:
    number: int


@attrs.frozen
class Total(Request[tuple[int, int]]):
    """The total, and the number of the incarnation."""


@attrs.frozen
class Break(Request[None]):
    """Crashes it."""


@attrs.frozen
class Leave(Request[None]):
    """Ends it, in order."""


class Adder(Actor[Add | Total | Break | Leave]):
    total = 0

    def receive(self, message: Add | Total | Break | Leave) -> tuple[int, int] | None:
        match message:
            case Add(number):
                self.total += number
            case Total():
                return self.total, self.incarnation
            case Break():
                raise OSError("broken")
            case Leave():
                self.stop()
        return None


@attrs.define
class Line:
    """One child in the model."""

    restart: Restart
    total: int = 0
    life: int = 1
    up: bool = True


class Model:
    """What should be there."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.restarts: deque[float] = deque()
        self.over = False

    def start(self, name: str, restart: Restart) -> bool:
        """Whether the name was free, or its child has ended."""
        line = self.lines.get(name)
        if line is not None and line.up:
            return False
        self.lines.pop(name, None)
        self.lines[name] = Line(restart)
        return True

    def up(self, name: str) -> Line | None:
        line = self.lines.get(name)
        return line if line is not None and line.up else None

    def ended(self, name: str, now: float, *, clean: bool) -> None:
        line = self.lines[name]
        if line.restart == "temporary":
            del self.lines[name]
        elif line.restart == "transient" and clean:
            line.up = False
        else:
            self.restarts.append(now)
            while self.restarts[0] < now - WITHIN:
                self.restarts.popleft()
            self.over = len(self.restarts) > MAX_RESTARTS
            line.total, line.life = 0, line.life + 1

    def stop(self, name: str) -> bool:
        return self.lines.pop(name, None) is not None


STEPS = st.one_of(
    st.tuples(
        st.just("start"),
        st.sampled_from(NAMES),
        st.sampled_from(["permanent", "transient", "temporary"]),
    ),
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.integers(1, 9)),
    st.tuples(st.sampled_from(["break", "leave", "stop"]), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([0.5, 5.0, WITHIN, 30.0])),
)


class Play:
    """One sequence, played to the tree and to the model."""

    def __init__(self, system: System, model: Model) -> None:
        self.system = system
        self.model = model
        self.refs: dict[str, Any] = {}

    async def step(self, act: str, name: Any, value: Any) -> None:
        model, now = self.model, trio.current_time()
        if act == "wait":
            await trio.sleep(value)
        elif act == "start":
            await self._start(name, value)
        elif act == "stop":
            if model.stop(name):
                await self.system.stop_child(f"tree/{name}")
            else:
                with pytest.raises(LookupError):
                    await self.system.stop_child(f"tree/{name}")
        elif name in self.refs:
            await self._message(act, name, value, now)
        await wait_all_tasks_blocked()

    async def _start(self, name: str, restart: Restart) -> None:
        spec = child(Adder, name=name, restart=restart, backoff=None)
        if self.model.start(name, restart):
            self.refs[name] = await self.system.start_child(spec)
        else:
            with pytest.raises(DeclarationError):
                await self.system.start_child(spec)

    async def _message(self, act: str, name: str, value: Any, now: float) -> None:
        line, ref = self.model.up(name), self.refs[name]
        if line is None:
            ref.tell(Add(1))  # nobody is there, and that is no error
            with pytest.raises(ActorStopped):
                await ref.ask(Total())
        elif act == "add":
            line.total += value
            ref.tell(Add(value))
        elif act == "break":
            self.model.ended(name, now, clean=False)
            with pytest.raises(ActorCrashed):
                await ref.ask(Break())
        else:
            self.model.ended(name, now, clean=True)
            await ref.ask(Leave())

    async def compare(self) -> None:
        lines = self.model.lines
        seen = {line.path.removeprefix("tree/"): line for line in self.system.tree()[1:]}
        assert {name: line.state == "running" for name, line in seen.items()} == {
            name: line.up for name, line in lines.items()
        }
        for name, line in lines.items():
            if line.up:
                assert await self.refs[name].ask(Total()) == (line.total, line.life)
        left = self.system.root.window.left(trio.current_time())
        counted = [at for at in self.model.restarts if at >= trio.current_time() - WITHIN]
        assert left == MAX_RESTARTS - len(counted)


async def play(steps: list[tuple[str, Any, Any]]) -> int:
    """Play until the tree gives up, if it does; returns how many steps that were."""
    tree = Supervisor("tree", max_restarts=MAX_RESTARTS, within=WITHIN)
    played, model = 0, Model()
    try:
        async with running(tree, seed=1) as system:
            game = Play(system, model)
            for step in steps:
                played += 1
                await game.step(*step)
                if model.over:
                    await trio.sleep(1)
                    pytest.fail("the model gave up, and the tree did not")
                await game.compare()
    except SupervisorGaveUp:
        assert model.over, "the tree gave up, and the model did not"
    return played


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=50 if LONG else 10, max_size=60 if LONG else 40))
def test_a_tree_does_what_its_model_does(steps: list[tuple[str, Any, Any]]) -> None:
    trio.run(play, steps, clock=MockClock(autojump_threshold=0))


def test_the_model_notices_a_tree_that_gives_up_one_restart_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What finds no difference must be able to find one."""
    from understudy.supervisors.strategy import Window

    add = Window.add
    monkeypatch.setattr(
        Window, "add", lambda self, now: add(self, now) or len(self._times) <= MAX_RESTARTS + 1
    )
    steps: list[tuple[str, Any, Any]] = [("start", "a", "permanent"), *[("break", "a", None)] * 4]

    with pytest.raises(pytest.fail.Exception, match="the model gave up"):
        trio.run(play, steps, clock=MockClock(autojump_threshold=0))
