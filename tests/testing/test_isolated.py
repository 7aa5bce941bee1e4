"""One actor alone: how it runs, what it is sent, and what comes out."""

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    ActorStopped,
    NoHandler,
    PayloadError,
    RequestTimeout,
    Retry,
    RpcError,
)
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Crashed, Restarting, Started
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import Delivery, Isolated, Lifecycle, isolated


class Echo(Actor):
    """Does what it is asked to."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    @message_pattern("echo")
    async def echo(self, data: Any) -> Any:
        return data

    @message_pattern("greet")
    async def greet(self) -> str:
        return self.greeting

    @message_pattern("count")
    async def count(self, number: int) -> Any:
        for item in range(number):
            yield item

    @message_pattern("wait")
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @message_pattern("fail")
    async def fail(self, kind: str) -> None:
        raise {"rpc": RpcError("no"), "retry": Retry("later"), "value": ValueError("x")}[kind]

    @message_pattern("thread", thread=True)
    def thread(self) -> int:
        return threading.get_ident()

    @event_pattern("noted")
    async def on_noted(self, data: Any) -> None:
        if data == "wait":
            await trio.sleep(100)


async def test_arguments_and_options_reach_the_actor(clock: MockClock) -> None:
    async with isolated(Echo, "hi", name="parrot", mailbox=7) as echo:
        assert await echo.ask("greet", None) == "hi"
        assert echo.path == "isolated/parrot"
        assert echo.system.registry.find(Echo).mailbox.capacity == 7


async def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="concurency"):
        async with isolated(Echo, concurency=2):
            pytest.fail("the block must not run")


async def test_threads_run_in_place(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        assert await echo.ask("thread", None) == threading.get_ident()


async def test_the_same_seed_gives_the_same_delays(clock: MockClock) -> None:
    async def delays() -> list[float]:
        async with isolated(Echo, max_restarts=9) as echo:
            for _ in range(4):
                await echo.crash()
            return [notice.delay for notice in echo.lifecycle.of(Restarting)]

    first = await delays()
    assert first == await delays()
    assert first[0] == 0 < 0.1 < first[1] < first[2] < first[3]


@pytest.mark.parametrize("error", [ValueError("mine"), trio.TooSlowError()])
async def test_an_error_in_the_block_comes_out_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with isolated(Echo):
            raise error
    assert caught.value is error


async def test_a_failure_of_pytest_s_own_comes_out_as_it_is() -> None:
    with pytest.raises(pytest.fail.Exception, match="no good"):
        async with isolated(Echo):
            pytest.fail("no good")


async def test_a_tree_that_gives_up_cancels_the_block_and_says_why(clock: MockClock) -> None:
    async def run() -> None:
        async with isolated(Echo, max_restarts=0) as echo:
            await echo.crash(ValueError("the cause"))
            await trio.sleep_forever()

    with pytest.raises(SupervisorGaveUp) as caught:
        await run()
    assert str(caught.value.__cause__) == "the cause"


# -- from outside


@pytest.mark.parametrize(
    ("pattern", "data", "answer"),
    [
        ("echo", {"a": [1, None]}, {"a": [1, None]}),
        ("greet", b"", "hello"),
        ("count", 3, [0, 1, 2]),
        ("count", 0, []),
        (Echo.echo, 7, 7),
    ],
    ids=["data", "no data", "a stream", "an empty stream", "a method"],
)
async def test_a_request_gets_its_answer(
    pattern: Any, data: object, answer: object, clock: MockClock
) -> None:
    async with isolated(Echo) as echo:
        assert await echo.request(pattern, data) == answer


@pytest.mark.parametrize(
    ("kind", "wording"),
    [("rpc", "no"), ("retry", "Internal server error"), ("value", "Internal server error")],
)
async def test_a_request_fails_as_its_caller_would_see_it(
    kind: str, wording: str, clock: MockClock
) -> None:
    async with isolated(Echo) as echo:
        with pytest.raises(RpcError, match=wording):
            await echo.request("fail", kind)


async def test_a_request_nobody_can_handle_fails_at_once(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        with pytest.raises(NoHandler, match="isolated/echo: no handler for the pattern 'nope'"):
            await echo.request("nope")
        with pytest.raises(NoHandler, match=r"no handler for the pattern 'Isolated\.crash'"):
            await echo.request(Isolated.crash)
        with pytest.raises(PayloadError, match="expected an integer"):
            await echo.request("count", "three")


async def test_a_request_gives_up_after_its_timeout(clock: MockClock) -> None:
    async with isolated(Echo, shutdown=0) as echo:
        with pytest.raises(RequestTimeout, match="no answer to 'wait' within 2 s"):
            await echo.request("wait", 100, timeout=2)
        assert trio.current_time() == 2


async def test_a_request_to_a_stopped_actor_fails(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        await echo.system.stop_child(echo.path)
        with pytest.raises(ActorStopped):
            await echo.request("greet")
        with pytest.raises(ActorStopped):
            await echo.crash()


async def test_an_event_is_settled_when_it_was_handled(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        delivery = await echo.event(Echo.on_noted, 1, message_id="m-1")
        assert await delivery.settled() == "acknowledged"

    assert repr(delivery) == "<Delivery m-1 acknowledged>"


async def test_an_event_that_is_not_settled_in_time_fails_the_test(clock: MockClock) -> None:
    async with isolated(Echo, shutdown=0) as echo:
        delivery = await echo.event("noted", "wait")
        with pytest.raises(AssertionError, match=r"event outside-1 was not settled within 3 s\."):
            await delivery.settled(within=3)

    assert await delivery.settled() == "given back"


def test_settling_twice_fails_the_test() -> None:
    delivery = Delivery("m-1")
    delivery.acknowledge()
    with pytest.raises(AssertionError, match="event m-1 was settled twice: acknowledged, then g"):
        delivery.give_back()


# -- crashes and lifecycle


async def test_a_crash_is_the_actor_s_own_and_leaves_no_dead_letter(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        await echo.crash(ValueError("x"))
        assert await echo.request("greet") == "hello"

        assert await echo.dead_letters() == []
        assert echo.incarnation == 2
        (notice,) = echo.lifecycle.of(Crashed)
    assert (notice.origin, str(notice.error)) == (None, "x")


async def test_the_lifecycle_begins_with_the_first_start(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        assert echo.lifecycle.kinds() == ["started"]
        await echo.crash()
        notice = await echo.lifecycle.expect(Started)

        assert notice.incarnation == 2
        assert echo.lifecycle.kinds() == ["started", "crashed", "restarting", "started"]


async def test_a_notice_that_does_not_come_fails_the_test(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        with pytest.raises(
            AssertionError, match="the lifecycle of isolated/echo: expected crashed"
        ):
            await echo.lifecycle.expect(Crashed, within=2)


async def test_a_lifecycle_listens_to_a_whole_tree_or_one_path(clock: MockClock) -> None:
    tree = Supervisor("shop", [child(Echo, name="a"), child(Echo2, name="b")])
    async with running(tree, threads=False) as system:
        everything, only_b = Lifecycle(system.bus), Lifecycle(system.bus, "shop/b")
        await system.stop_child("shop/a")
        await system.stop_child("shop/b")

    assert everything.kinds()[:4] == ["stopping", "stopped"] * 2
    assert only_b.kinds() == ["stopping", "stopped"]


class Echo2(Actor):
    pass


# -- what is expected of it ---------------------------------------------------------


async def test_a_crash_is_expected_by_its_kind_and_text(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        with pytest.raises(RpcError):
            await echo.request("fail", "value")
        crash = await echo.expect_crash(ValueError, match="^x$")
        assert (crash.pattern, crash.origin) == ("fail", "outside-1")
        await echo.expect_no_crash(within=10)

        with pytest.raises(RpcError):
            await echo.request("fail", "value")
        with pytest.raises(AssertionError, match="expected no crash within 1 s; what came: isolat"):
            await echo.expect_no_crash()
        with pytest.raises(
            AssertionError, match="expected a crash by ValueError matching 'y' with"
        ):
            await echo.expect_crash(ValueError, match="y")
        await echo.expect_crash()


async def test_a_restart_is_expected_until_it_is_complete(clock: MockClock) -> None:
    async with isolated(Echo, max_restarts=9) as echo:
        for number in (2, 3):
            await echo.crash()
            restart = await echo.expect_restart()
            assert (restart.incarnation, echo.incarnation, echo.restarts) == (
                number,
                number,
                number - 1,
            )
        with pytest.raises(AssertionError, match="expected a restart within 3 s"):
            await echo.expect_restart(within=3)


async def test_a_dead_letter_is_expected_once(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        await echo.event("noted", b"{")
        letter = await echo.expect_dead_letter("noted")
        assert (letter.reason, letter.body) == ("does not fit", b"{")
        with pytest.raises(AssertionError, match=r"a dead letter of noted within 5 s; .* nothing"):
            await echo.expect_dead_letter("noted", within=5)


async def test_the_tree_shows_an_actor_as_what_it_is(clock: MockClock) -> None:
    async with isolated(Echo) as echo:
        assert [line.kind for line in echo.system.tree()] == ["supervisor", "actor"]
