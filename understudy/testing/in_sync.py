"""One actor alone in a plain test: what `isolated` gives, as calls that wait."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, overload

from ..actors.actor import Actor, Request
from ..actors.context import MessageContext
from ..actors.lifecycle import Crashed, Restarting
from ..actors.pattern import Pattern
from ..actors.ref import ABSENT
from ..supervisors.delivery.record import DeadLetter
from .alone import Isolated, isolated
from .faults import Fault
from .injection import Injection, inject
from .lifecycle import Lifecycle
from .portal import Blocked, entered

__all__ = ["BlockedActor", "BlockedInjection", "isolated_sync"]

A = TypeVar("A", bound=Actor[Any])
A_co = TypeVar("A_co", bound=Actor[Any], covariant=True)
S = TypeVar("S")
P = TypeVar("P")
R = TypeVar("R")


class BlockedActor(Blocked[Isolated[A_co]]):
    """An actor of `isolated_sync`: what `Isolated` can, as plain calls that wait."""

    # -- as of a reference --------------------------------------------------------

    def tell(self, message: Any, data: Any = ABSENT, /) -> None:
        """`Ref.tell`; it is handled while the test waits for something."""
        __tracebackhide__ = True
        given = (message,) if data is ABSENT else (message, data)
        self.call(self.subject.tell, *given)

    @overload
    def ask(self, message: Request[R], /, *, timeout: float = ...) -> R: ...
    @overload
    def ask(
        self: "BlockedActor[S]",  # type: ignore[type-var]  # as of `Ref.ask`
        message: Callable[[S, P], Awaitable[R]]
        | Callable[[S, P, MessageContext], Awaitable[R]]
        | Callable[[S], Awaitable[R]],
        data: P,
        /,
        *,
        timeout: float = ...,
    ) -> R: ...
    @overload
    def ask(self, message: Pattern, data: object, /, *, timeout: float = ...) -> Any: ...
    def ask(self, message: Any, data: Any = ABSENT, /, *, timeout: float = 5.0) -> Any:
        """`Ref.ask`."""
        __tracebackhide__ = True
        given = (message,) if data is ABSENT else (message, data)
        asked: Callable[..., Awaitable[Any]] = self.subject.ask
        return self.wait(asked(*given, timeout=timeout))

    def stream(self, message: Any, data: Any, /) -> list[Any]:
        """`Ref.stream`, to its end."""
        __tracebackhide__ = True
        items: AsyncIterator[Any] = self.subject.stream(message, data)
        return self.wait(_collected(items))

    # -- from outside -------------------------------------------------------------

    def event(
        self, pattern: Pattern | Callable[..., Any], data: object = b"", **options: Any
    ) -> str:
        """`Isolated.event`, until it is settled: "acknowledged" or "given back"."""
        __tracebackhide__ = True

        async def settled() -> str:
            delivery = await self.subject.event(pattern, data, **options)
            return await delivery.settled(within=float("inf"))

        return self.wait(settled())

    def request(
        self, pattern: Pattern | Callable[..., Any], data: object = b"", **options: Any
    ) -> Any:
        """`Isolated.request`."""
        __tracebackhide__ = True
        return self.wait(self.subject.request(pattern, data, **options))

    # -- what a test does and sees ------------------------------------------------

    def crash(self, error: Exception | None = None) -> None:
        """`Isolated.crash`."""
        __tracebackhide__ = True
        self.wait(self.subject.crash(error))

    def inject(self, *faults: Fault) -> "BlockedInjection":
        """`inject`, into this actor."""
        __tracebackhide__ = True
        return BlockedInjection(self, self.call(inject, self.subject, *faults))

    def expect_crash(
        self, error: type[BaseException] = BaseException, *, match: str = "", within: float = 1.0
    ) -> Crashed:
        """`Isolated.expect_crash`."""
        __tracebackhide__ = True
        return self.wait(self.subject.expect_crash(error, match=match, within=within))

    def expect_restart(self, *, within: float = 60.0) -> Restarting:
        """`Isolated.expect_restart`."""
        __tracebackhide__ = True
        return self.wait(self.subject.expect_restart(within=within))

    def expect_dead_letter(
        self, pattern: Pattern | Callable[..., Any] | None = None, **wanted: Any
    ) -> DeadLetter:
        """`Isolated.expect_dead_letter`."""
        __tracebackhide__ = True
        return self.wait(self.subject.expect_dead_letter(pattern, **wanted))

    def dead_letters(self) -> list[DeadLetter]:
        """`Isolated.dead_letters`."""
        __tracebackhide__ = True
        return self.wait(self.subject.dead_letters())

    @property
    def lifecycle(self) -> Lifecycle:
        """The notices about the actor; wait for what it expects with `wait`."""
        return self.subject.lifecycle

    @property
    def restarts(self) -> int:
        """How often it was restarted so far."""
        return self.subject.restarts


class BlockedInjection:
    """An `Injection` into an actor of `isolated_sync`."""

    def __init__(self, actor: Blocked[Any], injection: Injection) -> None:
        self._actor = actor
        self._injection = injection

    @property
    def happened(self) -> int:
        """How often any of the faults has happened."""
        return self._injection.happened

    def remove(self) -> None:
        """Let no more go wrong."""
        __tracebackhide__ = True
        self._actor.call(self._injection.remove)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *outcome: object) -> None:
        if not self._actor.over:
            self.remove()


@contextmanager
def isolated_sync(
    actor: type[A], *arguments: Any, virtual_time: bool = True, **options: Any
) -> Iterator[BlockedActor[A]]:
    """`isolated`, for a test that is a plain function; takes what `isolated` takes.

    Everything stands still between two calls. In virtual time, unless told otherwise.
    """
    __tracebackhide__ = True
    with entered(isolated(actor, *arguments, **options), virtual_time) as (portal, subject):
        yield BlockedActor(portal, subject)


async def _collected(items: AsyncIterator[R]) -> list[R]:
    return [item async for item in items]
