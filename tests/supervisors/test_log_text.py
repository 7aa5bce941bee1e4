"""What a lifecycle notice reads like."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from understudy.actors.errors import DeclarationError, StartFailed
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import (
    Activated,
    Blocked,
    Crashed,
    DeadLettered,
    Escalated,
    GaveUp,
    Notice,
    Passivated,
    Recovered,
    Restarting,
    Sick,
    Started,
    StateChanged,
    Stopped,
    Stopping,
    Stuck,
    Undelivered,
)
from understudy.supervisors.log_text import (
    chain_of,
    describe,
    explain,
    fields_of,
    line_of,
    seconds,
)
from understudy.supervisors.supervisor import ChildEscalated

ORDERS: dict[str, Any] = {"path": "shop/orders", "incarnation": 1}


def _restarting(**changes: Any) -> Restarting:
    window = {"left": 4, "max_restarts": 5, "within": 30.0}
    facts: dict[str, Any] = {"delay": 0.0, **window, **ORDERS, "incarnation": 2}
    return Restarting(**(facts | changes))


@pytest.mark.parametrize(
    ("notice", "text"),
    [
        (Started(path="shop", incarnation=1), "INFO shop is up"),
        (Started(**ORDERS), "INFO shop/orders started"),
        (
            Started(path="shop/orders", incarnation=2),
            "INFO shop/orders started again (incarnation 2)",
        ),
        (
            Started(path="shop/tcp", incarnation=1, address="tcp://127.0.0.1:3001"),
            "INFO shop/tcp listens at tcp://127.0.0.1:3001",
        ),
        (
            Crashed(**ORDERS, error=ValueError("boom"), pattern="orders.place"),
            "WARNING shop/orders crashed (incarnation 1) on orders.place: ValueError: boom",
        ),
        (
            Crashed(path="shop", incarnation=1, error=ValueError()),
            "ERROR shop crashed: ValueError",
        ),
        (
            Crashed(**ORDERS, error=SystemExit(3)),
            "WARNING shop/orders ends the process: SystemExit: 3",
        ),
        (
            _restarting(),
            "INFO shop/orders restarts at once as incarnation 2; 4 restarts left within 30 s",
        ),
        (
            _restarting(delay=0.25, left=1),
            "INFO shop/orders restarts in 250 ms as incarnation 2; 1 restart left within 30 s",
        ),
        (
            _restarting(left=None),
            "INFO shop/orders restarts at once as incarnation 2; "
            "not counted, a message from outside is to blame",
        ),
        (
            _restarting(left=0, siblings=("shop/a", "shop/b", "shop/c")),
            "INFO shop/orders restarts at once as incarnation 2, together with shop/a, shop/b "
            "and shop/c; no restarts left within 30 s",
        ),
        (
            GaveUp(path="shop", incarnation=1, max_restarts=1, within=5.0, cause=OSError("away")),
            "ERROR shop gives up: more than 1 restart within 5 s; "
            "the last reason was OSError: away",
        ),
        (
            Escalated(path="shop", incarnation=1, child="shop/db"),
            "WARNING shop/db has failed; shop restarts it, or fails in its turn",
        ),
        (Stopping(**ORDERS, why="stop_child"), "DEBUG shop/orders is stopping: stop_child"),
        (Stopping(path="shop", why="SIGTERM"), "INFO shop is stopping: SIGTERM"),
        (Stopped(**ORDERS, how="normal"), "INFO shop/orders has ended by itself"),
        (Stopped(**ORDERS, how="shutdown"), "INFO shop/orders has stopped"),
        (
            Stopped(**ORDERS, how="ignored"),
            "INFO shop/orders has nothing to do and does not run",
        ),
        (
            Stopped(**ORDERS, how="killed"),
            "WARNING shop/orders was cancelled before it had stopped",
        ),
        (
            Stuck(**ORDERS, after=5.0),
            "ERROR shop/orders (incarnation 1) was cancelled 5 s ago and has not ended; it is "
            "fenced and left behind. Look there for blocking calls and shielded scopes",
        ),
        (
            StateChanged(path="shop/nats", state="waiting", why="no route to host"),
            "WARNING shop/nats is waiting: no route to host",
        ),
        (StateChanged(path="shop/nats", state="connected"), "INFO shop/nats is connected"),
        (
            Sick(**ORDERS, crashes=10),
            "ERROR shop/orders is sick: 10 different messages from outside crashed it in a row. "
            "Its events are held back and tried one at a time; requests go on",
        ),
        (Recovered(**ORDERS, held=7), "INFO shop/orders is well again; 7 held events follow"),
        (
            Passivated(**ORDERS, after=900.0),
            "DEBUG shop/orders had nothing to do for 900 s and rests; its next message wakes it",
        ),
        (Activated(**ORDERS), "DEBUG shop/orders has mail and works again"),
        (
            Blocked(**ORDERS, handler="Orders.place", seconds=1.5, at="shop.py:41 in place"),
            "WARNING shop/orders: Orders.place blocked the event loop for at least 1.5 s, at "
            "shop.py:41 in place. Nothing else ran meanwhile: give a plain def thread=True, "
            "or await in it",
        ),
        (
            DeadLettered(**ORDERS, id="01a1", pattern="orders.paid", reason="crashed", attempts=5),
            "WARNING shop/orders: orders.paid became dead letter 01a1 (crashed after 5 attempts)",
        ),
        (
            DeadLettered(path="", id="01a1", pattern="lost", reason="no handler", attempts=1),
            "WARNING (no actor): lost became dead letter 01a1 (no handler after 1 attempt)",
        ),
        (
            Undelivered(**ORDERS, why="it has ended", message="Add"),
            "WARNING shop/orders did not get a message (Add): it has ended",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_every_notice_reads_as_a_sentence(notice: Notice, text: str) -> None:
    line = line_of(notice)

    assert f"{logging.getLevelName(line.level)} {line.text}" == text


def test_a_notice_of_an_unknown_kind_is_named() -> None:
    class Paused(Notice):
        pass

    assert line_of(Paused(**ORDERS)).text == "shop/orders: Paused"


def test_a_group_of_one_reads_as_its_only_exception() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [ValueError("boom")])])

    line = line_of(Crashed(**ORDERS, error=group))

    assert line.text.endswith("crashed (incarnation 1): ValueError: boom")
    assert line.exception is not None
    assert line.exception[0] is ValueError


def test_a_group_of_several_stays_whole() -> None:
    group = ExceptionGroup("tasks", [ValueError("boom"), OSError("away")])

    line = line_of(Crashed(**ORDERS, error=group))

    assert line.text.endswith("ExceptionGroup: tasks (2 sub-exceptions)")
    assert line.exception is not None
    assert line.exception[1] is group


def test_a_failed_start_reads_with_its_reason_and_shows_its_traceback() -> None:
    reason = ValueError("boom")

    line = line_of(Crashed(path="shop", incarnation=1, error=_caused(reason, _failed, _failed)))

    where = "shop/orders (incarnation 1) could not be started"
    assert line.text == f"shop crashed: {where}: {where}: ValueError: boom"
    assert line.exception is not None
    assert line.exception[1] is reason


def test_a_mistake_in_a_declaration_has_no_traceback() -> None:
    error = _caused(DeclarationError("orders needs a pool."), _failed)

    line = line_of(Crashed(path="shop", incarnation=1, error=error))

    assert line.text.endswith("could not be started: orders needs a pool")
    assert line.exception is None


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("two\nlines", "two lines"),
        ("\033[31mred", r"\x1b[31mred"),
        ("postgres://me:secret@host/db", "postgres://***@host/db"),
        ("x" * 500, f"{'x' * 50}"),
    ],
    ids=["line ends", "control characters", "a login", "endless"],
)
def test_what_strangers_wrote_cannot_disturb_the_line(hostile: str, shown: str) -> None:
    text = line_of(Crashed(**ORDERS, error=ValueError(hostile), pattern=hostile)).text

    assert text.isprintable()
    assert len(text) <= 300
    assert f"on {shown}" in text


def test_the_facts_of_a_notice_are_fields() -> None:
    error = ExceptionGroup("tasks", [OSError("no redis://me:secret@host")])

    assert fields_of(Crashed(**ORDERS, error=error, pattern="orders.place")) == {
        "notice": "Crashed",
        "path": "shop/orders",
        "incarnation": 1,
        "error": "no redis://***@host",
        "error_type": "OSError",
        "pattern": "orders.place",
        "origin": None,
    }


def test_no_field_has_a_name_that_log_records_use() -> None:
    fields = fields_of(Undelivered(**ORDERS, why="it has ended", message="Add"))

    assert not set(fields) & set(logging.makeLogRecord({}).__dict__)
    assert fields["message_type"] == "Add"


def test_a_chain_of_causes_goes_from_the_root_to_the_first_exception() -> None:
    reason = ValueError("boom")
    error = _caused(ExceptionGroup("tasks", [reason]), _gave_up, _gave_up)

    assert [type(step).__name__ for step in chain_of(error)] == [
        "SupervisorGaveUp",
        "SupervisorGaveUp",
        "ValueError",
    ]


def test_an_explanation_does_not_go_beyond_the_start() -> None:
    assert explain(_caused(ValueError("boom"), KeyError)) == "KeyError"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 s"), (0.016, "16 ms"), (0.9999, "1 s"), (1.5, "1.5 s"), (60.0, "60 s")],
)
def test_durations_read_as_people_say_them(value: float, text: str) -> None:
    assert seconds(value) == text


def _caused(reason: BaseException, *makers: Callable[[], BaseException]) -> BaseException:
    """The errors that `makers` make, each the cause of the next."""
    for make in makers:
        error = make()
        error.__cause__ = reason
        reason = error
    return reason


def _failed() -> StartFailed:
    return StartFailed("shop/orders", 1)


def _gave_up() -> SupervisorGaveUp:
    return SupervisorGaveUp("shop", "shop/orders", 3, 5.0)


def test_an_error_of_the_tree_itself_is_a_sentence_without_the_name_of_its_class() -> None:
    escalated = ChildEscalated("shop", "shop/db")

    assert describe(escalated) == (
        "shop ended with its child shop/db, whose failure is to be escalated"
    )
