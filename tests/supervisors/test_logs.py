"""Notices as log records, the rate limit, and how records are rendered."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.errors import DeclarationError
from understudy.actors.lifecycle import Bus, Crashed, Started, Undelivered
from understudy.actors.timers import Timers
from understudy.supervisors.logs import LINES, PAUSE, RateLimit, configure, log_lifecycle


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def _logging() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def bus() -> Bus:
    return Bus()


def _undelivered(path: str = "shop/orders") -> Undelivered:
    return Undelivered(path=path, incarnation=1, why="it has ended", message="Add")


def _crashed(text: str = "boom") -> Crashed:
    try:
        raise ValueError(text)
    except ValueError as error:
        return Crashed(path="shop/orders", incarnation=1, error=error)


# -- records ------------------------------------------------------------------


async def test_a_notice_is_one_record_with_its_facts(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    log_lifecycle(bus)

    bus.publish(_crashed())

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("understudy", "WARNING")
    assert record.getMessage() == "shop/orders crashed (incarnation 1): ValueError: boom"
    assert vars(record).items() >= {"path": "shop/orders", "error_type": "ValueError"}.items()
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


async def test_nothing_is_logged_after_the_end(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    log_lifecycle(bus)()

    bus.publish(_undelivered())

    assert caplog.records == []


async def test_a_level_that_is_off_costs_no_line(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "understudy")
    log_lifecycle(bus)

    bus.publish(Started(path="shop/orders", incarnation=1))

    assert caplog.records == []


# -- the rate limit -----------------------------------------------------------


def test_some_lines_a_second_are_written_and_the_others_counted() -> None:
    limit = RateLimit()

    admitted = [limit.admits("key", 0.5) for _ in range(LINES + 7)]

    assert admitted == [True] * LINES + [False] * 7
    assert list(limit.due(0.5 + PAUSE)) == [("key", 7, PAUSE)]


def test_a_line_now_and_then_is_never_held_back() -> None:
    limit = RateLimit()

    assert all(limit.admits("key", now / 2) for now in range(100))


def test_keys_have_limits_of_their_own() -> None:
    limit = RateLimit(lines=1)

    assert [limit.admits(key, 0.0) for key in "abab"] == [True, True, False, False]


def test_lines_are_written_again_after_the_pause() -> None:
    limit = RateLimit(lines=1)
    assert [limit.admits("key", now) for now in (0.0, 0.1, 5.0)] == [True, False, False]

    assert list(limit.due(PAUSE)) == []
    assert list(limit.due(PAUSE + 0.1)) == [("key", 2, PAUSE)]
    assert limit.admits("key", PAUSE + 0.1)


def test_at_the_end_every_count_is_due() -> None:
    limit = RateLimit(lines=1)
    for key in "aabb":
        limit.admits(key, 0.0)

    assert list(limit.due(2.0, end=True)) == [("a", 1, 2.0), ("b", 1, 2.0)]


def test_keys_that_are_quiet_are_forgotten() -> None:
    limit = RateLimit()
    for number in range(10_000):
        limit.admits(number, float(number))

    assert len(limit._counts) <= 1024


async def test_a_flood_ends_in_one_line_with_the_exact_count(
    bus: Bus, caplog: pytest.LogCaptureFixture, clock: MockClock
) -> None:
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        log_lifecycle(bus, timers)
        for _ in range(LINES + 117):
            bus.publish(_undelivered())
        await trio.sleep(PAUSE + 1)
        nursery.cancel_scope.cancel()

    assert len(caplog.records) == LINES + 1
    assert caplog.messages[-1] == "shop/orders: … and 117 more undelivered messages in 10 s"
    assert vars(caplog.records[-1])["count"] == 117


async def test_what_was_only_counted_is_said_at_the_end(
    bus: Bus, caplog: pytest.LogCaptureFixture, clock: MockClock
) -> None:
    end = log_lifecycle(bus)
    for _ in range(LINES + 3):
        bus.publish(_undelivered())
    await trio.sleep(2)

    end()

    assert caplog.messages[-1] == "shop/orders: … and 3 more undelivered messages in 2 s"


async def test_a_flood_about_one_path_hides_no_other(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    log_lifecycle(bus)
    for _ in range(100):
        bus.publish(_undelivered())

    bus.publish(_undelivered("shop/stock"))

    assert caplog.messages[-1] == "shop/stock did not get a message (Add): it has ended"


# -- rendering ----------------------------------------------------------------


@pytest.mark.usefixtures("_logging")
async def test_text_reads_as_time_level_and_sentence(bus: Bus) -> None:
    out = io.StringIO()
    configure("text", stream=out)
    log_lifecycle(bus)

    bus.publish(_undelivered())

    stamp, _, line = out.getvalue().partition(" ")
    assert [len(part) for part in stamp.split(":")] == [2, 2, 2]
    assert line == "WARNING shop/orders did not get a message (Add): it has ended\n"


@pytest.mark.usefixtures("_logging")
async def test_json_is_one_object_a_line(bus: Bus) -> None:
    out = io.StringIO()
    configure(stream=out)
    log_lifecycle(bus)

    bus.publish(_crashed("two\nlines"))

    (line,) = out.getvalue().splitlines()
    fields = json.loads(line)
    assert list(fields)[:4] == ["timestamp", "level", "logger", "event"]
    assert fields["event"] == "shop/orders crashed (incarnation 1): ValueError: two lines"
    assert fields["exception"].startswith("Traceback (most recent call last):\n")


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["a terminal", "NO_COLOR", "a dumb terminal"],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    configure(stream=screen)

    logging.getLogger("understudy").warning("careful")

    assert ("\033[33mWARNING\033[0m careful" in screen.getvalue()) is coloured


@pytest.mark.usefixtures("_logging")
def test_other_loggers_come_out_the_same_way_with_their_fields() -> None:
    out = io.StringIO()
    configure("text", stream=out)

    logging.getLogger("shop").info("opened", extra={"till": 3})

    assert out.getvalue().endswith(" INFO opened till=3\n")


@pytest.mark.usefixtures("_logging")
def test_loggers_of_structlog_come_out_the_same_way() -> None:
    import structlog

    out = io.StringIO()
    configure("json", stream=out)

    structlog.get_logger("shop").info("opened", till=3)

    fields = json.loads(out.getvalue())
    assert (fields["logger"], fields["event"], fields["till"]) == ("shop", "opened", 3)


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_shows_no_login_and_steers_no_terminal(format: Any) -> None:
    out = io.StringIO()
    configure(format, stream=out)

    logging.getLogger("shop").error("lost", exc_info=OSError("nats://me:secret@host \033[2J"))

    assert "nats://***@host" in out.getvalue()
    assert "secret" not in out.getvalue()
    assert "\033" not in out.getvalue()


@pytest.mark.usefixtures("_logging")
def test_configured_twice_every_line_comes_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("text", stream=first)
    configure("text", stream=second)

    logging.getLogger("shop").info("opened")

    assert first.getvalue() == ""
    assert second.getvalue().count("opened") == 1


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "log format 'xml': 'auto', 'text' or 'json' expected."),
        ({"level": "LOUD"}, "log level 'LOUD': 'DEBUG', 'INFO'... expected."),
    ],
    ids=["format", "level"],
)
def test_what_cannot_be_configured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        configure(**options)

    assert str(refused.value) == message


def test_structlog_is_loaded_by_configure_and_not_before() -> None:
    program = (
        "import sys, understudy.supervisors.logs as logs\n"
        "before = 'structlog' in sys.modules; logs.configure()\n"
        "print(before, 'structlog' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert out.stdout == "False True\n"
