"""Logs: one path for all of them, through the standard library's `logging`.

`log_lifecycle` turns every lifecycle notice into a record of the logger `understudy`:
a sentence (`log_text.py`), its facts as attributes, the exception of a crash. Where
records go is up to the standard logging configuration, so that an embedded tree logs
like its host. `configure` is ours, for a process that has none: readable on a
terminal, JSON lines anywhere else.

Invariant: no flood. Of one kind of line about one path, `LINES` are written within a
second; then they are only counted for `PAUSE` seconds, and one line says exactly how
many there were.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import Any, Final, Literal, TextIO, TypeAlias, cast

import attrs
import trio

from ..actors.errors import DeclarationError
from ..actors.lifecycle import Bus, Notice
from ..actors.timers import Timer, Timers
from .log_text import NOBODY, Line, fields_of, line_of, printable, seconds, without_logins

__all__ = ["LOGGER", "LogFormat", "RateLimit", "configure", "log_lifecycle"]

Fields: TypeAlias = MutableMapping[str, Any]
Processor: TypeAlias = Callable[[Any, str, Fields], Any]

LogFormat = Literal["auto", "text", "json"]
"""`auto`: text on a terminal, JSON lines anywhere else."""

LOGGER: Final = logging.getLogger("understudy")

LINES: Final = 5
"""Lines of one kind about one path that are written within a second."""

PAUSE: Final = 10.0
"""Seconds for which such lines are only counted after that."""

_MANY_KEYS: Final = 1024
_RESET: Final = "\033[0m"
_DIM: Final = "\033[2m"
_COLOURS: Final = {
    "debug": "\033[2m",
    "info": "\033[32m",
    "warning": "\033[33m",
    "error": "\033[31m",
    "critical": "\033[1;31m",
}


def log_lifecycle(bus: Bus, timers: Timers | None = None) -> Callable[[], None]:
    """Write a record for every notice; call what is returned to end it.

    With `timers`, what was only counted is reported on time; without, with the next
    notice, or at the end.
    """
    log = _LifecycleLog(timers)
    unsubscribe = bus.subscribe(log.take)

    def end() -> None:
        unsubscribe()
        log.end()

    return end


@attrs.define(eq=False)
class _Count:
    """The lines of one key: since when, how many were written, how many only counted."""

    since: float
    lines: int = 0
    held: int = 0


@attrs.define
class RateLimit:
    """Says of each line whether to write it; pure, with the time as an argument.

    `lines` of one key are written within a second; the next one begins `pause` seconds
    in which they are only counted, and which `due` ends with that count.
    """

    lines: int = LINES
    pause: float = PAUSE
    _counts: dict[Hashable, _Count] = attrs.field(factory=dict, init=False)
    _held: dict[Hashable, _Count] = attrs.field(factory=dict, init=False)
    _many: int = attrs.field(default=_MANY_KEYS, init=False)

    def admits(self, key: Hashable, now: float) -> bool:
        """Whether to write a line of this key; if not, it has been counted."""
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= self._many:
                self._forget(now)
            count = self._counts[key] = _Count(now)
        if count.held:
            count.held += 1
            return False
        if now - count.since >= 1:
            count.since, count.lines = now, 0
        if count.lines < self.lines:
            count.lines += 1
            return True
        count.since, count.held = now, 1
        self._held[key] = count
        return False

    @property
    def next_due(self) -> float | None:
        """When the next count is due; None while nothing is held back."""
        # Pauses are of equal length, so the one that began first ends first.
        first = next(iter(self._held.values()), None)
        return None if first is None else first.since + self.pause

    def due(self, now: float, *, end: bool = False) -> Iterator[tuple[Hashable, int, float]]:
        """Keys whose pause is over, at the `end` all: how many lines, in how many seconds."""
        while self.next_due is not None and (end or self.next_due <= now):
            key, count = next(iter(self._held.items()))
            del self._held[key], self._counts[key]
            yield key, count.held, now - count.since

    def _forget(self, now: float) -> None:
        idle = [k for k, c in self._counts.items() if not c.held and now - c.since >= 1]
        for key in idle:
            del self._counts[key]
        # Doubled, so that looking at all of them costs each new one little.
        self._many = max(_MANY_KEYS, 2 * len(self._counts))


class _LifecycleLog:
    """The subscriber."""

    def __init__(self, timers: Timers | None) -> None:
        self._timers = timers
        self._timer: Timer | None = None
        self._limit = RateLimit()

    def take(self, notice: Notice) -> None:
        now = trio.current_time()
        self._report(now)
        line = line_of(notice)
        if not LOGGER.isEnabledFor(line.level):
            return
        if self._limit.admits((notice.path, line.plural, line.level), now):
            _write(line, fields_of(notice))
        else:
            self._plan()

    def end(self) -> None:
        """Say what has only been counted so far."""
        if self._timer is not None:
            self._timer.cancel()
        self._report(trio.current_time(), end=True)

    def _report(self, now: float, *, end: bool = False) -> None:
        for key, held, during in self._limit.due(now, end=end):
            path, plural, level = cast(tuple[str, str, int], key)
            text = f"{path or NOBODY}: … and {held} more {plural} in {seconds(during)}"
            fields = {"notice": "HeldBack", "path": path, "count": held, "seconds": during}
            _write(Line(level, text, plural), fields)

    def _plan(self) -> None:
        when = self._limit.next_due
        if self._timers is None or self._timer is not None or when is None:
            return

        def report() -> None:
            self._timer = None
            self._report(trio.current_time())
            self._plan()

        self._timer = self._timers.call_at(when, report)


def _write(line: Line, fields: dict[str, Any]) -> None:
    LOGGER.log(line.level, "%s", line.text, extra=fields, exc_info=line.exception)


# -- rendering ------------------------------------------------------------------------


def configure(
    format: LogFormat = "auto", *, level: int | str = logging.INFO, stream: TextIO | None = None
) -> None:
    """Render the records of all loggers of this process, ours and yours, to `stream`.

    `stream` is stderr unless given. `auto` is text on a terminal, in colour unless
    `NO_COLOR` is set, and one JSON object a line anywhere else. structlog's loggers come
    out the same way, unless structlog was configured before. A second call replaces the first.

    Raises `DeclarationError` for a format or a level that is none.
    """
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    if format not in ("auto", "text", "json"):
        raise DeclarationError(f"log format {format!r}: 'auto', 'text' or 'json' expected.")
    as_json = format == "json" or (format == "auto" and not terminal)
    handler = _Handler(out)
    handler.setFormatter(_json_formatter() if as_json else _text_formatter(_in_colour(terminal)))
    root = logging.getLogger()
    try:
        root.setLevel(level.upper() if isinstance(level, str) else level)
    except ValueError as error:
        raise DeclarationError(f"log level {level!r}: 'DEBUG', 'INFO'... expected.") from error
    for other in list(root.handlers):
        if isinstance(other, _Handler):
            root.removeHandler(other)
    root.addHandler(handler)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours: known by its class, so that a second `configure` replaces it."""


