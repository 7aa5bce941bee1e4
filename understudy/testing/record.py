"""What came, in order, each thing to be expected once: the heart of probes.

Owns the waiting and the wording of failures; what counts as a match is the
caller's. Waits are bounded in trio's time, so that virtual clocks hold.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import trio

__all__ = ["Record"]

T = TypeVar("T")

_SHOWN = 20


class Record(Generic[T]):
    """A list of everything that came, and of what nobody has expected yet."""

    def __init__(self, name: str, show: Callable[[T], str] = repr) -> None:
        self.name = name
        self._show = show
        self.everything: list[T] = []
        self.unexpected: list[T] = []
        self._ignored: list[Callable[[T], bool]] = []
        self._came = trio.Event()

    def add(self, thing: T) -> None:
        self.everything.append(thing)
        if not any(matches(thing) for matches in self._ignored):
            self.unexpected.append(thing)
            self._came.set()

    def ignore(self, matches: Callable[[T], bool]) -> None:
        """Count what matches as expected, whatever is there of it or still comes."""
        self._ignored.append(matches)
        self.unexpected = [thing for thing in self.unexpected if not matches(thing)]

    async def take(self, wanted: str, matches: Callable[[T], bool], within: float) -> T:
        """The first thing that matches and was not taken before, waiting for it if need be.

        Raises `AssertionError` after `within` seconds.
        """
        __tracebackhide__ = True
        (found,) = await self.take_some(1, wanted, matches, within)
        return found

    async def take_some(
        self, count: int, wanted: str, matches: Callable[[T], bool], within: float
    ) -> list[T]:
        """The first `count` things that match, all of them within that time, or none is taken."""
        __tracebackhide__ = True
        with trio.move_on_after(within):
            while True:
                found = [thing for thing in self.unexpected if matches(thing)][:count]
                if len(found) == count:
                    self._remove(found)
                    return found
                await self._more()
        raise AssertionError(
            f"{self.name}: expected {wanted} within {within:g} s; "
            f"what came and was not expected yet:{self._shown(self.unexpected)}"
        )

    async def take_nothing(
        self, within: float, what: str = "nothing", matches: Callable[[T], bool] | None = None
    ) -> None:
        """Raises `AssertionError` for a match that was not taken, or comes within that time."""
        __tracebackhide__ = True
        found: list[T] = []
        with trio.move_on_after(within):
            while not found:
                found = [one for one in self.unexpected if matches is None or matches(one)]
                if not found:
                    await self._more()
        if found:
            raise AssertionError(
                f"{self.name}: expected {what} within {within:g} s; what came:{self._shown(found)}"
            )

    def _remove(self, found: Sequence[T]) -> None:
        # By identity: what was sent twice is equal.
        taken = {id(thing) for thing in found}
        self.unexpected = [thing for thing in self.unexpected if id(thing) not in taken]

    async def _more(self) -> None:
        if self._came.is_set():
            self._came = trio.Event()
        await self._came.wait()

    def _shown(self, things: Sequence[T]) -> str:
        """The one thing in the same line, more of them in a line each."""
        if not things:
            return " nothing."
        shown = [self._show(thing) for thing in things[:_SHOWN]]
        if len(shown) == 1:
            return f" {shown[0]}."
        more = len(things) - _SHOWN
        return "".join(f"\n  {line}" for line in [*shown, *[f"and {more} more"] * (more > 0)])
