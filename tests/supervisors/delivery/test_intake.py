"""What becomes of an event until it is settled, once, and of a dead letter sent again."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.context import MessageContext
from understudy.actors.errors import Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import Crashed, Notice, Undelivered
from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.delivery.intake import Inbound
from understudy.supervisors.delivery.office import BACKLOG
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store import MemoryStore
from understudy.supervisors.strategy import one_for_all
from understudy.supervisors.system import System, running

Then = Exception | float | None
"""What a run does: raise, take some seconds, or nothing."""


class Script:
    """What the next runs of the handlers do, and what the runs so far were."""

    def __init__(self) -> None:
        self.then: Sequence[Then] = ()
        self.always: Then = None
        self.times: list[float] = []
        self.attempts: list[int] = []
        self.redelivered: list[bool] = []
        self.ids: list[str] = []
        self.seen: list[Any] = []

    def next(self) -> Then:
        then, *self.then = self.then
        return then

    async def run(self, data: Any, context: MessageContext) -> None:
        self.times.append(round(trio.current_time(), 6))
        self.attempts.append(context.attempt)
        self.redelivered.append(context.redelivered)
        self.ids.append(context.message_id)
        self.seen.append(repr(data))
        then = self.next() if self.then else self.always
        if isinstance(then, Exception):
            raise then
        await trio.sleep(then or 0)


@attrs.frozen
class Order:
    id: int


class Shop(Actor[Order]):
    def __init__(self, script: Script) -> None:
        self.script = script

    @event_pattern("order")
    async def on_order(self, order: dict[str, Any], context: MessageContext) -> None:
        try:
            await self.script.run(order, context)
        finally:
            order.clear()

    @event_pattern("typed")
    async def on_typed(self, order: Order, context: MessageContext) -> None:
        await self.script.run(order, context)

    @message_pattern("find")
    async def find(self, order: Order, context: MessageContext) -> str:
        await self.script.run(order, context)
        return "found"

    @event_pattern("shared")
    async def on_shared(self, data: Any, context: MessageContext) -> None:
        await self.script.run(data, context)

    async def receive(self, message: Order) -> None:
        self.script.seen.append(repr(message))
        then = self.script.next() if self.script.then else None
        if isinstance(then, Exception):
            raise then


class Audit(Actor[Exception]):
    def __init__(self, script: Script) -> None:
        self.script = script

    def receive(self, message: Exception) -> None:
        raise message

    @event_pattern("shared")
    async def on_shared(self, data: Any, context: MessageContext) -> None:
        await self.script.run(data, context)


class Recorder:
    """A settlement that tells what was done with it, and when."""

    def __init__(self, *, takes_back: bool = True) -> None:
        self.takes_back = takes_back
        self.calls: list[tuple[str, float]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def acknowledge(self) -> None:
        self.calls.append(("acknowledged", round(trio.current_time(), 6)))

    def give_back(self) -> bool:
        if self.takes_back:
            self.calls.append(("given back", round(trio.current_time(), 6)))
        return self.takes_back


@pytest.fixture
def script() -> Script:
    return Script()


@asynccontextmanager
async def shop(script: Script, **options: Any) -> AsyncIterator[System]:
    spec = child(Shop, script, **options.pop("child", {}))
    options.setdefault("events", RetryPolicy(jitter=0))
    async with running(Supervisor("top", [spec], max_restarts=0), **options) as system:
        yield system


def event(pattern: str = "order", data: bytes = b'{"id": 7}', **changes: Any) -> Inbound:
    plain = Inbound(
        transport="test",
        source="somewhere",
        pattern=pattern,
        data=data,
        message_id="m-1",
        headers={"trace": "t-1"},
    )
    return msgspec.structs.replace(plain, **changes)


async def letters(system: System) -> list[DeadLetter]:
    await settled()
    await system.office.flush()
    return list(await system.office.store.find())


def watched(system: System) -> list[Notice]:
    seen: list[Notice] = []
    system.bus.subscribe(seen.append)
    return seen


# -- success and crashes --------------------------------------------------------------


async def test_an_event_is_acknowledged_after_its_handler_has_returned(
    script: Script, clock: MockClock
) -> None:
    script.then, settlement = [3.0], Recorder()

    async with shop(script) as system:
        await system.intake.event(event(), settlement)

    assert (settlement.calls, script.attempts) == ([("acknowledged", 3)], [1])


async def test_a_crashing_event_is_run_five_times_and_is_a_dead_letter_then(
    script: Script, clock: MockClock
) -> None:
    script.always, settlement = OSError("no disk"), Recorder()

    async with shop(script) as system:
        await system.intake.event(event(), settlement)
        await trio.sleep(60)
        (letter,) = await letters(system)

    # The restarts of the crashing actor come a few milliseconds later than the attempts.
    assert script.times == pytest.approx([0, 0, 0.1, 1.1, 11.1], abs=0.02)
    assert (script.attempts, script.redelivered) == ([1, 2, 3, 4, 5], [False] + [True] * 4)
    assert (letter.attempts, letter.reason, letter.error) == (5, "crashed", "OSError: no disk")
    assert settlement.names == ["acknowledged"]


async def test_a_dead_letter_keeps_the_message_to_the_byte(
    script: Script, clock: MockClock
) -> None:
    script.always = RpcError("no")

    async with shop(script) as system:
        inbound = event(data=b'{ "id":7 }', correlation_id="c-1", first_at=123.5)
        await system.intake.event(inbound, Recorder())
        (letter,) = await letters(system)

    assert (letter.body, letter.headers) == (b'{ "id":7 }', {"trace": "t-1"})
    assert (letter.message_id, letter.correlation_id) == ("m-1", "c-1")
    assert (letter.actor, letter.handler, letter.pattern) == ("top/shop", "Shop.on_order", "order")
    assert (letter.transport, letter.source, letter.first_at) == ("test", "somewhere", 123.5)


async def test_attempts_the_broker_counted_count(script: Script, clock: MockClock) -> None:
    script.always = OSError()

    async with shop(script) as system:
        await system.intake.event(event(attempt=4, redelivered=True), Recorder())
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert (script.attempts, letter.attempts) == ([4, 5], 5)


async def test_each_attempt_gets_its_payload_decoded_anew(script: Script, clock: MockClock) -> None:
    script.then = [OSError(), OSError()]

    async with shop(script) as system:
        await system.intake.event(event(), Recorder())
        await trio.sleep(5)

    assert script.seen == ["{'id': 7}"] * 3  # though the handler empties it every time


async def test_crashes_on_events_spend_nothing_of_the_restart_window(
    script: Script, clock: MockClock
) -> None:
    script.always = OSError()

    async with shop(script, child={"sick_after": 1000}) as system:
        for number in range(20):
            await system.intake.event(event(message_id=f"m-{number}"), Recorder())
        await trio.sleep(60)

        assert (len(await letters(system)), system.healthy) == (20, True)


# -- rejections -------------------------------------------------------------------------

REJECTED: dict[str, tuple[Inbound, Then, str, str, int]] = {
    "refused by the handler": (event(), RpcError("not today"), "rejected", "not today", 1),
    "no handler": (event("nobody"), None, "no handler", "no handler for the pattern 'nobody'", 0),
    "no JSON": (event("typed", b"{"), None, "does not fit", "the payload does not fit", 0),
    "wrong type": (event("typed", b'{"id": "x"}'), None, "does not fit", "id", 0),
}


@pytest.mark.parametrize(
    ("inbound", "then", "reason", "error", "runs"), REJECTED.values(), ids=REJECTED
)
async def test_what_can_never_work_is_a_dead_letter_at_once_and_no_crash(
    inbound: Inbound,
    then: Then,
    reason: str,
    error: str,
    runs: int,
    script: Script,
    clock: MockClock,
) -> None:
    script.always, settlement = then, Recorder()

    async with shop(script) as system:
        seen = watched(system)
        await system.intake.event(inbound, settlement)
        (letter,) = await letters(system)

    assert (letter.reason, letter.attempts, len(script.times)) == (reason, 1, runs)
    assert error in letter.error
    assert settlement.calls == [("acknowledged", 0)]
    assert not [notice for notice in seen if isinstance(notice, Crashed)]


async def test_an_event_to_a_request_pattern_runs_its_handler(
    script: Script, clock: MockClock
) -> None:
    settlement = Recorder()

    async with shop(script) as system:
        await system.intake.event(event("find"), settlement)

    assert (script.attempts, settlement.names) == ([1], ["acknowledged"])


# -- not now ------------------------------------------------------------------------------


async def test_a_retry_is_neither_a_crash_nor_an_attempt(script: Script, clock: MockClock) -> None:
    script.then, settlement = [Retry(after=30), Retry(after=60)], Recorder()

    async with shop(script) as system:
        seen = watched(system)
        await system.intake.event(event(), settlement)
        await trio.sleep(100)

    assert (script.times, script.attempts) == ([0, 30, 90], [1, 1, 1])
    assert script.redelivered == [False, True, True]
    assert settlement.calls == [("acknowledged", 90)]
    assert not [notice for notice in seen if isinstance(notice, Crashed)]


async def test_retries_end_in_a_dead_letter_at_the_greatest_age(
    script: Script, clock: MockClock
) -> None:
    script.always, settlement = Retry("away", after=1), Recorder()

    async with shop(script, events=RetryPolicy(max_age=10.5)) as system:
        await system.intake.event(event(), settlement)
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert script.times == list(range(11))
    assert (letter.reason, letter.error, letter.attempts) == ("expired", "Retry: away", 1)
    assert settlement.names == ["acknowledged"]


async def test_age_counts_from_when_the_message_came_first(
    script: Script, clock: MockClock
) -> None:
    script.always = Retry(after=1)

    async with shop(script) as system:
        await system.intake.event(event(first_at=1.0), Recorder())
        (letter,) = await letters(system)

    assert (letter.reason, len(script.times)) == ("expired", 1)


async def test_events_that_wait_leave_room_for_others_and_are_dead_letters_beyond_it(
    script: Script, clock: MockClock
) -> None:
    script.always = Retry(after=100)

    async with shop(script, child={"mailbox": 4}) as system:
        for number in range(6):
            await system.intake.event(event(message_id=f"m-{number}"), Recorder())
            await settled()
        reasons = [letter.reason for letter in await letters(system)]
        assert reasons == ["too many wait"] * 2
        assert system.registry.find(Shop).mailbox.statistics().reserved == 4
        script.always = None


async def test_an_event_that_waits_for_its_retry_holds_up_no_other(
    script: Script, clock: MockClock
) -> None:
    script.then, first, second = [Retry(after=30)], Recorder(), Recorder()

    async with shop(script) as system:
        await system.intake.event(event(message_id="first"), first)
        await system.intake.event(event(message_id="second"), second)
        await trio.sleep(60)

    assert script.ids == ["first", "second", "first"]
    assert (first.calls, second.calls) == ([("acknowledged", 30)], [("acknowledged", 0)])


# -- several handlers ---------------------------------------------------------------------


@asynccontextmanager
async def shop_and_audit(script: Script, audit: Script) -> AsyncIterator[System]:
    top = Supervisor("top", [child(Shop, script), child(Audit, audit)])
    async with running(top, events=RetryPolicy(jitter=0)) as system:
        yield system


async def test_attempts_are_counted_for_each_handler(script: Script, clock: MockClock) -> None:
    audit, settlement = Script(), Recorder()
    audit.always = OSError()

    async with shop_and_audit(script, audit) as system:
        await system.intake.event(event("shared"), settlement)
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert (script.attempts, audit.attempts) == ([1], [1, 2, 3, 4, 5])
    assert letter.handler == "Audit.on_shared"


async def test_the_dead_letter_of_one_handler_leaves_the_others_run_alone(
    script: Script, clock: MockClock
) -> None:
    audit, settlement = Script(), Recorder()
    script.then, audit.then = [Retry(after=5)], [RpcError("no")]

    async with shop_and_audit(script, audit) as system:
        await system.intake.event(event("shared"), settlement)
        await trio.sleep(60)
        (letter,) = await letters(system)

    assert (len(script.times), len(audit.times), letter.handler) == (2, 1, "Audit.on_shared")
    assert settlement.calls == [("acknowledged", 5)]


async def test_a_message_is_acknowledged_once_when_all_its_handlers_are_done(
    script: Script, clock: MockClock
) -> None:
    audit, settlement = Script(), Recorder()
    script.then, audit.then = [2.0], [5.0]

    async with shop_and_audit(script, audit) as system:
        await system.intake.event(event("shared"), settlement)
        await trio.sleep(60)

    assert settlement.calls == [("acknowledged", 5)]


# -- wildcards ----------------------------------------------------------------------------


class Watcher(Actor[None]):
    """Handles every event under `orders.`; may refuse."""

    def __init__(self, script: Script) -> None:
        self.script = script

    @event_pattern("orders.*")
    async def on_any(self, data: Any, context: MessageContext) -> None:
        self.script.seen.append(context.pattern)
        then = self.script.next() if self.script.then else None
        if isinstance(then, Exception):
            raise then


async def test_a_dead_letter_of_a_wildcard_keeps_the_pattern_that_came_and_replays_to_it(
    script: Script, clock: MockClock
) -> None:
    script.then = [RpcError("no")]

    async with running(Supervisor("top", [child(Watcher, script)])) as system:
        letter = await dead_letter(system, event("orders.created", b"7"))
        after = await replayed(system, letter)

    assert (letter.pattern, letter.handler) == ("orders.created", "Watcher.on_any")
    assert (script.seen, after.status) == (["orders.created"] * 2, "replayed")


# -- durable first ------------------------------------------------------------------------


class SlowStore(MemoryStore):
    """Takes ten seconds to make a letter durable."""

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        await trio.sleep(10)
        await super().put(letter, then=then)


async def test_an_event_is_acknowledged_only_when_its_dead_letter_is_durable(
    script: Script, clock: MockClock
) -> None:
    script.always, settlement = RpcError("no"), Recorder()

    async with shop(script, dead_letters=SlowStore()) as system:
        await system.intake.event(event(), settlement)

    assert settlement.calls == [("acknowledged", 10)]


class Gate(MemoryStore):
    """A store that cannot write until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = trio.Event()

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        await self.opened.wait()
        await super().put(letter, then=then)


