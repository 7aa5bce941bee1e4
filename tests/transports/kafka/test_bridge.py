"""A service on Kafka: what it reads and answers, and what it commits when."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio
from attrs import frozen
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import DeclarationError, Retry, StartFailed
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ...brokers.kafka import KafkaBroker
from ..serving import hosting, serving, until
from ..shop import Notes
from .peer import Peer, Raw

CORRELATION = ("kafka_correlationId", b"corr1")
IS_DISPOSED = ("kafka_nest-is-disposed", b"\0")


@frozen
class Item:
    a: int


class Desk(Actor):
    """Requests and events of several types."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.tries = 0

    @message_pattern("echo")
    async def echo(self, data: Any, context: MessageContext) -> Any:
        self.notes.seen.append((data, dict(context.headers)))
        return data

    @message_pattern("sum")
    async def sum(self, numbers: list[int]) -> int:
        return sum(numbers)

    @message_pattern("twice")
    async def twice(self, number: int) -> int:
        return number * 2

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[dict[str, int]]:
        for number in range(to):
            yield {"n": number}

    @message_pattern("record")
    async def record(self) -> dict[str, Any]:
        return {"key": "k", "value": {"v": 1}, "headers": {"x": "1"}}

    @event_pattern("placed")
    async def placed(self, item: Any, context: MessageContext) -> None:
        self.notes.seen.append((item, dict(context.headers)))

    @event_pattern("typed")
    async def typed(self, item: Item | None) -> None:
        self.notes.seen.append(item)

    @event_pattern("gated")
    async def gated(self, item: int) -> None:
        if item == 0:
            await self.notes.gate.wait()
            raise ValueError("cannot work with nothing")
        self.notes.seen.append(item)

    @event_pattern("slow")
    async def slow(self, item: int) -> None:
        await self.notes.gate.wait()
        self.notes.seen.append(item)

    @event_pattern("busy")
    async def busy(self, item: int) -> None:
        self.tries += 1
        if self.tries == 1:
            await self.notes.gate.wait()
            raise Retry("the till is closed", after=0.0)
        self.notes.seen.append(item)


def asking(topic: str, value: bytes | None, *more: tuple[str, bytes], **fields: Any) -> Raw:
    reply = ("kafka_replyTopic", f"{topic}.reply".encode())
    return Raw(value, headers=[CORRELATION, reply, *more], **fields)


# -- requests ---------------------------------------------------------------------


