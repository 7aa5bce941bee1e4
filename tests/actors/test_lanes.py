"""Where messages are handled: side by side, through crashes, stops and kills."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.behavior import Behavior
from understudy.actors.envelope import Envelope
from understudy.actors.errors import ActorCrashed, ActorStopped, Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import DeadLettered, Undelivered
from understudy.testing import Isolated, isolated
from understudy.testing.outside import OutsideRequest


class Kitchen(Actor):
    """Cooks for as long as it is told to, and remembers how many pots are on."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.pots = 0

    @message_pattern("cook")
    async def cook(self, seconds: float) -> float:
        self.pots += 1
        self.log.append(("pots", self.pots))
        try:
            await trio.sleep(seconds)
        finally:
            self.pots -= 1
        self.log.append(("done", seconds))
        return seconds

    @message_pattern("cook shielded")
    async def cook_shielded(self, seconds: float) -> float:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return seconds

    @message_pattern("burn")
    async def burn(self, seconds: float) -> None:
        await trio.sleep(seconds)
        raise ZeroDivisionError("burnt")

    @event_pattern("ordered")
    async def on_ordered(self, seconds: float) -> None:
        self.log.append(("attempt", self.incarnation))
        await trio.sleep(seconds)

    async def stopping(self) -> None:
        self.log.append("stopping")


@pytest.fixture
def log() -> list[Any]:
    return []


# -- side by side


async def test_one_message_at_a_time_unless_told_otherwise(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log) as kitchen:
        for _ in range(3):
            kitchen.tell("cook", 1)

    assert trio.current_time() == 3
    assert {entry for entry in log if entry[0] == "pots"} == {("pots", 1)}


@pytest.mark.parametrize("concurrency", [2, 3, 8])
async def test_messages_interleave_up_to_the_concurrency_and_never_above(
    concurrency: int, log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, concurrency=concurrency, shutdown=100) as kitchen:
        for _ in range(24):
            kitchen.tell("cook", 1)

    assert trio.current_time() == 24 / concurrency
    assert max(entry[1] for entry in log if entry[0] == "pots") == concurrency


async def test_a_message_that_comes_later_does_not_wait_for_a_busy_lane(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, concurrency=3, shutdown=100) as kitchen:
        kitchen.tell("cook", 9)
        await trio.sleep(1)
        assert await kitchen.ask("cook", 1) == 1
        assert trio.current_time() == 2
        kitchen.tell("cook", 9)
        assert await kitchen.ask("cook", 1) == 1
        assert trio.current_time() == 3


# -- a crash beside others


async def test_the_others_in_hand_may_finish_within_crash_grace(
    log: list[Any], clock: MockClock
) -> None:
    answers: list[Any] = []

    async def ask(kitchen: Isolated[Kitchen], pattern: str, seconds: float) -> None:
        try:
            answers.append(await kitchen.ask(pattern, seconds))
        except (ActorCrashed, ActorStopped) as error:
            answers.append((type(error), trio.current_time()))

    async with isolated(Kitchen, log, concurrency=3, crash_grace=2) as kitchen:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, kitchen, "burn", 1.0)
            nursery.start_soon(ask, kitchen, "cook", 2.5)
            nursery.start_soon(ask, kitchen, "cook", 100.0)

    assert answers == [(ActorCrashed, 1.0), 2.5, (ActorStopped, 3.0)]


async def test_mail_waits_for_the_next_incarnation_while_others_finish(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, concurrency=2, crash_grace=5) as kitchen:
        kitchen.tell("cook", 4)
        kitchen.tell("burn", 1)
        await trio.sleep(2)
        assert await kitchen.ask("cook", 1, timeout=60) == 1

        assert (trio.current_time(), kitchen.incarnation) == (5, 2)


async def test_an_event_that_is_cancelled_with_a_crash_goes_back_uncounted(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, concurrency=2, crash_grace=1) as kitchen:
        delivery = await kitchen.event("ordered", 3)
        kitchen.tell("burn", 1)
        assert await delivery.settled() == "acknowledged"

        assert log == [("attempt", 1), ("attempt", 2)]
        assert trio.current_time() == 2 + 3
        (letter,) = await kitchen.dead_letters()
        assert letter.pattern == "burn"


