"""Readiness of many sockets for the price of one.

trio registers and unregisters a socket with the kernel for every single wait; with
many short bursts those two system calls cost more than the reads. Here sockets are
registered once, edge-triggered, with an epoll of our own, and one task waits for
that epoll to become readable (benchmarks/tcp.py, 8 connections).

Edge-triggered: a socket is reported once when data comes. Whoever reads must read
until it would block, or a read comes back short, before it waits again.

Where there is no epoll (macOS), every wait goes to trio.
"""

import select
import socket
import sys

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


class Readiness:
    """Whether one socket may have something to read; waited for by one task."""

    __slots__ = ("_poller", "_ready", "_sock", "_task")

    def __init__(self, poller: "Poller", sock: socket.socket) -> None:
        self._poller = poller
        self._sock = sock
        # Data that came before the registration has no edge of its own.
        self._ready = True
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Return when the socket may be read; a checkpoint in any case.

        Raises `trio.ClosedResourceError` when it is closed meanwhile.
        """
        if not self._poller.shared:
            await wait_readable(self._sock)
            return
        if self._ready:
            self._ready = False
            await trio.lowlevel.checkpoint()
            return
        self._task = current_task()
        await wait_task_rescheduled(self._leave)
        self._ready = False
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError

    def found(self) -> None:
        """An edge was reported, or the socket is about to be closed."""
        self._ready = True
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task)

    def _leave(self, _: RaiseCancelT) -> Abort:
        self._task = None
        return Abort.SUCCEEDED


class Poller:
    """Watches the sockets of one bridge; `run` is its one task."""

    def __init__(self) -> None:
        self.shared = sys.platform == "linux"
        self._watched: dict[int, Readiness] = {}
        if sys.platform == "linux":
            self._epoll = select.epoll()

    def watch(self, sock: socket.socket) -> Readiness:
        """Watch a socket until `forget`."""
        readiness = Readiness(self, sock)
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
                readiness.found()
        trio.lowlevel.notify_closing(sock)

    async def run(self) -> None:
        if sys.platform != "linux":
            return
        epoll, watched = self._epoll, self._watched
        while True:
            await wait_readable(epoll.fileno())
            for fd, _ in epoll.poll(0):
                readiness = watched.get(fd)
                if readiness is not None:
                    readiness.found()

    def close(self) -> None:
        if sys.platform == "linux":
            self._epoll.close()
