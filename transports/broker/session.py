"""The asyncio half of every broker transport: one connection, from its making to its loss.

A session connects once. When its connection is lost it ends, and its owner in trio makes
a new one, which declares everything anew: one way to begin, whatever the client library
thinks of reconnecting, and no topology that only seems to be there.

All of it runs on the brokers' loop. Messages go to trio through an inlet, what is to be
sent comes through an outlet; both outlive sessions.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar, Final, Generic, TypeVar

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import UnderstudyError
from .channels import Channels

__all__ = ["BrokerAway", "BrokerRefused", "Session", "is_cancelled"]

In = TypeVar("In")
Out = TypeVar("Out")

CLOSING: Final = 2.0
"""Seconds that the end of a connection may take, and before it the end of its tasks."""

_AGAIN: Final = 0.2
"""Seconds after which a task is cancelled once more.

`asyncio.wait_for` of Python 3.11, which clients use, loses a cancellation that comes together
with what it waits for (https://github.com/python/cpython/issues/86296).
"""


class BrokerAway(UnderstudyError):
    """The broker cannot be reached, or the connection to it was lost; it may come back.

    `pause` seconds have to pass before another attempt, at least.
    """

    pause: ClassVar[float] = 0.0

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class BrokerRefused(BrokerAway):
    """The broker is there, but will not have us: login, TLS, or a right that is missing."""


class Session(ABC, Generic[In, Out]):
    """One connection to a broker. Subclasses say how; `run` says when."""

    def __init__(
        self,
        thread: AsyncioThread,
        inlet: Inlet[In],
        outlet: Outlet[Out],
        *,
        connect_timeout: float,
    ) -> None:
        self.thread = thread
        self.inlet = inlet
        self.outlet = outlet
        self._connect_timeout = connect_timeout
        self._lost: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # -- what a transport says ------------------------------------------------------

    @abstractmethod
    async def connect(self) -> None:
        """Connect, declare what has to be there, and begin to receive.

        Raises `BrokerAway` or `BrokerRefused`.
        """

    @abstractmethod
    async def write(self, burst: list[Out]) -> None:
        """Send what came through the outlet. Raises `BrokerAway` if that cannot be done."""

    @abstractmethod
    async def stop(self) -> None:
        """Receive nothing more; what was received may still be answered and settled."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection. Must not raise for one that is lost already."""

    async def follow(self, channels: Channels) -> None:  # most need not
        """There are other patterns now: subscribe to what is new, and no longer to what is gone."""

    # -- its life -------------------------------------------------------------------

    async def run(self, ready: Callable[[], object]) -> None:
        """Live: `ready` is called in trio once it is connected; returns when the outlet is closed.

        Raises `BrokerAway` when the connection cannot be made or is lost.
        """
        self._lost = asyncio.get_running_loop().create_future()
        try:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await self.connect()
            except TimeoutError as error:
                why = f"no connection within {self._connect_timeout:g} s"
                raise BrokerAway(why) from error
            if is_cancelled():
                raise asyncio.CancelledError  # a library has lost it: see `_AGAIN`
            self.thread.back(ready)
            writer = self.spawn(self._write())
            await asyncio.wait([writer, self._lost], return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                self._lost.result()
            else:
                writer.result()
        finally:
            await self._end()

    async def stop_receiving(self) -> None:
        """`stop`, where a connection that is lost meanwhile is no failure of its own."""
        try:
            await self.stop()
        except Exception as error:  # noqa: BLE001  # `run` raises it
            self.lose(error)

    async def follow_patterns(self, channels: Channels) -> None:
        """`follow`, likewise."""
        try:
            await self.follow(channels)
        except Exception as error:  # noqa: BLE001  # `run` raises it
            self.lose(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the session; its failure is the session's."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._spawned_ended)
        self._tasks.append(task)
        return task

    def lose(self, error: BaseException) -> None:
        """The connection is of no use any more: `run` raises `error`."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(error)

    def _spawned_ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.lose(error)

    async def _write(self) -> None:
        while burst := await self.outlet.burst():
            await self.write(burst)

    async def _end(self) -> None:
        ending = asyncio.get_running_loop().create_task(self._end_all())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            # Who is cancelled just while it ends must not leave its connection behind.
            await asyncio.wait([ending])
            raise
        if self._lost is not None and self._lost.done():
            self._lost.exception()  # it was raised, or came too late to be

    async def _end_all(self) -> None:
        clock = asyncio.get_running_loop().time
        left, until = set(self._tasks), clock() + CLOSING
        while left and clock() < until:  # the loop names, at its end, what never minds
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_AGAIN)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await self.close()


def is_cancelled() -> bool:
    """Whether the task that runs now was told to end, whatever became of its `CancelledError`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
