"""What a handler may know of its message, and on whose behalf it sends."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import CURRENT, FENCE, Hand, MessageContext, origin_now
from understudy.actors.errors import Fenced, Retry
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import Incarnation
from understudy.testing import Probe, isolated


class Witness(Actor):
    """Remembers the context of what it handles."""

    def __init__(self, seen: list[MessageContext], next: Any = None) -> None:
        self.seen, self.next = seen, next

    @message_pattern("look")
    async def look(self, data: Any, context: MessageContext) -> None:
        self.seen.append(context)

    @event_pattern("hand on")
    async def hand_on(self, data: Any) -> None:
        self.ref.tell("look", data)


@pytest.fixture
def seen() -> list[MessageContext]:
    return []


async def test_a_local_message_is_known_as_such(
    seen: list[MessageContext], clock: MockClock
) -> None:
    async with isolated(Witness, seen) as witness:
        await witness.ask("look", 1, timeout=9)
        witness.tell("look", 2)

    asked, told = seen
    assert (asked.transport, asked.source, asked.pattern) == ("local", "", "look")
    assert (asked.headers, asked.correlation_id) == ({}, None)
    assert (asked.attempt, asked.redelivered, asked.deadline) == (1, False, 9.0)
    assert told.deadline == float("inf")
    assert [asked.message_id, told.message_id] == ["isolated/witness#1", "isolated/witness#2"]


async def test_an_outside_message_shows_where_it_came_from(
    seen: list[MessageContext], clock: MockClock
) -> None:
    async with isolated(Witness, seen) as witness:
        await witness.request("look", 1, message_id="m-1", headers={"traceparent": "00-1"})

    (context,) = seen
    assert (context.transport, context.source, context.pattern) == ("test", "outside", "look")
    assert (context.message_id, context.headers) == ("m-1", {"traceparent": "00-1"})
    assert context.path == "isolated/witness"
    assert repr(context) == (
        "MessageContext(id='m-1', pattern='look', transport='test', attempt=1)"
    )


async def test_a_message_sent_for_an_outside_message_correlates_to_it(
    seen: list[MessageContext], clock: MockClock
) -> None:
    async with isolated(Witness, seen) as witness:
        await (await witness.event("hand on", 1, message_id="m-7")).settled()

    (context,) = seen
    assert (context.transport, context.correlation_id) == ("local", "m-7")
    assert context.message_id == "isolated/witness#1"


async def test_a_retried_message_counts_its_attempts_and_keeps_its_id(clock: MockClock) -> None:
    runs: list[tuple[str, int, bool]] = []

    class Patient(Actor):
        @event_pattern("again")
        def again(self, data: Any, context: MessageContext) -> None:
            runs.append((context.message_id, context.attempt, context.redelivered))
            if len(runs) < 3:
                raise Retry(after=1)

    async with isolated(Patient) as patient:
        patient.tell("again", None)
        await trio.sleep(3)

    name = "isolated/patient#1"
    assert runs == [(name, 1, False), (name, 2, True), (name, 3, True)]


async def test_an_event_that_crashed_comes_back_as_redelivered(clock: MockClock) -> None:
    runs: list[tuple[str, int, bool]] = []

    class Patient(Actor):
        @event_pattern("again")
        def again(self, data: Any, context: MessageContext) -> None:
            runs.append((context.message_id, context.attempt, context.redelivered))
            if len(runs) < 3:
                raise ZeroDivisionError

    async with isolated(Patient) as patient:
        await (await patient.event("again", message_id="m-1")).settled()

    assert runs == [("m-1", 1, False), ("m-1", 2, True), ("m-1", 3, True)]


async def test_a_handler_acts_on_behalf_of_the_message_in_hand(clock: MockClock) -> None:
    behalf: list[str | None] = []

    class Clerk(Actor):
        @message_pattern("note")
        async def note(self, data: Any) -> None:
            origin = origin_now()
            behalf.append(origin.message_id if origin else None)

    async with isolated(Clerk) as clerk:
        await clerk.request("note", message_id="m-1")
        await clerk.ask("note", None)
        await clerk.request("note", message_id="m-2")

    assert behalf == ["m-1", None, "m-2"]
    assert origin_now() is None


def test_a_fenced_hand_refuses_in_the_name_of_its_incarnation() -> None:
    hand = Hand(Incarnation("shop/orders", 3, lambda _: None))
    hand.fence()
    token = CURRENT.set(hand)
    try:
        with pytest.raises(Fenced) as caught:
            origin_now()
    finally:
        CURRENT.reset(token)

    assert hand.envelope.origin is FENCE
    assert str(caught.value) == (
        "shop/orders (incarnation 3) has ended; what is left of it may not send messages "
        "or answer. End threads and shielded work with their handler."
    )


@pytest.mark.parametrize("how", ["tell", "tell_wait", "ask", "stream", "a probe"])
async def test_shielded_code_of_an_ended_incarnation_may_not_send(
    how: str, clock: MockClock
) -> None:
    refused: list[Fenced] = []

    class Leftover(Actor):
        def __init__(self, probe: Probe) -> None:
            self.probe = probe

        @message_pattern("linger")
        async def linger(self, how: str) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            try:
                await _send(self, how)
            except Fenced as error:
                refused.append(error)

    async with isolated(Leftover, Probe(), shutdown=1) as leftover:
        leftover.tell("linger", how)
        await wait_all_tasks_blocked()
        await leftover.system.stop_child(leftover.path)
        assert trio.current_time() == 6  # its second to stop, then five after the kill
        assert leftover.lifecycle.kinds() == ["started", "stopping", "stuck", "stopped"]

    assert [error.path for error in refused] == ["isolated/leftover"]


async def _send(actor: Any, how: str) -> None:
    if how == "ask":
        await actor.ref.ask("linger", "")
    elif how == "stream":
        actor.ref.stream("linger", "")
    elif how == "a probe":
        actor.probe.tell("x", 1)
    elif how == "tell":
        actor.ref.tell("linger", "")
    else:
        await actor.ref.tell_wait("linger", "")
