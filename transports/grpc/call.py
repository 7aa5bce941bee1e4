"""One call on a server, in both worlds: its gRPC context on the loop, its request in trio.

Owns what crosses for it. A unary call has one future for its end. Items of a stream wait
here until gRPC's flow control lets them go, and their generator waits while many do; what a
caller streams is read as far ahead as its reader has given credit for, and no further.

Invariant: a field is written by one side only, but for `waits`, which trio raises before it
looks and the loop lowers before it wakes; so no wake-up is lost. `left` is called once the
caller is gone, whatever became of its request.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol
from urllib.parse import unquote

import msgspec
import trio

from ...actors.asyncio_thread import AsyncioThread
from .library import EOF, aio
from .protos import Rpc
from .status import Failure

__all__ = ["Call", "Outgoing"]

_AHEAD: Final = 32
"""Items of one stream that may wait to be sent before its generator waits."""

_CREDIT: Final = 16
"""Messages of a caller's stream that are read ahead of their handler."""

_READS: Final = 2
_TURNS: Final = 10
"""Twice what is needed, as it seems: one more read, and two to five turns of the loop."""

_End = tuple[bytes, Failure | None]


class Outgoing(msgspec.Struct, gc=False):
    """What is to be sent for a call: one `item` of several, or its `end`, perhaps a failure."""

    call: "Call"
    verb: Literal["item", "end"]
    body: bytes = b""
    failure: Failure | None = None


class Requested(Protocol):
    """The trio half of a call."""

    def abandon(self) -> None:
        """The caller is gone."""


class Call:
    """One call, from its arrival to its end."""

    __slots__ = (
        "_arrived",
        "_changed",
        "_credit",
        "_ended",
        "_items",
        "_reader",
        "_taken",
        "_waits",
        "_wake",
        "_written",
        "body",
        "context",
        "gone",
        "on_left",
        "over",
        "received",
        "request",
        "rpc",
        "sent",
        "thread",
    )

    def __init__(self, thread: AsyncioThread, rpc: Rpc, context: Any, body: bytes = b"") -> None:
        self.thread = thread
        self.rpc = rpc
        self.context = context
        self.body = body
        # in trio
        self.request: Requested | None = None
        self.gone = False
        self.over = False
        self.on_left: Callable[[], None] | None = None
        self.sent = 0
        self.received: deque[bytes] = deque()
        self._changed: trio.Event | None = None
        self._ended = ""
        self._taken = 0
        self._waits = False
        # on the loop
        self._items: deque[bytes | _End] = deque()
        self._wake: asyncio.Future[None] = thread.loop.create_future()
        self._written = 0
        self._credit = _CREDIT
        self._reader: asyncio.Future[None] | None = None

    # -- facts; gRPC has them ready, so they may be asked for in both worlds

    @property
    def peer(self) -> str:
        """`host:port` of the caller."""
        return unquote(self.context.peer()).partition(":")[2]

    @property
    def metadata(self) -> Any:
        return self.context.invocation_metadata() or ()

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline; None if there is none."""
        left: float | None = self.context.time_remaining()
        return left

    # -- in trio

    def left(self) -> None:
        """The caller has gone: it waits for nothing any more."""
        if self.gone or self.over:
            return
        self.gone = True
        self._tell()
        if self.on_left is not None:
            self.on_left()
        if self.request is not None:
            self.request.abandon()

    async def room(self) -> None:
        """Wait while many items wait to be sent, and the caller is there."""
        while self.sent - self._written >= _AHEAD and not self.gone:
            self._waits = True
            if self.sent - self._written < _AHEAD:
                break
            await self._change()

    def arrived(self, body: bytes) -> None:
        self.received.append(body)
        self._tell()

    def ended(self, why: str) -> None:
        """The caller streams no more: all was sent (`end`), or its stream broke (`broken`)."""
        self._ended = why
        self._tell()

    async def next(self) -> bytes | None:
        """The next message that the caller streams; None after the last.

        Raises `EOFError` if there are more that will not come.
        """
        await trio.lowlevel.checkpoint()
        while not self.received or self.gone:
            if self.gone or self.over or self._ended == "broken":
                raise EOFError
            if self._ended:
                return None
            await self._change()
        self._taken += 1
        if self._taken == _CREDIT // 2:
            self._taken = 0
            self.thread.soon(self._allow)
        return self.received.popleft()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    # -- on the loop

    def take(self, outgoing: Outgoing) -> None:
        """Something is to be sent."""
        # Not as it came: what is not garbage-collected must not be part of a circle.
        end = outgoing.verb == "end"
        self._items.append((outgoing.body, outgoing.failure) if end else outgoing.body)
        if not self._wake.done():
            self._wake.set_result(None)

    async def end(self) -> _End:
        """Send items as they come, and wait for the end: the one answer, or why there is none."""
        items, context = self._items, self.context
        while True:
            if not items:
                await self._wake
                self._wake = self.thread.loop.create_future()
            while items:
                item = items.popleft()
                if isinstance(item, tuple):
                    return item
                await context.write(item)
                self._written += 1
                if self._waits:
                    self._waits = False
                    self.thread.back(self._tell)

    async def read(self) -> None:
        """Read what the caller streams, as far as there is credit."""
        why = "broken"
        try:
            while True:
                while not self._credit:
                    self._reader = self.thread.loop.create_future()
                    await self._reader
                body = await self.context.read()
                if body is EOF:
                    await self._hear()
                    why = "end"
                    break
                self._credit -= 1
                self.thread.back(self.arrived, body)
        except aio.BaseError:
            pass  # the call is over: that is what "broken" says
        finally:
            self.thread.back(self.ended, why)

    async def _hear(self) -> None:
        """Let news come in that the caller has left: reading ends alike for that.

        What gRPC knows when it ends one more read, it knew before; then it takes the loop a
        few turns to cancel whoever waits for the call, and so this.
        """
        for _ in range(_READS):
            await self.context.read()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _allow(self) -> None:
        self._credit += _CREDIT // 2
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
