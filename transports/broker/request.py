"""A request that came from a broker: answered to the address that it names."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ..request import Request, Served
from .message import NO_HEADERS, Received

__all__ = ["Answering", "BrokerRequest"]


class Answering(Served, Protocol):
    """What a request needs of its bridge."""

    def item(self, received: Received, body: bytes) -> None:
        """Send one item of a stream."""

    def answer(self, received: Received, body: bytes) -> None:
        """Send the answer to a request: it is finished."""

    def done(self, received: Received) -> None:
        """A message is finished, without an answer."""

    async def room(self) -> None:
        """Wait while very many items wait to be sent."""


class BrokerRequest(Request[Answering], gc=False):
    """A request that came from a broker."""

    received: Received = msgspec.field(default_factory=lambda: Received("", b""))

    async def ready(self) -> None:
        await self.connection.room()

    def _write(self, body: bytes) -> None:
        self.connection.item(self.received, body)

    def _answer(self, body: bytes) -> None:
        self.connection.answer(self.received, body)

    def _finished(self) -> None:
        self.connection.done(self.received)

    @property
    def transport(self) -> str:
        return self.connection.name

    @property
    def source(self) -> str:
        return self.received.channel

    @property
    def message_id(self) -> str:
        received = self.received
        return received.message_id or f"{received.reply}:{self.raw_id.decode(errors='replace')}"

    @property
    def correlation_id(self) -> str | None:
        return self.received.correlation_id or self.raw_id.decode(errors="replace").strip('"')

    @property
    def headers(self) -> Mapping[str, str]:
        return self.received.headers or NO_HEADERS

    @property
    def attempt(self) -> int:
        return self.received.attempt

    @property
    def redelivered(self) -> bool:
        return self.received.redelivered
