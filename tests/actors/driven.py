"""Actors driven from outside: the test says what their handlers do.

Most of what an actor can do, it can do only in a handler, and many tests need a handler of
one line. Their actors call what they are sent, `message(self)`; a request of that kind, whose
answer is what the call returned, is made here. Which actors take it is up to their `receive`.
"""

from collections.abc import Callable
from typing import Any

import attrs

from understudy.actors.actor import Request

__all__ = ["Do"]


@attrs.frozen
class Do(Request[Any]):
    """Answered with what `run` returns for the actor that handles it."""

    run: Callable[[Any], Any]

    def __call__(self, actor: Any) -> Any:
        return self.run(actor)
