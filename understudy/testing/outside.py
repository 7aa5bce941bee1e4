"""Messages as a bridge brings them: events with their settlement, requests with their answer.

What stands here of a bridge is what a test looks at: an event is settled once, a
request is answered once, and both are origins that crashes are blamed on.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import msgspec
import trio

from ..actors.errors import ActorStopped, RequestTimeout, Retry, RpcError

__all__ = ["Delivery", "OutsideRequest"]


class Delivery:
    """An event sent from outside, as its bridge sees it: a `Settlement` that remembers."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.outcome: Literal["acknowledged", "given back"] | None = None
        self._settled = trio.Event()

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id} {self.outcome or 'not settled'}>"

    async def settled(self, *, within: float = 60.0) -> Literal["acknowledged", "given back"]:
        """How the event ended; an event that became a dead letter is acknowledged.

        Raises `AssertionError` when it is not settled after `within` seconds.
        """
        with trio.move_on_after(within):
            await self._settled.wait()
        if self.outcome is None:
            raise AssertionError(f"event {self.message_id} was not settled within {within:g} s.")
        return self.outcome

    def acknowledge(self) -> None:
        self._settle("acknowledged")

    def give_back(self) -> bool:
        self._settle("given back")
        return True

    def _settle(self, outcome: Literal["acknowledged", "given back"]) -> None:
        if self.outcome is not None:
            raise AssertionError(
                f"event {self.message_id} was settled twice: {self.outcome}, then {outcome}."
            )
        self.outcome = outcome
        self._settled.set()


@attrs.define(eq=False)
class OutsideRequest:
    """A request on its way: the receipt of its answer, and the origin of all it causes."""

    pattern: str
    message_id: str
    transport: str = "test"
    source: str = "outside"
    correlation_id: str | None = None
    headers: Mapping[str, str] = {}
    attempt: int = 1
    redelivered: bool = False
    order_key: None = None
    open: bool = True
    items: list[Any] = attrs.field(factory=list)
    _value: Any = None
    _error: Exception | None = None
    _done: trio.Event = attrs.field(factory=trio.Event)

    async def answer(self, timeout: float) -> Any:
        """What the caller gets; it leaves after `timeout` seconds, or when it is cancelled."""
        try:
            with trio.move_on_after(timeout):
                await self._done.wait()
        finally:
            self.open = False
        if not self._done.is_set():
            raise RequestTimeout(self.source, self.pattern, timeout)
        if self._error is not None:
            raise self._error
        return self._value

    async def ready(self) -> None:
        """The test takes everything, so there is always room for an item."""
        await trio.lowlevel.checkpoint()

    def item(self, value: Any, *, last: bool) -> None:
        self.items.append(value)
        if last:
            self._finish(self.items, None)

    def succeeded(self, value: Any) -> None:
        self._finish(self.items if value is msgspec.UNSET else value, None)

    def failed(self, error: Exception) -> None:
        # A request is not run again: "not now" is all its caller learns.
        self._finish(None, _internal(error) if isinstance(error, Retry) else error)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        self._finish(None, _internal(error))

    def released(self, why: str) -> None:
        self._finish(None, ActorStopped(self.pattern, why))

    def _finish(self, value: Any, error: Exception | None) -> None:
        if self.open:
            self.open = False
            self._value, self._error = value, error
            self._done.set()


def _internal(cause: BaseException) -> RpcError:
    """What goes over the wire for anything but an `RpcError`; the cause stays here."""
    error = RpcError({"status": "error", "message": "Internal server error"})
    error.__cause__ = cause
    return error
