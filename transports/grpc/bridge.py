"""The trio half of the bridge: from calls to mailboxes, and back. What both dialects share.

One task takes calls in the order in which they came, `in_flight` of them at most are
unfinished, and further ones wait on the loop. One that finds its mailbox full waits for
room by itself, and no other with it. A call is a request: at most once, never run again
by us, answered or known to be unanswered. A caller that leaves takes its request with it
unless it is being handled; a stream's handler ends then.

Not owned here: gRPC itself (`server.py`), and what messages mean (`typed.py`, `nestrs.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar

import attrs
import msgspec
import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread, asyncio_thread
from ...actors.envelope import Envelope
from ...actors.errors import AsyncioThreadEnded
from ...actors.incarnation import Incarnation
from ...actors.lifecycle import StateChanged
from ...actors.mailbox import Mailbox
from ...actors.scopes import background
from ...supervisors.child import Wiring
from ..codec import nestrs_wire
from ..codec.dialect import Dialect
from ..complaints import Complaints
from ..request import Request, deliver
from .call import Call, Outgoing
from .library import DecodeError
from .options import GrpcOptions
from .protos import Rpc
from .server import Server
from .status import INTERNAL, Failure, headers_of

__all__ = ["GrpcBridge", "GrpcRequest", "GrpcStatistics"]


@attrs.frozen
class GrpcStatistics:
    """A reading of one bridge; `refused` counts by reason."""

    received: int
    in_flight: int
    refused: dict[str, int]


class GrpcBridge(ABC):
    """Listens on one address; a `Runnable` for its supervisor."""

    scheme: ClassVar[str] = "grpc"

    def __init__(self, host: str, port: int, options: GrpcOptions, wiring: Wiring) -> None:
        self._host, self._port, self.options = host, port, options
        self._services = wiring.services
        self.registry = wiring.services.registry
        self.name = self.scheme
        self.dialect: Dialect = nestrs_wire  # what is not JSON does without
        self.peer = self._url(port)
        self.complaints = Complaints("understudy.transports.grpc", wiring.path)
        self.prefix = ""
        self._received = self._in_flight = 0
        self._calls: dict[Call, None] = {}
        self._changed: trio.Event | None = None
        self._listening: trio.Event
        self._nursery: trio.Nursery
        self.incarnation: Incarnation
        self._inlet: Inlet[Call]
        self._outlet: Outlet[Outgoing]

    # -- what a dialect says

    @abstractmethod
    def rpcs(self) -> Mapping[str, Rpc]:
        """The methods to serve, by path."""

    @property
    @abstractmethod
    def pool(self) -> Any:
        """The descriptors of what is served."""

    @abstractmethod
    def check(self) -> None:
        """Refuse a tree whose handlers can never work here. Raises `DeclarationError`."""

    @abstractmethod
    def begin(self, call: Call) -> Awaitable[None] | None:
        """Give a call to its handler; returns what has to be waited for, if anything has."""

    # -- its life

    def open(self) -> None:  # noqa: B027  # not abstract: there is nothing to do
        """Nothing of a bridge outlives its incarnation."""

    def close(self, why: str) -> None:  # noqa: B027
        """Nothing of a bridge outlives its incarnation."""

    def statistics(self) -> GrpcStatistics:
        return GrpcStatistics(self._received, self._in_flight, dict(self.complaints.counts))

    async def run(self, incarnation: Incarnation) -> None:
        """Listen until the stop is asked for, then finish the calls that have come.

        Raises `DeclarationError` for handlers that do not fit the `.proto`, `OSError` if it
        cannot listen there.
        """
        self.check()
        self.incarnation = incarnation
        self.prefix = f"{incarnation.path}:{incarnation.number}:"
        self._in_flight = 0
        self._listening = trio.Event()
        thread = asyncio_thread("brokers")
        self._inlet = Inlet(thread, self.options.max_calls)
        self._outlet = Outlet(thread)
        server = Server(
            thread, self._inlet, self._outlet, self.options, self.rpcs(), self.pool, self._unknown
        )
        try:
            async with background() as self._nursery:
                self._nursery.start_soon(self._pump)
                self._nursery.start_soon(self._stop_when_asked, thread, server)
                await thread.call(server.run, self._host, self._port, self._ready)
        finally:
            self._inlet.close()
            for call in list(self._calls):
                call.left()
            self.complaints.close()

    def _ready(self, port: int) -> None:
        # With port 0 too, a restart listens where clients know it.
        self._port = port
        self.peer = self._url(port)
        self.incarnation.announce(self, self.peer)
        self._listening.set()

    def _url(self, port: int) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self.scheme}{'s' if self.options.tls_cert else ''}://{host}:{port}"

    async def _stop_when_asked(self, thread: AsyncioThread, server: Server) -> None:
        life = self.incarnation
        await life.stop_asked()
        await self._listening.wait()
        notice = StateChanged(path=life.path, incarnation=life.number, state="draining", why="")
        self._services.bus.publish(notice)
        await thread.call(server.stop_taking)
        while self._in_flight or len(self._inlet):
            await self._change()
        self._outlet.close()

    async def _pump(self) -> None:
        inlet, most = self._inlet, self.options.in_flight
        while True:
            for call in await inlet.burst():
                while self._in_flight >= most:
                    await self._change()
                self._take(call)

    def _take(self, call: Call) -> None:
        self._received += 1
        if call.gone:
            self._tell()  # a stop waits until there are none any more
            return
        self._in_flight += 1
        self._calls[call] = None
        try:
            waiting = self.begin(call)
        except DecodeError:
            text = f"{call.peer} {call.rpc.path}: no message of its type"
            self.complaints.say("messages that cannot be read", text)
            self.answer(call, failure=Failure(INTERNAL, "the request cannot be read"))
            return
        if waiting is not None:
            # Calls are in no order among each other: those to other actors need not wait.
            self._nursery.start_soon(_awaited, waiting)

    def deliver(
        self, call: Call, request: "GrpcRequest", mailbox: Mailbox, message: Any
    ) -> Awaitable[None] | None:
        """Put the message of a call into a mailbox, with its caller's deadline."""
        left = call.time_left()
        envelope = Envelope(message, request.handler, request, request)
        if left is not None:
            envelope.deadline = trio.current_time() + left
        if mailbox.put(envelope):
            return None
        return deliver(mailbox, envelope)

    def _unknown(self, path: str) -> None:
        self.complaints.say("calls of unknown methods", f"somebody called {path[:200]}")

    # -- out

    def item(self, call: Call, body: bytes) -> None:
        """Send one item of a stream."""
        call.sent += 1
        self._send(Outgoing(call, "item", body))

    def answer(self, call: Call, body: bytes = b"", failure: Failure | None = None) -> None:
        """Send the end of a call: it is finished."""
        self._send(Outgoing(call, "end", body, failure))
        self.finished(call)

    def finished(self, call: Call) -> None:
        """A call is finished, here at least."""
        if call not in self._calls:
            return
        del self._calls[call]
        call.request = None  # they hold each other, and requests are not garbage-collected
        call.over = True
        self.less()

    def more(self) -> None:
        """One more is in flight: an event, which outlives its call."""
        self._in_flight += 1

    def less(self) -> None:
        """One less is in flight."""
        self._in_flight -= 1
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _send(self, outgoing: Outgoing) -> None:
        try:  # noqa: SIM105  # `suppress` is three calls, for each message
            self._outlet.send(outgoing)
        except AsyncioThreadEnded:
            pass  # without a loop the server ends, too, and this life with it

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()


