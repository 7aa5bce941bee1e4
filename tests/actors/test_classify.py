"""What exceptions of handlers mean: verdicts, and what each costs whom."""

from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.behavior import Behavior
from understudy.actors.classify import NO_TABLE, OnError, checked_table, classify, only_leaf
from understudy.actors.errors import ActorCrashed, AskTimeout, DeclarationError, Retry, RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import Ending
from understudy.actors.lifecycle import Crashed
from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.supervisor import ChildEscalated
from understudy.supervisors.system import running
from understudy.testing import Isolated, isolated
from understudy.transports.bridge import serve
from understudy.transports.client import connect

# -- the decision


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (RpcError("x"), "answer"),
        (Retry(), "retry"),
        (ValueError(), "crash"),
        (AskTimeout("a", 1), "crash"),
        (ExceptionGroup("g", [RpcError("x"), RpcError("y")]), "crash"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_without_a_table_only_answers_and_retries_are_no_crash(
    error: Exception, verdict: str
) -> None:
    assert classify(error) == (verdict, error)


def test_the_most_specific_class_of_all_tables_decides() -> None:
    handler: OnError = {LookupError: "reject", Exception: "retry"}
    actor: OnError = {KeyError: "stop", ArithmeticError: "escalate"}

    assert classify(KeyError(), handler, actor)[0] == "stop"
    assert classify(IndexError(), handler, actor)[0] == "reject"
    assert classify(ZeroDivisionError(), handler, actor)[0] == "escalate"
    assert classify(ValueError(), handler, actor)[0] == "retry"


def test_for_the_same_class_the_handler_goes_before_the_actor_and_that_before_the_house() -> None:
    assert classify(ValueError(), {ValueError: "reject"}, {ValueError: "stop"})[0] == "reject"
    assert classify(ValueError(), NO_TABLE, {ValueError: "stop"})[0] == "stop"
    assert classify(RpcError("x"), NO_TABLE, {RpcError: "crash"})[0] == "crash"
    assert classify(Retry(), {Retry: "reject"})[0] == "reject"


def test_a_table_for_all_exceptions_leaves_answers_and_retries_what_they_are() -> None:
    table: OnError = {Exception: "stop"}

    assert classify(RpcError("x"), table)[0] == "answer"
    assert classify(Retry(), table)[0] == "retry"


def test_of_several_bases_the_first_decides() -> None:
    class Both(KeyError, ValueError): ...

    assert classify(Both(), {ValueError: "stop", KeyError: "reject"})[0] == "reject"


@pytest.mark.parametrize(("text", "said"), [("no such order", "no such order"), ("", "ValueError")])
def test_an_answer_has_the_text_of_the_exception_or_its_name(text: str, said: str) -> None:
    error = ValueError(text) if text else ValueError()
    verdict, meant = classify(error, {ValueError: "answer"})

    assert verdict == "answer"
    assert isinstance(meant, RpcError)
    assert meant.error == said
    assert meant.__cause__ is error


def test_a_retry_names_what_was_raised() -> None:
    verdict, meant = classify(OSError("away"), {OSError: "retry"})

    assert verdict == "retry"
    assert isinstance(meant, Retry)
    assert str(meant) == "OSError: away"


# -- functions


def test_a_function_makes_what_goes_on_instead() -> None:
    error = ValueError("v")
    verdict, meant = classify(error, {ValueError: lambda e: RpcError({"status": 409})})

    assert verdict == "answer"
    assert isinstance(meant, RpcError)
    assert meant.error == {"status": 409}
    assert meant.__cause__ is error


def test_what_a_function_raises_goes_on_too() -> None:
    def refuse(error: ValueError) -> Exception:
        raise Retry(after=7) from None

    verdict, meant = classify(ValueError("v"), {ValueError: refuse})

    assert verdict == "retry"
    assert isinstance(meant, Retry)
    assert meant.after == 7


def test_a_function_may_hand_back_what_it_got() -> None:
    error = ValueError("v")

    assert classify(error, {ValueError: lambda e: e}) == ("crash", error)
    assert error.__cause__ is None


def test_what_a_function_makes_is_judged_by_the_house_alone() -> None:
    table: OnError = {Exception: lambda e: KeyError("again")}

    assert classify(ValueError(), table)[0] == "crash"


@pytest.mark.parametrize("made", [None, "text", KeyboardInterrupt()], ids=repr)
def test_a_function_that_makes_no_exception_crashes(made: Any) -> None:
    error = ValueError("v")
    verdict, meant = classify(error, {ValueError: lambda e: made})

    assert verdict == "crash"
    assert isinstance(meant, TypeError)
    assert "must make an exception" in str(meant)
    assert meant.__cause__ is error


# -- groups


def test_a_group_of_one_counts_as_the_one() -> None:
    leaf = ValueError()

    assert only_leaf(ExceptionGroup("a", [ExceptionGroup("b", [leaf])])) is leaf
    assert only_leaf(leaf) is leaf


def test_a_group_of_several_is_itself() -> None:
    group = ExceptionGroup("a", [ValueError(), ValueError()])

    assert only_leaf(group) is group
    assert classify(group, {ValueError: "reject"})[0] == "crash"
    assert classify(group, {ExceptionGroup: "reject"})[0] == "reject"


# -- declaration


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ([(ValueError, "stop")], "must map exceptions to verdicts"),
        ("stop", "must map exceptions to verdicts"),
        ({"ValueError": "stop"}, "'ValueError', which is no exception class"),
        ({int: "stop"}, "which is no exception class"),
        ({KeyboardInterrupt: "stop"}, "which is no exception class"),
        ({trio.Cancelled: "stop"}, "which is no exception class"),
        ({ValueError: "ignore"}, "says 'ignore' for ValueError; it must be one of answer, retry"),
        ({ValueError: None}, "says None for ValueError"),
    ],
)
def test_a_table_that_cannot_work_is_refused_at_declaration(table: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        checked_table("here", table)
    with pytest.raises(DeclarationError, match=f"the event pattern 'x'.*{problem}"):
        event_pattern("x", on_error=table)
    with pytest.raises(DeclarationError, match=f"Bad: .*{problem}"):
        child(type("Bad", (Actor,), {"on_error": table, "__qualname__": "Bad"}))


def test_tables_of_bases_hold_and_the_nearest_goes_first() -> None:
    class Base(Actor):
        on_error: ClassVar[OnError] = {ValueError: "stop", KeyError: "reject"}

    class Derived(Base):
        on_error: ClassVar[OnError] = {ValueError: "answer"}

    assert Behavior.of(Derived).on_error == {ValueError: "answer", KeyError: "reject"}
    assert Behavior.of(Base).on_error == {ValueError: "stop", KeyError: "reject"}


def test_tables_of_several_patterns_on_one_method_are_one() -> None:
    class Two(Actor):
        @message_pattern("a", on_error={ValueError: "stop"})
        @message_pattern("b", on_error={KeyError: "reject"})
        async def both(self) -> None: ...

    assert Behavior.of(Two).requests["a"].on_error == {ValueError: "stop", KeyError: "reject"}


# -- what it costs


class Shaky(Actor):
    """Raises what its tests want, by name."""

    on_error: ClassVar[OnError] = {
        KeyError: "answer",
        OSError: "retry",
        TypeError: "reject",
        ArithmeticError: "stop",
        AttributeError: "escalate",
    }

    def __init__(self, tries: list[float] | None = None) -> None:
        self.tries = [] if tries is None else tries

    @message_pattern("ask")
    async def ask(self, kind: str) -> int:
        return await self.raises(kind)

    @event_pattern("event")
    async def on_event(self, kind: str) -> None:
        await self.raises(kind)

    @event_pattern("mine", on_error={KeyError: "crash"})
    async def mine(self, kind: str) -> None:
        await self.raises(kind)

    async def raises(self, kind: str) -> int:
        self.tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if kind == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.raises, "KeyError")
        if kind != "" and len(self.tries) < 3:
            raise getattr(__import__("builtins"), kind)(f"it was {kind}")
        return self.incarnation