def _in_colour(terminal: bool) -> bool:
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# structlog loads asyncio, which costs more than all the rest of the house: it is
# imported in these functions only.


def _json_formatter() -> logging.Formatter:
    from structlog.processors import JSONRenderer, TimeStamper  # noqa: PLC0415

    render = JSONRenderer(ensure_ascii=False, default=str)

    def ordered(logger: object, method: str, fields: Fields) -> str | bytes:
        first = {name: fields.pop(name) for name in ("timestamp", "level", "logger", "event")}
        return render(logger, method, first | dict(fields))

    return _formatter(TimeStamper(fmt="iso", utc=True), ordered)


def _text_formatter(colour: bool) -> logging.Formatter:
    from structlog.processors import TimeStamper  # noqa: PLC0415

    return _formatter(TimeStamper(fmt="%H:%M:%S", utc=False), _Text(colour))


def _formatter(stamp: Processor, renderer: Processor) -> logging.Formatter:
    import structlog  # noqa: PLC0415

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    form = structlog.stdlib.ProcessorFormatter
    if not structlog.is_configured():
        structlog.configure(
            processors=[*shared, form.wrap_for_formatter],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    return form(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _forget_the_other_formatter],
        processors=[stamp, _format_exception, form.remove_processors_meta, renderer],
    )


def _forget_the_other_formatter(_: object, __: str, fields: Fields) -> Fields:
    # A standard formatter that had the record before leaves its results on it as attributes.
    fields.pop("message", None)
    fields.pop("asctime", None)
    return fields


def _format_exception(_: object, __: str, fields: Fields) -> Fields:
    """Turn `exc_info`, in each of its forms, into text without logins."""
    given = fields.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error: Any = given
    trace: Any = getattr(given, "__traceback__", None)
    if isinstance(given, tuple):
        _, error, trace = given
    if isinstance(error, BaseException):
        lines = traceback.format_exception(type(error), error, trace)
        fields["exception"] = without_logins("".join(lines).rstrip())
    return fields


class _Text:
    """Renders a record for people: time, level, text; the fields only where no text has them."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _: object, __: str, fields: Fields) -> str:
        stamp, level = str(fields.pop("timestamp")), str(fields.pop("level"))
        text, exception = str(fields.pop("event")), fields.pop("exception", None)
        fields.pop("logger", None)
        stamp = self._painted(_DIM, stamp)
        level = self._painted(_COLOURS.get(level, ""), level.upper())
        line = f"{stamp} {level} {text}"
        if "notice" not in fields:
            line += "".join(f" {name}={value!r}" for name, value in fields.items())
        return line if exception is None else f"{line}\n{printable(exception)}"

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour and colour else text
