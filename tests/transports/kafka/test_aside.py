"""Dead-letter and retry topics: what is written there, when, and what comes of it."""

import time
from types import SimpleNamespace
from typing import Any, Final

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import DeclarationError, Retry, StartFailed, UnderstudyError
from understudy.actors.handlers import event_pattern
from understudy.actors.retry import RetryPolicy
from understudy.supervisors.child import child
from understudy.transports.bridge import serve
from understudy.transports.codec.errors import CodecError
from understudy.transports.kafka.retrying import LONGEST, Held
from understudy.transports.kafka.trail import (
    Trail,
    dead_headers,
    not_before,
    retry_headers,
    without_trail,
)

from ...brokers.kafka import KafkaBroker
from ..serving import Service, hosting, serving, until
from ..shop import Notes
from .peer import Peer, Raw
from .test_chunks import write

DEAD: Final = {"dead_letter_topic": "{topic}.DLT"}
RETRY: Final = {"retry_topic": "{topic}.retry", "retry_in_place": 0.1}
OFTEN: Final = {"commit_interval": 0.05}

POISON: Final = b'{"n":0}'
"""What every attempt at crashes."""


@attrs.frozen
class Item:
    n: int


@attrs.frozen
class Run:
    n: int
    id: str
    attempt: int
    redelivered: bool
    at: float
    headers: dict[str, str]


class Clerk(Actor):
    """Cannot work with nothing; 1 is too much the first time, and 2 the first two times."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("work")
    async def work(self, item: Item, context: MessageContext) -> None:
        self._note(item, context)
        if item.n == 0:
            raise ValueError("cannot work with nothing")

    @event_pattern("later", retry=RetryPolicy(attempts=3, delays=(0.4,), jitter=0.0))
    async def later(self, item: Item | None, context: MessageContext) -> None:
        item = item or Item(1)
        self._note(item, context)
        if item.n == 0 or context.attempt <= item.n < 3:
            raise ValueError("not now")

    @event_pattern("much.later", retry=RetryPolicy(attempts=3, delays=(60.0,)))
    async def much_later(self, item: Item, context: MessageContext) -> None:
        self._note(item, context)
        if item.n == 0:
            raise ValueError("not today")

    @event_pattern("busy")
    async def busy(self, item: Item, context: MessageContext) -> None:
        self._note(item, context)
        if len(self.notes.seen) == 1:
            raise Retry("the till is closed", after=0.3)

    def _note(self, item: Item, context: MessageContext) -> None:
        facts = (context.message_id, context.attempt, context.redelivered)
        self.notes.seen.append(Run(item.n, *facts, time.time(), dict(context.headers)))


class Auditor(Actor):
    """Takes what another takes, too."""

    @event_pattern("later", retry=RetryPolicy(attempts=2, delays=(0.3,), jitter=0.0))
    async def later(self, item: Item | None) -> None:
        raise ValueError("no books")


def origin(topic: str, offset: int) -> dict[str, bytes]:
    """What a copy's headers say of where it came from."""
    return {
        "understudy-topic": topic.encode(),
        "understudy-partition": b"0",
        "understudy-offset": b"%d" % offset,
        "understudy-message-id": f"{topic}:0:{offset}".encode(),
    }


async def settled(service: Service) -> None:
    await until(lambda: service.statistics().in_flight == 0, within=20)


# -- dead letters -----------------------------------------------------------------


