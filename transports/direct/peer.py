"""One accepted connection: how much is going on there, and who waits for it to change.

Owns what all transports share that listen themselves: the count of what is in flight,
what waits for room, and the generators that stream to the peer. Does not own the socket,
nor how answers leave by it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from ...actors.envelope import Envelope
from ...actors.mailbox import Mailbox
from ..codec.dialect import Dialect
from ..codec.packet import Packet
from ..complaints import Complaints
from ..request import WireRequest

__all__ = ["Peer", "PeerRequest"]


class Peer(ABC):
    """The other end of one connection."""

    headers: Mapping[str, str] = {}
    """What is known of the peer besides its messages; handlers see it in their context."""

    def __init__(self, peer: str, name: str, complaints: Complaints) -> None:
        self.peer = peer
        self.name = name
        self.complaints = complaints
        self.dialect: Dialect
        self.in_flight = 0
        self.wasted = 0.0  # seconds spent on packets that were of no use, since they were paid for
        self.closed = False
        self.peer_ended = False
        self.over = False  # nothing more is read
        self.clogged = False  # the peer does not take its answers as fast as they come
        self.out: list[bytes] = []
        # The message that has to wait before the next one is looked at.
        self.event: Packet | None = None
        self.waiting: tuple[Mailbox, Envelope] | None = None
        self.leaving: set[Callable[[], None]] = set()
        self.changed: trio.Event | None = None

    @abstractmethod
    def write(self, body: bytes) -> None:
        """Queue the body of a packet."""

    @abstractmethod
    def refuse(self, kind: str, why: str) -> None:
        """End the connection for what the peer has sent, and say so."""

    def began(self) -> None:
        """A message was read: one more is in flight."""
        self.in_flight += 1

    def answer(self, body: bytes) -> None:
        """Queue the last packet of a request: one less is in flight."""
        self.in_flight -= 1
        self.write(body)
        if self.changed is not None:
            self.changed.set()

    def finished(self) -> None:
        """An event is settled: one less is in flight."""
        self.in_flight -= 1
        if self.changed is not None:
            self.changed.set()

    async def fewer_than(self, in_flight: int) -> None:
        """Wait until fewer messages are in flight, and the peer takes its answers."""
        while (self.in_flight >= in_flight or self.clogged) and not self.closed:
            await self._change()

    async def quiet(self) -> None:
        """Wait until nothing is in flight and all answers are written, or the peer is gone."""
        while (self.in_flight or self.out or self.clogged) and not self.closed:
            await self._change()

    def leave(self) -> None:
        """The peer reads no further: end the generators that stream to it."""
        leaving, self.leaving = self.leaving, set()
        for function in leaving:
            function()

    def tell(self) -> None:
        """Wake who waits for something here."""
        if self.changed is not None:
            self.changed.set()

    async def _change(self) -> None:
        if self.changed is None or self.changed.is_set():
            self.changed = trio.Event()
        await self.changed.wait()


P = TypeVar("P", bound=Peer)


class PeerRequest(WireRequest[P], gc=False):
    """A request whose caller has left once its connection is closed, or its half of it."""

    on_left: Callable[[], None] | None = None

    def on_leave(self, function: Callable[[], None]) -> None:
        connection = self.connection
        if connection.closed or connection.peer_ended:
            function()
        else:
            self.on_left = function
            connection.leaving.add(function)

    def _end_stream(self) -> None:
        if self.on_left is not None:
            self.connection.leaving.discard(self.on_left)
