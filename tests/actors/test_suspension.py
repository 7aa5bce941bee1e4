"""Actors that are held still or looked at while they run."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.envelope import Envelope
from understudy.actors.errors import ActorCrashed, ActorStopped, AskTimeout, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.strategy import one_for_all
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated


class Worker(Actor):
    """Writes down what it handles."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    @message_pattern("work")
    async def work(self, seconds: float) -> str:
        self.log.append(seconds)
        await trio.sleep(seconds)
        return "done"

    @event_pattern("happened")
    async def happened(self, seconds: float) -> None:
        await self.work(seconds)

    @message_pattern("fail")
    async def fail(self, kind: str) -> None:
        if kind == "answer":
            raise RpcError("no")
        raise ZeroDivisionError

    async def stopping(self) -> None:
        self.log.append("stopping")


class Recorder:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def received(self, envelope: Envelope) -> None:
        self.events.append(("received", envelope.message))

    def handled(self, envelope: Envelope, error: BaseException | None) -> None:
        self.events.append(("handled", envelope.message, type(error)))


@pytest.fixture
def log() -> list[Any]:
    return []


# -- suspended


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_suspended_actor_handles_nothing_until_it_is_resumed(
    concurrency: int, log: list[Any], clock: MockClock
) -> None:
    async with isolated(Worker, log, concurrency=concurrency) as worker:
        worker._cell.suspend()
        for seconds in (1, 2, 3):
            worker.tell("happened", seconds)
        await trio.sleep(100)
        assert log == []
        worker._cell.resume()
        assert await worker.ask("work", 0, timeout=50) == "done"
        assert log[:3] == [1, 2, 3]


async def test_the_message_in_hand_is_handled_to_its_end(log: list[Any], clock: MockClock) -> None:
    async with isolated(Worker, log) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(worker.ask, "work", 3)
        await wait_all_tasks_blocked()
        worker._cell.suspend()
        worker.tell("happened", 0)
        await trio.sleep(100)
        assert log == [3]
        worker._cell.resume()


async def test_asks_of_a_suspended_actor_time_out(log: list[Any], clock: MockClock) -> None:
    async with isolated(Worker, log) as worker:
        worker._cell.suspend()
        with pytest.raises(AskTimeout):
            await worker.ask("work", 1)
        worker._cell.resume()
        await worker.ask("work", 0)
        assert log == [0]


async def test_a_stop_ends_a_suspended_actor_without_handling_what_waits(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Worker, log) as worker:
        worker._cell.suspend()
        event = await worker.event("happened", 1)

    assert event.outcome == "given back"
    assert log == ["stopping"]
    assert trio.current_time() == 0


async def test_suspension_outlasts_a_crash_in_hand(log: list[Any], clock: MockClock) -> None:
    async with isolated(Worker, log) as worker:
        worker._cell.suspend()
        await wait_all_tasks_blocked()
        worker.tell("happened", 1)
        worker._cell.fail(OSError("from below"))
        worker._cell.resume()
        worker._cell.suspend()
        await trio.sleep(100)
        worker._cell.resume()
        await worker.ask("work", 0)
        assert log == [1, 0]


async def test_suspension_outlasts_a_restart_with_siblings(
    log: list[Any], clock: MockClock
) -> None:
    class Fragile(Actor):
        @event_pattern("break")
        async def break_down(self, _: None) -> None:
            raise ZeroDivisionError

    fragile = child(Fragile)
    async with running(Supervisor("t", [child(Worker, log), fragile], strategy=one_for_all)) as s:
        s.registry.find("t/worker").suspend()
        s.ref("fragile").tell("break", None)
        await trio.sleep(1)
        s.ref("worker").tell("happened", 1)
        await trio.sleep(10)
        assert log == ["stopping"]
        s.registry.find("t/worker").resume()
        await trio.sleep(1)
        assert log == ["stopping", 1]