async def test_events_wait_while_too_many_dead_letters_cannot_be_stored(
    script: Script, clock: MockClock
) -> None:
    gate, settlement = Gate(), Recorder()

    async with shop(script, dead_letters=gate) as system:
        for _ in range(BACKLOG):
            await system.intake.event(event("nobody"), Recorder())
        with trio.move_on_after(60):
            await system.intake.event(event(), settlement)
        assert script.times == []

        gate.opened.set()
        await system.intake.event(event(), settlement)

    assert (script.times, settlement.names) == ([60], ["acknowledged"])


# -- given back ---------------------------------------------------------------------------


async def test_events_that_wait_when_their_actor_is_stopped_are_given_back(
    script: Script, clock: MockClock
) -> None:
    script.then, first, second = [1.0], Recorder(), Recorder()

    async with shop(script) as system:
        await system.intake.event(event(), first)
        await settled()
        await system.intake.event(event(), second)
        system.kill()
        await trio.sleep_forever()

    assert (first.names, second.names) == (["given back"], ["given back"])


class Shelf(MemoryStore):
    """Shows what it keeps after it is closed, too."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[DeadLetter] = []

    async def put(self, letter: DeadLetter, *, then: Callable[[], object] | None = None) -> None:
        self.kept.append(letter)
        await super().put(letter, then=then)


async def test_what_a_transport_cannot_take_back_is_a_dead_letter(
    script: Script, clock: MockClock
) -> None:
    script.then, settlement, store = [1000.0], Recorder(takes_back=False), Shelf()

    async with shop(script, dead_letters=store) as system:
        await system.intake.event(event(), settlement)
        await settled()
        system.kill()
        await trio.sleep_forever()

    (letter,) = store.kept
    assert letter.reason == "released"
    assert "test cannot take the message back" in letter.error
    assert settlement.names == ["acknowledged"]


async def test_an_event_that_waits_for_its_next_attempt_is_given_back_at_the_end(
    script: Script, clock: MockClock
) -> None:
    script.always, settlement = Retry(after=1000), Recorder()

    async with shop(script) as system:
        await system.intake.event(event(), settlement)
        await settled()

    assert settlement.calls == [("given back", 0)]


async def test_an_event_for_an_actor_that_has_ended_is_given_back(
    script: Script, clock: MockClock
) -> None:
    settlement = Recorder()

    async with shop(script) as system:
        cell = system.registry.find(Shop)
        assert isinstance(cell, Cell)
        cell.close("for good")
        await system.intake.event(event(), settlement)

    assert settlement.names == ["given back"]


async def test_an_event_in_hand_when_its_group_is_killed_waits_for_the_next_life(
    script: Script, clock: MockClock
) -> None:
    script.then, settlement = [1000.0], Recorder()
    top = Supervisor(
        "top", [child(Audit, script), child(Shop, script, shutdown=1)], strategy=one_for_all
    )

    async with running(top) as system:
        await system.intake.event(event(), settlement)
        await settled()
        system.ref(Audit).tell(OSError())
        await trio.sleep(10)

    assert (script.attempts, script.redelivered) == ([1, 1], [False, True])
    assert settlement.names == ["acknowledged"]


async def test_a_sick_actor_holds_no_more_events_than_its_mailbox(
    script: Script, clock: MockClock
) -> None:
    script.always, settlement = OSError(), Recorder()

    async with shop(script, child={"mailbox": 2, "sick_after": 1}) as system:
        for number in range(8):
            await system.intake.event(event(message_id=f"m-{number}"), settlement)
            await settled()
        cell = system.registry.find(Shop)
        assert isinstance(cell, Cell)
        assert len(cell.sickness.held) <= 2
        script.always = None
        await trio.sleep(200)

        assert system.healthy
        assert len(settlement.calls) == 8


# -- replay -------------------------------------------------------------------------------


async def dead_letter(system: System, inbound: Inbound) -> DeadLetter:
    await system.intake.event(inbound, Recorder())
    (letter,) = await letters(system)
    return letter


async def replayed(system: System, letter: DeadLetter) -> DeadLetter:
    assert await system.office.replay(letter.id) == 1
    await settled()
    after = await system.office.store.get(letter.id)
    assert after is not None
    return after


async def test_a_replay_goes_to_the_same_handler_with_the_same_identity(
    script: Script, clock: MockClock
) -> None:
    script.then = [RpcError("not today")]

    async with shop(script) as system:
        letter = await dead_letter(system, event())
        after = await replayed(system, letter)

    assert (script.ids, script.redelivered) == (["m-1", "m-1"], [False, True])
    assert script.attempts == [1, 1]
    assert (after.status, after.note, after.replays) == ("replayed", "handled", 1)


async def test_a_replay_that_fails_is_dead_again_with_a_note(
    script: Script, clock: MockClock
) -> None:
    script.always = RpcError("not today")

    async with shop(script) as system:
        letter = await dead_letter(system, event())
        after = await replayed(system, letter)
        assert len(await letters(system)) == 1

    assert (after.status, after.note) == ("dead", "rejected after 1 attempts: RpcError: not today")


async def test_a_replay_whose_pattern_nobody_handles_is_dead_again_with_a_note(
    script: Script, clock: MockClock
) -> None:
    async with shop(script) as system:
        letter = await dead_letter(system, event("nobody"))
        after = await replayed(system, letter)

    assert after.status == "dead"
    assert after.note == "it cannot be replayed: nobody handles 'nobody' now"


async def test_a_replay_with_several_handlers_runs_the_one_that_failed(
    script: Script, clock: MockClock
) -> None:
    audit = Script()
    audit.then = [RpcError("no")]

    async with shop_and_audit(script, audit) as system:
        letter = await dead_letter(system, event("shared"))
        after = await replayed(system, letter)

    assert (len(script.times), len(audit.times), after.status) == (1, 2, "replayed")


async def test_a_told_message_that_cannot_be_written_is_kept_without_its_payload(
    script: Script, clock: MockClock
) -> None:
    async with shop_and_audit(script, Script()) as system:
        system.ref(Audit).tell(OSError("a bug"))
        await settled()
        (letter,) = await letters(system)
        assert await system.office.replay(letter.id) == 0

    assert (letter.kind, letter.pattern, letter.body) == ("tell", "OSError", None)
    assert (letter.reason, letter.attempts, letter.error) == ("crashed", 1, "OSError: a bug")


async def test_a_message_for_an_actor_that_is_gone_is_told_and_is_no_letter(
    script: Script, clock: MockClock
) -> None:
    async with shop(script) as system:
        seen, shop_ref = watched(system), system.ref(Shop)
        await system.stop_child("top/shop")
        shop_ref.tell(Order(7))
        assert await letters(system) == []

    assert [notice.message for notice in seen if isinstance(notice, Undelivered)] == ["Order"]


async def test_a_told_message_is_replayed_typed_through_receive(
    script: Script, clock: MockClock
) -> None:
    script.then = [RpcError("not today")]

    async with shop(script) as system:
        system.ref(Shop).tell(Order(7))
        await settled()
        (letter,) = await letters(system)
        after = await replayed(system, letter)

    assert (letter.kind, letter.pattern, letter.body) == ("tell", "Order", b'{"id":7}')
    assert script.seen == ["Order(id=7)", "Order(id=7)"]
    assert after.status == "replayed"


async def test_a_told_message_is_not_replayed_to_another_actor_of_its_pattern(
    script: Script, clock: MockClock
) -> None:
    script.then = [RpcError("not today")]
    audit = Script()

    async with shop_and_audit(script, audit) as system:
        system.ref(Shop).tell(Shop.on_shared, 1)
        await settled()
        (letter,) = await letters(system)
        await system.stop_child("top/shop")
        after = await replayed(system, letter)

    assert (audit.times, after.note) == ([], "it cannot be replayed: nobody handles 'shared' now")
