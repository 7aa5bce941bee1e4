"""A recorder of lifecycle notices: what the tree says about itself, as a test reads it."""

import re
from collections.abc import Callable
from typing import TypeVar

from ..actors.lifecycle import Bus, DeadLettered, Notice, Undelivered
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
        self._record: Record[Notice] = Record(f"the lifecycle of {path or 'the tree'}")
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

        def matches(notice: Notice) -> bool:
            return isinstance(notice, kind) and (where is None or where(notice))

        found = await self._record.take(_words(kind), matches, within)
        if not isinstance(found, kind):  # never: `matches` has looked
            raise TypeError(f"{found!r} is no {kind.__name__}")
        return found

    def _take(self, notice: Notice) -> None:
        if self.path is None or notice.path == self.path:
            self._record.add(notice)


def _words(kind: type[Notice]) -> str:
    return _WORD.sub(" ", kind.__name__).lower()
