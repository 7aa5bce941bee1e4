"""Looking into a running actor, and holding it between two messages."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor, Request
from understudy.actors.cell import Cell
from understudy.actors.errors import UnderstudyError
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.debug import Debug, shown
from understudy.supervisors.system import System, running


class Get(Request[int]):
    pass


class Counter(Actor[int | str | Get]):
    def __init__(self) -> None:
        self.total = 0
        self.api_key = "abc123"
        self.seen: list[int] = []

    async def receive(self, message: int | str | Get) -> int:
        if message == "wait":
            await trio.sleep(5)
        elif message == "crash":
            await trio.sleep(1)
            raise ValueError("boom")
        elif isinstance(message, int):
            self.total += message
            self.seen.append(message)
        return self.total

    @event_pattern("counter.add")
    def add(self, amount: int) -> None:
        self.total += amount


def _tree() -> Supervisor:
    return Supervisor("shop", [child(Counter)])


def _debug(system: System, name: str = "counter") -> Debug:
    return Debug(system.root.children[name])


def _cell(system: System) -> Cell:
    runnable = system.root.children["counter"].runnable
    assert isinstance(runnable, Cell)
    return runnable


# -- status and state -----------------------------------------------------------------


async def test_the_status_says_what_is_in_hand_and_what_waits(clock: MockClock) -> None:
    async with running(_tree()) as system:
        counter, debug = system.ref(Counter), _debug(system)
        for message in ("wait", 1, 2):
            counter.tell(message)
        await trio.sleep(1)

        status = debug.status()

    assert (status.path, status.actor, status.state) == ("shop/counter", "Counter", "running")
    assert (status.incarnation, status.suspended, status.sick) == (1, False, False)
    assert status.mailbox.waiting == 2
    assert [(one.message, one.pattern, one.waits_for) for one in status.in_hand] == [
        ("str", None, None)
    ]


async def test_an_idle_actor_has_nothing_in_hand(clock: MockClock) -> None:
    async with running(_tree()) as system:
        system.ref(Counter).tell(1)
        await trio.sleep(1)

        status = _debug(system).status()

    assert status.in_hand == ()
    assert (status.timers, status.watches, status.links, status.children) == (0, (), (), ())


async def test_the_status_names_what_it_watches_and_whom_it_has_asked(clock: MockClock) -> None:
    class Asker(Actor[str]):
        async def receive(self, message: str) -> None:
            counter = system.ref(Counter)
            self.watch(counter)
            self.after(60, "later")
            await counter.ask(Get(), timeout=30)

    async with running(Supervisor("shop", [child(Counter), child(Asker)])) as system:
        system.ref(Counter).tell("wait")
        system.ref(Asker).tell("go")
        await trio.sleep(1)

        status = _debug(system, "asker").status()

    assert status.watches == ("shop/counter",)
    assert status.timers == 1
    assert [one.waits_for for one in status.in_hand] == ["shop/counter"]


async def test_the_state_is_what_the_instance_holds_without_its_secrets(clock: MockClock) -> None:
    async with running(_tree()) as system:
        system.ref(Counter).tell(3)
        await trio.sleep(1)

        assert _debug(system).state() == {"total": "3", "api_key": "***", "seen": "[3]"}


@attrs.define
class _Login:
    user: str
    password: str


class _Broken:
    def __repr__(self) -> str:
        raise ValueError("secret")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"password": "x", "in": {"api_key": [1, 2]}}, "{'password': ***, 'in': {'api_key': ***}}"),
        (_Login("me", "p, q)"), "_Login(user='me', password=***)"),
        ([_Login("me", 'x"')], "[_Login(user='me', password=***)]"),
        ('{"token": "abc", "left": 1}', """'{"token": ***, "left": 1}'"""),
        ("nats://me:secret@host", "'nats://***@host'"),
        (b"secret", "<6 bytes>"),
        (_Broken(), "<_Broken, its repr raised ValueError>"),
        ("x" * 1000, "'" + "x" * 116 + "..."),
        (f"{'x' * 490} token=abcdefghijklmn", "'" + "x" * 116 + "..."),
    ],
    ids=["mapping", "record", "nested", "json", "url", "bytes", "broken", "long", "cut"],
)
def test_a_value_is_shown_short_and_without_secrets(value: Any, expected: str) -> None:
    assert shown("value", value) == expected


# -- suspended ------------------------------------------------------------------------


async def test_a_suspended_actor_handles_nothing_until_it_is_resumed(clock: MockClock) -> None:
    async with running(_tree()) as system:
        counter, debug = system.ref(Counter), _debug(system)
        debug.suspend()
        counter.tell(1)
        await trio.sleep(1)

        assert debug.state()["total"] == "0"
        assert debug.status().suspended
        assert debug.status().mailbox.waiting == 1

        debug.resume()
        assert await counter.ask(Get()) == 1


async def test_a_stop_ends_a_suspended_actor_without_handling_more(clock: MockClock) -> None:
    handled: list[str] = []

    class Noting(Actor[str]):
        def receive(self, message: str) -> None:
            handled.append(message)

    async with running(Supervisor("shop", [child(Noting)])) as system:
        _debug(system, "noting").suspend()
        system.ref(Noting).tell("late")

    assert trio.current_time() < 1
    assert handled == []


async def test_a_suspended_actor_stays_so_across_a_restart(clock: MockClock) -> None:
    async with running(_tree()) as system:
        counter, debug = system.ref(Counter), _debug(system)
        counter.tell("crash")
        counter.tell(1)
        await wait_all_tasks_blocked()
        debug.suspend()
        await trio.sleep(60)

        assert debug.status().incarnation == 2
        assert debug.state()["total"] == "0"


async def test_only_actors_can_be_looked_into(clock: MockClock) -> None:
    async with running(Supervisor("shop", [Supervisor("inner")])) as system:
        with pytest.raises(LookupError, match="shop/inner is no actor but a Supervisor"):
            _debug(system, "inner")


# -- traces ---------------------------------------------------------------------------


async def test_a_trace_tells_of_messages_their_ends_and_times(clock: MockClock) -> None:
    async with running(_tree()) as system:
        counter = system.ref(Counter)
        with _debug(system).trace() as trace:
            counter.tell("wait")
            counter.tell(Counter.add, 2)
            counter.tell("crash")
            await trio.sleep(60)
        records = [record async for record in trace]

    assert [(one.kind, one.message, one.pattern, one.seconds, one.error) for one in records] == [
        ("received", "str", None, None, None),
        ("handled", "str", None, 5.0, None),
        ("received", "int", "counter.add", None, None),
        ("handled", "int", "counter.add", 0.0, None),
        ("received", "str", None, None, None),
        ("failed", "str", None, 1.0, "ValueError"),
    ]


async def test_a_trace_counts_what_was_handled_and_for_how_long(clock: MockClock) -> None:
    async with running(_tree()) as system:
        counter = system.ref(Counter)
        counter.tell(1)
        await trio.sleep(1)
        with _debug(system).trace() as trace:
            for message in ("wait", 1, "wait", "crash"):
                counter.tell(message)
            await trio.sleep(60)

    statistics = trace.statistics()
    assert (statistics.received, statistics.handled, statistics.failed) == (4, 3, 1)
    assert (statistics.busy, statistics.longest) == (11.0, 5.0)


async def test_a_slow_reader_of_a_trace_loses_the_oldest_and_is_told(clock: MockClock) -> None:
    async with running(_tree()) as system:
        with _debug(system).trace(buffer=2) as trace:
            for number in range(5):
                system.ref(Counter).tell(number)
            await trio.sleep(1)

    assert trace.statistics().dropped == 8
    assert [record.kind async for record in trace] == ["received", "handled"]


async def test_reading_a_trace_waits_for_the_next_record(clock: MockClock) -> None:
    async with running(_tree()) as system, trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(3)
            system.ref(Counter).tell(1)

        with _debug(system).trace() as trace:
            nursery.start_soon(later)
            record = await anext(trace)

    assert (record.kind, trio.current_time()) == ("received", 3.0)


async def test_a_message_that_outlives_the_trace_is_not_told_of(clock: MockClock) -> None:
    async with running(_tree()) as system:
        with _debug(system).trace() as trace:
            system.ref(Counter).tell("wait")
            await trio.sleep(1)
        await trio.sleep(60)

    assert [record.kind async for record in trace] == ["received"]


async def test_a_second_trace_of_one_actor_is_refused(clock: MockClock) -> None:
    async with running(_tree()) as system:
        with _debug(system).trace():
            with pytest.raises(UnderstudyError, match="shop/counter is traced already"):
                _debug(system).trace().__enter__()


async def test_after_a_trace_the_actor_has_no_tracer(clock: MockClock) -> None:
    async with running(_tree()) as system:
        with _debug(system).trace():
            assert _cell(system).tracer is not None

        assert _cell(system).tracer is None
