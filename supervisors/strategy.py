"""Who restarts, whether, and when: pure functions of data and `now`.

Erlang/OTP's `supervisor`, rule for rule: restart types, the three strategies and
the restart window (inclusive edge, finer clock). Back-off between restarts is
Akka's; OTP's own behaviour, to restart at once every time, is `backoff=None`.
"""

from collections import deque
from enum import Enum
from random import Random
from typing import Final, Literal

import attrs

from ..actors.errors import DeclarationError
from ..actors.incarnation import Ending

__all__ = [
    "Backoff",
    "Restart",
    "Strategy",
    "Window",
    "group_of",
    "is_restarted",
    "one_for_all",
    "one_for_one",
    "rest_for_one",
]

Restart = Literal["permanent", "transient", "temporary"]
"""`permanent`: always restarted. `transient`: after an abnormal end. `temporary`: never."""


class Strategy(Enum):
    """Which children are restarted with the one that ended."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


one_for_one: Final = Strategy.ONE_FOR_ONE
"""Only the child that ended."""
one_for_all: Final = Strategy.ONE_FOR_ALL
"""All children of the supervisor."""
rest_for_one: Final = Strategy.REST_FOR_ONE
"""The child that ended, and those started after it."""


def is_restarted(restart: Restart, ending: Ending) -> bool:
    """Whether a child of this restart type comes back after such an end."""
    if restart == "permanent":
        return True
    return restart == "transient" and not ending.clean


def group_of(strategy: Strategy, index: int, count: int) -> range:
    """Indices, in start order, of the children restarted when child `index` is."""
    if strategy is Strategy.ONE_FOR_ALL:
        return range(count)
    if strategy is Strategy.REST_FOR_ONE:
        return range(index, count)
    return range(index, index + 1)


class Window:
    """Restarts of the last `within` seconds, against `max_restarts`."""

    def __init__(self, max_restarts: int, within: float) -> None:
        self.max_restarts = max_restarts
        self.within = within
        self._times: deque[float] = deque()

    def add(self, now: float) -> bool:
        """Count a restart; False if it is one too many.

        A restart exactly `within` seconds ago still counts, as in OTP.
        """
        self._times.append(now)
        self._forget(now)
        return len(self._times) <= self.max_restarts

    def left(self, now: float) -> int:
        """How many more restarts are allowed just now."""
        self._forget(now)
        return max(0, self.max_restarts - len(self._times))

    def clear(self) -> None:
        self._times.clear()

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] < now - self.within:
            self._times.popleft()


@attrs.frozen
class Backoff:
    """Delays between restarts of one child, in seconds.

    The first restart comes at once; the n-th after that waits
    `minimum * 2**(n-1)`, at most `maximum`, lengthened by up to `jitter` of itself.
    A quiet time of `reset_after` (by default the mean of both bounds) begins anew.
    """

    minimum: float = 0.1
    maximum: float = 30.0
    jitter: float = 0.2
    reset_after: float | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum:
            raise DeclarationError(
                f"Backoff: 0 < minimum <= maximum expected, got {self.minimum} and {self.maximum}."
            )
        if self.jitter < 0:
            raise DeclarationError(f"Backoff: jitter must not be negative, got {self.jitter}.")

    @property
    def quiet(self) -> float:
        """Seconds without a crash after which the next restart is a first one again."""
        if self.reset_after is not None:
            return self.reset_after
        return (self.minimum + self.maximum) / 2

    def delay(self, failures: int, random: Random) -> float:
        """Seconds to wait before the restart after the `failures`-th failure in a row."""
        if failures <= 1:
            return 0.0
        exponent = min(failures - 2, 64)  # 2.0**64 is far above every bound
        base = min(self.maximum, self.minimum * 2.0**exponent)
        return base * (1 + self.jitter * random.random())
