"""Several members of one group: sharing, leaving, joining, and what may be run twice."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import UnderstudyError
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.kafka import KafkaBroker
from ..serving import Service, hosting, serving, until
from .peer import Peer, Raw

Run = tuple[str, int, str, int, bool]
"""Who ran which number, under which identity, at which attempt, and whether it was flagged."""


class Book:
    """What all members of a group have run."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.gates: dict[str, trio.Event] = {}

    @property
    def numbers(self) -> list[int]:
        return [number for _, number, *_ in self.runs]


class Member(Actor):
    def __init__(self, name: str, book: Book) -> None:
        self.name = name
        self.book = book

    @event_pattern("work")
    async def work(self, number: int, context: MessageContext) -> None:
        run = (self.name, number, context.message_id, context.attempt, context.redelivered)
        self.book.runs.append(run)
        gate = self.book.gates.get(self.name)
        if gate is not None:
            await gate.wait()


@pytest.fixture
def book() -> Book:
    return Book()


QUICK = {"session_timeout": 2.0, "rebalance_grace": 0.3, "commit_interval": 0.1}


@asynccontextmanager
async def member(
    url: str, name: str, who: str, book: Book, **options: Any
) -> AsyncIterator[Service]:
    desk = child(Member, who, book, concurrency=16)
    async with hosting(url, desk, **{"prefix": name, **QUICK, **options}) as service:
        yield service


async def emit(url: str, name: str, numbers: range) -> None:
    async with connect(url, prefix=name) as client:
        async with trio.open_nursery() as nursery:
            for number in numbers:
                headers = {"kafka_partition": str(number % 4)}

                async def one(number: int = number, headers: Any = headers) -> None:
                    await client.emit("work", number, headers=headers)

                nursery.start_soon(one)


async def shared_out(peer: Peer, name: str, members: int) -> None:
    """Wait until the group has so many members, and a moment for them to settle."""
    with trio.fail_after(20):
        while await peer.members(f"{name}-server") != members:  # noqa: ASYNC110  # it tells nobody
            await trio.sleep(0.05)
    await trio.sleep(0.3)