WORDS = ["KeyError", "OSError", "TypeError"]


@pytest.fixture
def tries() -> list[float]:
    return []


@pytest.mark.parametrize("kind", [*WORDS, "nursery"])
async def test_a_verdict_that_is_no_crash_lets_the_actor_live(kind: str, clock: MockClock) -> None:
    async with isolated(Shaky) as shaky:
        with pytest.raises((RpcError, Retry, TypeError)):
            await shaky.ask("ask", kind)
        shaky.tell("event", kind)
        assert await shaky.ask("ask", "") == 1
        assert shaky.lifecycle.of(Crashed) == []


async def test_an_ask_gets_the_answer_the_retry_or_the_error_that_was_rejected(
    clock: MockClock,
) -> None:
    async with isolated(Shaky) as shaky:
        with pytest.raises(RpcError, match="it was KeyError") as caught:
            await shaky.ask("ask", "KeyError")
        assert isinstance(caught.value.__cause__, KeyError)
    async with isolated(Shaky) as shaky:
        with pytest.raises(Retry, match="OSError: it was OSError"):
            await shaky.ask("ask", "OSError")
        with pytest.raises(TypeError, match="it was TypeError"):
            await shaky.ask("ask", "TypeError")


@pytest.mark.parametrize(("kind", "reason"), [("KeyError", "rejected"), ("TypeError", "rejected")])
async def test_a_tell_that_is_answered_or_rejected_is_set_aside(
    kind: str, reason: str, clock: MockClock
) -> None:
    async with isolated(Shaky) as shaky:
        shaky.tell("event", kind)
        await shaky.ask("ask", "")
        (letter,) = await shaky.dead_letters()
        assert (letter.reason, letter.kind) == (reason, "tell")


async def test_a_tell_that_is_retried_comes_again(tries: list[float], clock: MockClock) -> None:
    async with isolated(Shaky, tries) as shaky:
        shaky.tell("event", "OSError")
        await trio.sleep(10)
        assert tries == [0, 1, 2]
        assert await shaky.dead_letters() == []


