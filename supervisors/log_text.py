"""What the log says: every kind of lifecycle notice as one sentence for people.

Pure: a notice in, a level, a text and the same facts as fields out. A sentence says
who (path), what, why, and what happens next; it never spans two lines, whatever is
in a pattern or an exception, and shows no login of a URL. `logs.py` writes it.
"""

import logging
import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, TypeAlias

import attrs

from ..actors.errors import DeclarationError, StartFailed, StartTimedOut
from ..actors.incarnation import SupervisorGaveUp
from ..actors.lifecycle import (
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
from .supervisor import ChildEscalated

__all__ = [
    "NOBODY",
    "ExceptionInfo",
    "Line",
    "chain_of",
    "describe",
    "explain",
    "fields_of",
    "leaf_of",
    "line_of",
    "one_line",
    "printable",
    "seconds",
    "without_logins",
]

ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

NOBODY: Final = "(no actor)"
"""Stands for the path where no actor handles a pattern."""

_LONGEST: Final = 300
_LOGIN_IN_URL: Final = re.compile(r"://[^/@\s\"']{1,256}@")
_TROUBLED: Final = frozenset({"waiting", "failing", "lost", "refused"})
_HOUSE: Final = __name__.partition(".")[0]
_SENTENCES: Final = (
    ChildEscalated,
    DeclarationError,
    StartFailed,
    StartTimedOut,
    SupervisorGaveUp,
)
"""Errors of the tree itself, whose text says all of it."""


@attrs.frozen
class Line:
    """One line for the log. `plural` names many of its kind: "117 more crashes"."""

    level: int
    text: str
    plural: str
    exception: ExceptionInfo | None = None


def line_of(notice: Notice) -> Line:
    """The line for a notice; one of a kind that is not known here reads as its class's name."""
    writer = _WRITERS.get(type(notice))
    if writer is None:
        name = type(notice).__name__
        return Line(logging.INFO, one_line(f"{notice.path}: {name}"), f"{name} notices")
    line = writer(notice)
    return attrs.evolve(line, text=one_line(line.text))


def fields_of(notice: Notice) -> dict[str, Any]:
    """The facts of a notice as JSON types, under names that a log record leaves free."""
    fields: dict[str, Any] = {"notice": type(notice).__name__}
    for name, value in attrs.asdict(notice, recurse=False).items():
        if isinstance(value, BaseException):
            leaf = leaf_of(value)
            fields["error"] = without_logins(str(leaf))
            fields["error_type"] = type(leaf).__name__
        elif name != "message":  # a record has a `message` of its own
            fields[name] = without_logins(value) if isinstance(value, str) else value
        else:
            fields["message_type"] = value
    return fields


def leaf_of(error: BaseException) -> BaseException:
    """The exception that a group of one, however deep, stands for; else the exception itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def describe(error: BaseException) -> str:
    """An exception in one line: its type and text; ours are sentences that need no type."""
    error = leaf_of(error)
    text = str(error)
    if isinstance(error, _SENTENCES):
        return one_line(text.removesuffix("."))
    name = type(error).__name__
    return one_line(f"{name}: {text}" if text else name)


def explain(error: BaseException) -> str:
    """The same, and of a failed start also the reason."""
    return one_line(": ".join(map(describe, _start_of(error))))


def _start_of(error: BaseException) -> list[BaseException]:
    """A failed start and what led to it; of any other exception itself alone."""
    steps: list[BaseException] = []
    for step in chain_of(error):
        steps.append(step)
        if not isinstance(step, StartFailed):
            break
    return steps


def chain_of(error: BaseException) -> list[BaseException]:
    """What led to what, the outermost first: each exception, then its `__cause__`."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        leaf = leaf_of(following)
        chain.append(leaf)
        following = leaf.__cause__
    return chain


def seconds(value: float) -> str:
    """A duration as people say it: `250 ms`, `1.5 s`, `30 s`."""
    return f"{value * 1000:.3g} ms" if 0 < value < 0.9995 else f"{value:.3g} s"


def without_logins(text: str) -> str:
    """The text with user names and passwords in its URLs masked."""
    return _LOGIN_IN_URL.sub("://***@", text)


def one_line(text: str) -> str:
    """One printable line of bounded length: raw, a stranger's text could steer a terminal."""
    text = " ".join(printable(without_logins(text)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def printable(text: str) -> str:
    """The text with everything that could steer a terminal escaped, but for line ends."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


# -- the sentences --------------------------------------------------------------------


def _started(notice: Started) -> Line:
    again = f" again (incarnation {notice.incarnation})" if notice.incarnation > 1 else ""
    if notice.address is not None:
        text = f"{notice.path} listens at {notice.address}{again}"
    elif _is_root(notice):
        text = f"{notice.path} is up"
    else:
        text = f"{notice.path} started{again}"
    return Line(logging.INFO, text, "starts")


def _crashed(notice: Crashed) -> Line:
    leaf = leaf_of(notice.error)
    if isinstance(leaf, SystemExit | KeyboardInterrupt):
        text = f"{notice.path} ends the process: {describe(leaf)}"
        return Line(logging.WARNING, text, "ends of the process")
    where = f" on {notice.pattern}" if notice.pattern is not None else ""
    life = "" if _is_root(notice) else f" (incarnation {notice.incarnation})"
    text = f"{notice.path} crashed{life}{where}: {explain(leaf)}"
    level = logging.ERROR if _is_root(notice) else logging.WARNING
    reason = _start_of(leaf)[-1]
    # A mistake in a declaration is told by its sentence; where we found it helps nobody.
    shown = None if isinstance(reason, DeclarationError) else _information(reason)
    return Line(level, text, "crashes", shown)


def _restarting(notice: Restarting) -> Line:
    when = f"in {seconds(notice.delay)}" if notice.delay > 0 else "at once"
    if notice.left is None:
        budget = "not counted, a message from outside is to blame"
    else:
        budget = f"{_count(notice.left, 'restart')} left within {seconds(notice.within)}"
    together = f", together with {_listed(notice.siblings)}" if notice.siblings else ""
    text = f"{notice.path} restarts {when} as incarnation {notice.incarnation}{together}; {budget}"
    return Line(logging.INFO, text, "restarts")


def _gave_up(notice: GaveUp) -> Line:
    limit = f"{_count(notice.max_restarts, 'restart')} within {seconds(notice.within)}"
    last = "" if notice.cause is None else f"; the last reason was {explain(notice.cause)}"
    return Line(
        logging.ERROR, f"{notice.path} gives up: more than {limit}{last}", "times it gave up"
    )


def _escalated(notice: Escalated) -> Line:
    text = f"{notice.child} has failed; {notice.path} restarts it, or fails in its turn"
    return Line(logging.WARNING, text, "failures below it")


def _stopping(notice: Stopping) -> Line:
    # Of a tree that stops, the root's line is news; that all its children do is not.
    level = logging.INFO if _is_root(notice) else logging.DEBUG
    return Line(level, f"{notice.path} is stopping: {notice.why}", "stops")


def _stopped(notice: Stopped) -> Line:
    said = {
        "normal": (logging.INFO, "has ended by itself"),
        "shutdown": (logging.INFO, "has stopped"),
        "ignored": (logging.INFO, "has nothing to do and does not run"),
        "killed": (logging.WARNING, "was cancelled before it had stopped"),
        "stuck": (logging.ERROR, "did not end when it was cancelled"),
        "fatal": (logging.WARNING, "has ended: a handler ended the process"),
    }
    level, how = said.get(notice.how, (logging.WARNING, f"has ended: {notice.how}"))
    return Line(level, f"{notice.path} {how}", "ends")


def _stuck(notice: Stuck) -> Line:
    text = (
        f"{notice.path} (incarnation {notice.incarnation}) was cancelled {seconds(notice.after)} "
        "ago and has not ended; it is fenced and left behind. Look there for blocking calls "
        "and shielded scopes"
    )
    return Line(logging.ERROR, text, "times it was stuck")


def _state_changed(notice: StateChanged) -> Line:
    level = logging.WARNING if notice.state in _TROUBLED else logging.INFO
    why = f": {notice.why}" if notice.why else ""
    return Line(level, f"{notice.path} is {notice.state}{why}", "changes of its state")


def _sick(notice: Sick) -> Line:
    text = (
        f"{notice.path} is sick: {notice.crashes} different messages from outside crashed it "
        "in a row. Its events are held back and tried one at a time; requests go on"
    )
    return Line(logging.ERROR, text, "times it fell sick")


def _recovered(notice: Recovered) -> Line:
    held = f"; {_count(notice.held, 'held event')} follow" if notice.held else ""
    return Line(logging.INFO, f"{notice.path} is well again{held}", "recoveries")


def _passivated(notice: Passivated) -> Line:
    text = (
        f"{notice.path} had nothing to do for {seconds(notice.after)} and rests; "
        "its next message wakes it"
    )
    return Line(logging.DEBUG, text, "times it went to rest")


def _activated(notice: Activated) -> Line:
    return Line(logging.DEBUG, f"{notice.path} has mail and works again", "times it woke up")


def _blocked(notice: Blocked) -> Line:
    where = f", at {notice.at}" if notice.at else ""
    text = (
        f"{notice.path}: {notice.handler} blocked the event loop for at least "
        f"{seconds(notice.seconds)}{where}. Nothing else ran meanwhile: give a plain def "
        "thread=True, or await in it"
    )
    return Line(logging.WARNING, text, "times it blocked the event loop")


def _dead_lettered(notice: DeadLettered) -> Line:
    who = notice.path or NOBODY
    attempts = f"{notice.reason} after {_count(notice.attempts, 'attempt')}"
    text = f"{who}: {notice.pattern} became dead letter {notice.id} ({attempts})"
    return Line(logging.WARNING, text, "dead letters")


def _undelivered(notice: Undelivered) -> Line:
    text = f"{notice.path} did not get a message ({notice.message}): {notice.why}"
    return Line(logging.WARNING, text, "undelivered messages")


_WRITERS: Final[dict[type[Notice], Callable[[Any], Line]]] = {
    Started: _started,
    Crashed: _crashed,
    Restarting: _restarting,
    GaveUp: _gave_up,
    Escalated: _escalated,
    Stopping: _stopping,
    Stopped: _stopped,
    Stuck: _stuck,
    StateChanged: _state_changed,
    Sick: _sick,
    Recovered: _recovered,
    Passivated: _passivated,
    Activated: _activated,
    Blocked: _blocked,
    DeadLettered: _dead_lettered,
    Undelivered: _undelivered,
}


# -- details --------------------------------------------------------------------------


def _is_root(notice: Notice) -> bool:
    return "/" not in notice.path


def _information(error: BaseException) -> ExceptionInfo:
    """The exception for a record; our own frames, which stand above the user's, left out."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    return type(error), error, error.__traceback__ if trace is None else trace


def _is_ours(trace: TracebackType) -> bool:
    name = str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.startswith((f"{_HOUSE}.actors.", f"{_HOUSE}.supervisors."))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" if number == 1 else f"{number or 'no'} {noun}s"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