async def test_suspending_before_the_first_message_and_twice_and_resuming_twice(
    log: list[Any], clock: MockClock
) -> None:
    async with isolated(Worker, log) as worker:
        for _ in range(2):
            worker._cell.suspend()
        worker.tell("happened", 0)
        await trio.sleep(1)
        assert log == []
        for _ in range(2):
            worker._cell.resume()
        await trio.sleep(1)
        assert log == [0]


async def test_a_full_mailbox_stays_full_while_suspended(log: list[Any], clock: MockClock) -> None:
    async with isolated(Worker, log, mailbox=2) as worker, trio.open_nursery() as nursery:
        worker._cell.suspend()
        worker.tell("happened", 0)
        worker.tell("happened", 0)
        nursery.start_soon(worker.tell_wait, "happened", 0)
        await trio.sleep(10)
        assert worker._mailbox.statistics().senders_waiting == 1
        worker._cell.resume()


# -- traced


async def test_a_tracer_is_told_of_every_message_and_how_it_ended(
    log: list[Any], clock: MockClock
) -> None:
    tracer = Recorder()
    async with isolated(Worker, log) as worker:
        worker._cell.trace(tracer)
        await worker.ask("work", 1)
        with pytest.raises(RpcError):
            await worker.ask("fail", "answer")
        with pytest.raises(ActorCrashed):
            await worker.ask("fail", "crash")
        await worker.ask("work", 2)  # the next life is traced as well

    assert tracer.events == [
        *[("received", 1), ("handled", 1, type(None))],
        *[("received", "answer"), ("handled", "answer", RpcError)],
        *[("received", "crash"), ("handled", "crash", ZeroDivisionError)],
        *[("received", 2), ("handled", 2, type(None))],
    ]


async def test_a_trace_begins_and_ends_between_two_messages(
    log: list[Any], clock: MockClock
) -> None:
    tracer = Recorder()
    async with isolated(Worker, log) as worker:
        for traced in (None, tracer, None):
            worker._cell.trace(traced)
            await worker.ask("work", 0)

    assert tracer.events == [("received", 0), ("handled", 0, type(None))]


async def test_a_message_that_waits_for_its_key_is_received_when_its_turn_comes(
    log: list[Any], clock: MockClock
) -> None:
    tracer = Recorder()
    async with isolated(Worker, log, concurrency=2, key=lambda seconds: "same") as worker:
        worker._cell.trace(tracer)
        worker.tell("happened", 1)
        worker.tell("happened", 2)

    kinds = [event[:2] for event in tracer.events]
    assert kinds == [("received", 1), ("handled", 1), ("received", 2), ("handled", 2)]


async def test_a_signal_is_traced_as_a_message(log: list[Any], clock: MockClock) -> None:
    tracer = Recorder()

    class Watcher(Actor[Terminated | str]):
        async def started(self) -> None:
            self.watch(self.lookup("short"))

        def receive(self, message: Terminated | str) -> None: ...

    class Short(Actor[str]):
        def receive(self, message: str) -> None:
            self.stop()

    tree = Supervisor("t", [child(Short, restart="temporary"), child(Watcher)])
    async with running(tree) as system:
        system.registry.find("t/watcher").trace(tracer)
        system.ref("short").tell("go")
        await trio.sleep(1)

    assert [type(event[1]) for event in tracer.events] == [Terminated, Terminated]


async def test_a_suspended_and_killed_actor_releases_its_mail(
    log: list[Any], clock: MockClock
) -> None:
    failures: list[BaseException] = []

    async def ask(worker: Isolated[Worker]) -> None:
        try:
            await worker.ask("work", 1, timeout=100)
        except ActorStopped as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        async with isolated(Worker, log, shutdown=0) as worker:
            worker._cell.suspend()
            nursery.start_soon(ask, worker)
            await wait_all_tasks_blocked()

    assert len(failures) == 1
    assert log == []