async def test_a_stop_during_crash_grace_takes_no_more_mail_into_the_crashed_life(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, concurrency=2, crash_grace=5) as kitchen:
        kitchen.tell("cook", 4)
        kitchen.tell("burn", 1)
        await trio.sleep(2)
        kitchen.tell("cook", 0.5)

    assert ("done", 0.5) not in log
    assert [notice.message for notice in kitchen.lifecycle.of(Undelivered)] == ["float"]


async def test_a_second_crash_in_the_grace_is_one_restart(log: list[Any], clock: MockClock) -> None:
    async with isolated(Kitchen, log, concurrency=3, max_restarts=1) as kitchen:
        for seconds in (1, 1.1, 1.2):
            kitchen.tell("burn", seconds)
        await trio.sleep(5)

        assert kitchen.incarnation == 2
        assert len(await kitchen.dead_letters()) == 3


# -- what is no crash


class Grouped(Actor):
    """Raises what a nursery makes of an error."""

    on_error = {ConnectionError: "retry"}

    @message_pattern("raise")
    async def fail(self, errors: list[str]) -> None:
        table = {"rpc": RpcError("no"), "value": ValueError("bad"), "away": ConnectionError("away")}
        raise ExceptionGroup("of a nursery", [table[name] for name in errors])

    @message_pattern("alone")
    async def alone(self, data: Any) -> None:
        raise ConnectionResetError("the database went away")


async def test_a_group_of_one_answer_is_an_answer(clock: MockClock) -> None:
    async with isolated(Grouped) as grouped:
        with pytest.raises(RpcError, match="no"):
            await grouped.ask("raise", ["rpc"])

        assert grouped.incarnation == 1


async def test_a_group_with_more_than_an_answer_is_a_crash_reported_whole(clock: MockClock) -> None:
    async with isolated(Grouped) as grouped:
        with pytest.raises(ActorCrashed) as caught:
            await grouped.ask("raise", ["rpc", "value"])

    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 2


@pytest.mark.parametrize("pattern", ["alone", "raise"], ids=["alone", "in a group"])
async def test_a_declared_infrastructure_error_asks_for_a_retry(
    pattern: str, clock: MockClock
) -> None:
    async with isolated(Grouped) as grouped:
        with pytest.raises(Retry, match=r"Connection\w*Error: .*away") as caught:
            await grouped.ask(pattern, ["away"])

        assert isinstance(caught.value.__cause__, ConnectionError)
        assert grouped.incarnation == 1


async def test_an_infrastructure_error_in_a_request_from_outside_shows_no_detail(
    clock: MockClock,
) -> None:
    async with isolated(Grouped) as grouped:
        with pytest.raises(RpcError, match=r"^Internal server error$"):
            await grouped.request("alone", 1)


async def test_a_payload_that_does_not_fit_never_reaches_the_actor(clock: MockClock) -> None:
    async with isolated(Grouped) as grouped:
        with pytest.raises(RpcError, match="the payload does not fit"):
            await grouped.request("raise", "no list")
        delivery = await grouped.event("raise", b"{no json")
        assert await delivery.settled() == "acknowledged"

        assert [letter.reason for letter in await grouped.dead_letters()] == ["does not fit"]
        assert grouped.lifecycle.kinds() == ["started"]


# -- stop and kill


async def test_a_stop_lets_the_message_in_hand_finish_and_drains_the_rest(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log) as kitchen:
        kitchen.tell("cook", 1)
        kitchen.tell("cook", 2)
        await wait_all_tasks_blocked()

    assert [entry for entry in log if entry[0] != "pots"] == [("done", 1), ("done", 2), "stopping"]
    assert kitchen.lifecycle.kinds() == ["started", "stopping", "stopped"]


async def test_a_stop_that_takes_too_long_cancels_what_is_in_hand(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log, shutdown=3) as kitchen:
        delivery = await kitchen.event("ordered", 100)
        kitchen.tell("cook", 1)
        await wait_all_tasks_blocked()

    assert trio.current_time() == 3
    assert log == [("attempt", 1)]
    assert delivery.outcome == "given back"