async def test_a_dead_letter_is_written_to_its_topic_as_it_came_and_why_with_it(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    good, garbage = b'{"n":7}', b"\xff\xfe\0"
    async with serving(url, child(Clerk, notes), prefix=name, **DEAD, **OFTEN) as service:
        await peer.write(topic, Raw(good))  # after it, what is like it goes a shorter way
        await until(lambda: notes.seen)
        longer = Raw(POISON, headers=[("h", b"\xff"), ("h", b"")])
        await write(url, topic, [Raw(good), Raw(POISON, key=b"k\xff"), longer, Raw(garbage)])
        found = await peer.read(f"{topic}.DLT", 3)
        await settled(service)
        letters = await service.dead_letters()

    short, long, bad = sorted(found, key=lambda each: dict(each.headers)["understudy-offset"])
    crashed = {"understudy-reason": b"crashed", "understudy-attempts": b"3"}
    assert (short.key, short.value) == (b"k\xff", POISON)
    first_at = short.headers[4]
    assert first_at[0] == "understudy-first-at"
    assert abs(float(first_at[1]) - time.time()) < 60
    assert dict(short.headers) == {
        **origin(topic, 2),
        **crashed,
        "understudy-first-at": first_at[1],
        "understudy-error": b"ValueError: cannot work with nothing",
        "understudy-actor": b"shop/clerk",
    }
    assert (long.key, long.value, long.headers[:2]) == (
        None,
        POISON,
        (("h", b"\xff"), ("h", b"")),
    )
    assert dict(long.headers).items() >= {**origin(topic, 3), **crashed}.items()
    assert (bad.value, dict(bad.headers)["understudy-reason"]) == (garbage, b"does not fit")
    assert sorted(letter.message_id for letter in letters) == [f"{topic}:0:{n}" for n in (2, 3, 4)]
    assert await peer.committed(f"{name}-server", topic) == (5, "")


async def test_a_record_without_a_value_has_none_in_the_topic_either(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.work"
    async with serving(url, child(Clerk, notes), prefix=name, **DEAD):
        await peer.write(topic, Raw(None, key=b"k"), Raw(b""))
        null, empty = await peer.read(f"{topic}.DLT", 2)

    assert (null.key, null.value, empty.value) == (b"k", None, b"")


async def test_what_is_too_long_for_its_topic_is_in_the_store_only_and_holds_nobody_up(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.later"
    options = {"prefix": name, "message_limit": 400, **DEAD, **RETRY}
    async with serving(url, child(Clerk, notes), **options) as service:
        await peer.write(topic, Raw(b'{"n":0%s}' % (b" " * 400)), Raw(b'{"n":7}'))
        await until(lambda: len(notes.seen) == 4)  # the retries have waited here
        await settled(service)
        (letter,) = await service.dead_letters()
        refused = service.statistics().refused

    assert letter.attempts == 3
    assert refused == {"dead letters that are too long for their topic": 1}
    assert await peer.count(f"{topic}.retry") == await peer.count(f"{topic}.DLT") == 0
    assert await peer.committed(f"{name}-server", topic) == (2, "")


LACKING: Final = {
    "create_topics": False,
    "connect_timeout": 1.5,
    "reconnect_max": 0.2,
    "heartbeat": 0.5,
    "start": "earliest",
    "session_timeout": 2.0,
    **DEAD,
    **OFTEN,
}


async def test_nothing_is_committed_before_its_dead_letter_is_in_the_topic_whatever_happens(
    strict: KafkaBroker, name: str, notes: Notes
) -> None:
    peer, topic, group = Peer(strict.url), f"{name}.work", f"{name}-server"
    clerk = child(Clerk, notes)
    unwritten = "dead letters that cannot be written"
    await peer.make(topic)
    async with hosting(strict.url, clerk, prefix=name, **LACKING) as service:
        await peer.write(topic, Raw(b'{"n":7}'))  # after it, what is like it goes a shorter way
        await until(lambda: notes.seen, within=20)
        longer = Raw(POISON, headers=[("h", b"x")])
        await write(strict.url, topic, [Raw(b'{"n":7}'), Raw(POISON), longer, Raw(b'{"n":8}')])
        await until(lambda: service.statistics().refused.get(unwritten, 0) > 1, within=20)
        assert (await peer.committed(group, topic))[0] == 2
        assert len(await service.dead_letters()) == 2
        # The broker goes and comes again: they are still in hand, and not run again.
        await trio.to_thread.run_sync(strict.kill)
        await until(lambda: not service.statistics().connected, within=20)
        await trio.to_thread.run_sync(strict.restart)
        await until(lambda: service.statistics().duplicates >= 2, within=30)
        assert [run.n for run in notes.seen].count(0) == 6
        assert (await peer.committed(group, topic))[0] == 2
        service.system.kill()
        with pytest.raises(UnderstudyError):
            await service.system.stopped()

    await peer.make(f"{topic}.DLT")
    async with serving(strict.url, clerk, prefix=name, **LACKING) as service:
        found = await peer.read(f"{topic}.DLT", 2)
        await until(lambda: 8 in [run.n for run in notes.seen[9:]], within=20)
        await settled(service)

    assert {dict(dead.headers)["understudy-offset"] for dead in found} == {b"2", b"3"}
    assert all(run.redelivered for run in notes.seen[9:])
    assert (await peer.committed(group, topic))[0] == 5


async def test_a_dead_letter_waits_in_its_session_until_its_topic_can_be_written(
    strict: KafkaBroker, name: str, notes: Notes
) -> None:
    peer, topic = Peer(strict.url), f"{name}.work"
    await peer.make(topic)
    async with serving(strict.url, child(Clerk, notes), prefix=name, **LACKING) as service:
        await peer.write(topic, *[Raw(POISON, key=b"%d" % number) for number in range(3)])
        await until(lambda: service.statistics().refused, within=20)
        await peer.make(f"{topic}.DLT")
        found = await peer.read(f"{topic}.DLT", 3)
        await settled(service)
        assert service.statistics().connections == 1

    assert sorted(record.key for record in found) == [b"0", b"1", b"2"]
    assert len(notes.seen) == 9
    assert await peer.committed(f"{name}-server", topic) == (3, "")


# -- retries ----------------------------------------------------------------------


async def test_a_retry_waits_in_its_topic_and_goes_on_counting(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic, group = f"{name}.later", f"{name}-server"
    async with serving(url, child(Clerk, notes), prefix=name, **RETRY, **OFTEN) as service:
        await peer.write(topic, Raw(b'{"n":2}', key=b"k", headers=[("h", b"x")]))
        first, second = await peer.read(f"{topic}.retry", 2)
        await until(lambda: len(notes.seen) == 3, within=20)
        await settled(service)
        assert service.statistics().duplicates == 0
        assert await service.dead_letters() == []

    runs = notes.seen
    assert [(run.attempt, run.redelivered) for run in runs] == [(1, False), (2, True), (3, True)]
    assert {run.id for run in runs} == {f"{topic}:0:0"}
    assert all(run.headers == {"h": "x", "kafka_key": "k"} for run in runs)
    assert (first.key, first.value, first.headers[0]) == (b"k", b'{"n":2}', ("h", b"x"))
    for number, record in enumerate((first, second)):
        said = dict(record.headers)
        assert len(said) == len(record.headers)
        assert said.items() >= origin(topic, 0).items()
        assert said["understudy-attempt"] == b"%d" % (number + 2)
        assert said["understudy-group"] == group.encode()
        due = float(said["understudy-not-before"])
        assert runs[number].at + 0.3 < due <= runs[number + 1].at + 0.01
    assert await peer.committed(group, topic) == (1, "")
    assert await peer.committed(group, f"{topic}.retry") == (2, "")


async def test_a_policy_that_is_used_up_ends_with_a_dead_letter_of_the_first_record(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.later"
    options = {"prefix": name, "max_deliveries": 2, **RETRY, **DEAD}
    async with serving(url, child(Clerk, notes), **options) as service:
        await peer.write(topic, Raw(b"[]"), Raw(POISON, key=b"k", headers=[("h", b"x")]))
        _, dead = await peer.read(f"{topic}.DLT", 2)
        await settled(service)
        letters = {letter.message_id: letter for letter in await service.dead_letters()}

    said = dict(dead.headers)
    assert (dead.key, dead.value, dead.headers[0]) == (b"k", POISON, ("h", b"x"))
    assert said.items() >= {**origin(topic, 1), "understudy-attempts": b"3"}.items()
    assert "understudy-not-before" not in said
    letter = letters[f"{topic}:0:1"]
    assert (letter.attempts, letter.reason, letter.source) == (3, "crashed", topic)
    assert letter.headers == {"h": "x", "kafka_key": "k"}


async def test_a_retry_survives_the_kill_of_its_service(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic, group = f"{name}.later", f"{name}-server"
    options = {"prefix": name, "session_timeout": 1.0, **RETRY, **OFTEN}
    async with hosting(url, child(Clerk, notes), **options) as service:
        await peer.write(topic, Raw(b'{"n":1}'))
        await until(lambda: notes.seen)
        await settled(service)
        service.system.kill()
        with pytest.raises(UnderstudyError):
            await service.system.stopped()
    async with serving(url, child(Clerk, notes), **options) as service:
        await until(lambda: len(notes.seen) == 2, within=20)
        await settled(service)

    first, second = notes.seen
    assert (second.id, second.attempt, second.redelivered) == (first.id, 2, True)
    assert second.at - first.at >= 0.4
    assert await peer.committed(group, f"{topic}.retry") == (1, "")


async def test_who_waits_in_a_topic_holds_neither_a_key_nor_a_place(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.much.later"
    poison, good = (Raw(b'{"n":%d}' % number, key=b"k") for number in (0, 7))
    options = {"prefix": name, "in_flight": 2, "retry_topic": "{topic}.retry", **OFTEN}
    async with serving(url, child(Clerk, notes, concurrency=4), **options) as service:
        await peer.write(topic, *[poison] * 4, *[good] * 4)
        await until(lambda: len(notes.seen) == 8)
        await settled(service)

    assert [run.n for run in notes.seen] == [0] * 4 + [7] * 4
    assert await peer.committed(f"{name}-server", topic) == (8, "")
    assert await peer.committed(f"{name}-server", f"{topic}.retry") == (0, "")


async def test_an_event_that_asks_for_time_waits_in_the_topic_and_is_not_counted(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.busy"
    async with serving(url, child(Clerk, notes), prefix=name, **RETRY):
        await peer.write(topic, Raw(b'{"n":5}'))
        await until(lambda: len(notes.seen) == 2, within=20)

    assert [(run.attempt, run.redelivered) for run in notes.seen] == [(1, False), (1, True)]
    assert await peer.count(f"{topic}.retry") == 1


async def test_a_short_wait_is_waited_for_here(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.later"
    options = {"prefix": name, "retry_topic": "{topic}.retry"}
    async with serving(url, child(Clerk, notes), **options):
        await peer.write(topic, Raw(b'{"n":1}'))
        await until(lambda: len(notes.seen) == 2, within=20)

    assert await peer.count(f"{topic}.retry") == 0


async def test_several_handlers_wait_here_and_each_has_its_dead_letter(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.later"
    both = child(Clerk, notes), child(Auditor)
    async with serving(url, *both, prefix=name, **RETRY, **DEAD) as service:
        await peer.write(topic, Raw(POISON))
        found = await peer.read(f"{topic}.DLT", 2)
        await settled(service)

    actors = {dict(record.headers)["understudy-actor"] for record in found}
    assert actors == {b"shop/clerk", b"shop/auditor"}
    assert await peer.count(f"{topic}.retry") == 0
    assert await peer.committed(f"{name}-server", topic) == (1, "")


async def test_a_record_without_a_value_is_retried_without_one(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic = f"{name}.later"
    async with serving(url, child(Clerk, notes), prefix=name, **RETRY):
        await peer.write(topic, Raw(None))
        await until(lambda: len(notes.seen) == 2, within=20)
        (record,) = await peer.read(f"{topic}.retry", 1)

    assert record.value is None
    assert [run.attempt for run in notes.seen] == [1, 2]


async def test_what_strangers_write_to_a_retry_topic_is_kept_and_others_retries_are_left_alone(
    url: str, name: str, peer: Peer, notes: Notes
) -> None:
    topic, group = f"{name}.work", f"{name}-server"
    trail = Trail(topic, 0, 0, "id", 1.5, 2, group)
    theirs = attrs.evolve(trail, group="theirs")
    elsewhere = attrs.evolve(trail, topic=f"{name}.none of ours")
    good = b'{"n":7}'

    def written(trail: Trail, *more: tuple[str, bytes]) -> Raw:
        return Raw(good, headers=[*retry_headers(trail, 0.0), *more])

    address = [("kafka_correlationId", b"1"), ("kafka_replyTopic", f"{topic}.reply".encode())]
    async with serving(url, child(Clerk, notes), prefix=name, **RETRY, **DEAD) as service:
        await peer.write(
            f"{topic}.retry",
            Raw(good),
            Raw(good, headers=[("understudy-not-before", b"99999999999")]),
            written(theirs),
            written(elsewhere),
            written(trail, *address),
        )
        await until(lambda: notes.seen)
        await settled(service)
        letters = await service.dead_letters()

    (run,) = notes.seen
    assert (run.id, run.attempt) == ("id", 2)
    assert [letter.reason for letter in letters] == ["cannot be read"] * 3
    assert await peer.committed(group, f"{topic}.retry") == (5, "")
    assert await peer.count(f"{topic}.retry.DLT") == 3


# -- names and headers --------------------------------------------------------------


@pytest.mark.parametrize("option", ["dead_letter_topic", "retry_topic"])
@pytest.mark.parametrize("template", ["{topic}", "{topic}!", "{other}.x", ".."])
def test_a_template_that_makes_no_topic_is_refused_at_once(option: str, template: str) -> None:
    options: dict[str, Any] = {option: template}
    with pytest.raises(DeclarationError, match=r"the topic itself|cannot be one's name"):
        serve("kafka://127.0.0.1", group="a", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"dead_letter_topic": "work"},
        {"retry_topic": "work"},
        {"retry_topic": "aside", "dead_letter_topic": "aside"},
    ],
)
async def test_a_topic_cannot_be_two_things_at_once(
    url: str, notes: Notes, options: dict[str, Any]
) -> None:
    with pytest.raises(StartFailed) as caught:
        async with serving(url, child(Clerk, notes), group="a", **options):
            pass

    assert "Give those another name" in str(caught.value.__cause__)


@given(
    st.builds(
        Trail,
        st.text(),
        st.integers(0, 10**9),
        st.integers(0, 10**17),
        st.text(),
        st.integers(0, 10**13).map(lambda number: number / 1000),
        st.integers(1, 10**9),
        st.text(),
    )
)
def test_a_trail_comes_back_as_it_went(trail: Trail) -> None:
    headers = retry_headers(trail, 12.25)

    assert Trail.of(headers) == trail
    assert not_before(headers) == 12.25
    assert without_trail([("h", None), *headers]) == [("h", None)]


@pytest.mark.parametrize("text", [b"", b"-1", b"1e9", b"\xff", b"9" * 30, b"inf", None])
@pytest.mark.parametrize("which", ["partition", "offset", "attempt", "first-at"])
def test_a_trail_that_is_not_whole_is_not_believed(which: str, text: bytes | None) -> None:
    headers = dict(retry_headers(Trail("a", 0, 0, "id", 1.0, 1, "g"), 0.0))

    with pytest.raises(CodecError, match="does not say what it came from"):
        Trail.of({**headers, f"understudy-{which}": text}.items())
    del headers[f"understudy-{which}"]
    with pytest.raises(CodecError, match="does not say what it came from"):
        Trail.of(headers.items())


def test_what_cannot_be_written_in_an_error_does_not_keep_its_letter_back() -> None:
    trail = Trail("t", 0, 1, "t:0:1", 0.0)
    headers = dict(
        dead_headers(trail, reason="crashed", error="half of \ud83d", attempts=1, actor="shop/a")
    )

    assert headers["understudy-error"] == b"half of ?"


def test_nobody_is_held_for_longer_than_can_be_meant() -> None:
    now, held = time.time(), Held()

    def record(due: float) -> Any:
        return SimpleNamespace(headers=[("understudy-not-before", b"%.3f" % due)])

    due, later, never = record(now - 1), record(now + 5), record(now + LONGEST + 60)
    assert held.due("place", [due, never, due]) == [due, never, due]
    assert held.pause(0.5) == 0.5
    assert held.due("place", [due, later, due]) == [due]
    assert held.pause(60.0) < 5.1
    assert held.over() == []
    held.clear()
    assert held.pause(60.0) == 60.0