async def test_members_share_the_partitions_and_take_over_from_who_leaves(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    await peer.make(f"{name}.work", 4)
    async with member(url, name, "one", book):
        async with member(url, name, "two", book) as second:
            await shared_out(peer, name, 2)
            await emit(url, name, range(40))
            await until(lambda: len(book.runs) == 40)
            shares = {who: {n % 4 for w, n, *_ in book.runs if w == who} for who in ("one", "two")}
            second.system.stop()
            await second.system.stopped()
        await emit(url, name, range(40, 80))
        await until(lambda: len(book.runs) == 80, within=20)

    assert sorted(book.numbers) == list(range(80))
    assert [len(share) for share in shares.values()] == [2, 2]
    assert {who for who, number, *_ in book.runs if number >= 40} == {"one"}
    assert not any(flagged for *_, flagged in book.runs)


async def test_a_rolling_restart_loses_nothing_and_runs_nothing_twice(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    await peer.make(f"{name}.work", 4)
    async with AsyncExitStack() as members:
        old = [await members.enter_async_context(member(url, name, who, book)) for who in "ab"]
        await shared_out(peer, name, 2)
        await emit(url, name, range(100))
        for number, (before, who) in enumerate(zip(old, "cd", strict=True), start=1):
            await members.enter_async_context(member(url, name, who, book))
            await emit(url, name, range(number * 100, number * 100 + 100))
            before.system.stop()
            await before.system.stopped()
        await until(lambda: len(set(book.numbers)) == 300, within=30)

    assert sorted(book.numbers) == list(range(300))


async def test_what_is_in_hand_beyond_the_grace_comes_flagged_to_the_next(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    await peer.make(f"{name}.work", 4)
    book.gates["slow"] = trio.Event()
    async with member(url, name, "slow", book):
        await emit(url, name, range(4))
        await until(lambda: len(book.runs) == 4)
        async with member(url, name, "quick", book):
            await until(lambda: len(book.runs) > 4, within=20)
            await trio.sleep(0.3)
            again = [run for run in book.runs if run[0] == "quick"]
            book.gates["slow"].set()
            await trio.sleep(0.3)

    before = {identity for who, _, identity, *_ in book.runs if who == "slow"}
    assert len(again) == 2
    assert {identity for _, _, identity, *_ in again} < before
    assert [(attempt, flagged) for *_, attempt, flagged in again] == [(2, True)] * 2
    # The slow member has its other two back: they are in its hands still, and run once.
    assert len(book.runs) == 6


async def test_what_its_process_dies_of_again_and_again_is_a_dead_letter_and_the_rest_goes_on(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    topic = f"{name}.work"
    await peer.make(topic)
    async with member(url, name, "first", book):
        pass  # so that the group is there, and begins before what comes now
    await peer.write(topic, *(Raw(b"%d" % number) for number in range(4)))
    taken = {"one": [0, 1, 2, 3], "two": [0, 1, 2, 3], "three": [0]}
    for who, numbers in taken.items():
        book.gates[who] = trio.Event()
        async with member(url, name, who, book, max_deliveries=3, in_flight=4) as service:
            await until(lambda who=who, n=numbers: len(runs_of(book, who)) == len(n), within=6)  # type: ignore[misc]
            await trio.sleep(0.1)  # for more to come, if it did
            service.system.kill()
            with pytest.raises(UnderstudyError):
                await service.system.stopped()
    async with member(url, name, "next", book, max_deliveries=3) as service:
        await until(lambda: len(runs_of(book, "next")) == 3, within=20)
        letters = await service.dead_letters()

    # The third time it was alone.
    assert {who: sorted(run[1] for run in runs_of(book, who)) for who in taken} == taken
    assert [run[3] for who in taken for run in runs_of(book, who) if run[1] == 0] == [1, 2, 3]
    assert [(each.reason, each.body, each.attempts) for each in letters] == [
        ("too many deliveries", b"0", 4)
    ]
    assert [(run[1], run[4]) for run in runs_of(book, "next")] == [(1, True), (2, True), (3, True)]


class Other(Actor):
    @event_pattern("other")
    async def other(self, number: int) -> None:
        pass


async def test_rebalances_do_not_make_what_is_in_hand_suspect(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    await peer.make(f"{name}.work")
    await peer.make(f"{name}.other")
    book.gates["one"] = trio.Event()
    async with member(url, name, "one", book) as service:
        await peer.write(f"{name}.work", *(Raw(b"%d" % number) for number in range(3)))
        await until(lambda: len(book.runs) == 3)
        for times in range(1, 4):
            # Another member, who reads something else: each time all partitions are shared out.
            async with hosting(url, child(Other), prefix=name, **QUICK):
                await until(lambda n=3 * times: service.statistics().duplicates >= n)  # type: ignore[misc]
        await peer.write(f"{name}.work", Raw(b"3"), Raw(b"4"))
        await until(lambda: len(book.runs) == 5)
        book.gates["one"].set()

    assert book.numbers == [0, 1, 2, 3, 4]


def runs_of(book: Book, who: str) -> list[Run]:
    return [run for run in book.runs if run[0] == who]


async def test_topics_of_an_actor_that_comes_later_are_read_and_nothing_runs_twice_for_it(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    class Later(Actor):
        @event_pattern("later")
        async def later(self, number: int) -> None:
            book.runs.append(("later", number, "", 1, False))

    await peer.make(f"{name}.work", 4)
    async with member(url, name, "one", book, commit_interval=60.0) as service:
        await emit(url, name, range(1))
        await until(lambda: len(book.runs) == 1)
        await service.system.start_child(child(Later))
        await until(lambda: service.statistics().connected)
        with trio.fail_after(20):
            async with connect(url, prefix=name) as client:
                while "later" not in {who for who, *_ in book.runs}:
                    await client.emit("later", 7)
                    await trio.sleep(0.1)
    async with member(url, name, "two", book):
        await emit(url, name, range(1, 2))
        await until(lambda: 1 in book.numbers)

    assert [number for who, number, *_ in book.runs if who != "later"] == [0, 1]


async def test_a_static_member_finds_its_partitions_again(
    url: str, name: str, peer: Peer, book: Book
) -> None:
    await peer.make(f"{name}.work", 4)
    static = {"member": "me", "session_timeout": 6.0}
    async with member(url, name, "other", book):
        async with member(url, name, "me", book, **static):
            await shared_out(peer, name, 2)
        await emit(url, name, range(8))
        await until(lambda: len(book.runs) == 4)
        async with member(url, name, "me", book, **static):
            await until(lambda: len(book.runs) == 8, within=20)

    assert sorted(book.numbers) == list(range(8))
    assert len({number % 4 for who, number, *_ in book.runs if who == "me"}) == 2


async def test_a_broker_that_is_killed_is_noticed_and_nothing_in_hand_runs_twice(
    strict: KafkaBroker, name: str, book: Book
) -> None:
    broker = strict
    book.gates["me"] = trio.Event()
    options = {"prefix": name, "heartbeat": 0.3, "reconnect_max": 0.3}
    async with serving(broker.url, child(Member, "me", book, concurrency=4), **options) as service:
        async with connect(broker.url, **options) as client:
            await client.emit("work", 1)
            await until(lambda: book.runs)
            await trio.to_thread.run_sync(broker.kill)
            await until(lambda: not service.statistics().connected, within=20)
            with pytest.raises(ConnectionError):
                await client.emit("work", 2)
            await trio.to_thread.run_sync(broker.start)
            # It comes again while it is still in hand.
            await until(lambda: service.statistics().duplicates, within=30)
            book.gates["me"].set()
            with trio.fail_after(30):
                while 3 not in book.numbers:
                    try:
                        await client.emit("work", 3)
                    except ConnectionError:
                        await trio.sleep(0.1)
                    await trio.sleep(0.05)

    assert book.numbers.count(1) == 1
