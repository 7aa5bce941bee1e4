"""One actor alone under a supervisor, for tests: `async with isolated(Orders, fake) as orders`.

The tree is a real one, with the delivery rules of a service, but repeats itself:
dead letters stay in memory, `thread=True` handlers run in place and random numbers
come from a seed, so that pytest-trio's `autojump_clock` gives virtual time.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import trio

from ..actors.actor import Actor
from ..actors.behavior import Handler
from ..actors.cell import Cell
from ..actors.encoding import encode
from ..actors.envelope import Envelope
from ..actors.errors import ActorStopped, NoHandler
from ..actors.lifecycle import Crashed, Restarting, Started
from ..actors.pattern import Pattern, route_of
from ..actors.payload import Payload
from ..actors.ref import Ref
from ..actors.retry import DEFAULT_POLICY, RetryPolicy
from ..supervisors.child import Supervisor, child
from ..supervisors.delivery.intake import Inbound
from ..supervisors.delivery.record import DeadLetter
from ..supervisors.system import System, running
from .failures import is_cancelled, of_a_block
from .faults import Fault
from .injection import arm
from .letters import DeadLetters
from .lifecycle import Lifecycle
from .outside import Delivery, OutsideRequest
from .specs import prepared

__all__ = ["Isolated", "isolated"]

A = TypeVar("A", bound=Actor[Any])
A_co = TypeVar("A_co", bound=Actor[Any], covariant=True)

TREE = "isolated"


class Isolated(Ref[A_co]):
    """The reference of an actor under test, and what a test wants to do to it beside."""

    lifecycle: Lifecycle
    """The notices about the actor, from its first start on."""

    system: System
    """The tree around it."""

    def __init__(
        self, system: System, cell: Cell, lifecycle: Lifecycle, letters: DeadLetters
    ) -> None:
        super().__init__(cell.mailbox, cell.behavior, system.timers, cell.undelivered)
        self.system = system
        self.lifecycle = lifecycle
        self._letters = letters
        self._cell = cell
        self._sent = 0

    @property
    def incarnation(self) -> int:
        """The life it is in, 1 for the first; between two lives, the one that ended."""
        return next(iter(self.system.root.children.values())).number

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters so far, oldest first, once they are durable."""
        await self.system.office.flush()
        return list(await self.system.office.store.find(limit=1_000_000))

    async def expect_dead_letter(
        self,
        pattern: Pattern | Callable[..., Any] | None = None,
        *,
        reason: str | None = None,
        attempts: int | None = None,
        within: float = 60.0,
    ) -> DeadLetter:
        """The next dead letter of a pattern, a method or a type of messages, each returned once.

        `reason` is "crashed", "rejected", "does not fit", "no handler"... Raises
        `AssertionError` when there was none after `within` seconds.
        """
        __tracebackhide__ = True
        return await self._letters.expect(self.system, pattern, reason, attempts, within)

    async def expect_crash(
        self, error: type[BaseException] = BaseException, *, match: str = "", within: float = 1.0
    ) -> Crashed:
        """Its next crash with such an `error`; see `Lifecycle.expect_crash`."""
        __tracebackhide__ = True
        return await self.lifecycle.expect_crash(error, match=match, within=within)

    async def expect_no_crash(self, *, within: float = 1.0) -> None:
        """Raises `AssertionError` for a crash not expected yet, or that comes `within` seconds."""
        __tracebackhide__ = True
        await self.lifecycle.expect_no_crash(within=within)

    async def expect_restart(self, *, within: float = 60.0) -> Restarting:
        """Its next restart, complete; see `Lifecycle.expect_restart`."""
        __tracebackhide__ = True
        return await self.lifecycle.expect_restart(within=within)

    @property
    def restarts(self) -> int:
        """How often it was restarted so far."""
        return self.lifecycle.restarts()

    async def crash(self, error: Exception | None = None) -> None:
        """Let it crash of its own, and wait until its supervisor has heard of it.

        It comes back after the delay that its supervisor decides; mail waits for it.
        Counts against `max_restarts`, as a crash on a message from outside does not.
        """
        error = error or RuntimeError("the test made it crash")
        receipt = OutsideRequest("crash", "crash")
        if not await self._cell.mailbox.put_wait(Envelope(error, _CRASH, receipt)):
            raise ActorStopped(self.path)
        await self.lifecycle.expect(Crashed, lambda notice: notice.error is error, within=60.0)

    async def event(
        self,
        pattern: Pattern | Callable[..., Any],
        data: object = b"",
        *,
        message_id: str | None = None,
        headers: dict[str, str] | None = None,
        attempt: int = 1,
        order_key: Hashable | None = None,
    ) -> Delivery:
        """Send an event as a bridge does; returns when it has room in the mailbox.

        `data` goes as JSON, bytes as they are (none at all: a packet without data). What
        becomes of it is in the `Delivery`. Those with one `order_key` are handled in order, as
        with a broker that keeps order by key.
        """
        message_id = message_id or self._next_id()
        delivery = Delivery(message_id)
        inbound = Inbound(
            transport="test",
            source="outside",
            pattern=self._route(pattern),
            data=_body(data),
            message_id=message_id,
            headers=headers or {},
            attempt=attempt,
            redelivered=attempt > 1,
            order_key=order_key,
        )
        await self.system.intake.event(inbound, delivery)
        return delivery

    async def request(
        self,
        pattern: Pattern | Callable[..., Any],
        data: object = b"",
        *,
        message_id: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,
    ) -> Any:
        """Send a request as a bridge does and return the answer; a stream's items as a list.

        Raises `RpcError` with what the service answers ("Internal server error" for a
        crash, whose exception is the `__cause__`), `NoHandler`, `PayloadError`,
        `ActorStopped`, and `RequestTimeout`.
        """
        route = self._route(pattern)
        handler = self._cell.behavior.requests.get(route)
        if handler is None:
            raise NoHandler(route, self.path)
        message = handler.payload.decode(_body(data))
        request = OutsideRequest(route, message_id or self._next_id(), headers=headers or {})
        deadline = trio.current_time() + timeout
        envelope = Envelope(message, handler, request, request, deadline)
        if not await self._cell.mailbox.put_wait(envelope):
            raise ActorStopped(self.path)
        return await request.answer(timeout)

    def _route(self, pattern: Pattern | Callable[..., Any]) -> str:
        if not callable(pattern):
            return route_of(pattern)
        handler = self._cell.behavior.by_function.get(pattern)
        if handler is None or handler.route is None:
            raise NoHandler(getattr(pattern, "__qualname__", pattern), self.path)
        return handler.route

    def _next_id(self) -> str:
        self._sent += 1
        return f"outside-{self._sent}"


