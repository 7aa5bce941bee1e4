"""The NATS bridge: one subscription for each pattern, answers to the inbox of each request.

Promise: at most once. NATS forgets a message once it has sent it, cannot be slowed down and
cuts off who is too slow; what finds no room here is dropped, counted and logged. An event
that was taken is retried and kept like any other. For more see `jetstream.py`.
"""

from functools import partial
from typing import Any

from ...actors.asyncio_thread import AsyncioThread, Inlet, Outlet
from ...supervisors.child import Wiring
from ..broker.bridge import BridgeSession, BrokerBridge
from ..broker.channels import Channels
from ..broker.message import NO_HEADERS, Outgoing, Received
from ..broker.session import Session
from ..codec import nest, nest_channel, nestrs_wire
from ..options import shown
from .connection import Connection, Error, connect, meaning, watch
from .options import NatsOptions, check_subject

__all__ = ["NatsBridge", "NatsSession"]


class NatsBridge(BrokerBridge):
    """Serves the tree's patterns as subjects; a `Runnable` for its supervisor."""

    options: NatsOptions

    def __init__(self, url: str, options: NatsOptions, wiring: Wiring) -> None:
        nestrs = options.dialect == "nestrs"
        prefix = f"{options.prefix}." if options.prefix else ""
        super().__init__(
            shown(url),
            options,
            wiring,
            nestrs_wire if nestrs else nest,
            partial(nestrs_wire.read_payload if nestrs else nest_channel.read, prefix),
        )
        self.url = url
        self.prefix = prefix

    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        return NatsSession(self, self.thread, number, inlet, outlet)

    @property
    def backlog(self) -> int:
        return self.options.backlog

    def channels(self) -> Channels:
        """What to subscribe to; raises `DeclarationError` for a pattern that is no subject."""
        routes = self.registry.routes()
        foreign = [route for route in routes if _is_mqtts(route)]
        for route in foreign:
            text = f"the pattern {route!r} is a wildcard of MQTT's kind; nothing comes for it here"
            self.complaints.say("patterns that cannot be subscribed to", text)
        subjects = (check_subject(route, self.peer) for route in routes if route not in foreign)
        return Channels(self.prefix + subject for subject in subjects)


class NatsSession(Session[Received, Outgoing]):
    """One connection of a NATS bridge."""

    def __init__(
        self,
        bridge: NatsBridge,
        thread: AsyncioThread,
        number: int,
        inlet: Inlet[Received],
        outlet: Outlet[Outgoing],
    ) -> None:
        super().__init__(thread, inlet, outlet, connect_timeout=bridge.options.connect_timeout)
        self._bridge = bridge
        self._number = number
        self._connection: Connection | None = None
        self._channels = bridge.channels()
        self._subscriptions: dict[str, Any] = {}

    async def connect(self) -> None:
        bridge = self._bridge
        self._connection = connection = await connect(
            bridge.url, bridge.options, bridge.complaints.where, self.lose, self._troubled
        )
        await self.follow(self._channels)
        await connection.flush()
        self.spawn(watch(connection, bridge.options.heartbeat))

    async def _received(self, subject: str, message: Any) -> None:
        channels = self._channels
        if subject in channels.overlapping and channels.owner(message.subject) != subject:
            return
        headers = message.headers or NO_HEADERS
        identity = headers.get("Nats-Msg-Id", "") if headers else ""
        received = Received(
            message.subject, message.data, message.reply, headers, None, self._number, identity
        )
        if not self.inlet.offer(received):
            self._troubled(f"too slow: a message on {message.subject} was dropped")

    async def write(self, burst: list[Outgoing]) -> None:
        connection = self._connection
        assert connection is not None
        try:
            for outgoing in burst:
                if outgoing.body and outgoing.received.reply:
                    if len(outgoing.body) > connection.max_payload:
                        self.thread.back(self._bridge.unsendable, outgoing, connection.max_payload)
                        continue
                    await connection.publish(outgoing.received.reply, outgoing.body)
        except (Error, OSError) as error:
            raise meaning(error) from error

    async def follow(self, channels: Channels) -> None:
        self._channels = channels
        connection, queue = self._connection, self._bridge.options.queue
        assert connection is not None
        for subject in set(self._subscriptions) - set(channels.subscribed):
            await self._subscriptions.pop(subject).unsubscribe()
        for subject in channels.subscribed:
            if subject not in self._subscriptions:
                take = partial(self._received, subject)
                subscription = await connection.subscribe(subject, queue=queue, cb=take)
                self._subscriptions[subject] = subscription

    async def stop(self) -> None:
        for subscription in self._subscriptions.values():
            await subscription.unsubscribe()
        if self._connection is not None:
            await self._connection.flush()

    async def close(self) -> None:
        if self._connection is not None and not self._connection.is_closed:
            await self._connection.close()

    def _troubled(self, text: str) -> None:
        self.thread.back(self._bridge.complaints.say, "troubles with the broker", text)


def _is_mqtts(route: str) -> bool:
    return "/" in route and any(part in ("+", "#") for part in route.split("/"))
