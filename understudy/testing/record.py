"""What came, in order, each thing to be expected once: the heart of probes.

Owns the waiting and the wording of failures; what counts as a match is the
caller's. Waits are bounded in trio's time, so that virtual clocks hold.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import trio

__all__ = ["Record"]

T = TypeVar("T")

_SHOWN = 20


class Record(Generic[T]):
    """A list of everything that came, and of what nobody has expected yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.everything: list[T] = []
        self.unexpected: list[T] = []
        self._came = trio.Event()

    def add(self, thing: T) -> None:
        self.everything.append(thing)
        self.unexpected.append(thing)
        self._came.set()

    async def take(self, wanted: str, matches: Callable[[T], bool], within: float) -> T:
        """The first thing that matches and was not taken before, waiting for it if need be.

        Raises `AssertionError` after `within` seconds.
        """
        with trio.move_on_after(within):
            while True:
                for index, thing in enumerate(self.unexpected):
                    if matches(thing):
                        return self.unexpected.pop(index)
                await self._more()
        raise AssertionError(
            f"{self.name}: expected {wanted} within {within:g} s; "
            f"what came and was not expected yet: {_shown(self.unexpected)}."
        )

    async def take_nothing(self, within: float) -> None:
        """Raises `AssertionError` if there is anything not taken, or comes within that time."""
        with trio.move_on_after(within):
            while not self.unexpected:
                await self._more()
        if self.unexpected:
            raise AssertionError(
                f"{self.name}: expected nothing within {within:g} s; "
                f"what came: {_shown(self.unexpected)}."
            )

    async def _more(self) -> None:
        if self._came.is_set():
            self._came = trio.Event()
        await self._came.wait()


def _shown(things: Sequence[Any]) -> str:
    if not things:
        return "nothing"
    shown = ", ".join(repr(thing) for thing in things[:_SHOWN])
    more = len(things) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
