"""A life that would not end and was left behind: when it ends after all, it harms nobody."""

from collections.abc import Callable
from typing import Any

import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import one_for_all
from understudy.supervisors.system import running
from understudy.testing import isolated


class Calls(Actor[Any]):
    """Does what it is told."""

    def receive(self, do: Callable[["Calls"], object]) -> Any:
        return do(self)


class Late(Calls):
    """Its second life takes a minute to start, and cannot be cancelled meanwhile."""

    def __init__(self) -> None:
        self.born = self.incarnation

    async def started(self) -> None:
        if self.incarnation == 2:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)


class Kid(Actor[Any]):
    """A child."""


class Shut(Actor[Any]):
    """Shuts itself off for a minute when told to; its second life has a child."""

    async def started(self) -> None:
        if self.incarnation == 2:
            await self.start_child(child(Kid, name="kid"))

    async def receive(self, _: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)


def fail(_: object) -> None:
    raise ValueError("told to")


async def test_a_start_that_ends_when_it_was_given_up_does_not_replace_the_instance(
    clock: MockClock,
) -> None:
    seen: list[tuple[int, int]] = []

    def note(actor: Any) -> None:
        seen.append((actor.incarnation, actor.born))

    async with isolated(Late, start_timeout=1) as late:
        late.tell(fail)
        await trio.sleep(30)  # the second life has been left behind by now
        late.tell(note)
        await trio.sleep(90)  # it has ended, and the third one has slept
        late.tell(note)
        await trio.sleep(1)

    assert seen == [(3, 3), (3, 3)]


async def test_a_handler_that_ends_when_it_was_given_up_leaves_the_next_lifes_children_alone(
    clock: MockClock,
) -> None:
    children = [child(Calls), child(Shut)]
    async with running(Supervisor("top", children, strategy=one_for_all)) as system:
        system.ref(Shut).tell("shut")
        await trio.sleep(1)
        system.ref(Calls).tell(fail)
        await trio.sleep(90)
        states = {line.path: line.state for line in system.tree()}

    assert states["top/shut/kid"] == "running"
