"""A trace: what one actor receives and how each message ends, while somebody looks.

Records name the type of a message, its pattern, the outside message it was sent for and
how long it took; never contents, and of an error only its type. The buffer is bounded:
whoever reads too slowly loses the oldest records, and is told how many.

Without a trace the actor pays nothing for there being traces. Concept: Erlang/OTP's
`sys:trace` and `sys:statistics`.
"""

from collections import deque
from types import TracebackType
from typing import Final, Literal, Self

import attrs
import trio

from ..actors.cell import Cell
from ..actors.envelope import Envelope
from ..actors.errors import UnderstudyError

__all__ = ["BUFFER", "Trace", "TraceRecord", "TraceStatistics"]

BUFFER: Final = 1000
"""Records that wait for their reader unless the trace says otherwise."""

_IN_HAND: Final = 1024


@attrs.frozen
class TraceRecord:
    """One message was taken up, or is done with; `at` is trio time.

    `seconds` is how long it was in hand, `error` the type of what its handler raised.
    `origin` is the id of the outside message it belongs to.
    """

    kind: Literal["received", "handled", "failed"]
    at: float
    message: str
    pattern: str | None
    origin: str | None
    seconds: float | None = None
    error: str | None = None


@attrs.frozen
class TraceStatistics:
    """A reading of one trace: messages since it began, and records its reader lost.

    `busy` sums the seconds that messages were in hand, `longest` is the longest of them.
    """

    received: int
    handled: int
    failed: int
    dropped: int
    busy: float
    longest: float


class Trace:
    """Use as `with debug.trace() as trace:`, then `async for record in trace:`.

    Leaving the block ends it; who iterates gets what is buffered, then the end.
    """

    def __init__(self, cell: Cell, buffer: int = BUFFER) -> None:
        if buffer < 1:
            raise ValueError(f"buffer={buffer}: room for one record or more expected.")
        self._cell = cell
        self._records: deque[TraceRecord] = deque(maxlen=buffer)
        self._since: dict[int, float] = {}
        self._open = False
        self._changed = trio.Event()
        self._received = self._handled = self._failed = self._dropped = 0
        self._busy = self._longest = 0.0

    def __enter__(self) -> Self:
        if self._cell.tracer is not None:
            raise UnderstudyError(
                f"{self._cell.path} is traced already. End the other trace first: "
                "there is one at a time for each actor."
            )
        self._open = True
        self._cell.trace(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        self._cell.trace(None)
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TraceRecord:
        """The next record; waits for one."""
        while not self._records:
            if not self._open:
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()
        return self._records.popleft()

    def statistics(self) -> TraceStatistics:
        return TraceStatistics(
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            dropped=self._dropped,
            busy=self._busy,
            longest=self._longest,
        )

    # -- as the cell's tracer -----------------------------------------------------

    def received(self, envelope: Envelope) -> None:
        now = trio.current_time()
        self._received += 1
        if len(self._since) >= _IN_HAND:  # of messages that were cancelled nobody tells
            del self._since[next(iter(self._since))]
        self._since[id(envelope)] = now
        self._put("received", envelope, now)

    def handled(self, envelope: Envelope, error: BaseException | None) -> None:
        now = trio.current_time()
        since = self._since.pop(id(envelope), None)
        took = None if since is None else now - since
        if took is not None:
            self._busy += took
            self._longest = max(self._longest, took)
        if error is None:
            self._handled += 1
            self._put("handled", envelope, now, took)
        else:
            self._failed += 1
            self._put("failed", envelope, now, took, type(error).__name__)

    def _put(
        self,
        kind: Literal["received", "handled", "failed"],
        envelope: Envelope,
        now: float,
        took: float | None = None,
        error: str | None = None,
    ) -> None:
        handler, origin = envelope.handler, envelope.origin
        record = TraceRecord(
            kind,
            now,
            type(envelope.message).__name__,
            handler.route if handler is not None else None,
            origin.message_id if origin is not None else None,
            took,
            error,
        )
        if len(self._records) == self._records.maxlen:
            self._dropped += 1
        self._records.append(record)
        self._changed.set()
