"""Which policy decides about an event, until what age it is run, and what a dropped one is."""

import math
from types import SimpleNamespace
from typing import Any, cast

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.errors import MailboxFull, Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Bus
from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.delivery.event import EventDelivery
from understudy.supervisors.delivery.intake import Inbound, Intake
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.registry import Target
from understudy.supervisors.system import System, running


class Courier(Actor[None]):
    """Carries an event for `takes` seconds, then fails as told."""

    def __init__(self, takes: list[float], error: Exception | None = None) -> None:
        self.takes, self.error = takes, error
        self.runs = runs

    @event_pattern("carry")
    async def carry(self, number: int) -> None:
        self.runs.append((number, round(trio.current_time(), 1)))
        await trio.sleep(self.takes.pop(0) if self.takes else 0)
        if self.error is not None:
            raise self.error

    @message_pattern("stream")
    async def stream(self, number: int) -> Any:
        for item in range(number):
            await trio.sleep(self.takes[0])
            self.runs.append((item, trio.current_time()))
            yield item


runs: list[tuple[int, float]] = []


@pytest.fixture(autouse=True)
def no_runs() -> None:
    runs.clear()


class Acknowledged:
    def __init__(self) -> None:
        self.times: list[float] = []

    def acknowledge(self) -> None:
        self.times.append(round(trio.current_time(), 1))

    def give_back(self) -> bool:
        return True


def event(data: bytes = b"1", **changes: Any) -> Inbound:
    plain = Inbound(transport="test", source="here", pattern="carry", data=data, message_id="m-1")
    return msgspec.structs.replace(plain, **changes)


def tree(*arguments: Any) -> Supervisor:
    return Supervisor("top", [child(Courier, *arguments)])


async def letters(system: System) -> list[DeadLetter]:
    await settled()
    await system.office.flush()
    return list(await system.office.store.find())


# -- which policy -----------------------------------------------------------------------

ONE, TWO, THREE = (RetryPolicy(attempts=number) for number in (1, 2, 3))


def test_a_handler_and_its_actor_may_have_policies_of_their_own() -> None:
    def policy(handler: RetryPolicy | None, actor: RetryPolicy | None) -> RetryPolicy:
        cell = SimpleNamespace(options=SimpleNamespace(retry=actor))
        target = SimpleNamespace(handler=SimpleNamespace(retry=handler), cell=cell)
        return Intake(cast(Any, None), THREE).policy_of(cast(Target, target))

    assert [policy(ONE, TWO), policy(None, TWO), policy(None, None)] == [ONE, TWO, THREE]


# -- ages -------------------------------------------------------------------------------


async def test_a_crash_is_not_tried_again_beyond_the_greatest_age(clock: MockClock) -> None:
    policy, settlement = (
        RetryPolicy(attempts=99, delays=(10,), jitter=0, max_age=25),
        Acknowledged(),
    )

    async with running(tree([], OSError("no disk")), events=policy) as system:
        await system.intake.event(event(), settlement)
        await trio.sleep(100)
        (letter,) = await letters(system)

    assert runs == [(1, 0), (1, 10), (1, 20)]
    assert (letter.reason, letter.error, letter.attempts) == ("expired", "OSError: no disk", 3)
    assert settlement.times == [20]


async def test_after_the_last_attempt_the_reason_is_the_crash_whatever_the_age(
    clock: MockClock,
) -> None:
    policy = RetryPolicy(attempts=1, max_age=0)

    async with running(tree([5], OSError()), events=policy) as system:
        await system.intake.event(event(), Acknowledged())
        await trio.sleep(10)
        (letter,) = await letters(system)

    assert (letter.reason, letter.incarnation) == ("crashed", 1)


async def test_a_crash_with_no_room_to_wait_for_the_next_attempt_says_so(clock: MockClock) -> None:
    policy = RetryPolicy(delays=(100,))

    async with running(tree([], OSError()), events=policy) as system:
        mailbox = system.registry.find(Courier).mailbox
        while mailbox.reserve():
            pass
        await system.intake.event(event(), Acknowledged())
        (letter,) = await letters(system)

    assert (letter.reason, letter.error) == ("too many wait", "OSError")


async def test_an_event_that_is_stale_when_its_turn_comes_is_not_run(clock: MockClock) -> None:
    settlement = Acknowledged()

    async with running(tree([30]), events=RetryPolicy(stale_after=20)) as system:
        await system.intake.event(event(), Acknowledged())
        await system.intake.event(event(b"2"), settlement)
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert runs == [(1, 0)]
    assert (letter.reason, letter.body, letter.attempts) == ("expired", b"2", 1)
    assert letter.error == "RpcError: not run: 30 s old when its turn came, stale after 20 s"
    assert settlement.times == [30]


async def test_the_time_in_the_broker_counts_for_the_age(clock: MockClock) -> None:
    async with running(tree([]), events=RetryPolicy(stale_after=20)) as system:
        await system.intake.event(event(first_at=1.0), Acknowledged())
        (letter,) = await letters(system)

    assert (letter.reason, runs) == ("expired", [])