async def test_an_event_that_crashes_while_stopping_goes_back_or_is_kept(
    clock: MockClock,
) -> None:
    class Fragile(Actor):
        @event_pattern("ordered")
        async def on_ordered(self, data: Any) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

    async with isolated(Fragile) as fragile:
        delivery = await fragile.event("ordered", 1)
        await wait_all_tasks_blocked()

    assert delivery.outcome == "given back"


async def test_a_kill_cancels_at_once(log: list[Any], clock: MockClock) -> None:
    async with isolated(Kitchen, log, shutdown=0) as kitchen:
        kitchen.tell("cook", 100)
        await wait_all_tasks_blocked()

    assert trio.current_time() == 0
    assert log == [("pots", 1)]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_answer_of_a_fenced_leftover_is_refused(
    concurrency: int, log: list[Any], clock: MockClock
) -> None:
    asked: list[Any] = []

    async def ask(kitchen: Isolated[Kitchen]) -> None:
        try:
            asked.append(await kitchen.ask("cook shielded", 100, timeout=1000))
        except ActorStopped as error:
            asked.append((trio.current_time(), error.why))

    async with isolated(Kitchen, log, shutdown=1, concurrency=concurrency) as kitchen:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, kitchen)
            await wait_all_tasks_blocked()
            await kitchen.system.stop_child(kitchen.path)

    assert asked == [(6, "the actor was ended while it handled this")]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_ctrl_c_in_a_handler_ends_the_tree_and_comes_out(
    concurrency: int, clock: MockClock
) -> None:
    class Impatient(Actor):
        @message_pattern("press")
        async def press(self, data: Any) -> None:
            raise KeyboardInterrupt

    async def run() -> None:
        async with isolated(Impatient, concurrency=concurrency) as impatient:
            impatient.tell("press", None)
            await trio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        await run()


# -- what becomes of a message


async def test_a_told_message_that_is_refused_is_a_dead_letter_and_no_crash(
    clock: MockClock,
) -> None:
    class Strict(Actor):
        @event_pattern("order")
        async def order(self, data: dict[str, int]) -> None:
            raise RpcError("not today")

    method = Behavior.of(Strict).events["order"][0]
    async with isolated(Strict) as strict:
        strict.tell("order", {"id": 7})
        await strict.lifecycle.expect(DeadLettered)
        (letter,) = await strict.dead_letters()

    assert (letter.kind, letter.reason, letter.pattern) == ("tell", "rejected", "order")
    assert (letter.body, letter.attempts, letter.transport) == (b'{"id":7}', 1, "local")
    assert (letter.actor, letter.handler) == ("isolated/strict", method.name)
    assert letter.error == "RpcError: not today"


async def test_a_told_message_that_crashes_has_one_attempt(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Kitchen, log) as kitchen:
        kitchen.tell("burn", 1)
        await trio.sleep(10)
        (letter,) = await kitchen.dead_letters()

    assert (letter.reason, letter.attempts) == ("crashed", 1)
    assert "ZeroDivisionError: burnt" in letter.traceback


async def test_a_told_message_that_is_put_off_for_too_long_is_a_dead_letter(
    clock: MockClock,
) -> None:
    runs: list[float] = []

    class Never(Actor):
        @event_pattern("order")
        async def order(self, data: Any) -> None:
            runs.append(trio.current_time())
            raise Retry("busy", after=10)

    async with isolated(Never, max_age=25) as never:
        never.tell("order", 1)
        await never.lifecycle.expect(DeadLettered, within=100)
        (letter,) = await never.dead_letters()

    assert runs == [0, 10, 20]
    assert (letter.reason, letter.attempts) == ("expired", 3)


