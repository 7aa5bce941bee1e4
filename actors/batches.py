"""Batches: many events for one run of their handler.

A handler with `batch=N` gets lists. What comes for it is taken out of the mailbox and put
into a line; when N wait there, or the first has waited for `within` seconds, they
are run together. Each item keeps a receipt of its own: what one of them comes to is
nobody else's business. A run that fails is taken apart (`bisection.py`) until the item
stands alone that makes it fail, and only that one has failed.

Lines belong to the cell and outlive incarnations. What waits in them keeps its place in
the mailbox, so that they are bounded with it.

Invariant: a handler runs one batch at a time, whatever the actor's concurrency, and its
items in the order in which they came.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import trio

from .bisection import Bisection
from .envelope import Counting, Envelope, Receipt
from .errors import BatchFailure, Retry

if TYPE_CHECKING:
    from .behavior import Handler
    from .cell import Cell
    from .timers import Timer

__all__ = ["Batches", "Run"]

_DUE: Final = object()
"""The message that tells a lane to run what waits in a handler's line."""


class Batches:
    """The lines of one cell."""

    __slots__ = ("_cell", "_lines")

    def __init__(self, cell: "Cell") -> None:
        self._cell = cell
        self._lines: dict[Handler, _Line] = {}

    def gather(self, envelope: Envelope) -> Envelope | None:
        """Put an envelope into its handler's line; returns what is to be run now, if anything."""
        if type(envelope.receipt) is Run:
            return envelope  # it was put aside by its handler
        handler = envelope.handler
        assert handler is not None  # without one there is no batch
        line = self._lines.get(handler)
        if line is None:
            line = self._lines[handler] = _Line(self._cell, handler)
        return line.due() if envelope.message is _DUE else line.add(envelope)

    @property
    def full(self) -> bool:
        """Whether no more may be gathered until a batch that runs is done."""
        mailbox = self._cell.mailbox
        return mailbox.reserved >= mailbox.capacity and any(
            line.running for line in self._lines.values()
        )

    def flush(self) -> None:
        """The actor stops: what waits for more to come is run as it is."""
        for line in self._lines.values():
            line.flush()

    def close(self, why: str) -> None:
        """The actor has ended for good: give up what waits."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.close(why)


class _Line:
    """What waits for one handler, and the batch of it that runs."""

    __slots__ = (
        "_bisection",
        "_called",
        "_cell",
        "_handler",
        "_overdue",
        "_size",
        "_timer",
        "_waiting",
        "_within",
        "running",
    )

    def __init__(self, cell: "Cell", handler: "Handler") -> None:
        self._cell = cell
        self._handler = handler
        self._size, self._within = handler.batch, handler.within
        self._waiting: deque[Envelope] = deque()
        self._bisection = Bisection()
        self._timer: Timer | None = None
        self._overdue = self._called = self.running = False

    def add(self, envelope: Envelope) -> Envelope | None:
        """One more; returns the batch to run now, if it completes one."""
        cell, waiting = self._cell, self._waiting
        mailbox = cell.mailbox
        mailbox.keep()
        if envelope.probing:  # a sick actor tries one at a time
            waiting.appendleft(envelope)
            self._bisection = Bisection()
            return None if self.running else self._run(1)
        waiting.append(envelope)
        if self.running or self._called:
            return None
        if len(waiting) >= self._size or mailbox.reserved >= mailbox.capacity:
            return self._next()
        if self._timer is None:
            self._wait()
        return None

    def due(self) -> Envelope | None:
        """A lane has come to run what waits."""
        self._called = False
        return None if self.running else self._next()

    def flush(self) -> None:
        """Run what waits as soon as a lane has time."""
        self._overdue = True
        self._call()

    def close(self, why: str) -> None:
        """Give up what waits."""
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._cell.mailbox.free()
            self._cell.release(self._waiting.popleft(), why)

    # -- how a batch ends, as its receipt says -------------------------------------------

    def succeeded(self, items: list[Envelope]) -> None:
        """All of them are handled."""
        self._bisection.succeeded(len(items))
        self._ended()

    def failed(self, items: list[Envelope]) -> int:
        """They made a run fail; says how often it has, if it is one, or 0 if they come again."""
        runs = self._bisection.failed(len(items))
        if not runs:
            self._overdue = True
            for item in items:
                _count(item.receipt, 0)
            self._put_back(items)
        self._ended()
        return runs

    def again(self, items: list[Envelope]) -> None:
        """They were not run to their end, through no fault of their own."""
        self._overdue = True
        self._put_back(items)
        self._ended()

    def _put_back(self, items: list[Envelope]) -> None:
        self._waiting.extendleft(reversed(items))
        self._cell.mailbox.keep(len(items))

    def _ended(self) -> None:
        self.running = False
        if not self._waiting:
            self._overdue = False
        elif self._overdue or self._bisection.suspects or len(self._waiting) >= self._size:
            self._call()
        elif self._timer is None:
            self._wait()
        self._cell.mailbox.wake()  # lanes may wait for room in this line

    # -- when the next one runs ----------------------------------------------------------

    def _wait(self) -> None:
        timers = self._cell.services.timers
        self._timer = timers.call_at(trio.current_time() + self._within, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self.flush()

    def _call(self) -> None:
        """Have a lane come, before it does anything else."""
        if self._waiting and not self.running and not self._called:
            self._called = True
            self._cell.mailbox.readmit(Envelope(_DUE, self._handler), first=True)

    def _next(self) -> Envelope | None:
        if self._bisection.suspects == 0:
            self._overdue = False
        return self._run(self._bisection.next(len(self._waiting), self._size))

    def _run(self, count: int) -> Envelope | None:
        """The first `count` that wait, but for those that need not or may not run."""
        cell, waiting, items = self._cell, self._waiting, []
        sickness = cell.sickness
        cell.mailbox.free(count)
        for _ in range(count):
            envelope = waiting.popleft()
            receipt = envelope.receipt
            if receipt is not None and not receipt.open:
                self._bisection.left(1)
            elif sickness.sick and sickness.holds(envelope):
                self._bisection = Bisection()
            else:
                items.append(envelope)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not items:
            self._ended()
            return None
        self.running = True
        batch = Envelope([item.message for item in items], self._handler, Run(self, cell, items))
        batch.origin = next((item.origin for item in items if item.origin is not None), None)
        batch.probing = items[0].probing
        return batch


class Run:
    """The receipt of one batch: told how its run ended, it tells each of its items."""

    __slots__ = ("_cell", "_line", "items", "open")

    def __init__(self, line: _Line, cell: "Cell", items: list[Envelope]) -> None:
        self._line = line
        self._cell = cell
        self.items = items
        self.open = True

    def _ends(self) -> bool:
        """Whether this is the first that it hears of its end."""
        was_open, self.open = self.open, False
        return was_open

    async def ready(self) -> None:
        """A batch streams nothing."""

    def item(self, value: Any, *, last: bool) -> None:
        """A batch streams nothing."""

    def succeeded(self, value: Any) -> None:
        if self._ends():
            for item in self.items:
                if item.receipt is not None:
                    item.receipt.succeeded(None)
            self._line.succeeded(self.items)

    def failed(self, error: Exception) -> None:
        if not self._ends():
            return
        if isinstance(error, BatchFailure) and error.failed.keys() <= set(range(len(self.items))):
            self._line.succeeded(self.items)
            for index, item in enumerate(self.items):
                self._end_one(item, error.failed.get(index))
        elif isinstance(error, Retry):
            self._line.succeeded(self.items)
            for item in self.items:
                self._refuse(item, error)
        elif runs := self._line.failed(self.items):
            _count(self.items[0].receipt, runs - 1)
            self._refuse(self.items[0], error)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        if not self._ends():
            return
        if runs := self._line.failed(self.items):
            _count(self.items[0].receipt, runs - 1)
            self._crash(self.items[0], error, path, incarnation)

    def released(self, why: str) -> None:
        if not self._ends():
            return
        if self._cell.mailbox.is_open:
            self._line.again(self.items)
        else:
            for item in self.items:
                self._cell.release(item, why)

    # -- one item ------------------------------------------------------------------------

    def _end_one(self, item: Envelope, error: Exception | None) -> None:
        """As its handler said of this item alone."""
        if error is None:
            if item.receipt is not None:
                item.receipt.succeeded(None)
            return
        verdict, meant = self._cell.classify(error, item.handler)
        if verdict in ("answer", "retry", "reject") and isinstance(meant, Exception):
            self._refuse(item, meant)
        else:
            self._crash(item, error, self._cell.path, self._cell.number)

    def _refuse(self, item: Envelope, error: Exception) -> None:
        if item.receipt is not None:
            item.receipt.failed(error)
        elif isinstance(error, Retry):
            self._cell.postpone(item, error)
        else:
            self._cell.set_aside(item, error, "rejected")

    def _crash(self, item: Envelope, error: BaseException, path: str, incarnation: int) -> None:
        if item.receipt is not None:
            item.receipt.crashed(error, path, incarnation)
        else:
            self._cell.set_aside(item, error, "crashed")


def _count(receipt: Receipt | None, runs: int) -> None:
    """It was run with others, and that failed; `runs` of these runs were its own fault."""
    if isinstance(receipt, Counting):
        receipt.ran(runs)
