"""Probes: what they remember, answer and expect."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import AskTimeout, NoHandler, PayloadError, RpcError
from understudy.actors.handlers import message_pattern
from understudy.actors.ref import Ref
from understudy.testing import Probe, Received


@attrs.frozen
class Send:
    to: str


class Sent(Request[int]):
    pass


class Mail(Actor[Send | Sent]):
    def receive(self, message: Send | Sent) -> Any: ...

    @message_pattern("mail.find")
    async def find(self, id: int) -> str:
        return ""

    @message_pattern("mail.all")
    async def all(self, since: int) -> AsyncIterator[str]:
        yield ""


@pytest.fixture
def probe() -> Probe:
    return Probe(Mail)


async def test_what_was_sent_is_remembered_in_order(probe: Probe) -> None:
    probe.answers("mail.find", "found")
    probe.tell(Send("ada"))
    await probe.tell_wait("mail.find", 1)
    await probe.ask(Mail.find, 2)

    route = frozenset(["mail.find"])
    assert probe.received == [
        Received("tell", Send("ada")),
        Received("tell", 1, route),
        Received("ask", 2, route),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Send, Send("ada")),
        (Send("bob"), Send("bob")),
        ("mail.find", 7),
        (Mail.find, 7),
        (lambda message: message == 8, 8),
    ],
    ids=["a type", "an equal message", "a pattern", "a method", "a function"],
)
async def test_the_first_match_is_what_was_expected(
    wanted: Any, found: object, probe: Probe
) -> None:
    probe.tell(Send("ada"))
    probe.tell(Send("bob"))
    probe.tell("mail.find", 7)
    probe.tell(Mail.find, 8)

    assert await probe.expect(wanted) == found


async def test_each_message_is_expected_once(probe: Probe) -> None:
    probe.tell(Send("ada"))
    probe.tell(Send("bob"))

    assert [await probe.expect(Send), await probe.expect(Send)] == [Send("ada"), Send("bob")]
    await probe.expect_nothing(within=0)


async def test_what_is_expected_may_still_come(
    probe: Probe, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def send() -> None:
        await trio.sleep(2)
        probe.tell(Send("ada"))

    nursery.start_soon(send)
    assert await probe.expect(Send, within=3) == Send("ada")
    assert trio.current_time() == 2


async def test_what_did_not_come_is_said_with_what_did(probe: Probe, clock: MockClock) -> None:
    probe.tell("mail.find", 7)
    with pytest.raises(AssertionError) as caught:
        await probe.expect(Send, within=3)

    assert trio.current_time() == 3
    assert str(caught.value) == (
        "mail: expected a Send within 3 s; what came and was not expected yet: tell mail.find 7."
    )


async def test_something_instead_of_nothing_is_said(
    probe: Probe, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def send() -> None:
        await trio.sleep(2)
        probe.tell(Send("ada"))

    nursery.start_soon(send)
    with pytest.raises(AssertionError, match=r"expected nothing within 3 s; what came: tell Send"):
        await probe.expect_nothing(within=3)
    assert trio.current_time() == 2


@pytest.mark.parametrize("to", [Sent, "mail.find", Mail.find], ids=["type", "pattern", "method"])
async def test_an_ask_gets_the_answer_that_was_scripted_last(to: Any, probe: Probe) -> None:
    probe.answers(to, "old")
    probe.answers(to, "new")

    asked = probe.ask(Sent()) if to is Sent else probe.ask("mail.find", 1)
    assert await asked == "new"


async def test_a_function_makes_the_answer(probe: Probe, clock: MockClock) -> None:
    async def slowly(id: int) -> str:
        await trio.sleep(1)
        return f"mail {id}"

    probe.answers(Sent, lambda message: 3)
    probe.answers("mail.find", slowly)

    assert await probe.ask(Sent()) == 3
    assert await probe.ask("mail.find", 7) == "mail 7"
    assert trio.current_time() == 1


async def test_an_exception_is_raised(probe: Probe) -> None:
    probe.answers(Sent, RpcError("closed"))
    with pytest.raises(RpcError, match="closed"):
        await probe.ask(Sent())


async def test_an_answer_that_does_not_come_is_a_timeout(probe: Probe, clock: MockClock) -> None:
    async def never(message: Sent) -> None:
        await trio.sleep_forever()

    probe.answers(Sent, never)
    with pytest.raises(AskTimeout, match="probe/mail did not answer within 9 s"):
        await probe.ask(Sent(), timeout=9)
    assert trio.current_time() == 9


async def test_an_ask_without_script_says_how_to_write_one(probe: Probe) -> None:
    with pytest.raises(AssertionError) as caught:
        await probe.ask("mail.find", 7)

    assert str(caught.value) == (
        "mail has no answer to: ask mail.find 7. "
        "Script one with probe.answers(type, pattern or method, answer)."
    )


async def test_a_stream_gives_the_items_and_raises_the_exceptions_among_them(probe: Probe) -> None:
    probe.answers("mail.all", ["a", RpcError("no more")])
    stream = probe.stream(Mail.all, 3)

    assert await anext(stream) == "a"
    with pytest.raises(RpcError, match="no more"):
        await anext(stream)


async def test_a_probe_of_a_class_refuses_what_the_class_would(probe: Probe) -> None:
    with pytest.raises(NoHandler, match=r"probe/mail: no handler for the pattern 'mail\.fnid'"):
        probe.tell("mail.fnid", 1)
    with pytest.raises(PayloadError, match="expected an integer"):
        probe.tell("mail.find", "one")
    with pytest.raises(NoHandler, match="it has no receive method"):
        Probe(Silent).tell(Send("ada"))


class Silent(Actor[Send]):
    pass


async def test_a_probe_of_nothing_takes_anything() -> None:
    probe = Probe(name="ears")
    probe.tell(object())
    probe.tell({"cmd": "sum"}, [1, 2])

    assert await probe.expect({"cmd": "sum"}) == [1, 2]
    assert (repr(probe), probe.path, probe.alive) == ("<Probe ears>", "probe/ears", True)


def test_a_probe_is_a_reference(probe: Probe) -> None:
    def wants(mail: Ref[Mail]) -> str:
        return mail.path

    assert wants(probe) == "probe/mail"


# -- more than one message --------------------------------------------------------


async def test_so_many_messages_are_received_in_order_or_none(
    probe: Probe, clock: MockClock
) -> None:
    for name in ("ada", "bob", "eve"):
        probe.tell(Send(name))
    probe.tell("mail.find", 7)

    assert await probe.receive_n(2, Send) == [Send("ada"), Send("bob")]
    with pytest.raises(AssertionError) as caught:
        await probe.receive_n(2, Send, within=2)
    assert str(caught.value) == (
        "mail: expected 2 times a Send within 2 s; what came and was not expected yet:"
        "\n  tell Send(to='eve')\n  tell mail.find 7"
    )
    assert await probe.receive_n(2) == [Send("eve"), 7]


async def test_equal_messages_are_two(probe: Probe, clock: MockClock) -> None:
    probe.tell(Send("ada"))
    probe.tell(Send("ada"))

    assert await probe.expect(Send("ada")) == await probe.expect(Send("ada"))
    await probe.expect_nothing()


async def test_what_is_ignored_need_not_be_expected(probe: Probe, clock: MockClock) -> None:
    probe.tell(Send("ada"))
    probe.ignore(Send)
    probe.tell(Send("bob"))
    await probe.expect_nothing()

    probe.tell("mail.find", 1)
    with pytest.raises(AssertionError, match="mail: expected nothing within 1 s"):
        await probe.expect_nothing()
    assert len(probe.received) == 3


async def test_one_kind_of_message_can_be_excluded(probe: Probe, clock: MockClock) -> None:
    probe.tell("mail.find", 1)
    await probe.expect_none(Send, within=3)
    assert trio.current_time() == 3

    probe.tell(Send("ada"))
    with pytest.raises(AssertionError, match=r"mail: expected no Send within 1 s; what came: tell"):
        await probe.expect_none(Send)
    assert trio.current_time() == 3


async def test_all_of_a_block_shares_its_time(
    probe: Probe, nursery: trio.Nursery, clock: MockClock
) -> None:
    async def send() -> None:
        for _ in range(3):
            await trio.sleep(2)
            probe.tell(Send("ada"))

    nursery.start_soon(send)
    with probe.within(5):
        await probe.expect(Send)
        await probe.expect(Send, within=100)
        with pytest.raises(AssertionError, match=r"expected a Send within 1 s; .*: nothing"):
            await probe.expect(Send)
    assert trio.current_time() == 5


async def test_a_block_that_takes_too_long_fails(probe: Probe, clock: MockClock) -> None:
    with pytest.raises(AssertionError, match="to be done within 5 s, but it took 6 s"):
        with probe.within(5):
            await trio.sleep(6)
    with pytest.raises(AssertionError, match="within 2 s, but"):
        with probe.within(9), probe.within(2):
            await trio.sleep(3)


async def test_a_short_wait_for_nothing_does_not_excuse_a_long_block(
    probe: Probe, clock: MockClock
) -> None:
    async def run() -> None:
        with probe.within(4):
            await probe.expect_nothing(within=1)
            await trio.sleep(4)

    with pytest.raises(AssertionError, match="within 4 s, but it took 5 s"):
        await run()


async def test_in_real_time_a_block_may_be_waited_out(probe: Probe) -> None:
    with probe.within(0.05):
        await probe.expect_nothing()


async def test_an_error_in_a_block_that_took_too_long_is_the_one_shown(
    probe: Probe, clock: MockClock
) -> None:
    async def run() -> None:
        with probe.within(1):
            await trio.sleep(2)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run()


async def test_answers_can_be_scripted_one_after_the_other(probe: Probe) -> None:
    probe.answers(Sent, 0)
    probe.answers(Sent, RpcError("closed"), times=1)
    probe.answers(Sent, 9, times=2)

    assert [await probe.ask(Sent()), await probe.ask(Sent())] == [9, 9]
    with pytest.raises(RpcError, match="closed"):
        await probe.ask(Sent())
    assert [await probe.ask(Sent()), await probe.ask(Sent())] == [0, 0]
    with pytest.raises(ValueError, match=r"answers\(times=0\)"):
        probe.answers(Sent, 1, times=0)


async def test_more_than_can_be_read_is_cut_short(probe: Probe, clock: MockClock) -> None:
    for number in range(25):
        probe.tell("mail.find", number)
    with pytest.raises(AssertionError) as caught:
        await probe.expect(Send)
    assert str(caught.value).endswith("\n  tell mail.find 19\n  and 5 more")