async def test_an_event_that_goes_stale_in_its_handler_is_handled(clock: MockClock) -> None:
    settlement = Acknowledged()

    async with running(tree([60]), events=RetryPolicy(stale_after=20)) as system:
        await system.intake.event(event(), settlement)
        await trio.sleep(100)
        assert await letters(system) == []

    assert (runs, settlement.times) == ([(1, 0)], [60])


async def test_a_generator_that_was_begun_in_time_runs_to_its_end(clock: MockClock) -> None:
    settlement = Acknowledged()

    async with running(tree([15]), events=RetryPolicy(stale_after=20)) as system:
        await system.intake.event(event(b"3", pattern="stream"), settlement)
        await trio.sleep(100)
        assert await letters(system) == []

    assert (runs, settlement.times) == ([(0, 15), (1, 30), (2, 45)], [45])


async def test_a_retry_that_is_stale_by_then_is_not_run_again(clock: MockClock) -> None:
    policy = RetryPolicy(stale_after=20)

    async with running(tree([], Retry(after=30)), events=policy) as system:
        await system.intake.event(event(), Acknowledged())
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert (runs, letter.reason) == ([(1, 0)], "expired")


async def test_an_event_that_goes_stale_while_its_sick_actor_holds_it_is_not_run(
    clock: MockClock,
) -> None:
    top = Supervisor("top", [child(Courier, [], OSError(), sick_after=1)])

    async with running(top, events=RetryPolicy(attempts=2, stale_after=20)) as system:
        for number in (b"1", b"2", b"3", b"4", b"5", b"6"):
            await system.intake.event(event(number, message_id=number.decode()), Acknowledged())
        await trio.sleep(600)
        found = await letters(system)

    assert all(time <= 20 for _, time in runs)
    assert {letter.body: letter.reason for letter in found}[b"6"] == "expired"


async def test_once_its_turn_has_come_an_event_stays_open_until_it_is_settled(
    clock: MockClock,
) -> None:
    """Who answers later, or comes back to its key, asks again in the midst of it."""
    target = cast(
        Target,
        SimpleNamespace(
            handler=SimpleNamespace(retry=None),
            cell=SimpleNamespace(options=SimpleNamespace(retry=None)),
        ),
    )
    intake = Intake(cast(Any, None), RetryPolicy(stale_after=20))
    made = intake._delivery(target, event(), settlement := Acknowledged())

    assert made.open
    await trio.sleep(100)
    assert made.open
    made.succeeded(None)

    assert (made.open, settlement.times) == (False, [100])


def test_ages_cost_nothing_where_no_policy_has_a_limit() -> None:
    target = cast(
        Target,
        SimpleNamespace(
            handler=SimpleNamespace(retry=None),
            cell=SimpleNamespace(options=SimpleNamespace(retry=None)),
        ),
    )
    intake = Intake(cast(Any, None), RetryPolicy(stale_after=math.inf))

    delivery = intake._delivery(target, event(), Acknowledged())

    assert type(delivery) is EventDelivery
    assert not isinstance(vars(EventDelivery)["open"], property)


# -- dropped ----------------------------------------------------------------------------


def delivery(settlement: Acknowledged) -> tuple[EventDelivery, list[Any]]:
    kept: list[Any] = []
    services = SimpleNamespace(office=SimpleNamespace(take=lambda *what: kept.append(what)))
    services.bus = Bus()
    services.office.new_id = lambda: "1"
    cell = SimpleNamespace(path="top/courier")
    target = SimpleNamespace(cell=cell, handler=SimpleNamespace(name="Courier.carry"))
    intake = Intake(cast(Any, services))
    made = EventDelivery(intake, cast(Target, target), event(), settlement, intake.policy)
    return made, kept


async def test_an_event_that_its_full_mailbox_drops_is_acknowledged_and_not_kept() -> None:
    settlement = Acknowledged()
    made, kept = delivery(settlement)

    made.failed(MailboxFull("top/courier", 2))
    made.failed(MailboxFull("top/courier", 2))

    assert (len(settlement.times), kept, made.open) == (1, [], False)


async def test_a_full_mailbox_that_a_handler_met_is_no_drop() -> None:
    settlement = Acknowledged()
    made, kept = delivery(settlement)

    try:
        raise MailboxFull("top/other", 2)
    except MailboxFull as error:
        made.failed(error)

    assert (settlement.times, kept[0][0].reason) == ([], "rejected")


async def test_a_replay_that_a_full_mailbox_drops_is_dead_again(clock: MockClock) -> None:
    async with running(tree([], RpcError("no"))) as system:
        await system.intake.event(event(), Acknowledged())
        (letter,) = await letters(system)
        mailbox = system.registry.find(Courier).mailbox

        async def drop(envelope: Any) -> bool:
            envelope.receipt.failed(mailbox.full())
            return True

        taken = attrs.evolve(letter, status="replaying")
        await system.office.replay(letter.id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(mailbox), "put_wait", lambda _, envelope: drop(envelope))
            await trio.sleep(5)
        (after,) = await letters(system)

    assert (after.status, after.id) == ("dead", taken.id)
    assert after.note.startswith("dropped after 1 attempts: MailboxFull: top/courier: the mailbox")
