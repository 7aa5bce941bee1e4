"""Redis streams: kept until handled, taken over from who died, and what may go wrong."""

import itertools
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.errors import DeclarationError
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.broker import Address
from ..serving import hosting, serving, until
from .ledgers import Orders, add, eventually, pending, plain, refusal

_numbers = itertools.count()


@pytest.fixture
def stream() -> str:
    return f"orders{next(_numbers)}"


@pytest.fixture
def url(redis_broker: Address) -> str:
    return redis_broker.url


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def reading(stream: str) -> dict[str, Any]:
    """The options of a bridge that reads the stream, and nothing else."""
    return {"stream": stream, "group": "g", "consumer": "one", "pubsub": False}


def left_behind(url: str, stream: str, consumer: str, *numbers: int) -> None:
    """Entries that a consumer has read and never acknowledged."""
    with plain(url) as client:
        client.xgroup_create(stream, "g", "0", mkstream=True)
        add(url, stream, *numbers)
        client.xreadgroup("g", consumer, {stream: ">"})


async def test_an_event_is_added_confirmed_handled_and_acknowledged(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    async with serving(url, child(Orders, seen), **reading):
        async with connect(url, stream=stream) as client:
            await client.emit("placed", 7)
            with plain(url) as other:
                assert other.xlen(stream) == 1
            await until(lambda: seen == [(7, 1, False)])
        await eventually(lambda: pending(url, stream) == 0)


async def test_what_was_added_while_nobody_read_is_read_later_in_order(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    add(url, stream, *range(600))
    async with serving(url, child(Orders, seen), in_flight=16, **reading):
        await until(lambda: len(seen) == 600)

    assert [number for number, _, _ in seen] == list(range(600))
    assert pending(url, stream) == 0


async def test_an_entry_tells_where_it_is_from_and_its_other_fields_are_headers(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    id = add(url, stream, 1, pattern="facts")[0].decode()
    async with serving(url, child(Orders, seen), **reading):
        async with connect(url, stream=stream) as client:
            await client.emit("facts", 2, headers={"trace": "abc", "id": "mine"})
        await until(lambda: len(seen) == 2)

    source = f"stream:{stream}"
    assert seen == [
        (1, source, f"{stream}:{id}", {}),
        (2, source, f"{stream}:mine", {"trace": "abc"}),
    ]


async def test_a_message_that_its_sender_added_twice_is_flagged_or_dropped(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    reading["drop_duplicates"] = True
    async with serving(url, child(Orders, seen), **reading) as service:
        async with connect(url, stream=stream) as client:
            for number in (1, 1, 2):
                await client.emit("placed", number, headers={"id": str(number)})
            await until(lambda: service.statistics().duplicates == 1)
            await until(lambda: len(seen) == 2)

        assert [number for number, _, _ in seen] == [1, 2]
        await eventually(lambda: pending(url, stream) == 0)


async def test_never_more_is_read_than_may_be_in_flight(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    gate = trio.Event()
    add(url, stream, *range(20))
    async with serving(
        url, child(Orders, seen, gate, concurrency=64), in_flight=3, **reading
    ) as service:
        await until(lambda: len(seen) == 3)
        await wait_all_tasks_blocked(0.05)
        assert (pending(url, stream), service.statistics().in_flight) == (3, 3)
        gate.set()
        await until(lambda: len(seen) == 20)
        await eventually(lambda: pending(url, stream) == 0)


async def test_with_little_credit_several_streams_take_turns(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    other = f"{stream}b"
    add(url, stream, *range(10))
    add(url, other, *range(10, 20))
    reading["stream"] = f"{stream},{other}"
    async with serving(url, child(Orders, seen), in_flight=1, **reading):
        await until(lambda: len(seen) == 20)

    assert {number for number, _, _ in seen[:4]} == {0, 1, 10, 11}


async def test_what_an_earlier_process_of_ours_left_is_handled_first_and_flagged(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    left_behind(url, stream, "one", 1, 2)
    add(url, stream, 3)
    async with serving(url, child(Orders, seen), **reading):
        await until(lambda: len(seen) == 3)

    assert seen == [(1, 2, True), (2, 2, True), (3, 1, False)]
    assert pending(url, stream) == 0


async def test_what_another_consumer_abandoned_is_taken_over(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    left_behind(url, stream, "dead", 1)
    reading["claim_after"] = 0.3
    async with serving(url, child(Orders, seen), **reading):
        await until(lambda: seen == [(1, 2, True)])
        await eventually(lambda: pending(url, stream) == 0)


async def test_a_long_handlers_entry_is_not_taken_over(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    gate = trio.Event()
    others: list[Any] = []
    reading["claim_after"] = 0.3
    async with serving(url, child(Orders, seen, gate), **reading):
        add(url, stream, 1)
        await until(lambda: seen)
        async with serving(url, child(Orders, others), **{**reading, "consumer": "two"}):
            await trio.sleep(1.5)
            gate.set()
        await eventually(lambda: pending(url, stream) == 0)

    assert (seen, others) == ([(1, 1, False)], [])


async def test_an_entry_whose_data_was_trimmed_is_said_to_be_lost(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    left_behind(url, stream, "one", 1, 2)
    with plain(url) as client:
        client.xtrim(stream, maxlen=1, approximate=False)
    async with serving(url, child(Orders, seen), **reading) as service:
        await until(lambda: seen == [(2, 2, True)])
        await until(lambda: service.statistics().refused == {"entries that are lost": 1})

    assert pending(url, stream) == 0


@pytest.mark.parametrize("harm", ["stream", "group", "everything"])
async def test_what_is_deleted_under_a_reader_is_made_again(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any], harm: str
) -> None:
    async with serving(url, child(Orders, seen), **reading) as service:
        add(url, stream, 1)
        await until(lambda: len(seen) == 1)
        with plain(url) as client:
            if harm == "stream":
                client.delete(stream)
            elif harm == "group":
                client.xtrim(stream, maxlen=0, approximate=False)
                client.xgroup_destroy(stream, "g")
            else:
                client.flushall()
        await until(lambda: service.statistics().refused == {"streams that were deleted": 1})
        add(url, stream, 2)
        await until(lambda: len(seen) == 2)

        assert service.statistics().connections == 1
    assert seen == [(1, 1, False), (2, 1, False)]


async def test_what_is_in_hand_when_its_group_is_deleted_runs_once(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    gate = trio.Event()
    async with serving(url, child(Orders, seen, gate, concurrency=4), **reading) as service:
        add(url, stream, 1)
        await until(lambda: seen)
        with plain(url) as client:
            client.xgroup_destroy(stream, "g")
        await until(lambda: service.statistics().refused == {"streams that were deleted": 1})
        add(url, stream, 2)
        await until(lambda: len(seen) == 2)
        gate.set()
        await eventually(lambda: pending(url, stream) == 0)

    assert seen == [(1, 1, False), (2, 1, False)]


@pytest.mark.parametrize(
    "fields",
    [{"other": "program"}, {"packet": "{bad"}, {"packet": '{"data":1}'}, {"packet": ""}],
    ids=["no packet", "no JSON", "no pattern", "empty"],
)
async def test_an_entry_that_cannot_be_read_is_a_dead_letter(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any], fields: dict[Any, Any]
) -> None:
    async with serving(url, child(Orders, seen), **reading) as service:
        with plain(url) as client:
            client.xadd(stream, fields)
        add(url, stream, 1)
        await until(lambda: seen)
        await eventually(lambda: pending(url, stream) == 0)
        [letter] = await service.dead_letters()

    assert (letter.reason, letter.source) == ("cannot be read", f"stream:{stream}")


async def test_poison_is_a_dead_letter_and_acknowledged(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    async with serving(url, child(Orders, seen), **reading) as service:
        add(url, stream, 1, pattern="poison")
        await eventually(lambda: len(seen) == 3 and pending(url, stream) == 0)
        [letter] = await service.dead_letters()

    assert (letter.reason, letter.attempts) == ("crashed", 3)


async def test_what_was_delivered_too_often_is_a_dead_letter_unrun(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    left_behind(url, stream, "one", 1)
    with plain(url) as client:
        [entry] = client.xpending_range(stream, "g", "-", "+", 1)
        client.execute_command(
            "XCLAIM", stream, "g", "one", 0, entry["message_id"], "RETRYCOUNT", 10
        )
    async with serving(url, child(Orders, seen), **reading) as service:
        await eventually(lambda: pending(url, stream) == 0)
        [letter] = await service.dead_letters()

    assert (seen, letter.reason) == ([], "too many deliveries")


async def test_a_stop_finishes_what_was_read_and_leaves_the_rest(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    gate = trio.Event()
    add(url, stream, *range(10))
    async with hosting(
        url, child(Orders, seen, gate, concurrency=8), in_flight=4, **reading
    ) as service:
        await until(lambda: len(seen) == 4)
        service.system.stop()
        await wait_all_tasks_blocked(0.05)
        gate.set()

    assert [number for number, _, _ in seen] == [0, 1, 2, 3]
    assert pending(url, stream) == 0


async def test_what_is_given_back_looks_abandoned_at_once(
    url: str, stream: str, seen: list[Any], reading: dict[str, Any]
) -> None:
    add(url, stream, 1)
    spec = child(Orders, seen, trio.Event(), shutdown=0.1)
    async with serving(url, spec, **reading) as service:
        await until(lambda: seen)
        await service.system.stop_child("shop/orders")
        with plain(url) as client:
            await eventually(
                lambda: client.xpending_range(stream, "g", "-", "+", 1, idle=30_000), within=2
            )


async def test_requests_go_over_channels_beside_the_stream(url: str, stream: str) -> None:
    options = {"stream": stream, "group": "g", "prefix": stream}
    async with serving(url, child(Orders, []), **options):
        async with connect(url, stream=stream, prefix=stream) as client:
            assert await client.send("echo", 1) == 1
            with pytest.raises(DeclarationError, match="only events have headers"):
                await client.send("echo", 1, headers={"a": "b"})


async def test_a_client_can_keep_the_stream_short(url: str, stream: str) -> None:
    async with connect(url, stream=stream, max_length=100) as client:
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(client.emit, "placed", number)

    with plain(url) as other:
        assert 100 <= other.xlen(stream) < 300


async def test_a_name_that_is_no_stream_fails_the_start(
    url: str, stream: str, reading: dict[str, Any]
) -> None:
    with plain(url) as client:
        client.set(stream, "text")

    assert "WRONGTYPE" in await refusal(lambda: serving(url, child(Orders, []), **reading))


@pytest.mark.parametrize("headers", [{"a": "\ud800"}, {"a": 1}, {"packet": "x"}])
async def test_headers_that_cannot_be_sent_are_refused_to_their_sender(
    url: str, stream: str, headers: Any
) -> None:
    async with connect(url, stream=stream) as client:
        with pytest.raises(DeclarationError):
            await client.emit("placed", 1, headers=headers)
        await client.emit("placed", 2)
