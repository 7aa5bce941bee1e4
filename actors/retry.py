"""How often an event is run, how long it waits in between, and when it is too old.

Pure decisions: numbers in, seconds out; no clock, no await. What an answer leads to (a
timer, a dead letter) is the delivery's business (`supervisors/delivery`).

Three may have a say: the handler, its actor, the whole system; the nearest one decides
alone (`policy_for`), nothing is mixed. The back-off is Akka's: exponential, capped, with
jitter on top, so that messages that failed together do not come back together.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import Final, Self

import attrs

from .errors import DeclarationError

__all__ = ["DEFAULT_POLICY", "RetryPolicy", "policy_for"]


@attrs.frozen
class RetryPolicy:
    """What an event's failures lead to. Times in seconds.

    It is run `attempts` times at most. `delays` are the waits before the second, third...
    attempt; the last one stands for all further ones. Each is lengthened by up to `jitter`
    of itself. Ages count from when the message came first, time in the broker included:
    beyond `max_age` it is not run again, be it after a crash or a `Retry`; beyond
    `stale_after` it is not run at all.

    Raises `DeclarationError` for values that can never work.
    """

    attempts: int = 5
    delays: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0)
    jitter: float = 0.2
    max_age: float = 3600.0
    stale_after: float = math.inf

    def __attrs_post_init__(self) -> None:
        for problem in self._problems():
            raise DeclarationError(f"RetryPolicy: {problem}")

    @classmethod
    def exponential(
        cls,
        attempts: int,
        first: float,
        maximum: float,
        factor: float = 2.0,
        jitter: float = 0.2,
        *,
        max_age: float = 3600.0,
        stale_after: float = math.inf,
    ) -> Self:
        """Waits that grow from `first` by `factor` each time, up to `maximum`.

        Raises `DeclarationError` for values that can never work.
        """
        if not (0 < first <= maximum < math.inf and 1 <= factor < math.inf):
            raise DeclarationError(
                f"RetryPolicy.exponential: first={first}, maximum={maximum}, factor={factor}: "
                "0 < first <= maximum and factor >= 1 expected, all of them finite."
            )
        delays = [first]
        # Once the cap is reached, its one entry stands for all waits after it.
        while len(delays) < attempts - 1 and factor > 1 and delays[-1] < maximum:
            delays.append(min(maximum, delays[-1] * factor))
        return cls(attempts, tuple(delays), jitter, max_age, stale_after)

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
        return after if self.allows(age + after) else None

    def allows(self, age: float) -> bool:
        """Whether a message may be run once more at this age."""
        return age <= self.max_age

    def _problems(self) -> Iterator[str]:
        if self.attempts < 1:
            yield f"attempts={self.attempts}: 1 or more expected; 1 is no second try."
        wrong = [delay for delay in self.delays if not 0 <= delay < math.inf]
        if wrong:
            yield f"delays={self.delays}: {wrong[0]} is not a number of seconds from 0 on."
        if not 0 <= self.jitter < math.inf:
            yield f"jitter={self.jitter}: a share of the delay expected, such as 0.2."
        if not self.max_age >= 0:
            yield f"max_age={self.max_age}: 0 seconds or more expected; math.inf is no limit."
        if not self.stale_after > 0:
            yield (
                f"stale_after={self.stale_after}: more than 0 seconds expected, or every "
                "event would be stale; math.inf is no limit."
            )


DEFAULT_POLICY: Final = RetryPolicy()


def policy_for(
    handler: RetryPolicy | None, actor: RetryPolicy | None, system: RetryPolicy
) -> RetryPolicy:
    """The policy that decides for one handler of one actor: the nearest that is set."""
    if handler is not None:
        return handler
    return system if actor is None else actor