async def test_an_answer_goes_to_the_partition_that_was_asked_for(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.sum"
    await peer.make(f"{topic}.reply", 3)
    async with serving(url, child(Desk, notes), prefix=name):
        wanted = ("kafka_replyPartition", b"2")
        await peer.write(topic, asking(topic, b"[1,2,3]", wanted), asking(topic, b"[4]"))
        answers = await peer.read(f"{topic}.reply", 2)

    first, second = sorted(answers, key=lambda record: record.value)[::-1]
    assert (first.value, first.partition, first.key) == (b"6", 2, None)
    assert list(first.headers) == [CORRELATION, IS_DISPOSED]
    assert second.value == b"4"


async def test_items_of_a_stream_come_before_the_last_one_that_ends_it(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.count"
    await peer.make(f"{topic}.reply")
    async with serving(url, child(Desk, notes), prefix=name):
        await peer.write(topic, asking(topic, b"3"))
        answers = await peer.read(f"{topic}.reply", 3)

    assert [json.loads(record.value) for record in answers] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [list(record.headers) for record in answers] == [
        [CORRELATION],
        [CORRELATION],
        [CORRELATION, IS_DISPOSED],
    ]


async def test_a_topic_that_nobody_handles_any_more_says_so_in_a_header(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    class Passing(Actor):
        @message_pattern("gone")
        async def gone(self) -> None:
            """Never asked: it has left when the request comes."""

    topic = f"{name}.gone"
    await peer.make(topic)
    await peer.make(f"{topic}.reply")
    async with serving(url, child(Desk, notes), child(Passing), prefix=name) as service:
        bridge = service.system.offer("bridge")
        bridge.registry.requests.pop("gone")
        bridge.registry.version += 1
        await peer.write(topic, asking(topic, b"1"))
        (answer,) = await peer.read(f"{topic}.reply", 1)

    error = b"There is no matching message handler defined in the remote service."
    assert (answer.value, list(answer.headers)) == (None, [CORRELATION, ("kafka_nest-err", error)])


async def test_who_names_no_reply_topic_or_asks_a_topic_of_events_gets_no_answer(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    echo, placed = f"{name}.echo", f"{name}.placed"
    for topic in (echo, placed):
        await peer.make(f"{topic}.reply")
    async with serving(url, child(Desk, notes), prefix=name) as service:
        await peer.write(echo, Raw(b'{"a":1}', headers=[CORRELATION]))
        await peer.write(placed, asking(placed, b'{"a":2}'))
        await until(lambda: len(notes.seen) == 2)
        await until(lambda: service.statistics().in_flight == 0)

    assert sorted(item["a"] for item, _ in notes.seen) == [1, 2]
    assert [await peer.count(f"{topic}.reply") for topic in (echo, placed)] == [0, 0]


async def test_a_key_and_headers_come_with_the_record(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.echo"
    await peer.make(f"{topic}.reply")
    async with serving(url, child(Desk, notes), prefix=name):
        await peer.write(topic, asking(topic, b'{"a":1}', ("x", b"1"), key=b'{"k":1}'))
        await until(lambda: notes.seen)

    assert notes.seen == [({"a": 1}, {"x": "1", "kafka_key": '{"k":1}'})]


async def test_a_handler_without_a_type_gets_text(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    values = [b"12", b"true", b'"quoted"', b"", b"{bad", b"\xff\xfe", b"\0abc"]
    async with serving(url, child(Desk, notes), prefix=name):
        await peer.write(f"{name}.placed", *map(Raw, values))
        await until(lambda: len(notes.seen) == len(values), within=20)

    # What is binary comes in base64, which a payload of `bytes` takes.
    texts = ["12", "true", '"quoted"', "", "{bad", "\ufffd\ufffd", "AGFiYw=="]
    assert notes.seen == [(text, {}) for text in texts]


async def test_a_record_without_a_value_is_given_as_a_whole_or_as_nothing_to_who_takes_that(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    async with serving(url, child(Desk, notes), prefix=name):
        await peer.write(f"{name}.placed", Raw(None, key=b"u1", headers=[("h", b"x")]))
        await until(lambda: notes.seen)
        await peer.write(f"{name}.typed", Raw(None, key=b"u1"), Raw(b'{"a":1}'))
        await until(lambda: len(notes.seen) == 3)

    whole = notes.seen[0][0]
    assert whole.pop("timestamp").isdecimal()
    assert whole == {
        "key": "u1",
        "value": None,
        "headers": {"h": "x"},
        "offset": "0",
        "topic": f"{name}.placed",
        "partition": 0,
    }
    assert notes.seen[1:] == [None, Item(1)]


async def test_an_answer_may_be_a_record(url: str, name: str, peer: Peer, notes: Notes) -> None:
    topic = f"{name}.record"
    await peer.make(f"{topic}.reply")
    async with serving(url, child(Desk, notes), prefix=name, records=True):
        await peer.write(topic, asking(topic, b"1"))
        (answer,) = await peer.read(f"{topic}.reply", 1)

    assert (answer.key, answer.value) == (b"k", b'{"v":1}')
    assert list(answer.headers) == [("x", b"1"), CORRELATION, IS_DISPOSED]


# -- events -----------------------------------------------------------------------


async def test_garbage_is_a_dead_letter_and_stops_nobody(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.typed"
    async with serving(url, child(Desk, notes), prefix=name) as service:
        await peer.write(topic, Raw(b"\xff\xfe"), Raw(b'{"a":"?"}'), Raw(b'{"a":3}'))
        await until(lambda: notes.seen)
        await until(lambda: service.statistics().in_flight == 0)
        letters = await service.dead_letters()

    assert notes.seen == [Item(3)]
    assert [letter.reason for letter in letters] == ["does not fit"] * 2
    assert await peer.committed(f"{name}-server", topic) == (3, "")


@pytest.mark.parametrize("how", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_read(
    url: str, name: str, peer: Peer, notes: Notes, how: str
) -> None:
    async with serving(url, child(Desk, notes), prefix=name):
        some = [Raw(b'{"a":%d}' % number) for number in range(20)]
        await peer.write(f"{name}.typed", *some, compression=how)
        await until(lambda: len(notes.seen) == 20)

    assert notes.seen == [Item(number) for number in range(20)]


async def test_nothing_is_committed_past_poison_before_it_is_a_dead_letter(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic, group = f"{name}.gated", f"{name}-server"
    good = [Raw(b"%d" % number) for number in range(1, 6)]
    desk = child(Desk, notes, concurrency=8)
    async with serving(url, desk, prefix=name, commit_interval=0.01) as service:
        await peer.write(topic, good[0], Raw(b"0"), *good[1:])
        await until(lambda: len(notes.seen) == 5)
        await trio.sleep(0.1)
        offset, mark = await peer.committed(group, topic)
        notes.gate.set()
        await until(lambda: service.statistics().in_flight == 0)
        (letter,) = await service.dead_letters()

    assert (offset, mark) == (1, "understudy 10001 1")
    assert (letter.reason, letter.body, letter.attempts) == ("crashed", b"0", 3)
    assert await peer.committed(group, topic) == (6, "")


async def test_an_event_that_is_to_be_tried_again_is_not_committed_meanwhile(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic, group = f"{name}.busy", f"{name}-server"
    async with serving(url, child(Desk, notes), prefix=name, commit_interval=0.01):
        await peer.write(topic, Raw(b"7"))
        await trio.sleep(0.1)
        before, _ = await peer.committed(group, topic)
        notes.gate.set()
        await until(lambda: notes.seen)

    assert before == 0
    assert (await peer.committed(group, topic))[0] == 1


async def test_a_handler_may_take_longer_than_the_group_lets_a_member_be_silent(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    options = {"prefix": name, "in_flight": 1, "max_poll_interval": 0.4, "session_timeout": 1.0}
    async with serving(url, child(Desk, notes), **options) as service:
        async with connect(url, prefix=name) as client:
            await client.emit("slow", 1)
            await client.emit("slow", 2)
            await until(lambda: service.statistics().in_flight)
            await trio.sleep(1.6)
            members = await peer.members(f"{name}-server")
            notes.gate.set()
            await until(lambda: len(notes.seen) == 2)

        assert service.statistics().duplicates == 0
        assert service.statistics().connections == 1
    assert (members, notes.seen) == (1, [1, 2])


async def test_a_topic_that_is_deleted_is_noticed_and_made_again(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    quick = {"heartbeat": 0.2, "reconnect_max": 0.2}
    async with serving(url, child(Desk, notes), prefix=name, **quick):
        async with connect(url, prefix=name, **quick) as client:
            await _handled(client, "one", notes)
            await peer.remove(f"{name}.placed")
            await _handled(client, "two", notes)


async def _handled(client: Any, item: str, notes: Notes) -> None:
    """Send it, as often as it takes; with short heartbeats a slow machine loses its broker."""
    with trio.fail_after(30):
        while item not in [seen for seen, _ in notes.seen]:
            with suppress(ConnectionError):
                await client.emit("placed", item)
            await trio.sleep(0.1)


# -- its end and its beginning ------------------------------------------------------


async def test_a_stop_commits_what_is_done_and_leaves_the_group(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    async with hosting(url, child(Desk, notes), prefix=name, commit_interval=60.0) as service:
        async with connect(url, prefix=name) as client:
            for _ in range(10):
                await client.emit("placed", "tea")
        await until(lambda: len(notes.seen) == 10)
        service.system.stop()
        await service.system.stopped()

        assert await peer.committed(f"{name}-server", f"{name}.placed") == (10, "")
        assert await peer.members(f"{name}-server") == 0


@pytest.mark.parametrize(("start", "seen"), [("latest", ["late"]), ("earliest", ["early", "late"])])
async def test_a_new_group_begins_where_it_is_told(
    url: str, name: str, peer: Peer, notes: Notes, start: str, seen: list[str]
) -> None:
    topic = f"{name}.placed"
    await peer.write(topic, Raw(b"early"))
    async with serving(url, child(Desk, notes), prefix=name, start=start):
        await peer.write(topic, Raw(b"late"))
        await until(lambda: len(notes.seen) == len(seen))
        await wait_all_tasks_blocked(0.05)

    assert [item for item, _ in notes.seen] == seen


async def test_a_topic_that_was_missing_is_read_from_its_first_record(
    strict: KafkaBroker, name: str, notes: Notes
) -> None:
    peer, topic = Peer(strict.url), f"{name}.placed"
    options = {"prefix": name, "create_topics": False, "heartbeat": 0.5}
    async with serving(strict.url, child(Desk, notes), **options) as service:
        await until(lambda: service.statistics().connected)
        await trio.sleep(0.3)  # for it to see what there is
        await peer.make(topic)
        await peer.write(topic, Raw(b"first"))
        await until(lambda: notes.seen, within=20)

    assert notes.seen == [("first", {})]


async def test_an_object_pattern_fails_the_start(url: str, name: str, notes: Notes) -> None:
    class Wrong(Actor):
        @message_pattern({"cmd": "sum"})
        async def sum(self) -> None:
            """Never asked."""

    with pytest.raises(StartFailed) as caught:
        async with serving(url, child(Wrong), prefix=name):
            pass

    assert "cannot be a Kafka topic" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("where", "options", "text"),
    [
        ("kafka://127.0.0.1", {}, "there is no consumer group"),
        ("kafka://", {"group": "a"}, "has no host|is no transport URL"),
        ("kafka://127.0.0.1", {"group": "a", "prefix": "a b"}, "cannot be a Kafka topic"),
        ("kafka://127.0.0.1", {"group": "a", "sasl": "PLAIN"}, "needs a user"),
        ("kafka://127.0.0.1", {"group": "a", "sasl": "OAUTHBEARER"}, "belong together"),
        ("kafka://127.0.0.1", {"group": "a", "order": "some"}, "'order' must be in"),
    ],
)
def test_what_can_never_work_is_refused_at_once(
    where: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError, match=text):
        serve(where, **options)


# -- nestrs -----------------------------------------------------------------------


async def test_nestrs_has_one_topic_and_answers_by_key(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    replies = f"{name}.replies.me"
    await peer.make(replies)
    async with serving(url, child(Desk, notes), prefix=name, dialect="nestrs"):
        request = {"kind": "send", "pattern": "sum", "payload": [1, 2], "reply": replies}
        lines = [{**request, "correlation_id": "c7"}, {**request, "pattern": "nobody"}]
        await peer.write(
            f"{name}.requests", *(Raw(json.dumps(line).encode()) for line in lines), Raw(b"{bad")
        )
        second, first = sorted(await peer.read(replies, 2), key=lambda record: record.key)

    assert (first.key, first.value) == (b"c7", b'{"ok":true,"payload":3}')
    assert json.loads(second.value)["error"]["message"] == (
        "no microservice handler for pattern `nobody`"
    )


async def test_a_nestrs_client_and_service_understand_each_other(
    url: str, name: str, notes: Notes
) -> None:
    nestrs = {"prefix": name, "dialect": "nestrs"}
    async with serving(url, child(Desk, notes), **nestrs), connect(url, **nestrs) as client:
        assert await client.send("sum", [1, 2, 3]) == 6
        await client.emit("placed", {"a": 1})
        await until(lambda: notes.seen)

    assert notes.seen == [({"a": 1}, {})]
