"""Several actors behind one reference: who gets a message, and what a pool is to the tree."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio.testing import wait_all_tasks_blocked as settled

from understudy.actors.actor import Actor, Request
from understudy.actors.errors import ActorStopped, DeclarationError, MailboxFull, Retry, StartFailed
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Notice, Undelivered
from understudy.actors.ref import Ref
from understudy.actors.watching import Terminated
from understudy.supervisors.child import Supervisor, child, needs
from understudy.supervisors.delivery.intake import Inbound
from understudy.supervisors.pool import Pool, pool
from understudy.supervisors.system import System, running


@attrs.frozen
class Work:
    """Keeps a member busy for some seconds."""

    seconds: float = 0.0
    user: str = ""


class Who(Request[str]):
    """Which member is it?"""


@attrs.frozen
class Crash:
    """Ends the incarnation of the member that handles it."""


class Mailer(Actor[Work | Who | Crash]):
    def __init__(self, done: list[str]) -> None:
        self.done = done

    async def receive(self, message: Work | Who | Crash) -> Any:
        if isinstance(message, Crash):
            raise OSError("crashed")
        if isinstance(message, Who):
            return self.path
        await trio.sleep(message.seconds)
        self.done.append(f"{self.path[-1]}{message.user}")
        return None

    @message_pattern("mail.send")
    async def send(self, user: str) -> str:
        return self.path

    @event_pattern("mail.sent")
    async def sent(self, user: str) -> None:
        self.done.append(f"{self.path[-1]}{user}")


def event(user: str, message_id: str = "1") -> Inbound:
    data = f'"{user}"'.encode()
    return Inbound(
        transport="test", source="", pattern="mail.sent", data=data, message_id=message_id
    )


class Settled:
    def __init__(self) -> None:
        self.acknowledged = 0
        self.given_back = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1

    def give_back(self) -> bool:
        self.given_back += 1
        return True


@pytest.fixture
def done() -> list[str]:
    return []


def tree(done: list[str], **options: Any) -> Supervisor:
    return Supervisor("top", [pool(Mailer, done, **{"size": 3, **options})])


# -- who gets a message -----------------------------------------------------------


async def test_messages_go_round_the_members(done: list[str], clock: MockClock) -> None:
    async with running(tree(done)) as system:
        mailer = system.ref(Mailer)
        paths = [await mailer.ask(Who()) for _ in range(4)]

    assert paths == ["top/mailer/1", "top/mailer/2", "top/mailer/3", "top/mailer/1"]


async def test_a_full_member_is_passed_over(done: list[str], clock: MockClock) -> None:
    async with running(tree(done, size=2, mailbox=1)) as system:
        mailer = system.ref(Mailer)
        system.ref("top/mailer/1").tell(Work(9))
        await settled()
        system.ref("top/mailer/1").tell(Work(9))
        mailer.tell(Work(user="a"))
        await settled()

        assert done == ["2a"]


async def test_a_pool_is_full_when_all_its_members_are(done: list[str], clock: MockClock) -> None:
    async with running(tree(done, size=2, mailbox=1)) as system:
        mailer = system.ref(Mailer)
        for _ in range(2):
            mailer.tell(Work(9))
            mailer.tell(Work(9))
            await settled()

        with pytest.raises(MailboxFull, match=r"top/mailer(/\d)?: the mailbox is full"):
            mailer.tell(Work())


async def test_who_waits_for_room_in_a_full_pool_gets_it(done: list[str], clock: MockClock) -> None:
    async with running(tree(done, size=2, mailbox=1)) as system:
        mailer = system.ref(Mailer)
        for _ in range(2):
            mailer.tell(Work(9))
            mailer.tell(Work(9))
            await settled()
        await mailer.tell_wait(Work(user="late"))
        assert trio.current_time() == pytest.approx(9)

    assert done[-1] == "1late"


async def test_who_waits_for_room_is_woken_by_whichever_member_has_some(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, size=2, mailbox=1, shutdown=0)) as system:
        for name, seconds in (("1", 90.0), ("2", 3.0)):
            for _ in range(2):
                system.ref(f"top/mailer/{name}").tell(Work(seconds))
                await settled()
        await system.ref(Mailer).tell_wait(Work(user="late"))

        assert trio.current_time() == pytest.approx(3)


async def test_who_waits_for_room_is_told_when_the_pool_is_stopped(
    done: list[str], clock: MockClock
) -> None:
    async def ask() -> None:
        with pytest.raises(ActorStopped):
            await system.ref(Mailer).ask(Who(), timeout=60)

    async with running(tree(done, size=1, mailbox=1)) as system:
        for _ in range(2):
            system.ref(Mailer).tell(Work(90))
            await settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settled()
            await system.stop_child("top/mailer")

    assert trio.current_time() == pytest.approx(5)


async def test_the_least_busy_member_gets_the_message(done: list[str], clock: MockClock) -> None:
    async with running(tree(done, by="least_busy")) as system:
        mailer = system.ref(Mailer)
        for name, seconds in (("1", 9.0), ("2", 1.0), ("3", 9.0)):
            system.ref(f"top/mailer/{name}").tell(Work(seconds))
        await trio.sleep(2)
        mailer.tell(Work(user="a"))
        await settled()
        mailer.tell(Work(user="b"))
        await settled()

        assert done == ["2", "2a", "2b"]


async def test_the_shortest_line_is_taken_when_all_are_busy(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, by="least_busy", size=2)) as system:
        mailer = system.ref(Mailer)
        for _ in range(3):
            system.ref("top/mailer/1").tell(Work(9))
        system.ref("top/mailer/2").tell(Work(1))
        await settled()
        mailer.tell(Work(user="a"))
        mailer.tell(Work(user="b"))
        await trio.sleep(2)

        assert done == ["2", "2a", "2b"]


@pytest.mark.parametrize(
    "by", ["user", lambda message: message.user], ids=["a field", "a function"]
)
async def test_a_key_has_its_own_member(done: list[str], clock: MockClock, by: Any) -> None:
    users = ["ann", "bob", "eve", "joe"]

    async with running(tree(done, by=by)) as system:
        for user in users * 3:
            system.ref(Mailer).tell(Work(user=user))
        await settled()

    assert len(set(done)) == len(users)
    assert len({line[0] for line in done}) > 1


def test_a_key_has_the_same_member_in_every_process(done: list[str]) -> None:
    system = System(tree(done, by="user", size=8))
    mailbox: Any = system.registry.address(Mailer).mailbox

    owners = [mailbox._choose(Work(user=user))[0].path for user in ("ann", "bob", "eve")]
    assert owners == ["top/mailer/8", "top/mailer/3", "top/mailer/4"]


async def test_the_member_of_a_key_that_is_full_is_not_replaced(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, by="user", mailbox=1)) as system:
        mailer = system.ref(Mailer)
        mailer.tell(Work(9, "ann"))
        await settled()
        mailer.tell(Work(9, "ann"))

        with pytest.raises(MailboxFull):
            mailer.tell(Work(9, "ann"))


async def test_a_local_sender_gets_the_error_of_a_key_that_is_not_there(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, by="nobody")) as system:
        with pytest.raises(AttributeError, match="nobody"):
            system.ref(Mailer).tell(Work())


async def test_an_event_without_its_key_becomes_a_dead_letter_and_harms_nobody(
    done: list[str], clock: MockClock
) -> None:
    settlement = Settled()

    async with running(tree(done, by="nobody")) as system:
        await system.intake.event(event("ann"), settlement)
        await trio.sleep(60)
        (letter,) = await system.dead_letters()

    assert (letter.reason, letter.actor, settlement.acknowledged) == ("crashed", "top/mailer", 1)


# -- what a pool is to the tree ---------------------------------------------------


async def test_a_pool_serves_the_patterns_of_its_class_once(
    done: list[str], clock: MockClock
) -> None:
    settlement = Settled()

    async with running(tree(done)) as system:
        for user in "abc":
            await system.intake.event(event(user), settlement)
        await settled()
        assert [target.cell.path for target in system.registry.event("mail.sent")] == ["top/mailer"]

    assert sorted(done) == ["1a", "2b", "3c"]
    assert settlement.acknowledged == 3


async def test_a_pool_is_asked_by_pattern_as_an_actor_is(done: list[str], clock: MockClock) -> None:
    async with running(tree(done)) as system:
        mailer = system.ref("mailer")

        assert await mailer.ask(Mailer.send, "ann") == "top/mailer/1"
        assert await mailer.ask("mail.send", "ann") == "top/mailer/2"


async def test_a_pool_is_found_by_name_and_class_and_its_members_by_their_paths_only(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done)) as system:
        assert system.ref("mailer") is system.ref(Mailer)
        assert system.ref("top/mailer/2").path == "top/mailer/2"
        with pytest.raises(LookupError, match="no actor '2' in this tree"):
            system.ref("2")
        with pytest.raises(LookupError, match="top/mailer is a pool; ask with the path of"):
            system.registry.find("mailer")


class Desk(Actor[Work]):
    def __init__(self, mailer: Any) -> None:
        self.mailer = mailer

    async def receive(self, message: Work) -> None:
        self.mailer.tell(message)


async def test_needs_gives_the_reference_of_a_pool(done: list[str], clock: MockClock) -> None:
    children = [child(Desk, needs("mailer")), pool(Mailer, done, size=2)]

    async with running(Supervisor("top", children)) as system:
        system.ref(Desk).tell(Work(user="a"))
        await settled()

    assert done == ["1a"]


async def test_a_member_needs_what_stands_beside_its_pool(
    done: list[str], clock: MockClock
) -> None:
    children = [child(Mailer, done), pool(Desk, needs("mailer"), size=2)]

    async with running(Supervisor("top", children)) as system:
        system.ref(Desk).tell(Work(user="a"))
        await settled()

    assert done == ["ra"]


async def test_a_crash_restarts_one_member_and_the_pool_goes_on(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, size=2)) as system:
        mailer = system.ref(Mailer)
        mailer.tell(Crash())
        await settled()

        assert [await mailer.ask(Who()) for _ in range(2)] == ["top/mailer/2", "top/mailer/1"]
        lines = [(line.path, line.kind, line.incarnation) for line in system.tree()]
    assert lines[1:] == [
        ("top/mailer", "pool", 1),
        ("top/mailer/1", "actor", 2),
        ("top/mailer/2", "actor", 1),
    ]


async def test_a_reference_of_a_pool_is_valid_after_it_was_rebuilt(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, size=2, max_restarts=0)) as system:
        mailer = system.ref(Mailer)
        mailer.tell(Crash())
        await settled()

        assert await mailer.ask(Who()) == "top/mailer/2"
        assert system.tree()[1].incarnation == 2


async def test_an_event_that_crashes_its_member_is_tried_again_by_the_pool(
    done: list[str], clock: MockClock
) -> None:
    class Fragile(Mailer):
        @event_pattern("mail.sent")
        async def sent(self, user: str) -> None:
            if not self.done:
                self.done.append("crash")
                raise OSError
            self.done.append(self.path)

    settlement = Settled()
    async with running(Supervisor("top", [pool(Fragile, done, size=2)])) as system:
        await system.intake.event(event("ann"), settlement)
        await trio.sleep(1)

    assert done == ["crash", "top/fragile/2"]
    assert settlement.acknowledged == 1


@pytest.mark.parametrize("error", [Retry(after=5), OSError()], ids=["retry", "crash"])
async def test_an_event_is_tried_again_where_others_of_its_key_wait_for_it(
    error: Exception, done: list[str], clock: MockClock
) -> None:
    class Fragile(Mailer):
        @event_pattern("mail.sent")
        async def sent(self, user: str) -> None:
            self.done.append(self.path[-1])
            if len(self.done) < 3:
                raise error

    settlements = [Settled() for _ in range(3)]
    pooled = pool(Fragile, done, size=2, key=str, concurrency=2)
    async with running(Supervisor("top", [pooled])) as system:
        for number, settlement in enumerate(settlements):
            await system.intake.event(event("ann", str(number)), settlement)
        await trio.sleep(100)

    assert [settlement.acknowledged for settlement in settlements] == [1, 1, 1]
    assert sorted(done) == ["1", "1", "1", "2", "2"]


async def test_mail_for_a_pool_whose_members_have_all_ended_is_undelivered(
    done: list[str], clock: MockClock
) -> None:
    seen: list[Notice] = []

    async with running(tree(done, size=2, restart="temporary")) as system:
        system.bus.subscribe(seen.append)
        mailer = system.ref(Mailer)
        for _ in range(2):
            mailer.tell(Crash())
            await settled()
        mailer.tell(Work())
        assert not mailer.alive

    assert [notice.path for notice in seen if isinstance(notice, Undelivered)] == ["top/mailer"]


# -- watched ----------------------------------------------------------------------


class Watcher(Actor[Any]):
    """Watches the pool, and writes down how it ended."""

    def __init__(self, mailer: Ref[Any], story: list[Any]) -> None:
        self.mailer, self.story = mailer, story

    async def started(self) -> None:
        self.watch(self.mailer)

    def receive(self, message: Any) -> Any:
        if isinstance(message, Terminated):
            self.story.append((message.ref.path, message.how, type(message.error)))
            return None
        return message(self)


def watched(done: list[str], story: list[Any], **options: Any) -> Supervisor:
    """The watcher stands before the pool, so that it watches before the pool has started."""
    mailers = pool(Mailer, done, **{"size": 2, "max_restarts": 1, **options})
    return Supervisor("top", [child(Watcher, needs("mailer"), story), mailers])


async def test_the_end_of_a_pool_is_told_once(done: list[str], clock: MockClock) -> None:
    story: list[Any] = []
    async with running(watched(done, story)) as system:
        await system.stop_child("top/mailer")
        await trio.sleep(1)

    assert story == [("top/mailer", "shutdown", type(None))]


async def test_the_end_of_a_member_is_none_of_its_pool(done: list[str], clock: MockClock) -> None:
    story: list[Any] = []
    async with running(watched(done, story, restart="temporary")) as system:
        for _ in range(2):
            system.ref(Mailer).tell(Crash())
            await settled()
        system.ref(Watcher).tell(lambda self: self.watch(self.mailer))
        await settled()
        assert not system.ref(Mailer).alive
        assert story == []


async def test_a_pool_that_gives_up_is_told_even_if_it_is_rebuilt(
    done: list[str], clock: MockClock
) -> None:
    story: list[Any] = []
    async with running(watched(done, story)) as system:
        for _ in range(2):
            system.ref("top/mailer/1").tell(Crash())
            await settled()
        assert system.ref(Mailer).alive

    assert story == [("top/mailer", "gave up", SupervisorGaveUp)]


async def test_a_pool_that_has_ended_is_told_at_once(done: list[str], clock: MockClock) -> None:
    story: list[Any] = []
    async with running(watched(done, story)) as system:
        mailer = system.ref(Mailer)
        await system.stop_child("top/mailer")
        await settled()
        system.ref(Watcher).tell(lambda self: self.watch(mailer))
        await settled()

    assert story[1:] == [("top/mailer", "not running", type(None))]


async def test_a_pool_that_was_never_started_is_told_to_have_ended(
    done: list[str], clock: MockClock
) -> None:
    class Broken(Actor):
        async def started(self) -> None:
            await trio.sleep(1)
            raise OSError

    class Plain(Actor[Any]):
        """Handles no pattern, so that it may stand beside the other pool."""

    story: list[Any] = []
    inner = Supervisor("inner", [child(Broken), pool(Plain, size=1)])
    async with running(watched(done, story)) as system, trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(StartFailed):
                await system.start_child(inner)

        nursery.start_soon(start)
        await settled()
        system.ref(Watcher).tell(lambda self: self.watch(self.lookup("top/inner/plain")))
        await trio.sleep(2)
        assert story == [("top/inner/plain", "not running", type(None))]


async def test_nothing_is_told_of_a_pool_after_unwatch(done: list[str], clock: MockClock) -> None:
    story: list[Any] = []
    async with running(watched(done, story)) as system:
        mailer = system.ref(Mailer)
        owner = mailer._mailbox.owner
        assert isinstance(owner, Pool)
        assert len(owner._watchers) == 1
        system.ref(Watcher).tell(lambda self: self.unwatch(self.mailer))
        await settled()
        assert len(owner._watchers) == 0
        await system.stop_child("top/mailer")
        await settled()

    assert story == []


async def test_a_pool_cannot_be_linked_to_and_the_error_says_what_can(
    done: list[str], clock: MockClock
) -> None:
    seen: list[str] = []

    def link(self: Watcher) -> None:
        with pytest.raises(TypeError) as caught:
            self.link(self.mailer)
        seen.append(str(caught.value))

    async with running(watched(done, [])) as system:
        system.ref(Watcher).tell(link)
        await settled()

    assert seen == [
        "top/mailer is a pool, more than one actor: only its end can be watched. Name one of "
        "its members instead: lookup('top/mailer/1')."
    ]


# -- the rest ---------------------------------------------------------------------


async def test_statistics_of_a_pool_are_those_of_its_members_together(
    done: list[str], clock: MockClock
) -> None:
    async with running(tree(done, size=2, mailbox=5)) as system:
        for _ in range(6):
            system.ref(Mailer).tell(Work(1))
        await settled()

        reading = system.registry.address(Mailer).mailbox.statistics()
        assert (reading.waiting, reading.capacity, reading.open) == (4, 10, True)


async def test_a_pool_may_be_started_at_run_time(done: list[str], clock: MockClock) -> None:
    async with running(Supervisor("top")) as system:
        mailer = await system.start_child(pool(Mailer, done, size=2))
        assert await mailer.ask(Who()) == "top/mailer/1"

        await system.stop_child(mailer)
        assert system.registry.cells == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"by": "no field"}, "by must be 'round_robin', 'least_busy', the name of a field"),
        ({"significant": True}, "members of a pool cannot be significant"),
        ({"mailbox": 0}, "mailbox must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_pool_that_can_never_work_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(DeclarationError, match=error):
        pool(Mailer, [], **{"size": 2, **options})
