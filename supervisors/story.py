"""A story: what became of one path and why, in sentences for an operator.

Pure: notices and exceptions in, sentences out. `history.py` says which belong together.
A sentence shows an exception's text, as the log does, without logins, and the line of
the program it came from; never a payload.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import attrs

from ..actors.errors import ActorCrashed, StartFailed
from ..actors.lifecycle import Crashed, GaveUp, Notice, Restarting, Sick, Stopped, Stopping, Stuck
from .log_text import chain_of, describe, one_line, seconds
from .place import place_of

__all__ = ["Cause", "Story", "What", "causes_of", "sentence", "start_failures"]

What: TypeAlias = Literal["restarted", "gave up", "crashed", "ended", "killed", "stuck", "raised"]

_CHAIN: Final = 10


@attrs.frozen
class Cause:
    """One thing that happened, as a sentence. `at` is trio time; `incarnation` 0 if not known."""

    path: str
    incarnation: int
    what: What
    text: str
    at: float


@attrs.frozen
class Story:
    """What became of `path` and why: the last effect first, then what led to what.

    Without causes nothing is known: it has not failed, or that was forgotten. `now` is
    the trio time of the question. `str()` tells it to people.
    """

    path: str
    causes: tuple[Cause, ...]
    now: float

    def __str__(self) -> str:
        if not self.causes:
            return (
                f"Nothing is known of {self.path}: no failure, restart or escalation "
                "of it is remembered"
            )
        first, *others = self.causes
        ago = self.now - first.at
        when = f", {seconds(ago)} ago" if ago >= 1 else ""
        return "\n".join([first.text + when, *(f"  because {cause.text}" for cause in others)])


def causes_of(notice: Crashed, sick: Sick | None, now: float) -> Iterator[Cause]:
    """A crash, and what stands behind its exception; `sick` if it made the actor so."""
    chain = chain_of(notice.error)[:_CHAIN]
    text = f"{_life(notice)} crashed{_message(notice)}: {_said(chain[0])}"
    if sick is not None:
        text += f" (the message number {sick.crashes} in a row to do that: it is sick)"
    yield Cause(notice.path, notice.incarnation, "crashed", one_line(text), now)
    path, incarnation = notice.path, notice.incarnation
    for error, behind in pairwise(chain):
        what: What = "raised"
        text = _said(behind)
        if isinstance(error, ActorCrashed):
            what, text = "crashed", f"{_life(error)} crashed on that message: {text}"
        if isinstance(error, ActorCrashed | StartFailed):
            path, incarnation = error.path, error.incarnation
        yield Cause(path, incarnation, what, one_line(text), now)


def start_failures(notice: Crashed, now: float) -> Iterator[tuple[Cause, ...]]:
    """The children whose first start failed: of them this crash, further up, tells alone."""
    chain = chain_of(notice.error)[:_CHAIN]
    for number, error in enumerate(chain):
        if isinstance(error, StartFailed) and error.path != notice.path:
            path, life = error.path, error.incarnation
            failed = Cause(path, life, "crashed", f"{_life(error)} could not be started", now)
            said = (one_line(_said(behind)) for behind in chain[number + 1 :])
            yield (failed, *(Cause(path, life, "raised", text, now) for text in said))


def sentence(notice: Notice, *, child: str = "", told: Stopping | None = None) -> str:
    """What a notice other than a crash says; `child` is whom a supervisor gave up on."""
    match notice:
        case Restarting(siblings=siblings, delay=delay):
            together = f" with {_listed(siblings)}" if siblings else ""
            after = f" after {seconds(delay)}" if delay > 0 else ""
            text = f"was restarted{together}{after} ({_budget(notice)})"
        case GaveUp(max_restarts=most, within=within):
            text = (
                f"gave up: restarting {child or 'a child'} would have been more than {most} "
                f"restarts within {seconds(within)}"
            )
        case Stuck(after=late):
            text = f"was cancelled and had not ended {seconds(late)} later; it was left behind"
        case Stopped(how="killed"):
            why = f" when it was told to stop ({told.why})" if told is not None else ""
            text = f"was cancelled: it did not end in time{why}"
        case Stopped(how="fatal"):
            text = "ended the process (SystemExit or KeyboardInterrupt)"
        case _:
            text = "ended by itself, without an error"
    return one_line(f"{_life(notice)} {text}")


def _said(error: BaseException) -> str:
    """An exception in words, and the line it came from."""
    if isinstance(error, ActorCrashed):
        text = f"it had asked {error.path}, which crashed"
    else:
        text = describe(error)
    where = place_of(error)
    return f"{text} ({where})" if where else text


def _message(notice: Crashed) -> str:
    on = f" on {notice.pattern!r}" if notice.pattern is not None else ""
    return f"{on}, message {notice.origin}" if notice.origin is not None else on


def _budget(notice: Restarting) -> str:
    if notice.left is None:
        return "not counted: a message from outside is to blame"
    used = notice.max_restarts - notice.left
    return f"{used} of {notice.max_restarts} in {seconds(notice.within)} used"


def _life(one: Notice | ActorCrashed | StartFailed) -> str:
    return f"{one.path} (incarnation {one.incarnation})"


def _listed(paths: tuple[str, ...]) -> str:
    shown = ", ".join(paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
