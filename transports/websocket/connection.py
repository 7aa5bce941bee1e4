"""One accepted WebSocket: its answers on the way out, and how it ends.

A task of its own writes what a burst of answers has queued, with one send.
"""

from collections.abc import Mapping
from typing import Final

import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from ..codec.dialect import Dialect
from ..complaints import Complaints
from ..direct.peer import Peer, PeerRequest
from .library import ConnectionClosed, LocalProtocolError, WebSocketConnection
from .wire import Wire

__all__ = [
    "GOING_AWAY",
    "INVALID",
    "NORMAL",
    "TRY_AGAIN",
    "Connection",
    "GatewayRequest",
    "WebSocketRequest",
]

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
INVALID: Final = 1007
TRY_AGAIN: Final = 1013

_EARLY: Final = 32
"""Items of a stream that are queued before the writer gets its turn."""

_CLOGGED: Final = 256 * 1024
"""Bytes waiting to be written at which a peer is read no further, and streams wait."""

_LINGER: Final = 1.0
"""Seconds a peer has to close in its turn."""


class Connection(Peer):
    """The WebSocket of one peer."""

    def __init__(
        self,
        socket: WebSocketConnection,
        wire: Wire,
        peer: str,
        name: str,
        dialect: Dialect,
        headers: Mapping[str, str],
        write_limit: int,
        complaints: Complaints,
    ) -> None:
        super().__init__(peer, name, complaints)
        self.socket = socket
        self.wire = wire
        self.dialect = dialect
        self.headers = headers
        self.requests = 0
        self.code, self.reason = GOING_AWAY, ""
        self.reading = trio.CancelScope()
        self.active = trio.current_time()
        self._queued = 0
        self._write_limit = write_limit
        self._parked: trio.lowlevel.Task | None = None

    def write(self, body: bytes) -> None:
        """Queue the body of a packet, unless it is empty; it leaves with the rest of the burst."""
        if self.closed or not body:
            return
        self.out.append(body)
        self._queued += len(body)
        if self._queued > _CLOGGED:
            self.clogged = True
        if self._parked is not None:
            task, self._parked = self._parked, None
            reschedule(task)

    def push(self, body: bytes) -> bool:
        """Queue what the peer did not ask for; a peer that has too much waiting is cut off."""
        if self.closed or self.over:
            return False
        if self._queued > self._write_limit:
            text = f"{self.peer} has {self._queued} bytes waiting and takes none; closed"
            self.complaints.say("peers that do not read", text)
            self.close()
            return False
        self.write(body)
        return True

    def refuse(self, kind: str, why: str) -> None:
        self.complaints.say(kind, f"{self.peer}: {why}; the connection is closed")
        self.end(INVALID, kind)

    def end(self, code: int, reason: str) -> None:
        """Read nothing more, and close when what was read is answered."""
        self.over = True
        self.code, self.reason = code, reason
        self.reading.cancel()

    async def quiet(self) -> None:
        while (self.in_flight or self._queued) and not self.closed:
            await self._change()

    async def hang_up(self) -> None:
        """Close as WebSockets do: the peer answers the close, or has had its second."""
        with trio.move_on_after(_LINGER):
            await self.socket.aclose(self.code, self.reason)
            await self.wire.linger()
        self.close()

    def close(self) -> None:
        """End the connection at once; what is in flight for it is answered to nobody."""
        if not self.closed:
            self.closed = self.over = True
            self.leave()
            self.out.clear()
            self._queued = 0
            self.reading.cancel()
            self.wire.close()
            self.tell()

    async def write_out(self) -> None:
        """Write what is queued, until the connection ends."""
        wire, send = self.wire, self.socket.send_message
        try:
            while True:
                while self.out:
                    out, self.out = self.out, []
                    wire.cork()
                    for body in out:
                        await send(body.decode())
                    await wire.uncork()
                    self._queued -= sum(map(len, out))
                    self.clogged = self._queued > _CLOGGED
                    self.tell()
                self._parked = current_task()
                await wait_task_rescheduled(self._leave_parked)
        except (ConnectionClosed, LocalProtocolError, trio.BrokenResourceError):
            if wire.stuck:
                self.complaints.say("peers that do not read", f"{self.peer} took nothing; closed")
            self.close()

    def _leave_parked(self, _: RaiseCancelT) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED


class WebSocketRequest(PeerRequest[Connection], gc=False):
    """A request that came over WebSocket."""

    @property
    def headers(self) -> Mapping[str, str]:
        return self.connection.headers

    async def ready(self) -> None:
        connection = self.connection
        if len(connection.out) >= _EARLY:
            # A generator that never waits must not keep the others out.
            await trio.lowlevel.checkpoint()
        if connection.clogged:
            await connection.fewer_than(1 << 62)
        if connection.closed:
            self._abandon()


class GatewayRequest(WebSocketRequest, gc=False):
    """A gateway's message that may be answered. It has no id: it is counted."""

    number: int = 0

    def __post_init__(self) -> None:
        self.connection.requests += 1
        self.number = self.connection.requests

    @property
    def message_id(self) -> str:
        return f"{self.connection.name}:{self.number}"

    @property
    def correlation_id(self) -> str | None:
        return str(self.number)
