"""What stays of an actor between its incarnations, and what each begins with."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import ActorStopped, Retry, StartFailed, StartTimedOut
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Undelivered
from understudy.actors.ref import Ref
from understudy.testing import Probe, isolated


class Who(Request[tuple[int, int]]):
    """Who answers: its incarnation, and how often this instance was asked."""


class Diary(Actor[Who]):
    """Writes down what happens to it."""

    def __init__(self, book: list[str], *, fails: int = 0) -> None:
        self.book = book
        self.asked = 0
        self.fails = fails
        book.append(f"init {self.path} {self.incarnation}")

    async def started(self) -> None:
        self.book.append("started")
        if self.incarnation <= self.fails:
            raise ConnectionError("no database")

    async def stopping(self) -> None:
        self.book.append("stopping")

    def receive(self, message: Who) -> tuple[int, int]:
        self.asked += 1
        return self.incarnation, self.asked


@pytest.fixture
def book() -> list[str]:
    return []


async def test_a_life_is_init_started_messages_stopping(book: list[str], clock: MockClock) -> None:
    async with isolated(Diary, book) as diary:
        assert await diary.ask(Who()) == (1, 1)
        assert await diary.ask(Who()) == (1, 2)

    assert book == ["init isolated/diary 1", "started", "stopping"]


async def test_a_crash_makes_a_new_instance_from_the_same_arguments_and_skips_stopping(
    book: list[str], clock: MockClock
) -> None:
    async with isolated(Diary, book) as diary:
        await diary.ask(Who())
        await diary.crash()
        assert await diary.ask(Who()) == (2, 1)

    assert book == [
        *("init isolated/diary 1", "started"),
        *("init isolated/diary 2", "started", "stopping"),
    ]


async def test_the_reference_survives_a_crash(book: list[str], clock: MockClock) -> None:
    refs: list[Ref[Any]] = []

    class Owner(Diary):
        async def started(self) -> None:
            refs.append(self.ref)

    async with isolated(Owner, book) as owner:
        await owner.crash()
        await owner.ask(Who())

    assert refs[0] is refs[1]
    assert repr(refs[0]) == "<Ref isolated/owner>"


async def test_a_failing_first_start_fails_the_tree(book: list[str], clock: MockClock) -> None:
    with pytest.raises(StartFailed) as caught:
        async with isolated(Diary, book, keywords={"fails": 1}):
            pytest.fail("the block must not run")

    assert str(caught.value) == "isolated/diary (incarnation 1) could not be started."
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_failing_restart_counts_as_a_crash(clock: MockClock) -> None:
    class Late(Actor):
        async def started(self) -> None:
            if self.incarnation > 1:
                raise ConnectionError("gone")

    async def run() -> None:
        async with isolated(Late, max_restarts=3, within=60) as late:
            late_path.append(late.path)
            await late.crash()
            await trio.sleep(600)

    late_path: list[str] = []
    with pytest.raises(SupervisorGaveUp) as caught:
        await run()
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_start_that_takes_too_long_is_cancelled(clock: MockClock) -> None:
    class Slow(Actor):
        async def started(self) -> None:
            await trio.sleep(100)

    with pytest.raises(StartFailed) as caught:
        async with isolated(Slow, start_timeout=3):
            pytest.fail("the block must not run")

    assert isinstance(caught.value.__cause__, StartTimedOut)
    assert str(caught.value.__cause__) == (
        "isolated/slow (incarnation 1): started() was not done after 3 s. Move slow work into "
        "a first message, or raise start_timeout= in its child()."
    )


async def test_started_may_tell_itself_its_first_message(clock: MockClock) -> None:
    class Eager(Actor[Who]):
        asked = 0

        async def started(self) -> None:
            self.ref.tell(Who())

        def receive(self, message: Who) -> tuple[int, int]:
            self.asked += 1
            return self.incarnation, self.asked

    async with isolated(Eager) as eager:
        assert await eager.ask(Who()) == (1, 2)


async def test_stopping_may_still_send(clock: MockClock) -> None:
    class Polite(Actor):
        def __init__(self, mail: Ref[Any]) -> None:
            self.mail = mail

        async def stopping(self) -> None:
            self.mail.tell("goodbye", 1)

    mail = Probe()
    async with isolated(Polite, mail):
        pass

    assert [received.routes for received in mail.received] == [{"goodbye"}]


async def test_a_temporary_actor_that_crashed_takes_no_more_mail(
    book: list[str], clock: MockClock
) -> None:
    async with isolated(Diary, book, restart="temporary") as diary:
        await diary.crash()
        await trio.sleep(1)
        assert diary.alive is False
        with pytest.raises(ActorStopped):
            await diary.ask(Who())


async def test_mail_for_an_actor_between_two_lives_waits_for_the_next(
    book: list[str], clock: MockClock
) -> None:
    async with isolated(Diary, book) as diary:
        await diary.crash()
        await diary.ask(Who())
        await diary.crash()
        before = trio.current_time()

        assert await diary.ask(Who()) == (3, 1)
        assert trio.current_time() - before == pytest.approx(0.1, rel=0.2)


class Patient(Actor[str]):
    """Puts every message off."""

    def receive(self, message: str) -> None:
        raise Retry("not now", after=60)


async def test_a_message_that_was_put_off_is_undelivered_when_the_actor_ends(
    clock: MockClock,
) -> None:
    async with isolated(Patient) as patient:
        patient.tell("later")
        await trio.sleep(1)
        lifecycle = patient.lifecycle

    (undelivered,) = lifecycle.of(Undelivered)
    assert undelivered.message == "str"
    assert undelivered.why == "it has stopped"


class Pair(Actor[str]):
    """Handles two messages at once; "crash" ends both."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def receive(self, message: str) -> None:
        self.log.append(f"{message} in life {self.incarnation}")
        if message == "crash":
            raise ValueError("boom")
        if self.incarnation == 1:
            await trio.sleep_forever()


async def test_a_told_message_that_a_neighbours_crash_cancels_is_handled_by_the_next_life(
    clock: MockClock,
) -> None:
    log: list[str] = []
    async with isolated(Pair, log, concurrency=2) as pair:
        pair.tell("work")
        pair.tell("crash")
        await trio.sleep(5)

    assert log == ["work in life 1", "crash in life 1", "work in life 2"]
