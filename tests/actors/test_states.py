"""`become` and `unbecome`: another method in the place of `receive`, for one life."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import ActorCrashed, Fenced
from understudy.actors.handlers import message_pattern
from understudy.testing import isolated

from .driven import Do


class State(Request[str]):
    """Asks which state it is handled in."""


class Phone(Actor[Any]):
    """Answers with its state; runs what it is given in each of them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def receive(self, message: Any) -> Any:
        return self.act("idle", message)

    def ringing(self, message: Any) -> Any:
        return self.act("ringing", message)

    async def talking(self, message: Any) -> Any:
        await trio.sleep(1)
        return self.act("talking", message)

    @message_pattern("state")
    async def state(self, data: Any) -> str:
        return "pattern"

    @message_pattern("wait, then")
    async def wait_then(self, act: Any) -> None:
        await trio.sleep(1)
        act(self)

    def act(self, state: str, message: Any) -> Any:
        return message(self) if callable(message) else state


def ring(phone: Phone) -> None:
    phone.become(phone.ringing)


def talk(phone: Phone) -> None:
    phone.become(phone.talking)


def hang_up(phone: Phone) -> None:
    phone.unbecome()


async def test_the_next_message_goes_to_the_new_state(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        assert await phone.ask(State()) == "idle"
        phone.tell(ring)
        assert await phone.ask(State()) == "ringing"


async def test_a_plain_state_may_become_one_that_waits_and_back(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        phone.tell(talk)
        assert await phone.ask(State()) == "talking"
        phone.tell(ring)
        assert await phone.ask(State()) == "ringing"
        assert trio.current_time() == 2


async def test_unbecome_goes_back_one_state_at_a_time(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        phone.tell(ring)
        phone.tell(talk)
        phone.tell(hang_up)
        assert await phone.ask(State()) == "ringing"
        phone.tell(hang_up)
        assert await phone.ask(State()) == "idle"
        phone.tell(hang_up)
        assert await phone.ask(State()) == "idle"


async def test_a_state_may_be_receive_again(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        phone.tell(ring)
        phone.tell(lambda self: self.become(self.receive))
        assert await phone.ask(State()) == "idle"
        phone.tell(hang_up)
        assert await phone.ask(State()) == "ringing"


async def test_mail_that_waits_goes_to_the_state_of_its_turn(clock: MockClock) -> None:
    async with isolated(Phone) as phone, trio.open_nursery() as nursery:
        answers: list[Any] = []

        @nursery.start_soon
        async def _() -> None:
            answers.append(await phone.ask(State()))

        phone.tell("wait, then", ring)
        await trio.sleep(2)

    assert answers == ["ringing"]


async def test_handlers_of_patterns_stay_what_they_are(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        phone.tell(ring)
        assert await phone.ask("state", None) == "pattern"


async def test_a_new_incarnation_begins_with_receive(clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        phone.tell(ring)
        await phone.crash()
        assert await phone.ask(State()) == "idle"


@pytest.mark.parametrize("hook", ["__init__", "started"])
async def test_a_life_may_begin_in_another_state(hook: str, clock: MockClock) -> None:
    class Ringing(Phone):
        def __init__(self) -> None:
            super().__init__()
            if hook == "__init__":
                ring(self)

        async def started(self) -> None:
            if hook == "started":
                ring(self)

    async with isolated(Ringing) as phone:
        assert await phone.ask(State()) == "ringing"
        await phone.crash()
        assert await phone.ask(State()) == "ringing"


@pytest.mark.parametrize("concurrency", [2, 3, 8])
async def test_every_lane_is_in_the_new_state(concurrency: int, clock: MockClock) -> None:
    async with isolated(Phone, concurrency=concurrency) as phone:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await phone.ask(State()))

        for change, state in ((ring, "ringing"), (talk, "talking"), (hang_up, "ringing")):
            for _ in range(concurrency - 1):
                phone.tell("wait, then", lambda self: None)
            phone.tell(change)
            await trio.sleep(2)
            answers.clear()
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(3 * concurrency):
                        nursery.start_soon(ask)
            assert set(answers) == {state}


async def test_a_lane_that_was_busy_meanwhile_is_in_the_new_state(clock: MockClock) -> None:
    async with isolated(Phone, concurrency=2) as phone, trio.open_nursery() as nursery:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await phone.ask(State()))

        phone.tell("wait, then", lambda self: None)
        await wait_all_tasks_blocked()
        phone.tell(talk)
        await phone.ask("state", None)  # the lane that changed looks first
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.sleep(5)

    assert answers == ["talking"] * 3


@pytest.mark.parametrize(
    "receive",
    [lambda message: None, Phone.ringing, Phone().ringing, print, None, "ringing"],
    ids=["function", "unbound", "of another", "builtin", "none", "name"],
)
async def test_become_takes_nothing_but_a_method_of_its_own(receive: Any, clock: MockClock) -> None:
    async with isolated(Phone) as phone:
        with pytest.raises(ActorCrashed) as caught:
            await phone.ask(Do(lambda self: self.become(receive)))

    assert isinstance(caught.value.__cause__, TypeError)
    assert "become takes a method of this actor" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["streaming", "yielding"])
async def test_become_refuses_a_generator_at_the_call(name: str, clock: MockClock) -> None:
    class Streams(Phone):
        async def streaming(self, message: Any) -> Any:
            yield message

        def yielding(self, message: Any) -> Any:
            yield message

    async with isolated(Streams) as phone:
        with pytest.raises(ActorCrashed) as caught:
            await phone.ask(Do(lambda self: self.become(getattr(self, name))))
        assert await phone.ask(State()) == "idle"

    assert isinstance(caught.value.__cause__, TypeError)
    assert f"{name} is a generator, which cannot stand in for receive" in str(
        caught.value.__cause__
    )


async def test_a_leftover_of_an_ended_life_changes_no_state(clock: MockClock) -> None:
    lives: list[Phone] = []
    async with isolated(Phone) as phone:
        await phone.ask(Do(lives.append))
        await phone.crash()
        for change in (ring, hang_up):
            with pytest.raises(Fenced):
                change(lives[0])
        assert await phone.ask(State()) == "idle"


async def test_stashed_mail_is_handled_in_the_state_it_was_kept_for(clock: MockClock) -> None:
    class Door(Actor[str]):
        def __init__(self, log: list[str]) -> None:
            self.log = log

        def receive(self, message: str) -> None:
            if message != "open":
                self.stash()
                return
            self.unstash()
            self.become(self.opened)

        def opened(self, message: str) -> None:
            self.log.append(message)

    log: list[str] = []
    async with isolated(Door, log) as door:
        for message in ("a", "b", "open", "c"):
            door.tell(message)

    assert log == ["a", "b", "c"]
