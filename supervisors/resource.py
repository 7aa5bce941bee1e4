"""A resource as a child: an async context manager, entered and left by its supervisor."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio

from ..actors.incarnation import Incarnation
from ..actors.lifecycle import StateChanged
from .child import ChildSpec, Needs, Wiring, checked_name
from .strategy import Backoff

__all__ = ["Resource", "ResourceSpec", "resource"]


@attrs.frozen(kw_only=True)
class ResourceSpec(ChildSpec):
    """An async context manager that lives as a child; it offers what it yields."""

    factory: Callable[..., AbstractAsyncContextManager[Any]]
    arguments: tuple[Any, ...] = ()

    def build(self, wiring: Wiring) -> "Resource":
        return Resource(self, wiring)

    def needed(self) -> Iterator[str]:
        return (value.name for value in self.arguments if isinstance(value, Needs))


def resource(
    factory: Callable[..., AbstractAsyncContextManager[Any]],
    *arguments: Any,
    name: str | None = None,
    shutdown: float = 5.0,
    backoff: Backoff = Backoff(),
) -> ResourceSpec:
    """Supervise a pool, client or repository: `resource(open_pool, name="pool")`.

    `factory(*arguments)` returns an async context manager; what it yields is what
    `needs("pool")` injects. A start that fails is tried again with `backoff` and
    counts against nobody: what it connects to may just be away.
    """
    called: str = name or getattr(factory, "__name__", type(factory).__name__).lower()
    return ResourceSpec(
        factory=factory,
        arguments=arguments,
        name=checked_name(called),
        shutdown=shutdown,
        start_timeout=math.inf,
        backoff=backoff,
    )


class Resource:
    """Enters the context manager, offers what it yields, leaves it when asked to stop."""

    def __init__(self, spec: ResourceSpec, wiring: Wiring) -> None:
        self._spec = spec
        self._wiring = wiring

    async def run(self, incarnation: Incarnation) -> None:
        failures = 0
        while not incarnation.stopping:
            # Only what fails before the yield is a start that may be tried again.
            entered = False
            try:
                async with self._spec.factory(*self._arguments()) as offer:
                    entered = True
                    incarnation.announce(offer)
                    await incarnation.stop_asked()
                return
            except Exception as error:  # published, then tried again
                if entered:
                    raise
                failures += 1
                await self._wait(incarnation, failures, error)

    def open(self) -> None:
        """A resource has nothing that outlives its incarnation, so nothing to open..."""

    def close(self, why: str) -> None:
        """...and nothing to let go of."""

    def _arguments(self) -> list[object]:
        resolve = self._wiring.resolve
        values = self._spec.arguments
        return [resolve(value.name) if isinstance(value, Needs) else value for value in values]

    async def _wait(self, incarnation: Incarnation, failures: int, error: Exception) -> None:
        backoff = self._spec.backoff or Backoff()
        delay = backoff.delay(failures + 1, self._wiring.services.random)
        why = f"{type(error).__name__}: {error}; tried again in {delay:.1f} s"
        notice = StateChanged(
            path=incarnation.path, incarnation=incarnation.number, state="waiting", why=why
        )
        self._wiring.services.bus.publish(notice)
        with trio.move_on_after(delay):
            await incarnation.stop_asked()