async def _awaited(waiting: Awaitable[None]) -> None:
    await waiting


class GrpcRequest(Request[GrpcBridge], gc=False):
    """A request that came over gRPC. How a value is written is the dialect's."""

    call: Call = msgspec.field(default=None)  # type: ignore[assignment]  # structs need one
    number: int = 0

    def on_leave(self, function: Any) -> None:
        if self.call.gone:
            function()
        else:
            self.call.on_left = function

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()
        await self.call.room()
        if self.call.gone:
            self._abandon()

    def abandon(self) -> None:
        """The caller is gone: the message need not run, and nobody is answered."""
        self._abandon()

    def _write(self, body: bytes) -> None:
        self.connection.item(self.call, body)

    def _answer(self, body: bytes) -> None:
        self.connection.answer(self.call, body)

    def _finished(self) -> None:
        self.connection.finished(self.call)

    def _end_stream(self) -> None:
        self.call.on_left = None

    @property
    def transport(self) -> str:
        return self.connection.scheme

    @property
    def source(self) -> str:
        return self.call.peer

    @property
    def message_id(self) -> str:
        return f"{self.connection.prefix}{self.number}"

    @property
    def correlation_id(self) -> str | None:
        return str(self.number)

    @property
    def headers(self) -> Mapping[str, str]:
        return headers_of(self.call.metadata)
