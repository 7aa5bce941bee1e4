"""A client's calls: one task that waits for one answer, or for the items of a stream.

What every client shares, whatever carries its packets: a call is made, is given the
answers that come for it, or fails, or expires. Owns the waiting; which answer belongs
to which call is known to the connection.
"""

from collections import deque
from typing import Self

import trio
from msgspec import UNSET, UnsetType
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from ..actors.errors import RequestTimeout, RpcError
from ..actors.pattern import Pattern
from .codec.packet import Answer

__all__ = ["Call", "StreamCall"]


class Call:
    """One request that waits for its answer, until `deadline` (trio time)."""

    __slots__ = ("deadline", "done", "error", "pattern", "task", "timeout", "value", "where")

    def __init__(self, where: str, pattern: Pattern, deadline: float, timeout: float) -> None:
        self.where = where
        self.pattern = pattern
        self.deadline = deadline
        self.timeout = timeout
        self.task: trio.lowlevel.Task | None = None
        self.value = b""
        self.error: Exception | None = None
        self.done = False

    async def wait(self) -> None:
        """Wait until something has come; for one task only."""
        if not self.done:
            self.task = current_task()
            await wait_task_rescheduled(self._leave)

    def take(self, answer: Answer) -> bool:
        """An answer came; True if it was the last one."""
        if answer.error is not UNSET:
            self.fail(RpcError(answer.error))
            return True
        if not isinstance(answer.value, UnsetType):
            # Only the first value is the answer; what follows it (a stream's rest) is dropped.
            self.value = bytes(answer.value)
        elif not answer.done:
            return False
        self.done = True
        self._wake()
        return True

    def confirm(self) -> None:
        """There is no answer, and none is wanted: the message has arrived."""
        self.done = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """There will be no answer but this error."""
        self.error = error
        self.done = True
        self._wake()

    def expire(self) -> None:
        """The deadline has passed."""
        self.fail(RequestTimeout(self.where, self.pattern, self.timeout))

    def _wake(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            reschedule(task)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self.task = None
        return Abort.SUCCEEDED


class StreamCall(Call):
    """One request whose answers are iterated over; `items` have come and wait to be taken."""

    __slots__ = ("items",)

    def __init__(self, where: str, pattern: Pattern, deadline: float, timeout: float) -> None:
        super().__init__(where, pattern, deadline, timeout)
        self.items: deque[bytes] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self.items:
            if self.error is not None:
                raise self.error
            if self.done:
                raise StopAsyncIteration
            await self.wait()
        return self.items.popleft()

    def take(self, answer: Answer) -> bool:
        if answer.error is not UNSET:
            self.fail(RpcError(answer.error))
            return True
        if not isinstance(answer.value, UnsetType):
            self.items.append(bytes(answer.value))
        self.done = answer.done
        self._wake()
        return self.done
