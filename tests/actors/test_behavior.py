"""From a class to its dispatch table, and what is wrong with a class."""

from collections.abc import AsyncIterator, Callable, Iterator
from types import FunctionType
from typing import Any

import attrs
import pytest

from understudy.actors.actor import Actor
from understudy.actors.behavior import Behavior
from understudy.actors.context import MessageContext
from understudy.actors.errors import DeclarationError, NoHandler, PayloadError
from understudy.actors.handlers import event_pattern, message_pattern


@attrs.frozen
class Ping:
    pass


@attrs.frozen
class Pong:
    pass


class Shop(Actor[Ping | Pong]):
    def receive(self, message: Ping | Pong) -> None:
        pass

    @message_pattern("find")
    async def find(self, id: int) -> str:
        return ""

    @event_pattern("sold")
    def on_sold(self, id: int) -> None:
        pass

    @event_pattern("sold")
    async def also_on_sold(self, id: int, context: MessageContext) -> None:
        pass


def test_a_class_is_compiled_once() -> None:
    assert Behavior.of(Shop) is Behavior.of(Shop)


def test_requests_and_events_are_found_by_route() -> None:
    behavior = Behavior.of(Shop)

    assert [h.name for h in behavior.requests.values()] == ["Shop.find"]
    assert [h.name for h in behavior.events["sold"]] == ["Shop.on_sold", "Shop.also_on_sold"]
    assert repr(behavior.requests["find"]) == "<Handler Shop.find request async>"


def test_a_handler_that_returns_nothing_is_known_to() -> None:
    behavior = Behavior.of(Shop)

    assert [h.void for h in behavior.events["sold"]] == [True, True]
    assert behavior.requests["find"].void is False


def test_a_handler_is_found_again_by_its_name_or_message_type() -> None:
    behavior = Behavior.of(Shop)

    found = behavior.handler_named("Shop.find", "find")
    assert found is behavior.requests["find"]
    receive = behavior.handler_named("Shop.receive", "Ping")
    assert receive is not None
    assert receive.payload.decode(b"{}") == Ping()
    assert behavior.handler_named("Shop.receive", "Other") is None


def test_a_subclass_keeps_and_replaces_handlers() -> None:
    class Annexe(Shop):
        @message_pattern("find")
        async def find(self, id: int) -> str:
            return "here"

    behavior = Behavior.of(Annexe)
    assert behavior.requests["find"].function is Annexe.find
    assert behavior.by_function[Shop.find] is behavior.requests["find"]
    assert behavior.by_function[Shop.on_sold].route == "sold"


def test_two_handlers_of_one_request_are_refused() -> None:
    class Twice(Actor):
        @message_pattern("find")
        def one(self, id: int) -> None: ...

        @message_pattern("find")
        def two(self, id: int) -> None: ...

    with pytest.raises(DeclarationError, match=r"two: the pattern 'find' already has the handler "):
        Behavior.of(Twice)


def test_a_method_cannot_handle_requests_and_events() -> None:
    class Both(Actor):
        @message_pattern("a")
        @event_pattern("b")
        def both(self, data: int) -> None: ...

    with pytest.raises(DeclarationError, match="both is both a message and an event handler"):
        Behavior.of(Both)


async def streams(self: Any, data: int) -> AsyncIterator[int]:
    yield 1


def yields(self: Any, data: int) -> Iterator[int]:
    yield 1


async def waits(self: Any, data: int) -> None: ...


def context_only(self: Any, context: MessageContext) -> None: ...


def takes_three(self: Any, data: int, context: MessageContext, more: int) -> None: ...


def wants_keyword(self: Any, data: int, *, more: int) -> None: ...


