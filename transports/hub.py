"""What lies between the clients and the service of one name, within one trio run.

A `Hub` is the name: who serves it, and the events that wait for whoever does next.
A `Link` is one client's connection: packets go in as bytes through a bounded queue,
answers come out as bytes to the calls that wait. Hubs live in the trio run, so that
two runs never meet.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import RunVar

from ..actors.errors import ConnectionLost
from ..actors.incarnation import Incarnation
from ..actors.pattern import Pattern
from ..supervisors.delivery.intake import Inbound
from .calls import Call, StreamCall
from .codec import nest
from .codec.dialect import Dialect
from .codec.packet import Packet
from .complaints import Complaints
from .request import WireRequest

if TYPE_CHECKING:
    from .memory import MemoryBridge

__all__ = ["Hub", "Link", "MemoryRequest", "excerpt", "gave_up_on", "hub_of"]


class Hub:
    """A name in one run: who serves it, and the events that wait for whoever does next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bridge: MemoryBridge | None = None
        self._returned: deque[tuple[Incarnation, Inbound]] = deque()
        self._changed = trio.Event()

    def give_back(self, life: Incarnation, inbound: Inbound) -> None:
        """Keep an event that one life of a bridge could not finish, for another one."""
        self._returned.append((life, inbound))
        self.tell()

    def returned_before(self, life: Incarnation) -> Inbound | None:
        """The oldest event that another life gave back: what gave it back cannot use it."""
        for index, (other, inbound) in enumerate(self._returned):
            if other is not life:
                del self._returned[index]
                return inbound
        return None

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def change(self) -> None:
        await self._changed.wait()


_HUBS: Final[RunVar[dict[str, Hub]]] = RunVar("understudy_memory_hubs")


def hub_of(name: str) -> Hub:
    """The hub of a name in this trio run."""
    try:
        hubs = _HUBS.get()
    except LookupError:
        hubs = {}
        _HUBS.set(hubs)
    return hubs.setdefault(name, Hub(name))


class Link:
    """What lies between one client and the service: packets in, calls that wait out."""

    dialect: Dialect = nest

    def __init__(
        self,
        hub: Hub,
        life: Incarnation,
        number: int,
        queue: int,
        credit: int,
        complaints: Complaints,
    ) -> None:
        self.peer = f"client {number}" if number else "an earlier service"
        self.name = f"memory-{hub.name}-{number}"
        self.complaints = complaints
        self.calls: dict[bytes, Call] = {}
        self.in_flight = 0
        self.closed = False
        self.changed: trio.Event | None = None
        self._hub, self._life = hub, life
        self._credit = credit
        self._events = 0
        self._leaving: dict[bytes, Callable[[], None]] = {}
        self._outbox, self.inbox = trio.open_memory_channel[bytes](queue)

    # -- the client's side

    async def send(self, body: bytes, call: Call | None = None) -> None:
        """Send a packet, waiting for room until the call's deadline; raises `ConnectionLost`."""
        where = f"memory://{self._hub.name}"
        try:
            self._outbox.send_nowait(body)
            return
        except trio.WouldBlock:
            pass  # wait below, out of this block: errors need no such context
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionLost(where, "the service has ended", sent=False) from None
        try:
            with trio.move_on_at(call.deadline if call else math.inf):
                await self._outbox.send(body)
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ConnectionLost(where, "the service has ended", sent=False) from None
        gave_up = gave_up_on(call.pattern, call.timeout) if call else ""
        raise ConnectionLost(where, f"the service takes nothing{gave_up}", sent=False)

    def forget(self, raw_id: bytes) -> None:
        """The client waits for this call no longer."""
        self.calls.pop(raw_id, None)
        leave = self._leaving.pop(raw_id, None)
        if leave is not None:
            leave()
        self.tell()

    def client_left(self) -> None:
        """No more comes from the client; what it has sent is still read."""
        self._outbox.close()
        self._fail_calls("the client was closed")

    # -- the service's side

    def next_body(self) -> bytes | None:
        """The next packet, if one waits."""
        try:
            return self.inbox.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return None

    def inbound(self, packet: Packet, route: str | None) -> Inbound:
        self._events += 1
        return Inbound(
            transport="memory",
            source=self.peer,
            pattern=excerpt(packet.pattern) if route is None else route,
            data=bytes(packet.data),
            message_id=f"{self.name}:event-{self._events}",
            first_at=time.time(),
        )

    def write(self, body: bytes) -> None:
        answer = nest.decode_answer(body)
        raw_id = b'"%b"' % (answer.id or "").encode()
        call = self.calls.get(raw_id)
        if call is not None and call.take(answer):
            del self.calls[raw_id]

    def answer(self, body: bytes) -> None:
        self.finished()
        self.write(body)

    def finished(self) -> None:
        self.in_flight -= 1
        self.tell()

    def on_leave(self, raw_id: bytes, function: Callable[[], None]) -> None:
        """Call `function` once the client waits for this call no longer."""
        if raw_id in self.calls:
            self._leaving[raw_id] = function
        else:
            function()

    async def credit(self, raw_id: bytes) -> bool:
        """Wait until the caller wants one more item; False if it has left."""
        while True:
            call = self.calls.get(raw_id)
            if not isinstance(call, StreamCall):
                return call is not None
            if len(call.items) < self._credit:
                return True
            await self._change()

    async def fewer_than(self, in_flight: int) -> None:
        while self.in_flight >= in_flight and not self.closed:
            await self._change()

    async def quiet(self) -> None:
        """Wait until nothing is in flight."""
        await self.fewer_than(1)

    def stop_reading(self) -> None:
        """Take no more from the client; events that wait are kept for the next service."""
        while (body := self.next_body()) is not None:
            packet = nest.decode_packet(body)
            if packet is not None and not packet.id:
                self.give_back(self.inbound(packet, nest.route(bytes(packet.pattern))))
        self.inbox.close()

    def give_back(self, inbound: Inbound) -> None:
        """Keep an event for the next service."""
        self._hub.give_back(self._life, inbound)

    def close(self) -> None:
        """End it; calls that wait fail, since nobody knows whether they were handled."""
        self.closed = True
        self.stop_reading()
        self._fail_calls("the service has ended")
        self.tell()

    def tell(self) -> None:
        """Wake who waits for something here."""
        if self.changed is not None:
            self.changed.set()

    async def _change(self) -> None:
        if self.changed is None or self.changed.is_set():
            self.changed = trio.Event()
        await self.changed.wait()

    def _fail_calls(self, why: str) -> None:
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.fail(ConnectionLost(f"memory://{self._hub.name}", why))


class MemoryRequest(WireRequest[Link], gc=False):
    """A request that came in memory."""

    def on_leave(self, function: Callable[[], None]) -> None:
        self.connection.on_leave(self.raw_id, function)

    async def ready(self) -> None:
        if not await self.connection.credit(self.raw_id):
            self._abandon()


def gave_up_on(pattern: Pattern, seconds: float) -> str:
    """The end of an error's text."""
    return f"; gave up on {pattern!r} after {seconds:g} s"


def excerpt(pattern: bytes) -> str:
    """The pattern of a packet as it may be shown."""
    return bytes(pattern)[:256].decode(errors="replace")
