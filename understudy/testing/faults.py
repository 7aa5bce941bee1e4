"""Faults: what can go wrong with an actor on purpose, as data.

A fault says what happens, to which messages and how often; `injection.py` makes it
happen. Messages are counted as runs of a handler: a retry is one more, and so is a
batch.
"""

from collections.abc import Callable
from typing import Any, Literal

import attrs

from ..actors.pattern import Pattern

__all__ = ["Fault", "Injected", "On", "crash_on", "drop", "fail_start", "fails", "slow"]

On = Pattern | Callable[..., Any] | type[Any] | None
"""The messages a fault is about: a pattern, a handler method, a type, or None for all."""


class Injected(Exception):
    """What an actor crashes with when a test injected that, and named no error of its own."""


@attrs.frozen
class Fault:
    """One thing that goes wrong. Made by `crash_on`, `fails`, `slow`, `drop`, `fail_start`.

    It begins `after` so many messages that are meant by `on`, and happens to `times` of
    them; None is all that come. `seconds` is how long `slow` takes.
    """

    kind: Literal["raise", "slow", "drop", "start"]
    on: On = None
    after: int = 0
    times: int | None = None
    error: Exception = attrs.field(factory=lambda: Injected("a test made it fail"))
    seconds: float = 0.0

    def __attrs_post_init__(self) -> None:
        if self.after < 0 or (self.times is not None and self.times < 1):
            raise ValueError(
                f"a fault begins after 0 or more messages and happens once at least, got "
                f"after={self.after}, times={self.times}."
            )
        if not self.seconds >= 0:
            raise ValueError(f"a fault cannot take {self.seconds:g} seconds.")


def crash_on(number: int, on: On = None, *, error: Exception | None = None) -> Fault:
    """Crash on the message with this number, 1 for the next: `crash_on(3)`.

    With `Injected`, or with `error`. Once: the messages after it are handled.
    """
    if number < 1:
        raise ValueError(f"crash_on({number}): messages are counted from 1.")
    return Fault("raise", on, number - 1, 1, error or Injected("a test made it crash"))


def fails(error: Exception, on: On = None, *, times: int | None = None, after: int = 0) -> Fault:
    """Raise `error` instead of handling: `fails(RpcError("closed"), "mails.send", times=2)`.

    What comes of it is what comes of such an error from the handler itself: a `Retry`
    is tried again, an `RpcError` is an answer, most others are a crash.
    """
    return Fault("raise", on, after, times, error)


def slow(seconds: float, on: On = None, *, times: int | None = None, after: int = 0) -> Fault:
    """Wait before handling, with the message in hand."""
    return Fault("slow", on, after, times, seconds=seconds)


def drop(on: On = None, *, times: int | None = None, after: int = 0) -> Fault:
    """Lose messages before they are handled.

    Nobody is told: an event counts as handled and is acknowledged, and who asks waits
    until its time is over.
    """
    return Fault("drop", on, after, times)


def fail_start(times: int = 1, *, error: Exception | None = None) -> Fault:
    """Let the next `times` starts fail, as an `__init__` or a `started()` that raises does."""
    return Fault("start", None, 0, times, error or Injected("a test made its start fail"))
