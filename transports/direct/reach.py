"""One address that a client's connections share: when it may be tried again.

While a service is away, all connections of a pool would try it, each in its own time, and
when it is back all at once. Here one of them is being made at a time, and a failed attempt
is a failure of the address: the next one waits for it, whichever connection makes it.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio

from ...actors.errors import ConnectionLost
from ...supervisors.strategy import Backoff

__all__ = ["Reach"]

C = TypeVar("C")


class Reach:
    """The attempts to connect to one address."""

    def __init__(self, longest: float) -> None:
        # Half of a delay is chance, so that many clients do not come back as one.
        self.backoff = Backoff(minimum=0.1, maximum=max(0.1, longest / 2), jitter=1.0)
        # Jitter only: nothing else here is random.
        self.random = Random()
        self.not_before = 0.0
        """The trio time of the next attempt."""
        self._failures = 0
        self._attempt = trio.Lock()

    async def attempt(self, connect: Callable[[], Awaitable[C]]) -> C:
        """Connect in turn; raises `ConnectionLost` as `connect` does."""
        async with self._attempt:
            await trio.sleep_until(self.not_before)
            try:
                connection = await connect()
            except ConnectionLost:
                self._failures += 1
                delay = self.backoff.delay(self._failures + 1, self.random)
                self.not_before = trio.current_time() + delay
                raise
            self._failures = 0
            return connection