def unreadable(self: Any, data: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "decorator", "wording"),
    [
        (streams, event_pattern("x"), "an event has nobody to stream to; do not yield."),
        (yields, message_pattern("x"), "stream with `async def` and yield, not a plain def."),
        (waits, message_pattern("x", thread=True), "thread=True is for plain def; this one is as"),
        (streams, message_pattern("x", thread=True), "thread=True is for plain def"),
        (context_only, message_pattern("x"), "the context comes second. Take the payload first"),
        (takes_three, message_pattern("x"), "takes more than a handler is given: "),
        (wants_keyword, message_pattern("x"), "takes more than a handler is given: "),
        (unreadable, message_pattern("x"), "its type hints cannot be read (name 'Nowhere' is not"),
    ],
    ids=[
        "a streaming event",
        "a plain generator",
        "async in a thread",
        "a stream in a thread",
        "only a context",
        "three parameters",
        "a required keyword",
        "an unknown type",
    ],
)
def test_a_method_that_can_never_handle_anything_is_refused(
    function: FunctionType, decorator: Callable[..., Any], wording: str
) -> None:
    # Decorated in a copy: marks stay on a function, and `streams` stands in two rows.
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__annotations__, copy.__kwdefaults__ = function.__annotations__, function.__kwdefaults__
    actor = type("Broken", (Actor,), {"handle": decorator(copy)})

    with pytest.raises(DeclarationError) as caught:
        Behavior.of(actor)
    assert str(caught.value).startswith("Broken.handle")
    assert wording in str(caught.value)


def test_a_receive_that_streams_is_refused() -> None:
    class Streaming(Actor[Ping]):
        async def receive(self, message: Ping) -> Any:
            yield 1

    class Yielding(Actor[Ping]):
        def receive(self, message: Ping) -> Any:
            yield 1

    for actor in (Streaming, Yielding):
        with pytest.raises(DeclarationError, match=r"receive is a generator\. Only handlers with"):
            Behavior.of(actor)


# -- names that every actor has


@pytest.mark.parametrize("name", ["stop", "receive", "started", "ref", "children"])
def test_a_handler_that_would_hide_what_every_actor_has_is_refused(name: str) -> None:
    async def handler(self: Any) -> None: ...

    marked = message_pattern("x")(handler)
    with pytest.raises(DeclarationError, match=rf"Hides\.{name} would hide Actor\.{name}"):
        Behavior(type("Hides", (Actor,), {name: marked, "__qualname__": "Hides"}))


def test_a_plain_method_may_override_what_every_actor_has() -> None:
    class Own(Actor):
        async def started(self) -> None: ...

        def stop(self) -> None: ...

    assert Behavior.of(Own).by_function == {}


# -- wildcards


class Listener(Actor):
    @message_pattern("orders.*")
    async def any_order(self) -> None: ...

    @message_pattern("orders.special")
    async def special(self) -> None: ...

    @message_pattern("orders.*.lines")
    async def lines(self) -> None: ...

    @message_pattern("orders.>")
    async def the_rest(self) -> None: ...

    @event_pattern("sensors/+/heat")
    async def heat(self, degrees: int) -> None: ...

    @event_pattern("sensors/#")
    async def sensor(self, data: Any) -> None: ...


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("orders.special", "special"),
        ("orders.find", "any_order"),
        ("orders.7.lines", "lines"),
        ("orders.7.lines.1", "the_rest"),
        ("sensors/cellar/heat", "heat"),
        ("sensors/cellar/light", "sensor"),
        ("orders.*", "any_order"),
    ],
)
def test_a_concrete_pattern_finds_the_most_specific_handler(pattern: str, name: str) -> None:
    handler, _ = Behavior.of(Listener).resolve(pattern, None if "heat" not in pattern else 1, "p")

    assert handler.name == f"Listener.{name}"


def test_what_no_wildcard_matches_has_no_handler() -> None:
    with pytest.raises(NoHandler, match=r"a/b: no handler for the pattern 'offers\.find'"):
        Behavior.of(Listener).resolve("offers.find", None, "a/b")


def test_the_payload_is_checked_for_a_wildcard_too() -> None:
    with pytest.raises(PayloadError):
        Behavior.of(Listener).resolve("sensors/cellar/heat", "warm", "a/b")


# -- keys


def test_an_actor_is_keyed_if_one_of_its_handlers_is() -> None:
    class Keyed(Actor):
        @event_pattern("a", key="id")
        @event_pattern("b")
        async def on(self, data: dict[str, int]) -> None: ...

    handler = Behavior.of(Keyed).events["b"][0]
    assert handler.key is not None
    assert handler.key({"id": 7}) == 7
    assert Behavior.of(Keyed).keyed
    assert not Behavior.of(Listener).keyed


def test_a_bad_key_is_refused_with_the_class() -> None:
    class Bad(Actor):
        @event_pattern("a", key=5)  # type: ignore[call-overload, untyped-decorator]
        async def on(self, data: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"Bad\.on: key=5 is no key\. Name a field"):
        Behavior(Bad)
