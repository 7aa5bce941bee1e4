"""Handlers in all their forms: how they are declared, called and answered."""

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import DeclarationError, Fenced
from understudy.actors.handlers import Mark, event_pattern, marks_of, message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.testing import isolated


class Forms(Actor):
    """One handler of every form; each answers with what it was called with."""

    @message_pattern("async")
    async def an_async(self, number: int) -> int:
        return number

    @message_pattern("plain")
    def a_plain(self, number: int) -> int:
        return number

    @message_pattern("thread", thread=True)
    def a_thread(self, number: int) -> int:
        return number

    @message_pattern("async with context")
    async def an_async_in_context(self, number: int, context: MessageContext) -> str:
        return f"{number} {context.pattern}"

    @message_pattern("plain with context")
    def a_plain_in_context(self, number: int, context: MessageContext) -> str:
        return f"{number} {context.pattern}"

    @message_pattern("thread with context", thread=True)
    def a_thread_in_context(self, number: int, context: MessageContext) -> str:
        return f"{number} {context.pattern}"

    @message_pattern("stream")
    async def a_stream(self, number: int) -> AsyncIterator[int]:
        yield number

    @message_pattern("stream with context")
    async def a_stream_in_context(self, number: int, context: MessageContext) -> AsyncIterator[str]:
        yield f"{number} {context.pattern}"

    @message_pattern("nothing")
    async def nothing(self) -> int:
        return 7

    @message_pattern("nothing, plain")
    def nothing_plain(self) -> int:
        return 7

    @message_pattern("nothing, stream")
    async def nothing_stream(self) -> AsyncIterator[int]:
        yield 7

    @message_pattern("default")
    async def with_default(self, number: int = 7) -> int:
        return number

    @message_pattern("one")
    @message_pattern({"cmd": "two"})
    @message_pattern(3)
    async def by_three_names(self, number: int, context: MessageContext) -> int:
        return number


@pytest.mark.parametrize("pattern", ["async", "plain", "thread", "stream"])
async def test_a_handler_gets_its_payload(pattern: str, clock: MockClock) -> None:
    async with isolated(Forms) as forms:
        answer = await forms.request(pattern, 7)

    assert answer == ([7] if pattern == "stream" else 7)


@pytest.mark.parametrize("pattern", ["async", "plain", "thread", "stream"])
async def test_a_second_parameter_gets_the_context(pattern: str, clock: MockClock) -> None:
    pattern = f"{pattern} with context"
    async with isolated(Forms) as forms:
        answer = await forms.request(pattern, 7)

    assert answer == ([f"7 {pattern}"] if "stream" in pattern else f"7 {pattern}")


@pytest.mark.parametrize("pattern", ["nothing", "nothing, plain", "nothing, stream"])
async def test_a_handler_without_parameters_takes_any_payload(
    pattern: str, clock: MockClock
) -> None:
    async with isolated(Forms) as forms:
        answer = await forms.request(pattern, {"whatever": 1})

    assert answer == ([7] if "stream" in pattern else 7)


async def test_a_default_stands_for_a_packet_without_data(clock: MockClock) -> None:
    async with isolated(Forms) as forms:
        assert await forms.request("default") == 7
        assert await forms.request("default", 1) == 1


@pytest.mark.parametrize("pattern", ["one", {"cmd": "two"}, 3], ids=["text", "object", "number"])
async def test_a_handler_of_several_patterns_answers_to_each(
    pattern: Any, clock: MockClock
) -> None:
    async with isolated(Forms) as forms:
        assert await forms.ask(pattern, 1) == 1


@pytest.mark.parametrize("threads", [True, False], ids=["a service", "under test"])
async def test_a_thread_handler_leaves_the_event_loop_alone_in(threads: bool) -> None:
    ran_in: list[threading.Thread] = []

    class Blocking(Actor):
        @message_pattern("block", thread=True)
        def block(self, data: Any) -> None:
            ran_in.append(threading.current_thread())

    async with running(Supervisor("shop", [child(Blocking)]), threads=threads) as system:
        await system.ref(Blocking).ask("block", None)

    assert (ran_in[0] is threading.current_thread()) is not threads


async def test_a_thread_left_behind_by_a_kill_may_not_send() -> None:
    finish, refused = threading.Event(), trio.Event()

    class Blocking(Actor):
        @message_pattern("block", thread=True)
        def block(self, data: Any) -> None:
            trio.from_thread.run_sync(running_now.set)
            finish.wait(10)
            try:
                trio.from_thread.run_sync(self.ref.tell, "block", None)
            except Fenced as error:
                errors.append(error)
            trio.from_thread.run_sync(refused.set)

    running_now, errors = trio.Event(), list[Fenced]()
    tree = Supervisor("shop", [child(Blocking, shutdown=0)])
    async with running(tree) as system:
        system.ref(Blocking).tell("block", None)
        await running_now.wait()
        await system.stop_child("shop/blocking")
        finish.set()
        await refused.wait()

    assert [(error.path, error.incarnation) for error in errors] == [("shop/blocking", 1)]


async def test_a_thread_handler_s_error_reaches_its_asker() -> None:
    class Blocking(Actor):
        @message_pattern("block", thread=True)
        def block(self, data: Any) -> None:
            raise ZeroDivisionError("in a thread")

    async with running(Supervisor("shop", [child(Blocking)])) as system:
        with pytest.raises(Exception, match="crashed on this message") as caught:
            await system.ref(Blocking).ask("block", None)

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_decorated_method_stays_the_function_it_was() -> None:
    assert Forms.a_plain(Forms(), 3) == 3
    assert marks_of(Forms.a_plain) == (Mark("request", "plain", "plain", False),)
    assert marks_of(Forms.started) == ()


@pytest.mark.parametrize("decorate", [message_pattern, event_pattern])
@pytest.mark.parametrize(
    ("pattern", "wording"),
    [
        (None, "a pattern is a string, a number or a dict, not NoneType"),
        (["a"], "a pattern is a string, a number or a dict, not list"),
        ('{"cmd": "sum"}', "can never match"),
    ],
    ids=["none", "a list", "JSON text"],
)
def test_a_pattern_that_can_never_match_is_refused_where_it_is_declared(
    decorate: Callable[..., Any], pattern: Any, wording: str
) -> None:
    with pytest.raises(DeclarationError, match=wording):
        decorate(pattern)


@pytest.mark.parametrize("decorate", [message_pattern, event_pattern])
def test_a_mark_keeps_the_options_of_its_pattern(decorate: Callable[..., Any]) -> None:
    def method(self: Any) -> None: ...

    decorate("b")(method)
    decorate("a", on_error={ValueError: "reject"}, key="id")(method)
    b, a = marks_of(method)
    assert (b.route, b.on_error, b.key) == ("b", {}, None)
    assert (a.route, a.on_error, a.key) == ("a", {ValueError: "reject"}, "id")


@pytest.mark.parametrize("decorate", [message_pattern, event_pattern])
def test_a_bad_table_is_refused_where_it_is_declared(decorate: Callable[..., Any]) -> None:
    with pytest.raises(
        DeclarationError, match="pattern 'a': on_error says 'ignore' for ValueError"
    ):
        decorate("a", on_error={ValueError: "ignore"})
