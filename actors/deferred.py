"""Answers given later: a handler returns, and the message it had stays open.

`self.reply_later()` takes the message in hand out of it and gives a `Reply`. Its
asker, remote caller or broker waits until that is used; an event is acknowledged
then. A reply that is dropped unused, or whose incarnation ends, releases its message
as if it had been cancelled in hand: an asker is told, an event comes again.
"""

from typing import Any
from weakref import WeakSet

from .envelope import Receipt
from .errors import Fenced, UnderstudyError
from .incarnation import Incarnation

__all__ = ["Replies", "Reply"]


class Reply:
    """The answer to one message, still to be given; once, by `succeed` or by `fail`."""

    __slots__ = ("__weakref__", "_incarnation", "_receipt", "_used")

    def __init__(self, receipt: Receipt | None, incarnation: Incarnation) -> None:
        self._receipt = receipt
        self._incarnation = incarnation
        self._used = False

    @property
    def open(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._used and self._receipt is not None and self._receipt.open

    def succeed(self, value: Any = None) -> None:
        """Answer with `value`. Raises `UnderstudyError` the second time, `Fenced` when too late."""
        receipt = self._use()
        if receipt is not None:
            receipt.succeeded(value)

    def fail(self, error: Exception) -> None:
        """Answer with an error, as if the handler had raised it without crashing.

        An `RpcError` goes to the caller as it is; of others a remote caller sees
        "Internal server error". Raises as `succeed` does.
        """
        receipt = self._use()
        if receipt is not None:
            receipt.failed(error)

    def release(self, why: str) -> None:
        """Give the message back unanswered; nothing happens if it was answered."""
        if not self._used:
            self._used = True
            if self._receipt is not None:
                self._receipt.released(why)

    def __del__(self) -> None:
        self.release("its handler dropped the reply it had taken")

    def _use(self) -> Receipt | None:
        if self._incarnation.ending is not None:
            raise Fenced(self._incarnation.path, self._incarnation.number)
        if self._used:
            raise UnderstudyError(
                f"{self._incarnation.path}: this message was answered already. "
                "A reply is used once."
            )
        self._used = True
        return self._receipt


class Replies:
    """The open replies of one incarnation."""

    def __init__(self) -> None:
        self._open: WeakSet[Reply] = WeakSet()

    def __len__(self) -> int:
        return sum(reply.open for reply in self._open)

    def add(self, reply: Reply) -> None:
        self._open.add(reply)

    def end(self) -> None:
        """The incarnation is over."""
        for reply in list(self._open):
            reply.release("the actor ended before it answered")
