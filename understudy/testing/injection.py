"""Injection: faults put into a running actor, and taken out again.

While an actor has any, its lanes run a stand-in for each handler, which lets the faults
happen and then does what the handler would; without any it runs as it always does.
Nothing of this is in the way of an actor outside of tests.
"""

import copy
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import attrs
import trio

from ..actors.actor import Actor
from ..actors.asyncio_code import Abroad
from ..actors.behavior import Behavior, Handler
from ..actors.cell import Cell
from ..actors.context import CURRENT
from ..actors.envelope import Receipt
from ..actors.errors import DeclarationError, NoHandler
from ..actors.pattern import route_of
from ..actors.ref import Ref
from ..actors.schedule import Scheduled
from ..actors.streams import hand_out
from ..supervisors.delivery.event import EventDelivery
from .faults import Fault

__all__ = ["Injection", "arm", "inject"]


@attrs.define(eq=False)
class _Active:
    """A fault in an actor: how many of its messages came, and how often it has happened."""

    fault: Fault
    means: Callable[[Handler, Sequence[Any]], bool]
    seen: int = 0
    happened: int = 0

    def happens(self) -> bool:
        """Count one message that is meant; whether it is to go wrong."""
        self.seen += 1
        times = self.fault.times
        if self.seen <= self.fault.after or (times is not None and self.happened >= times):
            return False
        self.happened += 1
        return True


class Injection:
    """Faults in one actor, until `remove` or the end of a `with` block."""

    def __init__(self, cell: Cell, active: Sequence[_Active]) -> None:
        self._cell = cell
        self._active = active

    @property
    def happened(self) -> int:
        """How often any of the faults has happened."""
        return sum(active.happened for active in self._active)

    def remove(self) -> None:
        """Let no more go wrong; what is in hand goes on as it began. Again, it does nothing."""
        faults = _faults_of(self._cell)
        faults.active = [active for active in faults.active if active not in self._active]
        faults.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def inject(actor: Ref[Any], *faults: Fault) -> Injection:
    """Let things go wrong with an actor from its next message on: `inject(orders, drop())`.

    Faults outlive crashes, of the actor and of its supervisor, and end with the returned
    `Injection`. Of several that concern one message, each has its turn in the order given
    until one raises or drops.

    Raises `NoHandler` for messages that the actor does not handle, `DeclarationError`
    for a pool, of which one member must be named, and for no fault at all.
    """
    cell = actor._mailbox.owner if hasattr(actor, "_mailbox") else None
    if not isinstance(cell, Cell):
        raise DeclarationError(
            f"inject: {actor!r} is not one actor of a running tree. Of a pool, name a member: "
            f"{actor.path + '/1'!r}."
        )
    return arm(cell, faults)


def arm(cell: Cell, faults: Sequence[Fault]) -> Injection:
    """`inject`, for an actor that may not have started yet."""
    for fault in faults:
        if not isinstance(fault, Fault):
            raise DeclarationError(
                f"inject into {cell.path}: {fault!r} is no fault. Make one with crash_on, fails, "
                "slow, drop or fail_start."
            )
    if not faults:
        raise DeclarationError(f"inject into {cell.path}: name at least one fault.")
    active = [_Active(fault, _meant(cell, fault)) for fault in faults]
    found = _faults_of(cell)
    found.active = [*found.active, *active]
    found.settle()
    return Injection(cell, active)


class _Faults:
    """All faults of one actor; what its lanes ask for stand-ins."""

    def __init__(self, cell: Cell) -> None:
        self.active: list[_Active] = []
        self._cell = cell
        self._stand_ins: dict[Handler, Handler] = {}
        self._arguments = cell._arguments

    def __call__(self, handler: Handler) -> Handler:
        found = self._stand_ins.get(handler)
        if found is None:
            found = self._stand_ins[handler] = self._stand_in(handler)
        return found

    def settle(self) -> None:
        """Stand in the way of the actor exactly while there is a fault."""
        cell = self._cell
        cell._arguments = self._start if self.active else self._arguments
        cell.stand_in = self if self.active else None
        cell.trace(cell.tracer)  # the lanes look only when something is the matter

    # -- what goes wrong ----------------------------------------------------------

    def _start(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """In place of the arguments of a new instance."""
        for active in self.active:
            if active.fault.kind == "start" and active.happens():
                raise active.fault.error.with_traceback(None)
        return self._arguments()

    async def _reaches(self, handler: Handler, message: Sequence[Any]) -> bool:
        """Let the faults happen; whether the message gets to its handler."""
        for active in self.active:
            fault = active.fault
            if fault.kind == "start" or not active.means(handler, message) or not active.happens():
                continue
            if fault.kind == "slow":
                await trio.sleep(fault.seconds)
            elif fault.kind == "drop":
                _lose(handler)
                return False
            else:
                raise fault.error.with_traceback(None)
        return True

    def _stand_in(self, handler: Handler) -> Handler:
        async def run(actor: Actor[Any], *arguments: Any) -> Any:
            if await self._reaches(handler, arguments):
                return await _run(self._cell, handler, [actor, *arguments])
            return None

        # Everything but how it is called stays what it is.
        stand_in = copy.copy(handler)
        mode: Literal["async"] = "async"
        stand_in.function, stand_in.mode, stand_in.is_async = run, mode, True
        stand_in.direct = stand_in.abroad = False
        return stand_in


async def _run(cell: Cell, handler: Handler, arguments: list[Any]) -> Any:
    """What a lane does with a handler, whatever kind it is of."""
    receipt, function = CURRENT.get().envelope.receipt, handler.function
    if handler.abroad:
        return await (cell.abroad or Abroad()).handle(handler, arguments, receipt)
    if handler.mode == "stream":
        return await hand_out(function(*arguments), receipt)
    if handler.mode == "async":
        return await function(*arguments)
    if handler.mode == "thread" and cell.services.threads:
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
    return function(*arguments)


def _lose(handler: Handler) -> None:
    """Nobody hears of the message in hand any more, if anybody would."""
    hand = CURRENT.get()
    if handler.kind != "event" and _is_asked(hand.envelope.receipt):
        hand.take()


def _is_asked(receipt: Receipt | None) -> bool:
    """Whether somebody waits for an answer."""
    return receipt is not None and not isinstance(receipt, EventDelivery | Scheduled)


def _faults_of(cell: Cell) -> _Faults:
    return cell.stand_in if isinstance(cell.stand_in, _Faults) else _Faults(cell)


def _meant(cell: Cell, fault: Fault) -> Callable[[Handler, Sequence[Any]], bool]:
    """Which messages a fault is about; raises `NoHandler` if there can be none."""
    on, behavior = fault.on, cell.behavior
    if on is None:
        return lambda handler, message: True
    if isinstance(on, type):
        kind = on
        if not behavior.takes(kind) and not behavior.by_function:
            raise NoHandler(kind.__name__, cell.path)
        return lambda handler, message: bool(message) and isinstance(message[0], kind)
    found = _handlers(behavior, on)
    if not found:
        raise NoHandler(str(getattr(on, "__qualname__", on)), cell.path)
    return lambda handler, message: handler in found


def _handlers(behavior: Behavior, on: Any) -> list[Handler]:
    if callable(on):
        handler = behavior.by_function.get(on)
        return [] if handler is None else [handler]
    route = route_of(on)
    return [handler for handler in behavior.by_function.values() if route in handler.routes]
