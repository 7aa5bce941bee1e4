"""Answers given later: a handler returns, and the message it had stays open.

`self.reply_later()` takes the message in hand out of it and gives a `Reply`. Its
asker, remote caller or broker waits until that is used; an event is acknowledged
then. When the incarnation ends before, the message is released as if it had been
cancelled in hand: an asker is told, an event or a told message comes again.

A reply that is dropped unused is a mistake of its handler: its message fails as in a
crash (its attempts are counted, so that it cannot come again for ever), but nothing
crashes. Python may find out in any thread and in the middle of anything, so that is
seen to a moment later, in trio's.
"""

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import trio

from .envelope import Envelope, Receipt
from .errors import Fenced, UnderstudyError
from .incarnation import Incarnation

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["Replies", "Reply"]


class Reply:
    """The answer to one message, still to be given; once, by `succeed` or by `fail`."""

    __slots__ = ("__weakref__", "_envelope", "_incarnation", "_replies", "_used")

    def __init__(self, envelope: Envelope, incarnation: Incarnation, replies: "Replies") -> None:
        self._envelope = envelope
        self._incarnation = incarnation
        self._replies = replies
        self._used = False
        replies.add(self)

    @property
    def open(self) -> bool:
        """Whether somebody still waits for it."""
        receipt = self._envelope.receipt
        return not self._used and receipt is not None and receipt.open

    def succeed(self, value: object = None) -> None:
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

    @property
    def used(self) -> bool:
        """Whether the answer was given, or the message taken back."""
        return self._used

    def answers(self, envelope: Envelope) -> bool:
        """Whether it is still to be used, and for this message."""
        return not self._used and self._envelope is envelope

    def retire(self) -> Envelope:
        """Take the message back: whoever calls this sees to its end."""
        self._used = True
        return self._envelope

    def __del__(self) -> None:
        if not self._used:
            self._replies.dropped(self._envelope)

    def _use(self) -> Receipt | None:
        if self._incarnation.ending is not None:
            raise Fenced(self._incarnation.path, self._incarnation.number)
        if self._used:
            raise UnderstudyError(
                f"{self._incarnation.path}: this message was answered already. "
                "A reply is used once."
            )
        self._used = True
        return self._envelope.receipt


class Replies:
    """The open replies of one incarnation."""

    def __init__(self, cell: "Cell", incarnation: Incarnation) -> None:
        self._cell = cell
        self._incarnation = incarnation
        self._taken = 0
        # By number, so that they are released in the order in which they were taken.
        self._open: WeakValueDictionary[int, Reply] = WeakValueDictionary()
        self._token = _trio_token()

    def __len__(self) -> int:
        return sum(reply.open for reply in self._open.values())

    def add(self, reply: Reply) -> None:
        self._taken += 1
        self._open[self._taken] = reply

    def retake(self, envelope: Envelope) -> bool:
        """Take back `envelope` if its reply is still to be given; whether it was."""
        for reply in list(self._open.values()):
            if reply.answers(envelope):
                reply.retire()
                return True
        return False

    def dropped(self, envelope: Envelope) -> None:
        """A reply to `envelope` was forgotten; called from anywhere."""
        try:
            self._token.run_sync_soon(self._fail, envelope)
        except trio.RunFinishedError:
            return  # the loop that would have cared is over

    def end(self) -> None:
        """The incarnation is over."""
        held = [reply.retire() for reply in list(self._open.values()) if not reply.used]
        # What was told goes to the front of the mailbox, where the last one put is the first.
        told = [envelope for envelope in reversed(held) if envelope.receipt is None]
        for envelope in (*told, *(one for one in held if one.receipt is not None)):
            self._cell.give_back(envelope, "the actor ended before it answered")

    def _fail(self, envelope: Envelope) -> None:
        path, number = self._incarnation.path, self._incarnation.number
        error = UnderstudyError(
            f"{path}: the reply to this message was dropped unused. Keep what reply_later() "
            "returns, and use it."
        )
        if envelope.receipt is not None:
            envelope.receipt.crashed(error, path, number)
        else:
            self._cell.set_aside(envelope, error, "crashed")


def _trio_token() -> trio.lowlevel.TrioToken:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:  # in the thread of a handler
        return trio.from_thread.run_sync(trio.lowlevel.current_trio_token)
