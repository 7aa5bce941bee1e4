"""Readiness of many sockets for the price of one.

trio registers and unregisters a socket with the kernel for every single wait; with
many short bursts those two system calls cost more than the reads. Here sockets are
registered once, edge-triggered, with an epoll of our own, and one task waits for
that epoll to become readable (benchmarks/tcp.py, 8 connections).

Edge-triggered: a socket is reported once when data comes. Whoever reads must read
until it would block, or a read comes back short and the peer has not `ended`, before
it waits again.

Where there is no epoll (macOS), every wait goes to trio.
"""

import select
import socket
import sys
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    current_task,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)

__all__ = ["Poller", "Readiness"]


_END: Final = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLHUP", 0)


class Readiness:
    """Whether one socket may have something to read; waited for by one task.

    While that task waits, data is first offered to `take`, in the poller's own task:
    it returns True once it has dealt with all there was, False if the waiting task must
    go on with it. Most reads then cost no switch of tasks at all.
    """

    __slots__ = (
        "_alone",
        "_closed",
        "_interrupted",
        "_paused",
        "_poller",
        "_ready",
        "_sock",
        "_take",
        "_task",
        "ended",
    )

    def __init__(self, poller: "Poller", sock: socket.socket, take: Callable[[], bool]) -> None:
        self._poller = poller
        self._sock = sock
        self._take = take
        # Data that came before the registration has no edge of its own.
        self._ready = True
        # Data and the end may come as one edge: then a short read is not the last one.
        self.ended = False
        self._closed = False
        self._paused = False
        self._interrupted = False
        self._task: trio.lowlevel.Task | None = None
        self._alone: trio.CancelScope | None = None

    @property
    def waiting(self) -> bool:
        """Whether it is the peer that is waited for."""
        return (self._task is not None or self._alone is not None) and not self._paused

    async def wait(self) -> None:
        """Return when `take` has left something to do, or at `interrupt`.

        Raises `ClosedResourceError` when the socket is closed.
        """
        if self._poller.shared:
            await self._wait_together()
        else:
            await self._wait_alone()
        self._interrupted = False

    def found(self, *, ended: bool = False) -> None:
        """The kernel reported an edge, which may be that the peer has ended its half."""
        self.ended = self.ended or ended
        if self._task is None or self._paused:
            self._ready = True
        elif not self._take():
            # There may be more to read, which no further edge will tell.
            self._ready = True
            self._wake()

    def pause(self) -> None:
        """Read nothing until `resume`, whatever comes; `take` may call it."""
        self._paused = True
        self._ready = True

    def resume(self) -> None:
        """Read on, at once if the reader waits."""
        self._paused = False
        if self._poller.shared:
            self.found()
        else:
            self._wake()

    def interrupt(self) -> None:
        """Make the reader look up: there is something else to do than to read."""
        self._interrupted = True
        self._wake()
        if self._alone is not None:
            self._alone.cancel()

    def close(self) -> None:
        """The socket is about to be closed: nobody need wait for it any more."""
        self._closed = True
        self._wake()

    async def _wait_together(self) -> None:
        while self._ready and not (self._paused or self._interrupted):
            # An edge that comes meanwhile makes it ready again: no later one would tell.
            self._ready = False
            await self._poller.turn()
            if not self._closed and not self._take():
                self._ready = True
                return
        await self._park()

    async def _wait_alone(self) -> None:
        while not self._interrupted:
            if self._paused:
                await self._park()
                continue
            with trio.CancelScope() as self._alone:
                await wait_readable(self._sock)
            self._alone = None
            if not self._interrupted and not self._take():
                return

    async def _park(self) -> None:
        if not (self._closed or self._interrupted):
            self._task = current_task()
            await wait_task_rescheduled(self._leave)
        if self._closed:
            raise trio.ClosedResourceError

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


class Poller:
    """Watches the sockets of one bridge; `run` is its one task."""

    def __init__(self) -> None:
        self._turns = trio.Lock()
        self.shared = sys.platform == "linux"
        self._watched: dict[int, Readiness] = {}
        if sys.platform == "linux":
            self._epoll = select.epoll()

    def watch(self, sock: socket.socket, take: Callable[[], bool]) -> Readiness:
        """Watch a socket until `forget`."""
        readiness = Readiness(self, sock, take)
        if sys.platform == "linux":
            self._watched[sock.fileno()] = readiness
            self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return readiness

    def forget(self, sock: socket.socket) -> None:
        """Call before the socket is closed; wakes its reader."""
        if sys.platform == "linux":
            readiness = self._watched.pop(sock.fileno(), None)
            if readiness is not None:
                self._epoll.unregister(sock)
                readiness.close()
        trio.lowlevel.notify_closing(sock)

    async def turn(self) -> None:
        """Let everybody else go on; of those who wait here, one comes back each time."""
        try:
            self._turns.acquire_nowait()
        except trio.WouldBlock:
            await self._turns.acquire()
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._turns.release()

    async def run(self) -> None:
        if sys.platform != "linux":
            return
        epoll, watched = self._epoll, self._watched
        while True:
            await wait_readable(epoll.fileno())
            for fd, events in epoll.poll(0):
                readiness = watched.get(fd)
                if readiness is not None:
                    readiness.found(ended=events & _END != 0)

    def close(self) -> None:
        if sys.platform == "linux":
            self._epoll.close()
