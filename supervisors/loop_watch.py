"""The loop watch: names the handler that keeps the event loop from running.

One blocking call in one handler stops every actor of the process, and everything looks
slow but the culprit. A thread asks the loop for a sign of life; when none comes within
the limit it looks at the stack of the loop's thread, finds the actor's handler on it and
the line of the program it is in, and has a `Blocked` notice published as soon as the loop
runs again. Of a loop that stays blocked the thread itself tells on stderr, once.

The time told is counted from the unanswered question, so it may be short by half the
limit. The cost of an idle process is two questions per limit. Many short blocks of one
burst are not told apart: the handler seen at the limit stands for all.

Code in C that does not let go of the interpreter's lock stops this thread too. It then
finds itself late, and the culprit, as a rule, still on the stack: on the line of the call
that has just returned. On a busy machine the loop may have gone on before the thread could
look, and nothing is told. The word on stderr comes that late as well. A machine that does
not run the process for so long looks the same.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import attrs
import trio

from ..actors.behavior import Handler
from ..actors.context import CURRENT, Hand
from ..actors.incarnation import Incarnation
from ..actors.lanes import Lanes
from ..actors.lifecycle import Blocked
from .log_text import one_line, seconds
from .place import Step, is_ours, place

__all__ = ["Culprit", "LoopWatch", "find_culprit"]

ALOUD: Final = 10.0
"""Seconds of a block after which it is told on stderr."""

PAUSE: Final = 60.0
"""Seconds for which the same handler is not told of again, unless it blocks twice as long."""

_MANY: Final = 256


@attrs.frozen
class Culprit:
    """Who runs in the loop's thread: a handler of the actor at `path`, at which line."""

    path: str
    incarnation: int
    handler: str
    at: str


class LoopWatch:
    """Watches the loop it is started in; `publish` is called in that loop.

    `path` stands for code that belongs to no child. Times are seconds.
    """

    def __init__(
        self, publish: Callable[[Blocked], object], path: str, limit: float, *, aloud: float = ALOUD
    ) -> None:
        self._publish = publish
        self._path = path
        self._limit = limit
        self._aloud = aloud
        self._told: dict[tuple[str, str], tuple[float, float]] = {}
        self._over = threading.Event()
        self._answered = threading.Event()
        self._loop = 0
        self._token: trio.lowlevel.TrioToken

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for as long as the block lasts; enter it in the loop's own thread."""
        self._loop = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._watch, name="understudy-loop-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._answered.set()
            thread.join()

    # -- in the thread ------------------------------------------------------------

    def _watch(self) -> None:
        pause = self._limit / 2
        due = time.monotonic() + pause
        while not self._over.wait(pause):
            asked = time.monotonic()
            culprit: Culprit | None = None
            if asked - due >= self._limit:
                # This thread could not run: whoever had the interpreter's lock is on the stack.
                asked, culprit = due, self._culprit()
            self._answered.clear()
            if self._over.is_set():  # it was set between the wait and the clear
                return
            self._in_loop(self._answered.set)
            if culprit is not None or not self._answered.wait(self._limit):
                self._blocked(asked, culprit)
            due = time.monotonic() + pause

    def _blocked(self, asked: float, culprit: Culprit | None) -> None:
        """Stay with a block until it is over."""
        told = aloud = False
        while True:
            culprit = culprit or self._culprit()
            if culprit is not None and not told:
                told = True
                self._in_loop(self._tell, culprit, asked)
            late = time.monotonic() - asked
            if culprit is not None and late >= self._aloud and not aloud:
                aloud = True
                _say_aloud(self._culprit() or culprit, late)
            if self._answered.wait(self._limit):
                return

    def _culprit(self) -> Culprit | None:
        frame = sys._current_frames().get(self._loop)
        return None if frame is None else find_culprit(frame, self._path)

    def _in_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            self._over.set()
            self._answered.set()

    # -- in the loop --------------------------------------------------------------

    def _tell(self, culprit: Culprit, asked: float) -> None:
        now = time.monotonic()
        lasted = now - asked
        if self._is_news((culprit.path, culprit.handler), lasted, now):
            self._publish(
                Blocked(
                    path=culprit.path,
                    incarnation=culprit.incarnation,
                    handler=culprit.handler,
                    seconds=lasted,
                    at=culprit.at,
                )
            )

    def _is_news(self, key: tuple[str, str], lasted: float, now: float) -> bool:
        before = self._told.pop(key, None)
        if before is not None and now < before[0] + PAUSE and lasted < 2 * before[1]:
            self._told[key] = before
            return False
        if len(self._told) >= _MANY:
            del self._told[next(iter(self._told))]
        self._told[key] = (now, lasted)
        return True


def _say_aloud(culprit: Culprit, late: float) -> None:
    # Neither the log nor stderr's own buffer: what hangs may hold their locks.
    text = (
        f"understudy: {culprit.path}: {culprit.handler} has blocked the event loop for "
        f"{seconds(late)} and still does, at {culprit.at}; nothing else runs meanwhile."
    )
    os.write(2, f"{one_line(text)}\n".encode())


# -- reading a stack ------------------------------------------------------------------


def find_culprit(innermost: FrameType, path: str) -> Culprit | None:
    """Who runs on this stack of the loop's thread; None if the loop waits or does its own work.

    `path` stands for code that belongs to no child.
    """
    frames, task = _down_to_the_loop(innermost)
    theirs = [frame for frame in frames if not is_ours(frame)]
    steps: list[Step] = [(frame, frame.f_lineno) for frame in frames]
    for frame in reversed(frames):
        culprit = _in_lane(frame, steps) or _in_life(frame, theirs, steps)
        if culprit is not None:
            return culprit
    if not theirs:
        return None
    # Neither of an actor's own tasks: one of a nursery, which has the hand it began with.
    hand = task.context.get(CURRENT) if isinstance(task, trio.lowlevel.Task) else None
    name, at = theirs[0].f_code.co_qualname, place(steps)
    if not isinstance(hand, Hand) or hand.incarnation is None:
        return Culprit(path, 0, name, at)
    return Culprit(hand.incarnation.path, hand.incarnation.number, name, at)


def _down_to_the_loop(innermost: FrameType) -> tuple[list[FrameType], object]:
    """The frames above the loop's own, the outermost first, and the task that runs."""
    frames: list[FrameType] = []
    frame: FrameType | None = innermost
    task: object = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "trio._core._run" and frame.f_code.co_name == "unrolled_run":
            task = frame.f_locals.get("task")
            break
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames, task


def _in_lane(frame: FrameType, steps: list[Step]) -> Culprit | None:
    """An actor's handler, if this frame is the loop of one of its lanes."""
    if frame.f_globals.get("__name__") != Lanes.__module__:
        return None
    here = frame.f_locals
    life, handler = here.get("incarnation"), here.get("handler")
    if not isinstance(life, Incarnation) or not isinstance(handler, Handler):
        return None
    return Culprit(life.path, life.number, handler.name, place(steps))


def _in_life(frame: FrameType, theirs: list[FrameType], steps: list[Step]) -> Culprit | None:
    """Any other code of a child, if this frame is the one that runs its life."""
    if frame.f_code is not Incarnation.live.__code__:
        return None
    life = frame.f_locals.get("self")
    if not isinstance(life, Incarnation):
        return None
    name = theirs[0].f_code.co_qualname if theirs else "its own code"
    return Culprit(life.path, life.number, name, place(steps))