@asynccontextmanager
async def isolated(
    actor: type[A],
    *arguments: Any,
    max_restarts: int = 3,
    within: float = 5.0,
    events: RetryPolicy = DEFAULT_POLICY,
    seed: int = 0,
    faults: Sequence[Fault] = (),
    **options: Any,
) -> AsyncIterator[Isolated[A]]:
    """Run one actor alone, made from `arguments`, for as long as the block lasts.

    `max_restarts` and `within` are those of its supervisor, `options` those of
    `child`. `faults` are there from its first start on, see `inject`.

    Leaving the block stops it in order, and what waits is handled first. An error in the
    block is raised as it is; if the tree ends by itself, the block is cancelled and what
    ended the tree raised (`SupervisorGaveUp`, `StartFailed`).
    """
    spec = child(actor, *arguments, **options)
    path = f"{TREE}/{spec.name}"
    lifecycle = Lifecycle(path=path)

    def prepare(cell: Cell) -> None:
        lifecycle.listen(cell.services.bus)
        if faults:
            arm(cell, faults)

    tree = Supervisor(TREE, [prepared(spec, prepare)], max_restarts=max_restarts, within=within)
    failure: BaseException | None = None
    async with running(tree, seed=seed, events=events, threads=False) as system:
        cell = system.registry.find(path)
        handle: Isolated[A] = Isolated(system, cell, lifecycle, DeadLetters(system.bus))
        await lifecycle.expect(Started)
        try:
            yield handle
        # Also what is no Exception (pytest's own failures): nurseries would wrap it.
        except BaseException as error:
            if is_cancelled(error):
                raise
            failure = error
    if failure is not None:
        raise of_a_block(failure)


def _body(data: object) -> bytes:
    return data if isinstance(data, bytes) else encode(data)


def _raise(_: Actor[Any], error: Exception) -> NoReturn:
    raise error


_CRASH = Handler("crash", _raise, "receive", (), "sync", Payload(Any), 1, False)
