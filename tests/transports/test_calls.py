"""Calls that wait: what they make of answers, errors and time."""

from typing import Any

import pytest
import trio
from msgspec import UNSET, Raw

from understudy.actors.errors import ConnectionLost, RequestTimeout, RpcError
from understudy.transports.calls import Call, StreamCall
from understudy.transports.codec.packet import Answer

MORE = Answer("1", Raw(b"1"), UNSET, False)
LAST = Answer("1", Raw(b"2"))
END = Answer("1")
ERROR = Answer("1", UNSET, "nope")
NOTHING_YET = Answer("1", UNSET, UNSET, False)


@pytest.fixture
def call() -> Call:
    return Call("tcp://host:1", "sum", deadline=5.0, timeout=5.0)


@pytest.fixture
def stream() -> StreamCall:
    return StreamCall("tcp://host:1", "count", deadline=5.0, timeout=5.0)


@pytest.mark.parametrize(
    ("answer", "value"), [(LAST, b"2"), (MORE, b"1"), (END, b"")], ids=["last", "first", "none"]
)
async def test_the_first_value_or_the_end_is_the_answer(
    call: Call, answer: Answer, value: bytes
) -> None:
    assert call.take(answer)
    await call.wait()

    assert (call.value, call.error) == (value, None)


def test_an_answer_without_value_or_end_is_waited_on(call: Call) -> None:
    assert not call.take(NOTHING_YET)
    assert not call.done


async def test_an_answer_wakes_the_task_that_waits(call: Call) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.wait)
        await trio.testing.wait_all_tasks_blocked()
        call.take(LAST)

    assert call.value == b"2"


async def test_an_answer_after_the_wait_was_cancelled_wakes_nobody(call: Call) -> None:
    with trio.move_on_after(0):
        await call.wait()
    call.take(LAST)

    assert call.task is None


@pytest.mark.parametrize("kind", ["call", "stream"])
def test_an_error_ends_a_call(kind: str, request: pytest.FixtureRequest) -> None:
    one: Any = request.getfixturevalue(kind)

    assert one.take(ERROR)
    assert isinstance(one.error, RpcError)
    assert one.error.error == "nope"
    assert one.done


def test_an_expired_call_says_where_what_and_how_long(call: Call) -> None:
    call.expire()

    assert isinstance(call.error, RequestTimeout)
    assert str(call.error).startswith("tcp://host:1: no answer to 'sum' within 5 s.")


def test_a_stream_keeps_its_items_until_they_are_taken(stream: StreamCall) -> None:
    assert [stream.take(answer) for answer in (MORE, MORE, LAST)] == [False, False, True]

    assert list(stream.items) == [b"1", b"1", b"2"]
    assert stream.done


def test_a_stream_that_fails_keeps_the_items_before(stream: StreamCall) -> None:
    stream.take(MORE)
    stream.fail(ConnectionLost("tcp://host:1", "gone"))

    assert list(stream.items) == [b"1"]
    assert stream.done
