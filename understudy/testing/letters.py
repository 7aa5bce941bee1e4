"""Dead letters as a test expects them: each once, with what there was instead."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..actors.handlers import marks_of
from ..actors.lifecycle import Bus, DeadLettered, Notice
from ..actors.pattern import Pattern, route_of
from ..supervisors.delivery.record import DeadLetter, Status
from ..supervisors.delivery.store import MemoryStore
from ..supervisors.system import System
from .record import Record

__all__ = ["DeadLetters", "KeptLetters"]


class DeadLetters:
    """The dead letters of one tree, from the moment its bus is listened to."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._record: Record[DeadLettered] = Record("the dead letters", _said)
        if bus is not None:
            self.listen(bus)

    def listen(self, bus: Bus) -> None:
        bus.subscribe(self._take)

    async def expect(
        self,
        system: System,
        pattern: Pattern | Callable[..., Any] | None,
        reason: str | None,
        attempts: int | None,
        within: float,
    ) -> DeadLetter:
        """The next letter of that kind, each returned once; None stands for any."""
        __tracebackhide__ = True
        routes = None if pattern is None else _routes(pattern)

        def matches(notice: DeadLettered) -> bool:
            return (
                (routes is None or notice.pattern in routes)
                and (reason is None or notice.reason == reason)
                and (attempts is None or notice.attempts == attempts)
            )

        wanted = " ".join(
            [
                "a dead letter",
                *([f"of {' or '.join(sorted(routes))}"] if routes is not None else []),
                *([f"({reason})"] if reason is not None else []),
                *([f"after {attempts} attempts"] if attempts is not None else []),
            ]
        )
        found = await self._record.take(wanted, matches, within)
        await system.office.flush()
        letter = await system.office.store.get(found.id)
        if letter is None:
            raise AssertionError(f"{_said(found)} was in the store and is not any more.")
        return letter

    def _take(self, notice: Notice) -> None:
        if isinstance(notice, DeadLettered):
            self._record.add(notice)


class KeptLetters(MemoryStore):
    """A store in memory that can be read after its end: a test may ask what a stop left."""

    def __init__(self) -> None:
        super().__init__()
        self._left: Sequence[DeadLetter] | None = None

    async def close(self) -> None:
        self._left = await super().find(limit=sys.maxsize)
        await super().close()

    async def flush(self) -> None:
        if self._left is None:
            await super().flush()

    async def find(
        self, status: Status | None = None, *, limit: int = 100, after: str = ""
    ) -> Sequence[DeadLetter]:
        if self._left is None:
            return await super().find(status, limit=limit, after=after)
        found = (one for one in self._left if status in (None, one.status) and one.id > after)
        return list(found)[:limit]

    async def get(self, id: str) -> DeadLetter | None:
        if self._left is None:
            return await super().get(id)
        return next((letter for letter in self._left if letter.id == id), None)


def _said(letter: DeadLettered) -> str:
    attempts = f"{letter.attempts} attempt{'s' * (letter.attempts != 1)}"
    return f"{letter.pattern} of {letter.path or 'nobody'} ({letter.reason}) after {attempts}"


def _routes(pattern: Pattern | Callable[..., Any]) -> set[str]:
    if not callable(pattern):
        return {route_of(pattern)}
    # A type of messages for `receive`, or a method.
    if isinstance(pattern, type):
        return {pattern.__name__}
    return {mark.route for mark in marks_of(pattern)}
