"""Memory: a service and its clients in one trio run, with the packets and promises of TCP.

Promise: a request that was read is answered, or its client learns that the service is
gone. An event is never lost while the run lasts: what the service had not finished when
it ended waits for the next one of the same name, which gets it as redelivered.

Packets are NestJS's, as bytes, so that payloads are encoded and decoded as they are
on a wire; there are no sockets, so virtual time holds. Names belong to one trio run:
two runs never meet.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import attrs
import msgspec
import trio
from attrs.validators import ge, gt

from ..actors.envelope import Envelope
from ..actors.errors import ConnectionLost, DeclarationError, PayloadError
from ..actors.incarnation import Incarnation
from ..actors.pattern import Pattern
from ..actors.timers import Timers
from ..supervisors.child import Wiring
from ..supervisors.delivery.intake import Inbound
from ..supervisors.registry import Target
from .calls import Call, StreamCall
from .client import Client, Headers
from .codec import nest
from .codec.packet import Packet
from .complaints import Complaints
from .hub import Hub, Link, MemoryRequest, excerpt, gave_up_on, hub_of
from .options import parse_options, parse_url, shown
from .request import deliver

__all__ = [
    "MemoryBridge",
    "MemoryClient",
    "MemoryClientOptions",
    "MemoryOptions",
    "MemoryStatistics",
    "bridge",
    "check",
    "client",
]

_BURST: Final = 64
"""Packets of one client taken before other tasks get their turn."""


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """Options of a memory bridge.

    A client may have `in_flight` messages that are not finished, and `queue` more that
    wait to be read; then it waits itself.
    """

    in_flight: int = attrs.field(default=1024, validator=gt(0))
    queue: int = attrs.field(default=1024, validator=gt(0))


@attrs.frozen(kw_only=True)
class MemoryClientOptions:
    """Options of a memory client. Times in seconds.

    A service that is not there yet is waited for `patience` seconds at first, and
    later for `connect_timeout`, or a call's own timeout. A stream may be `credit`
    items ahead of its reader.
    """

    patience: float = attrs.field(default=0.0, validator=ge(0))
    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    credit: int = attrs.field(default=16, validator=gt(0))


@attrs.frozen
class MemoryStatistics:
    """A reading of one bridge; `refused` counts by reason."""

    clients: int
    accepted: int
    in_flight: int
    refused: dict[str, int]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if not _name(url):
        raise DeclarationError(f"{shown(url)} has no name; one looks like memory://orders.")
    parse_options(MemoryOptions if serving else MemoryClientOptions, url, options)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> "MemoryBridge":
    """The service of a name in this run."""
    return MemoryBridge(_name(url), parse_options(MemoryOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> "MemoryClient":
    """A client, not yet connected."""
    return MemoryClient(_name(url), parse_options(MemoryClientOptions, url, options))


class MemoryBridge:
    """Serves one name; a `Runnable` for its supervisor."""

    def __init__(self, name: str, options: MemoryOptions, wiring: Wiring) -> None:
        self._name, self._options = name, options
        self._path = wiring.path
        self._registry = wiring.services.registry
        self._intake = wiring.services.intake
        self._complaints = Complaints("understudy.transports.memory", wiring.path)
        self._links: set[Link] = set()
        self._accepted = 0
        self._hub: Hub
        self._incarnation: Incarnation
        self._nursery: trio.Nursery

    def open(self) -> None:
        """Nothing of a bridge outlives its incarnation but what it gave back."""

    def close(self, why: str) -> None:
        """Nothing of a bridge outlives its incarnation but what it gave back."""

    async def run(self, incarnation: Incarnation) -> None:
        """Serve the name until the stop is asked for, then answer what was read.

        Raises `DeclarationError` if the name has a service already.
        """
        self._hub = hub = hub_of(self._name)
        if hub.bridge is not None:
            raise DeclarationError(
                f"memory://{self._name} is served by {hub.bridge._path} already; "
                f"{self._path} needs another name, or must wait for its end."
            )
        hub.bridge, self._incarnation = self, incarnation
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._take_back)
                incarnation.announce(self, f"memory://{self._name}")
                hub.tell()
                await incarnation.stop_asked()
                hub.bridge = None
                await self._drain()
                self._nursery.cancel_scope.cancel()
        finally:
            if hub.bridge is self:
                hub.bridge = None
            for link in list(self._links):
                link.close()
            self._links.clear()
            self._complaints.close()

    def accept(self, credit: int) -> Link:
        """Connect a client, which may have streams `credit` items ahead of it."""
        self._accepted += 1
        link = self._new_link(self._accepted, credit)
        self._nursery.start_soon(self._serve, link)
        return link

    def statistics(self) -> MemoryStatistics:
        return MemoryStatistics(
            clients=len(self._links),
            accepted=self._accepted,
            in_flight=sum(link.in_flight for link in self._links),
            refused=dict(self._complaints.counts),
        )

    def _new_link(self, number: int, credit: int) -> Link:
        queue, life = self._options.queue, self._incarnation
        link = Link(self._hub, life, number, queue, credit, self._complaints)
        self._links.add(link)
        return link

    async def _drain(self) -> None:
        """Read nothing more; let what was read be answered."""
        for link in self._links:
            link.stop_reading()
        while self._links:
            link = next(iter(self._links))
            await link.quiet()
            link.close()
            self._links.discard(link)

    async def _take_back(self) -> None:
        """Deliver the events that earlier services of this name gave back."""
        link = self._new_link(0, 1)
        while not self._incarnation.stopping:
            inbound = self._hub.returned_before(self._incarnation)
            if inbound is None:
                await self._hub.change()
                continue
            link.in_flight += 1
            await self._intake.event(inbound, _EventSettlement(link, inbound))
            await link.fewer_than(self._options.in_flight)

    async def _serve(self, link: Link) -> None:
        try:
            async for body in link.inbox:
                await self._take_burst(link, body)
        except trio.ClosedResourceError:
            return  # by `stop_reading`; the drain does the rest
        await link.quiet()
        link.close()
        self._links.discard(link)

    async def _take_burst(self, link: Link, body: bytes | None) -> None:
        """Take a packet and those that wait behind it: waking this task costs more than one."""
        left = _BURST
        while body is not None:
            packet = nest.decode_packet(body)
            if packet is not None:
                await self._take(link, packet)
                await link.fewer_than(self._options.in_flight)
            left -= 1
            body = link.next_body() if left else None

    async def _take(self, link: Link, packet: Packet) -> None:
        """Give a packet to its mailbox, waiting for room."""
        link.in_flight += 1
        route = nest.route(bytes(packet.pattern))
        if not packet.id:
            inbound = link.inbound(packet, route)
            await self._intake.event(inbound, _EventSettlement(link, inbound))
            return
        raw_id = bytes(packet.id)
        target = None if route is None else self._target(route)
        if route is None or target is None:
            text = f"{link.peer} asked for {excerpt(packet.pattern)}, which nobody handles"
            self._complaints.say("requests without a handler", text)
            link.answer(nest.no_handler(raw_id))
            return
        request = MemoryRequest(link, raw_id, target.handler, route)
        try:
            message = target.handler.payload.decode(bytes(packet.data))
        except PayloadError as error:
            request.failed(error)
            return
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return
        envelope = Envelope(message, target.handler, request, request)
        await deliver(target.cell.mailbox, envelope)

    def _target(self, route: str) -> Target | None:
        # As in NestJS, a request to an event's pattern runs its (first) handler.
        found = self._registry.request(route)
        return found or next(iter(self._registry.event(route)), None)


class MemoryClient(Client):
    """Calls the service of one name; finds its next one by itself."""

    def __init__(self, name: str, options: MemoryClientOptions) -> None:
        self.where = f"memory://{name}"
        self._name, self._options = name, options
        self._timers = Timers()
        self._calls = 0
        self._closed = False
        self._link: Link | None = None
        self._hub: Hub

    async def open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._timers.run)
        self._hub = hub_of(self._name)
        await self._linked(trio.current_time() + self._options.patience, "")

    async def aclose(self) -> None:
        self._closed = True
        if self._link is not None:
            self._link.client_left()
        self._hub.tell()

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        raw_id = self._new_id()
        body = nest.request(nest.pattern_json(pattern), data, raw_id)
        call = Call(self.where, pattern, trio.current_time() + timeout, timeout)
        link = await self._linked(call.deadline, gave_up_on(pattern, timeout))
        link.calls[raw_id] = call
        try:
            await link.send(body, call)
            self._timers.watch(call)
            await call.wait()
        finally:
            self._timers.waiting.pop(call, None)
            link.forget(raw_id)
        if call.error is not None:
            raise call.error
        return call.value

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        body = nest.event(nest.pattern_json(pattern, event=True), data)
        limit = self._options.connect_timeout
        link = await self._linked(trio.current_time() + limit, gave_up_on(pattern, limit))
        await link.send(body)
        await trio.lowlevel.checkpoint()  # a queue with room is no reason to hold up the others

    async def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        raw_id = self._new_id()
        body = nest.request(nest.pattern_json(pattern), data, raw_id)
        limit = self._options.connect_timeout
        stream = StreamCall(self.where, pattern, trio.current_time() + limit, limit)
        link = await self._linked(stream.deadline, gave_up_on(pattern, limit))
        link.calls[raw_id] = stream
        try:
            await link.send(body, stream)
            async for item in stream:
                link.tell()
                yield item
        finally:
            link.forget(raw_id)

    async def _linked(self, deadline: float, gave_up: str) -> Link:
        """The link to the service, waiting for it until `deadline` (trio time)."""
        if self._link is not None and not self._link.closed and not self._closed:
            return self._link
        with trio.move_on_at(deadline):
            while self._hub.bridge is None and not self._closed:
                await self._hub.change()
        if self._closed:
            raise ConnectionLost(self.where, f"the client was closed{gave_up}", sent=False)
        if self._hub.bridge is None:
            why = f"nothing serves that name in this run{gave_up}"
            raise ConnectionLost(self.where, why, sent=False)
        self._link = self._hub.bridge.accept(self._options.credit)
        return self._link

    def _new_id(self) -> bytes:
        self._calls += 1
        return b'"%x"' % self._calls


class _EventSettlement:
    """Memory can take an event back: the next service of that name gets it."""

    __slots__ = ("_inbound", "_link")

    def __init__(self, link: Link, inbound: Inbound) -> None:
        self._link, self._inbound = link, inbound

    def acknowledge(self) -> None:
        self._link.finished()

    def give_back(self) -> bool:
        self._link.give_back(msgspec.structs.replace(self._inbound, redelivered=True))
        self._link.finished()
        return True


def _name(url: str) -> str:
    parts = parse_url(url)
    return parts.netloc.rpartition("@")[2] + parts.path
