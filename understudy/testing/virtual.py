"""Virtual time: whether it is, and letting it pass."""

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ..actors.asyncio_code import autojump_of

__all__ = ["advance", "in_virtual_time"]


def in_virtual_time() -> bool:
    """Whether the time of this trio run is that of a `MockClock`."""
    return isinstance(trio.lowlevel.current_clock(), MockClock)


async def advance(seconds: float) -> None:
    """Let `seconds` pass, and everything happen that is due by then.

    In virtual time this takes none, whether the clock jumps by itself or only here; in
    real time it waits. Deadlines on the way come one after the other, each at its time.
    """
    if seconds < 0:
        raise ValueError(f"advance({seconds:g}): time does not go back.")
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, MockClock) and autojump_of(clock) == math.inf:
        await _jump(clock, seconds)
    else:
        await trio.sleep(seconds)
    await wait_all_tasks_blocked()


async def _jump(clock: MockClock, seconds: float) -> None:
    """Move a clock that stands, from one deadline to the next."""
    end = trio.current_time() + seconds
    while True:
        await wait_all_tasks_blocked()
        left = end - trio.current_time()
        due = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if due >= left:
            clock.jump(max(0.0, left))
            return
        clock.jump(max(0.0, due))
