"""What is remembered of failures, and the story that a question about one is answered with."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorCrashed, StartFailed
from understudy.actors.lifecycle import (
    Crashed,
    Escalated,
    GaveUp,
    Notice,
    Restarting,
    Sick,
    Started,
    Stopped,
    Stopping,
    Stuck,
)
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.history import ENTRIES, PATHS, History
from understudy.supervisors.system import System, running

from .conftest import Stage


@pytest.fixture
def now() -> list[float]:
    """The time, in its one element."""
    return [0.0]


@pytest.fixture
def history(now: list[float]) -> History:
    return History(lambda: now[0])


def _stock(message: object) -> None:
    raise ValueError("negative")


def _raised(function: Callable[[object], object] = _stock) -> Exception:
    try:
        function(None)
    except ValueError as error:
        return error
    raise AssertionError("it raises")


def _crashed(path: str, incarnation: int = 1, **facts: Any) -> Crashed:
    facts = {"error": ValueError("boom")} | facts
    return Crashed(path=path, incarnation=incarnation, **facts)


def _restarting(path: str, incarnation: int = 2, **facts: Any) -> Restarting:
    facts = {"delay": 0.0, "left": 2, "max_restarts": 3, "within": 5.0} | facts
    return Restarting(path=path, incarnation=incarnation, **facts)


def _gave_up(path: str) -> GaveUp:
    return GaveUp(path=path, incarnation=1, max_restarts=3, within=5.0, cause=None)


def _tell(history: History, *notices: Notice) -> None:
    for notice in notices:
        history.take(notice)


# -- stories --------------------------------------------------------------------------


def test_a_restart_is_told_with_its_crash_and_the_line_of_the_handler(history: History) -> None:
    crash = _crashed("shop/stock", error=_raised(), pattern="stock.reserve", origin="m-17")

    _tell(history, crash, _restarting("shop/stock"))

    line = _stock.__code__.co_firstlineno + 1
    assert str(history.why("shop/stock")) == (
        "shop/stock (incarnation 2) was restarted (1 of 3 in 5 s used)\n"
        "  because shop/stock (incarnation 1) crashed on 'stock.reserve', message m-17: "
        f"ValueError: negative (test_history.py:{line} in _stock)"
    )


def test_a_sibling_that_was_restarted_too_is_told_of_the_one_that_crashed(
    history: History,
) -> None:
    _tell(history, _crashed("shop/a"), _restarting("shop/a", siblings=("shop/b", "shop/c")))

    story = history.why("shop/c")

    assert [cause.text for cause in story.causes] == [
        "shop/c was restarted with shop/a",
        "shop/a (incarnation 2) was restarted with shop/b, shop/c (1 of 3 in 5 s used)",
        "shop/a (incarnation 1) crashed: ValueError: boom",
    ]
    assert history.why("shop/d").causes == ()


def test_a_rebuilt_subtree_is_told_up_to_the_first_crash(history: History) -> None:
    _tell(
        history,
        _crashed("shop/domain/stock", 4),
        _gave_up("shop/domain"),
        Stopping(path="shop/domain/orders", incarnation=1, why="its supervisor gives up"),
        Stopped(path="shop/domain/orders", incarnation=1, how="shutdown"),
        Escalated(path="shop", incarnation=1, child="shop/domain"),
        _restarting("shop/domain"),
    )

    assert [cause.text for cause in history.why("shop/domain/orders").causes] == [
        "shop/domain/orders was restarted with all of shop/domain",
        "shop/domain (incarnation 2) was restarted (1 of 3 in 5 s used)",
        "shop/domain (incarnation 1) gave up: restarting shop/domain/stock would have been more "
        "than 3 restarts within 5 s; escalated to shop",
        "shop/domain/stock (incarnation 4) crashed: ValueError: boom",
    ]


def test_the_actor_that_was_asked_and_crashed_is_part_of_the_story(history: History) -> None:
    error = ActorCrashed("shop/stock", 3)
    error.__cause__ = _raised()

    _tell(history, _crashed("shop/orders", error=error))

    crash, asked = history.why("shop/orders").causes
    assert crash.text == (
        "shop/orders (incarnation 1) crashed: it had asked shop/stock, which crashed"
    )
    assert asked.text.startswith("shop/stock (incarnation 3) crashed on that message: ValueError")
    assert (asked.path, asked.incarnation) == ("shop/stock", 3)


def test_a_child_that_never_started_is_told_of_as_well(history: History) -> None:
    error = StartFailed("shop/db", 1)
    error.__cause__ = OSError("no route")

    _tell(history, _crashed("shop", error=error))

    assert str(history.why("shop/db")) == (
        "shop/db (incarnation 1) could not be started\n  because OSError: no route"
    )
    assert [cause.text for cause in history.why("shop").causes] == [
        "shop (incarnation 1) crashed: shop/db (incarnation 1) could not be started",
        "OSError: no route",
    ]


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (2, "(1 of 3 in 5 s used)"),
        (0, "(3 of 3 in 5 s used)"),
        (None, "(not counted: a message from outside is to blame)"),
    ],
)
def test_a_restart_says_how_much_of_the_window_is_used(
    left: int | None, said: str, history: History
) -> None:
    _tell(history, _crashed("shop/a"), _restarting("shop/a", left=left))

    assert history.why("shop/a").causes[0].text == f"shop/a (incarnation 2) was restarted {said}"


def test_a_clean_end_that_led_to_a_restart_is_told(history: History) -> None:
    _tell(
        history,
        _restarting("shop/a"),
        Stopped(path="shop/a", incarnation=2, how="normal"),
        _restarting("shop/a", 3),
    )

    assert [cause.text for cause in history.why("shop/a").causes] == [
        "shop/a (incarnation 3) was restarted (1 of 3 in 5 s used)",
        "shop/a (incarnation 2) ended by itself, without an error",
    ]


def test_a_failure_that_a_supervisor_hands_on_is_told_with_the_child(history: History) -> None:
    error = _raised()

    _tell(history, _crashed("shop/inner/a", error=error), _crashed("shop/inner", error=error))

    texts = [cause.text for cause in history.why("shop/inner").causes]
    assert [text.partition(" (")[0] for text in texts] == ["shop/inner", "shop/inner/a"]


@pytest.mark.parametrize(
    ("notices", "text"),
    [
        (
            [
                Stopping(path="shop/a", incarnation=1, why="stop_child"),
                Stopped(path="shop/a", incarnation=1, how="killed"),
            ],
            "shop/a (incarnation 1) was cancelled: it did not end in time when it was told to "
            "stop (stop_child)",
        ),
        (
            [Stuck(path="shop/a", incarnation=1, after=5.0)],
            "shop/a (incarnation 1) was cancelled and had not ended 5 s later; it was left behind",
        ),
        (
            [Sick(path="shop/a", incarnation=1, crashes=10), _crashed("shop/a", origin="m-1")],
            "shop/a (incarnation 1) crashed, message m-1: ValueError: boom (the message number "
            "10 in a row to do that: it is sick)",
        ),
    ],
    ids=["killed", "stuck", "sick"],
)
def test_other_ends_have_a_sentence(history: History, notices: list[Notice], text: str) -> None:
    _tell(history, *notices)

    assert str(history.why("shop/a")) == text


def test_a_story_says_how_long_ago_it_was(history: History, now: list[float]) -> None:
    _tell(history, _crashed("shop/a"))
    now[0] = 90.0

    assert str(history.why("shop/a")).endswith("ValueError: boom, 90 s ago")


def test_without_a_failure_the_story_says_that_nothing_is_known(history: History) -> None:
    _tell(history, Started(path="shop/a", incarnation=1))

    assert str(history.why("shop/a")).startswith("Nothing is known of shop/a")


# -- bounds ---------------------------------------------------------------------------


def test_the_oldest_failures_are_forgotten(history: History) -> None:
    for number in range(PATHS + 1):
        _tell(history, _crashed(f"shop/{number}"))

    assert history.why("shop/0").causes == ()
    assert history.why("shop/1").causes != ()


def test_a_path_keeps_its_last_entries_only(history: History) -> None:
    for number in range(1, 3 * ENTRIES):
        _tell(history, _crashed("shop/a", number), _restarting("shop/a", number + 1))

    (entries,) = history._entries.values()
    assert len(entries) == ENTRIES
    assert len(history.why("shop/a").causes) == 2


def test_clean_ends_and_starts_leave_nothing_behind(history: History) -> None:
    for number in range(1000):
        path = f"shop/{number}"
        _tell(history, Started(path=path), Stopped(path=path, incarnation=1, how="normal"))

    assert not history._entries


def test_an_exception_and_its_frames_are_not_kept_alive(history: History) -> None:
    class Payload:
        pass

    def handler(_: object) -> None:
        payload = Payload()
        gone.append(weakref.ref(payload))
        raise ValueError("boom")

    gone: list[weakref.ref[Payload]] = []
    _tell(history, _crashed("shop/a", error=_raised(handler)))
    gc.collect()

    assert gone[0]() is None


def test_a_login_in_an_exception_is_masked(history: History) -> None:
    _tell(history, _crashed("shop/a", error=OSError("nats://me:secret@host is away")))

    assert "nats://***@host" in str(history.why("shop/a"))
    assert "secret" not in str(history.why("shop/a"))


# -- a running tree -------------------------------------------------------------------


class Stock(Actor[int]):
    def receive(self, message: int) -> int:
        return 10 // message


def _remembering(system: System) -> History:
    history = History()
    system.bus.subscribe(history.take)
    return history


async def test_a_crash_in_a_tree_is_told_with_its_handler(clock: MockClock) -> None:
    async with running(Supervisor("shop", [child(Stock)], max_restarts=4, within=9)) as system:
        history = _remembering(system)
        system.ref(Stock).tell(0)
        await trio.sleep(60)

        story = str(history.why("shop/stock"))

    line = Stock.receive.__code__.co_firstlineno + 1
    restarted, crash = story.splitlines()
    assert restarted.startswith("shop/stock (incarnation 2) was restarted")
    assert "(1 of 4 in 9 s used)" in restarted
    assert crash.startswith("  because shop/stock (incarnation 1) crashed on 'int': ZeroDivision")
    assert crash.endswith(f"(test_history.py:{line} in receive)")


async def test_a_tree_tells_of_a_grandchild_what_went_wrong_beside_it(
    stage: Stage, clock: MockClock
) -> None:
    inner = Supervisor("inner", [stage.puppet("a"), stage.puppet("b")], max_restarts=0)
    async with running(Supervisor("top", [inner])) as system:
        history = _remembering(system)
        stage.crash("a")
        await trio.sleep(1)

    assert [cause.path for cause in history.why("top/inner/b").causes] == [
        "top/inner/b",
        "top/inner",
        "top/inner",
        "top/inner/a",
    ]