async def test_an_event_that_always_crashes_is_run_five_times_then_dead(
    clock: MockClock,
) -> None:
    runs: list[float] = []

    class Hopeless(Actor):
        @event_pattern("order")
        async def order(self, data: Any) -> None:
            runs.append(trio.current_time())
            raise ZeroDivisionError

    async with isolated(Hopeless) as hopeless:
        delivery = await hopeless.event("order", 1, message_id="m-1")
        assert await delivery.settled() == "acknowledged"
        (letter,) = await hopeless.dead_letters()

    assert (letter.kind, letter.reason, letter.attempts) == ("event", "crashed", 5)
    assert letter.message_id == "m-1"
    waits = [later - earlier for earlier, later in pairwise(runs)]
    assert [round(wait, 1) for wait in waits] == pytest.approx([0, 0.1, 1, 10], rel=0.2)


async def test_a_rejected_event_is_a_dead_letter_at_once(clock: MockClock) -> None:
    async with isolated(Grouped) as grouped:
        delivery = await grouped.event("raise", ["rpc"])
        assert await delivery.settled() == "acknowledged"

        assert [letter.reason for letter in await grouped.dead_letters()] == ["rejected"]
        assert (grouped.incarnation, trio.current_time()) == (1, 0)


# -- streams, seen from their receipt


@attrs.define(eq=False)
class Recording(OutsideRequest):
    """A receipt that remembers what it was told."""

    told: list[Any] = attrs.field(factory=list)

    def item(self, value: Any, *, last: bool) -> None:
        self.told.append((value, last, trio.current_time()))
        if last:
            self.open = False

    def succeeded(self, value: Any) -> None:
        if self.open:
            self.told.append("succeeded")

    def failed(self, error: Exception) -> None:
        self.told.append(f"failed: {error}")

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        self.told.append(f"crashed: {error!r}")


class Streams(Actor):
    """Generators that wait, or do not, in different places."""

    @message_pattern("at once")
    async def at_once(self, data: Any) -> AsyncIterator[int]:
        yield 1
        yield 2

    @message_pattern("waits between")
    async def waits_between(self, data: Any) -> AsyncIterator[int]:
        yield 1
        await trio.sleep(1)
        yield 2

    @message_pattern("waits at the end")
    async def waits_at_the_end(self, data: Any) -> AsyncIterator[int]:
        yield 1
        await trio.sleep(1)

    @message_pattern("empty")
    async def empty(self, data: Any) -> AsyncIterator[int]:
        await trio.lowlevel.checkpoint()
        if data == "never":
            yield 1

    @message_pattern("refuses")
    async def refuses(self, data: Any) -> AsyncIterator[int]:
        yield 1
        raise RpcError("no more")

    @message_pattern("crashes")
    async def crashes(self, data: Any) -> AsyncIterator[int]:
        yield 1
        await trio.sleep(1)
        raise ZeroDivisionError("broken")

    @message_pattern("catches a timeout")
    async def catches(self, data: Any) -> AsyncIterator[int]:
        yield 1
        with trio.move_on_after(1):
            await trio.sleep_forever()
        yield 2


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("at once", [(1, False, 0), (2, True, 0)]),
        ("waits between", [(1, False, 0), (2, True, 1)]),
        ("waits at the end", [(1, False, 0), "succeeded"]),
        ("empty", ["succeeded"]),
        ("refuses", [(1, False, 0), "failed: no more"]),
        ("crashes", [(1, False, 0), "crashed: ZeroDivisionError('broken')"]),
        ("catches a timeout", [(1, False, 0), (2, True, 1)]),
    ],
)
async def test_the_last_item_is_marked_where_nothing_is_awaited_after_it(
    pattern: str, told: list[Any], clock: MockClock
) -> None:
    receipt = Recording(pattern, "m-1")
    async with isolated(Streams) as streams:
        cell = streams.system.registry.find(Streams)
        handler = cell.behavior.requests[pattern]
        await cell.mailbox.put_wait(Envelope(None, handler, receipt, receipt))
        await trio.sleep(5)

    assert receipt.told == told


async def test_a_told_stream_runs_to_its_end_for_nobody(clock: MockClock) -> None:
    async with isolated(Streams) as streams:
        streams.tell("waits between", None)
        await trio.sleep(0.5)
        assert await streams.request("empty") == []

        assert trio.current_time() == 1
