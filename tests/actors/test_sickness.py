"""Crashes on outside messages: whom they cost what, and the sick actor."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.behavior import Behavior
from understudy.actors.envelope import Envelope
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Crashed, Recovered, Restarting, Sick
from understudy.actors.mailbox import Mailbox
from understudy.actors.retry import RetryPolicy
from understudy.actors.sickness import Sickness, outside_delay
from understudy.testing import Isolated, isolated

MANY_TRIES = RetryPolicy(attempts=1000, delays=(0.0,))


class World:
    """What the patient depends on, and what it has done."""

    def __init__(self) -> None:
        self.broken = True
        self.tried: list[tuple[float, str]] = []
        self.handled: list[str] = []


class Patient(Actor):
    """Crashes on every event for as long as its world is broken."""

    def __init__(self, world: World) -> None:
        self.world = world

    @event_pattern("order")
    async def on_order(self, name: str) -> None:
        self.world.tried.append((trio.current_time(), name))
        if self.world.broken:
            raise ZeroDivisionError(name)
        self.world.handled.append(name)

    @message_pattern("poison")
    async def poison(self, data: Any) -> None:
        raise ZeroDivisionError

    @message_pattern("hello")
    async def hello(self) -> str:
        return "hello"

    @message_pattern("delegate")
    async def delegate(self, pattern: str) -> None:
        self.ref.tell(pattern, None)


@pytest.fixture
def world() -> World:
    return World()


async def sicken(patient: Isolated[Patient]) -> None:
    """Ten different requests in a row crash it."""
    for _ in range(10):
        with pytest.raises(RpcError, match="Internal server error"):
            await patient.request("poison")


@pytest.mark.parametrize(
    ("crashes", "seconds"),
    [(1, 0), (2, 0.001), (3, 0.002), (4, 0.004), (5, 0.008), (6, 0.016), (7, 0.016), (9999, 0.016)],
)
def test_restarts_after_outside_messages_come_at_once_then_soon(
    crashes: int, seconds: float
) -> None:
    assert outside_delay(crashes) == seconds


async def test_four_thousand_failing_requests_do_not_stop_the_supervisor(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, max_restarts=1) as patient:
        for _ in range(4000):
            with pytest.raises(RpcError):
                await patient.request("poison")

        assert await patient.request("hello") == "hello"
        assert patient.incarnation == 4001
        assert patient.system.root.window.left(trio.current_time()) == 1
        assert {notice.left for notice in patient.lifecycle.of(Restarting)} == {None}


async def test_a_crash_on_an_outside_message_names_it(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world) as patient:
        with pytest.raises(RpcError):
            await patient.request("poison", message_id="m-1")
        notice = await patient.lifecycle.expect(Crashed)

    assert (notice.origin, notice.pattern) == ("m-1", "poison")


async def test_what_is_sent_for_an_outside_message_is_blamed_on_it_too(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, max_restarts=0) as patient:
        await patient.request("delegate", "poison", message_id="m-1")
        notice = await patient.lifecycle.expect(Crashed)

        assert notice.origin == "m-1"
        assert await patient.ask("hello", None) == "hello"


async def test_six_crashes_of_its_own_are_too_many_for_five_restarts(
    world: World, clock: MockClock
) -> None:
    async def run() -> None:
        async with isolated(Patient, world, max_restarts=5) as patient:
            for _ in range(6):
                patient.tell("poison", None)
            await trio.sleep(60)

    with pytest.raises(SupervisorGaveUp) as caught:
        await run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert str(caught.value) == (
        "isolated gave up: restarting isolated/patient would have been more than 5 restarts in 5 s."
    )


async def test_five_crashes_of_its_own_are_allowed(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world, max_restarts=5) as patient:
        for _ in range(5):
            patient.tell("poison", None)

        assert await patient.ask("hello", None) == "hello"
        assert patient.incarnation == 6


async def test_with_blame_on_the_actor_outside_crashes_count(
    world: World, clock: MockClock
) -> None:
    async def run() -> None:
        async with isolated(Patient, world, max_restarts=2, blame="actor") as patient:
            for _ in range(3):
                with pytest.raises(RpcError):
                    await patient.request("poison")
            await trio.sleep(60)

    with pytest.raises(SupervisorGaveUp, match="more than 2 restarts in 5 s"):
        await run()


async def test_ten_different_messages_in_a_row_make_an_actor_sick(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world) as patient:
        await sicken(patient)
        notice = await patient.lifecycle.expect(Sick)

        assert (notice.crashes, notice.incarnation) == (10, 10)
        assert patient.system.healthy is False


async def test_a_success_between_begins_the_count_anew(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world) as patient:
        for _ in range(9):
            with pytest.raises(RpcError):
                await patient.request("poison")
        await patient.request("hello")
        with pytest.raises(RpcError):
            await patient.request("poison")

    assert patient.lifecycle.of(Sick) == []


async def test_the_same_message_again_and_again_counts_once(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world, sick_after=2) as patient:
        delivery = await patient.event("order", "poison", message_id="m-1")
        assert await delivery.settled() == "acknowledged"

        assert len(world.tried) == 5
        assert patient.lifecycle.of(Sick) == []
        with pytest.raises(RpcError):
            await patient.request("poison", message_id="m-2")
        assert len(patient.lifecycle.of(Sick)) == 1


async def test_events_of_a_sick_actor_are_tried_one_at_a_time_ever_less_often(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, events=MANY_TRIES) as patient:
        await sicken(patient)
        since = trio.current_time()
        for name in "abc":
            await patient.event("order", name)
        await trio.sleep(200)

        assert [name for _, name in world.tried] == list("abcabcab")
        waits = [round(at - since) for at, _ in world.tried]
        assert waits == [1, 3, 7, 15, 31, 63, 123, 183]


async def test_requests_to_a_sick_actor_go_on_being_answered(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, events=MANY_TRIES) as patient:
        await sicken(patient)
        await patient.event("order", "a")

        assert await patient.request("hello") == "hello"
        assert world.tried == []
        assert patient.lifecycle.of(Recovered) == []


async def test_one_success_frees_what_was_held_in_order(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world) as patient:
        await sicken(patient)
        deliveries = [await patient.event("order", name) for name in "abcde"]
        world.broken = False
        notice = await patient.lifecycle.expect(Recovered, within=2)
        outcomes = [await delivery.settled() for delivery in deliveries]

        assert notice.held == 4
        assert world.handled == list("abcde")
        assert outcomes == ["acknowledged"] * 5
        assert patient.system.healthy is True


async def test_held_events_keep_their_attempts_and_die_of_too_many(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, events=RetryPolicy(attempts=3)) as patient:
        await sicken(patient)
        delivery = await patient.event("order", "a")
        assert await delivery.settled() == "acknowledged"

        assert len(world.tried) == 3
        assert [(x.reason, x.attempts) for x in await patient.dead_letters()] == [("crashed", 3)]


async def test_local_messages_are_not_held(world: World, clock: MockClock) -> None:
    async with isolated(Patient, world) as patient:
        await sicken(patient)
        world.broken = False
        patient.tell("order", "local")
        await patient.ask("hello", None)

    assert world.handled == ["local"]


async def test_more_events_than_a_sick_actor_may_hold_do_not_stop_it(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world, mailbox=4, events=MANY_TRIES) as patient:
        await sicken(patient)
        deliveries = [await patient.event("order", f"{number}") for number in range(8)]

        assert await patient.request("hello") == "hello"
        assert sum(delivery.outcome is None for delivery in deliveries) == 4
        letters = await patient.dead_letters()
        assert [letter.body for letter in letters] == [b'"4"', b'"5"', b'"6"', b'"7"']
        assert "the actor is sick and holds as many events as it may" in letters[0].error


async def test_what_a_sick_actor_holds_goes_back_when_it_stops(
    world: World, clock: MockClock
) -> None:
    async with isolated(Patient, world) as patient:
        await sicken(patient)
        deliveries = [await patient.event("order", name) for name in "ab"]
        await patient.ask("hello", None)

    assert [delivery.outcome for delivery in deliveries] == ["given back", "given back"]


async def test_on_sick_escalate_makes_every_tenth_crash_the_actor_s_own(
    world: World, clock: MockClock
) -> None:
    async def run() -> None:
        async with isolated(Patient, world, on_sick="escalate", max_restarts=1) as patient:
            await sicken(patient)
            await patient.lifecycle.expect(Restarting, lambda notice: notice.left == 0)
            await sicken(patient)
            await trio.sleep(60)

    with pytest.raises(SupervisorGaveUp, match="more than 1 restarts in 5 s"):
        await run()


class Outside:
    """A delivery: the receipt and the origin of one message from outside."""


def test_only_events_from_outside_are_held() -> None:
    patient = Behavior.of(Patient)
    event, request = patient.events["order"][0], patient.requests["hello"]
    mailbox: Any = Mailbox("p", 8)
    timers: Any = None
    sickness = Sickness(mailbox, timers, 1, lambda envelope: None)
    outside: Any = Outside()
    another: Any = Outside()

    assert not sickness.holds(Envelope("x", event))
    assert not sickness.holds(Envelope("x", event, None, outside))
    assert not sickness.holds(Envelope("x", event, another, outside))
    assert not sickness.holds(Envelope("x", request, outside, outside))
    assert not sickness.holds(Envelope("x", None, outside, outside))
    assert sickness.holds(Envelope("x", event, outside, outside))
    assert len(sickness.held) == 1
