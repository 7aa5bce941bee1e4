"""A recorder of lifecycle notices: what the tree says about itself, as a test reads it."""

import re
from collections.abc import Callable
from typing import TypeVar

from ..actors.lifecycle import (
    Bus,
    Crashed,
    DeadLettered,
    Notice,
    Restarting,
    Started,
    Undelivered,
)
from ..supervisors.log_text import line_of
from .record import Record

__all__ = ["Lifecycle"]

N = TypeVar("N", bound=Notice)

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Lifecycle:
    """The notices about one child, from the moment it is listened to.

    For a whole tree: `Lifecycle(system.bus)`, or with the `path` of the child.
    """

    def __init__(self, bus: Bus | None = None, path: str | None = None) -> None:
        self.path = path
        self._record: Record[Notice] = Record(f"the lifecycle of {path or 'the tree'}", _said)
        if bus is not None:
            self.listen(bus)

    def listen(self, bus: Bus) -> None:
        """Record what `bus` publishes from now on."""
        bus.subscribe(self._take)

    @property
    def notices(self) -> list[Notice]:
        """Everything that was published, oldest first."""
        return self._record.everything

    def kinds(self) -> list[str]:
        """What happened, in words: `["started", "crashed", "restarting", "started"]`.

        Notices about single messages are left out: when they come depends on other tasks.
        """
        lives = (n for n in self.notices if not isinstance(n, DeadLettered | Undelivered))
        return [_words(type(notice)) for notice in lives]

    def of(self, kind: type[N]) -> list[N]:
        """The notices of one kind, oldest first."""
        return [notice for notice in self.notices if isinstance(notice, kind)]

    async def expect(
        self, kind: type[N], where: Callable[[N], bool] | None = None, *, within: float = 1.0
    ) -> N:
        """The next notice of this kind (for which `where` is true), each returned once.

        Raises `AssertionError` when none has come after `within` seconds.
        """
        __tracebackhide__ = True
        return await self._next(kind, _words(kind), where, within)

    async def expect_crash(
        self,
        error: type[BaseException] = BaseException,
        *,
        match: str = "",
        path: str | None = None,
        within: float = 1.0,
    ) -> Crashed:
        """The next crash with such an `error`, whose text matches; of the child at `path`.

        `match` is a regular expression, searched for as `pytest.raises` does. Raises
        `AssertionError` when there was no such crash after `within` seconds.
        """
        __tracebackhide__ = True
        wanted = _of(path, "a crash" if error is BaseException else f"a crash by {error.__name__}")

        def fits(notice: Crashed) -> bool:
            right = isinstance(notice.error, error) and _is_at(notice, path)
            return right and re.search(match, str(notice.error)) is not None

        if match:
            wanted = f"{wanted} matching {match!r}"
        return await self._next(Crashed, wanted, fits, within)

    async def expect_no_crash(self, *, path: str | None = None, within: float = 1.0) -> None:
        """Raises `AssertionError` for a crash not expected yet, or that comes `within` seconds."""
        __tracebackhide__ = True

        def fits(notice: Notice) -> bool:
            return isinstance(notice, Crashed) and _is_at(notice, path)

        await self._record.take_nothing(within, _of(path, "no crash"), fits)

    async def expect_restart(self, *, path: str | None = None, within: float = 60.0) -> Restarting:
        """The next restart, complete: `within` seconds for the delay and the start.

        What is returned says which incarnation it is, how long it was waited for, and how
        many more restarts are allowed.
        """
        __tracebackhide__ = True
        restart = await self._next(
            Restarting, _of(path, "a restart"), lambda notice: _is_at(notice, path), within
        )

        def fits(notice: Started) -> bool:
            same = notice.path == restart.path
            return same and notice.incarnation >= restart.incarnation

        wanted = f"incarnation {restart.incarnation} of {restart.path} to start"
        await self._next(Started, wanted, fits, within)
        return restart

    def restarts(self, path: str | None = None) -> int:
        """How often the child at `path` was restarted, with its siblings or alone."""
        path = self.path if path is None else path
        return sum(path == one.path or path in one.siblings for one in self.of(Restarting))

    async def _next(
        self, kind: type[N], wanted: str, where: Callable[[N], bool] | None, within: float
    ) -> N:
        __tracebackhide__ = True

        def matches(notice: Notice) -> bool:
            return isinstance(notice, kind) and (where is None or where(notice))

        found = await self._record.take(wanted, matches, within)
        if not isinstance(found, kind):  # never: `matches` has looked
            raise TypeError(f"{found!r} is no {kind.__name__}")
        return found

    def _take(self, notice: Notice) -> None:
        if self.path is None or notice.path == self.path:
            self._record.add(notice)


def _words(kind: type[Notice]) -> str:
    return _WORD.sub(" ", kind.__name__).lower()


def _said(notice: Notice) -> str:
    return line_of(notice).text


def _is_at(notice: Notice, path: str | None) -> bool:
    return path is None or notice.path == path


def _of(path: str | None, what: str) -> str:
    return what if path is None else f"{what} of {path}"