@pytest.mark.parametrize(("kind", "word"), [("KeyError", "KeyError"), ("TypeError", "TypeError")])
async def test_an_outside_event_that_is_answered_or_rejected_is_a_dead_letter_at_once(
    kind: str, word: str, tries: list[float], clock: MockClock
) -> None:
    async with isolated(Shaky, tries) as shaky:
        event = await shaky.event("event", kind)
        assert await event.settled() == "acknowledged"
        (letter,) = await shaky.dead_letters()
        assert (letter.reason, letter.attempts) == ("rejected", 1)
        assert f"it was {word}" in letter.error
        assert len(tries) == 1


async def test_an_outside_event_that_is_retried_counts_no_attempt(
    tries: list[float], clock: MockClock
) -> None:
    async with isolated(Shaky, tries, events=RetryPolicy(attempts=1)) as shaky:
        event = await shaky.event("event", "OSError")
        assert await event.settled() == "acknowledged"
        assert tries == [0, 1, 2]
        assert await shaky.dead_letters() == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("KeyError", "it was KeyError"),
        ("OSError", "Service unavailable"),
        ("TypeError", "Internal server error"),
        ("ValueError", "Internal server error"),
    ],
)
async def test_a_remote_caller_learns_of_answers_alone(
    kind: str, said: str, clock: MockClock
) -> None:
    tree = Supervisor("t", [child(Shaky), serve("memory://shaky")])
    async with running(tree) as system, connect("memory://shaky") as client:
        with pytest.raises(RpcError) as caught:
            await client.send("ask", kind)
        assert caught.value.message.strip("'") == said
        crashed = kind == "ValueError"
        assert await system.ref("shaky").ask("ask", "") == (2 if crashed else 1)


async def test_the_table_of_a_handler_overrides_that_of_its_actor(clock: MockClock) -> None:
    async with isolated(Shaky) as shaky:
        shaky.tell("mine", "KeyError")
        await shaky.lifecycle.expect(Crashed)
        assert await shaky.ask("ask", "") == 2


async def test_a_group_of_several_is_reported_whole(clock: MockClock) -> None:
    class Grouped(Actor[list[ValueError]]):
        on_error: ClassVar[OnError] = {ValueError: "answer"}

        async def receive(self, errors: list[ValueError]) -> None:
            raise ExceptionGroup("several", errors)

    async with isolated(Grouped) as grouped:
        grouped.tell([ValueError(1), ValueError(2)])
        crash = await grouped.lifecycle.expect(Crashed)
        assert isinstance(crash.error, ExceptionGroup)


async def test_a_function_that_fails_loses_no_message(clock: MockClock) -> None:
    class Broken(Actor):
        on_error: ClassVar[OnError] = {ValueError: lambda error: error.nothing}

        @message_pattern("ask")
        async def ask(self) -> None:
            raise ValueError("v")

    async with isolated(Broken) as broken:
        with pytest.raises(ActorCrashed) as caught:
            await broken.ask("ask", None)
        assert isinstance(caught.value.__cause__, AttributeError)
        assert isinstance(caught.value.__cause__.__cause__, ValueError)
        broken.tell("ask", None)
        await broken.lifecycle.expect(Crashed)
        await broken.lifecycle.expect(Crashed)
        assert len(await broken.dead_letters()) == 1


# -- stop and escalate


def ending_of(shaky: Isolated[Any]) -> Ending:
    life = shaky._cell.life
    assert life is not None
    assert life.ending is not None
    return life.ending


@pytest.mark.parametrize("how", ["ask", "tell", "event", "request"])
async def test_stop_ends_the_actor_for_good(how: str, clock: MockClock) -> None:
    async with isolated(Shaky) as shaky:
        if how == "ask":
            with pytest.raises(ActorCrashed):
                await shaky.ask("ask", "ZeroDivisionError")
        elif how == "request":
            with pytest.raises(RpcError, match="Internal server error"):
                await shaky.request("ask", "ZeroDivisionError")
        elif how == "tell":
            shaky.tell("event", "ZeroDivisionError")
        else:
            event = await shaky.event("event", "ZeroDivisionError")
            assert await event.settled() == "given back"
        await trio.sleep(1)
        ending = ending_of(shaky)
        assert (ending.kind, ending.directive) == ("crashed", "stop")
        assert not shaky.alive
        assert shaky.lifecycle.kinds()[:2] == ["started", "crashed"]
        assert "restarting" not in shaky.lifecycle.kinds()


@pytest.mark.parametrize("how", ["tell", "event"])
async def test_escalate_is_the_end_of_the_supervisor_too(how: str, clock: MockClock) -> None:
    endings: list[Ending] = []

    async def escalate() -> None:
        async with isolated(Shaky) as shaky:
            if how == "event":
                await shaky.event("event", "AttributeError")
            else:
                shaky.tell("event", "AttributeError")
            try:
                await trio.sleep_forever()
            finally:
                endings.append(ending_of(shaky))

    with pytest.raises(ChildEscalated) as caught:
        await escalate()

    assert isinstance(caught.value.__cause__, AttributeError)
    assert endings[0].directive == "escalate"
