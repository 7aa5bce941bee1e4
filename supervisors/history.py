"""Why is it like that: remembers the failures of a tree, and what led to which.

A subscriber of the lifecycle bus. What failed is kept as sentences (`story.py`), each
with a link to the failure that led to it, so that a question about one actor is answered
with the whole chain, across levels, up to the first crash. Exceptions are not kept: they
would keep frames and payloads alive.

Invariant: bounded. `PATHS` paths with `ENTRIES` entries each, the oldest forgotten; what
never failed has no entry, so that idle actors and clean ends cost nothing.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import trio

from ..actors.lifecycle import (
    Crashed,
    Escalated,
    GaveUp,
    Notice,
    Restarting,
    Sick,
    Stopped,
    Stopping,
    Stuck,
)
from .log_text import chain_of, describe
from .story import Cause, Story, What, causes_of, sentence, start_failures

__all__ = ["ENTRIES", "PATHS", "History"]

PATHS: Final = 256
"""Paths that are remembered; of more, those that failed last."""

ENTRIES: Final = 8
"""Things that happened that are remembered of one path."""

_SIBLINGS: Final = 1000


@attrs.frozen(eq=False)
class _Entry:
    """What one notice said; `because` is the entry of what led to it.

    `leaf` tells the innermost exception, by which a failure is known again further up.
    """

    order: int
    causes: tuple[Cause, ...]
    because: "_Entry | None" = None
    siblings: tuple[str, ...] = ()
    leaf: str = ""

    @property
    def effect(self) -> Cause:
        return self.causes[0]

    def top(self, path: str) -> str | None:
        """What this happened to that `path` is or stands in; None if it did not reach it."""
        paths = (self.effect.path, *self.siblings)
        return next((top for top in paths if path == top or path.startswith(f"{top}/")), None)


class History:
    """Remembers what failed in one tree; `bus.subscribe(history.take)` feeds it."""

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._entries: OrderedDict[str, deque[_Entry]] = OrderedDict()
        self._count = 0
        self._sick: Sick | None = None
        self._stopping: Stopping | None = None
        # The end published last: what a supervisor does about it follows at once.
        self._end: _Entry | Stopped | None = None
        self._takers: dict[type[Notice], Callable[[Any], None]] = {
            Sick: self._fell_sick,
            Crashed: self._crashed,
            Stopping: self._was_told,
            Stopped: self._stopped,
            Stuck: self._stuck,
            Restarting: self._restarting,
            GaveUp: self._gave_up,
            Escalated: self._escalated,
        }

    def take(self, notice: Notice) -> None:
        """Remember what is worth it."""
        taker = self._takers.get(type(notice))
        if taker is not None:
            taker(notice)

    def why(self, path: str) -> Story:
        """The story of the last restart, escalation or abnormal end that reached `path`."""
        reaching = [entry for entry in self._all() if entry.top(path) is not None]
        causes: list[Cause] = []
        if reaching:
            entry = max(reaching, key=lambda one: one.order)
            causes += _seen_from(path, entry)
            following = entry.because
            while following is not None:
                causes += following.causes
                following = following.because
        return Story(path, tuple(causes), self._now())

    # -- notices, in the order of a failure ---------------------------------------

    def _fell_sick(self, notice: Sick) -> None:
        self._sick = notice  # its crash is published after it and tells of it

    def _crashed(self, notice: Crashed) -> None:
        now = self._now()
        sick = self._sick
        if sick is not None and sick.path == notice.path:
            self._sick = None
        else:
            sick = None
        leaf = describe(chain_of(notice.error)[-1])
        below = self._failed_below(notice.path, leaf)
        causes = tuple(causes_of(notice, sick, now))
        # What the child's crash tells needs no second telling.
        self._end = self._add(causes[:1] if below else causes, below, leaf=leaf)
        for causes in start_failures(notice, now):
            self._add(causes)

    def _was_told(self, notice: Stopping) -> None:
        self._stopping = notice

    def _stopped(self, notice: Stopped) -> None:
        told = self._stopping
        if told is not None and told.path != notice.path:
            told = None
        if notice.how == "killed":
            self._note(notice, "killed", sentence(notice, told=told))
        elif notice.how == "fatal":
            self._note(notice, "ended", sentence(notice))
        elif notice.how in ("normal", "shutdown") and told is None:
            self._end = notice

    def _stuck(self, notice: Stuck) -> None:
        self._note(notice, "stuck", sentence(notice))

    def _restarting(self, notice: Restarting) -> None:
        last = self._last(notice.path)
        life = notice.incarnation - 1
        if last is None or last.effect.incarnation != life or last.effect.what == "restarted":
            last = self._clean_end(notice.path)
        siblings = notice.siblings[:_SIBLINGS]
        self._note(notice, "restarted", sentence(notice), because=last, siblings=siblings)

    def _gave_up(self, notice: GaveUp) -> None:
        end = self._end_of_child(notice.path)
        child = "" if end is None else end.effect.path
        self._note(notice, "gave up", sentence(notice, child=child), because=end)

    def _escalated(self, notice: Escalated) -> None:
        last = self._last(notice.child)
        if last is None:
            return
        effect = attrs.evolve(last.effect, text=f"{last.effect.text}; escalated to {notice.path}")
        entry = attrs.evolve(last, causes=(effect, *last.causes[1:]))
        self._entries[notice.child][-1] = entry
        self._end = entry

    # -- entries ------------------------------------------------------------------

    def _note(
        self,
        notice: Notice,
        what: What,
        text: str,
        *,
        because: _Entry | None = None,
        siblings: tuple[str, ...] = (),
    ) -> _Entry:
        cause = Cause(notice.path, notice.incarnation, what, text, self._now())
        return self._add((cause,), because, siblings)

    def _add(
        self,
        causes: tuple[Cause, ...],
        because: _Entry | None = None,
        siblings: tuple[str, ...] = (),
        leaf: str = "",
    ) -> _Entry:
        self._count += 1
        entry = _Entry(self._count, causes, because, siblings, leaf)
        path = entry.effect.path
        entries = self._entries.get(path)
        if entries is None:
            entries = self._entries[path] = deque(maxlen=ENTRIES)
            if len(self._entries) > PATHS:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(path)
        entries.append(entry)
        return entry

    def _all(self) -> Iterator[_Entry]:
        for entries in self._entries.values():
            yield from entries

    def _last(self, path: str) -> _Entry | None:
        entries = self._entries.get(path)
        return entries[-1] if entries else None

    def _end_of_child(self, supervisor: str) -> _Entry | None:
        """The end of one of its children that a supervisor just now decides about."""
        end = self._end
        if end is None or _parent(end) != supervisor:
            return None
        return end if isinstance(end, _Entry) else self._clean_end(end.path)

    def _clean_end(self, path: str) -> _Entry | None:
        """The end of a child that should have gone on; without a failure, so not kept before."""
        end = self._end
        if not isinstance(end, Stopped) or end.path != path:
            return None
        return self._note(end, "ended", sentence(end))

    def _failed_below(self, supervisor: str, leaf: str) -> _Entry | None:
        """The end of a child that made its supervisor fail with the same exception."""
        end = self._end
        if not isinstance(end, _Entry) or _parent(end) != supervisor:
            return None
        return end if end.leaf == leaf else None


def _seen_from(path: str, entry: _Entry) -> tuple[Cause, ...]:
    """What happened, with a sentence before it for one that was only drawn in."""
    effect = entry.effect
    if path == effect.path:
        return entry.causes
    verb = "was restarted" if effect.what == "restarted" else "ended"
    top = entry.top(path)
    whom = effect.path if top == path else f"all of {top}"
    return (Cause(path, 0, effect.what, f"{path} {verb} with {whom}", effect.at), *entry.causes)


def _parent(end: _Entry | Stopped) -> str:
    path = end.effect.path if isinstance(end, _Entry) else end.path
    return path.rpartition("/")[0]
