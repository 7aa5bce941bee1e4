"""Attempts and back-off for events: a pure decision, made once per failure."""

from random import Random
from typing import Final

import attrs

__all__ = ["DEFAULT_POLICY", "RetryPolicy"]


@attrs.frozen
class RetryPolicy:
    """How often an event is run, and how long it waits in between. Times in seconds.

    `delays` are the waits before the second, third... attempt; the last one stands
    for all further ones. Each is lengthened by up to `jitter` of itself. `max_age`
    bounds how long a message may be put off by `Retry`.
    """

    attempts: int = 5
    delays: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0)
    jitter: float = 0.2
    max_age: float = 3600.0

    def after_crash(self, attempt: int, random: Random) -> float | None:
        """Seconds until the next attempt after attempt number `attempt` crashed; None: give up."""
        if attempt >= self.attempts:
            return None
        if not self.delays:
            return 0.0
        delay = self.delays[min(attempt, len(self.delays)) - 1]
        return delay * (1 + self.jitter * random.random())

    def after_retry(self, age: float, after: float) -> float | None:
        """Seconds until a message that asked for `Retry` comes back; None: it is too old."""
        return after if age + after <= self.max_age else None


DEFAULT_POLICY: Final = RetryPolicy()
