"""From a packet that was read to the mailbox it is for.

What the bridges share that listen themselves. Whatever has to be waited for is left with
the connection, which is not read meanwhile: its peer is slowed down by TCP itself.

Not owned here: reading (the bridges), and the meaning of bodies (the dialects).
"""

import time
from collections.abc import Callable
from time import perf_counter
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from ...actors.behavior import Handler
from ...actors.envelope import Envelope
from ...actors.errors import PayloadError
from ...actors.mailbox import Mailbox
from ...supervisors.child import Wiring
from ...supervisors.delivery.intake import Inbound
from ..codec.dialect import Dialect
from ..codec.errors import CodecError
from ..codec.packet import Packet, TypedPacket
from ..complaints import Complaints
from ..request import deliver
from .peer import Peer, PeerRequest

__all__ = ["Dispatcher", "Route"]

_ROUTES_KEPT: Final = 1024


class Route(msgspec.Struct, eq=False):
    """Where requests of one pattern go.

    `decode` reads a whole request whose body starts with `beginning` (empty: none does).
    """

    handler: Handler
    mailbox: Mailbox
    name: str
    beginning: bytes
    decode: Callable[[bytes], TypedPacket]


P = TypeVar("P", bound=Peer)


class Dispatcher(Generic[P]):
    """Gives the packets of one bridge's connections to mailboxes.

    `request` makes the transport's own kind of request of a connection, the raw id, the
    handler and the pattern.
    """

    def __init__(
        self,
        transport: str,
        wiring: Wiring,
        complaints: Complaints,
        request: Callable[[P, bytes, Handler, str], PeerRequest[P]],
    ) -> None:
        self._transport = transport
        self._registry = wiring.services.registry
        self._intake = wiring.services.intake
        self._complaints = complaints
        self._request = request
        self._routes: dict[bytes, Route] = {}
        self._version = -1
        self._events = 0

    def refresh(self) -> bool:
        """Forget routes that may be void; True if there are any. To be called before `take`."""
        if self._version == self._registry.version:
            return False
        self._version = self._registry.version
        self._routes.clear()
        return True

    def take(self, connection: P, body: bytes) -> Route | bool:
        """Give one packet, whatever it is, to its mailbox; False if that has to wait.

        Otherwise the route of the request, if the next one is likely to be read by it.
        """
        began = perf_counter()
        dialect = connection.dialect
        try:
            packet = dialect.decode_packet(body)
        except CodecError as error:
            answer = dialect.invalid_request()
            if answer is None:
                connection.refuse("packets that are none", str(error))
                return False
            connection.write(answer)
            connection.wasted += perf_counter() - began
            return True
        if packet is None:
            connection.wasted += perf_counter() - began
            return True
        connection.began()
        if not packet.id:
            connection.event = packet  # it may have to wait for the dead-letter store
            return False
        pattern = bytes(packet.pattern)
        route = self._routes.get(pattern) or self._find(dialect, pattern)
        if route is None:
            self._no_handler(connection, packet)
            connection.wasted += perf_counter() - began
            return True
        request = self._request(connection, bytes(packet.id), route.handler, route.name)
        try:
            message = route.handler.payload.decode(packet.data)
        except PayloadError as error:
            request.failed(error)
            connection.wasted += perf_counter() - began
            return True
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return True
        envelope = Envelope(message, route.handler, request, request)
        if not route.mailbox.put(envelope):
            connection.waiting = (route.mailbox, envelope)
            return False
        return route if route.beginning else True

    async def wait(self, connection: P) -> None:
        """Do what `take` has left to be waited for."""
        if connection.waiting is not None:
            (mailbox, envelope), connection.waiting = connection.waiting, None
            await deliver(mailbox, envelope)
        elif connection.event is not None:
            packet, connection.event = connection.event, None
            await self._event(connection, packet)

    def _find(self, dialect: Dialect, pattern: bytes) -> Route | None:
        name = dialect.route(pattern)
        if name is None:
            return None
        target = self._registry.request(name)
        if target is None:
            # As in NestJS, a request to an event's pattern runs its (first) handler.
            targets = self._registry.event(name)
            if not targets:
                return None
            target = targets[0]
        handler = target.handler
        beginning = dialect.beginning(pattern) if handler.payload.fast else None
        decode = dialect.typed_decoder(handler.payload.annotation) if beginning else None
        mailbox = target.cell.mailbox
        route = Route(handler, mailbox, name, beginning or b"", decode or _refuse)
        if len(self._routes) < _ROUTES_KEPT:
            self._routes[pattern] = route
        return route

    async def _event(self, connection: P, packet: Packet) -> None:
        pattern = bytes(packet.pattern)
        route = connection.dialect.route(pattern)
        self._events += 1
        inbound = Inbound(
            transport=self._transport,
            source=connection.peer,
            pattern=route if route is not None else pattern[:256].decode(errors="replace"),
            data=bytes(packet.data),
            message_id=f"{connection.name}:event-{self._events}",
            headers=connection.headers,
            first_at=time.time(),
        )
        await self._intake.event(inbound, _EventSettlement(connection))

    def _no_handler(self, connection: P, packet: Packet) -> None:
        pattern = bytes(packet.pattern)
        shown = pattern[:100].decode(errors="replace")
        text = f"{connection.peer} asked for {shown}, which nobody handles"
        self._complaints.say("requests without a handler", text)
        connection.answer(connection.dialect.no_handler(bytes(packet.id), pattern))


def _refuse(_: bytes) -> NoReturn:
    """Stands where a route has no typed decoder; never called, for it has no beginning."""
    raise ValueError


class _EventSettlement:
    """There is no acknowledgement here; a settled event is one less in flight."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Peer) -> None:
        self._connection = connection

    def acknowledge(self) -> None:
        self._connection.finished()

    def give_back(self) -> bool:
        return False
