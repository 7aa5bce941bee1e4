"""A request on its way to its handler, whatever connection it came on.

It is the receipt that writes the answer in the dialect of its connection, and the
origin of all the work that is done for it. Transports add how streams are slowed
down, and what they can do faster.
"""

from collections.abc import Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from ..actors.behavior import Handler
from ..actors.encoding import encode
from ..actors.envelope import Envelope
from ..actors.errors import MailboxFull, PayloadError, Retry, RpcError
from ..actors.mailbox import Mailbox
from .codec.dialect import Dialect
from .complaints import Complaints

__all__ = ["INTERNAL", "Request", "Served", "Wire", "WireRequest", "deliver"]

INTERNAL: Final = "Internal server error"
_UNAVAILABLE: Final = {"status": 503, "message": "Service unavailable"}


async def deliver(mailbox: Mailbox, envelope: Envelope) -> None:
    """Give a request to its mailbox, waiting for room if that is the mailbox's policy."""
    if mailbox.put(envelope):
        return
    if mailbox.overflow != "reject" and await mailbox.put_wait(envelope):
        return
    if envelope.receipt is not None:
        envelope.receipt.released("the mailbox is full, or the actor has ended")


class Served(Protocol):
    """What a request needs of the bridge or the connection it came on."""

    peer: str
    name: str
    complaints: Complaints

    @property
    def dialect(self) -> Dialect: ...


class Wire(Served, Protocol):
    """A connection that requests come on and answers leave by."""

    def write(self, body: bytes) -> None:
        """Send a packet."""

    def answer(self, body: bytes) -> None:
        """Send the last packet of a request: one less is in flight."""

    def finished(self) -> None:
        """A request ended without an answer, or an event is settled: one less is in flight."""


S = TypeVar("S", bound=Served)
W = TypeVar("W", bound=Wire)


class Request(msgspec.Struct, Generic[S], gc=False):
    """One request. `raw_id` is its id's JSON as it came, `pattern` its route.

    A struct, and not tracked by the garbage collector, for the reasons given at `Envelope`.
    """

    connection: S
    raw_id: bytes
    handler: Handler
    pattern: str
    open: bool = True

    # -- as a receipt

    async def ready(self) -> None:
        """Wait until one more item of a stream may be given, or the caller has left."""

    def item(self, value: Any, *, last: bool) -> None:
        if not self.open:
            return
        if last:
            self.succeeded(value)
            return
        connection = self.connection
        try:
            self._write(connection.dialect.item(self.raw_id, encode(value)))
        except (TypeError, ValueError) as error:
            self._unwritable(error)

    def succeeded(self, value: Any) -> None:
        if not self.open:
            return
        self.open = False
        self._end_stream()
        dialect = self.connection.dialect
        if value is UNSET or (value is None and self.handler.void):
            self._answer(dialect.end(self.raw_id))
            return
        try:
            body = dialect.value(self.raw_id, encode(value))
        except TypeError as error:
            self._unwritable(error)
            return
        self._answer(body)

    def failed(self, error: Exception) -> None:
        if isinstance(error, PayloadError):
            self.connection.complaints.say(
                "requests that do not fit", f"{self.connection.peer} {self.pattern}: {error}"
            )
        if isinstance(error, RpcError):
            self._fail(error.error)
        else:
            busy = isinstance(error, Retry | MailboxFull)
            self._fail(_UNAVAILABLE if busy else INTERNAL)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        # No detail of a crash leaves the process; the supervisor logs all of it.
        self._fail(INTERNAL)

    def undecodable(self, error: Exception) -> None:
        """The payload's own class failed on the data, other than by refusing it."""
        text = f"{self.handler.name}: its payload's class raised {type(error).__name__}"
        self.connection.complaints.say("payload classes that fail", text)
        self._fail(INTERNAL)

    def released(self, why: str) -> None:
        self._fail(_UNAVAILABLE)

    def _fail(self, error: Any) -> None:
        if not self.open:
            return
        self.open = False
        self._end_stream()
        dialect = self.connection.dialect
        try:
            body = dialect.failure(self.raw_id, dialect.error_json(error))
        except TypeError as unwritable:
            self._unwritable(unwritable)
            return
        self._answer(body)

    def _unwritable(self, error: Exception) -> None:
        self.open = False
        self._end_stream()
        connection = self.connection
        text = f"{self.handler.name} answered what cannot be written as JSON: {error}"
        connection.complaints.say("answers that cannot be written", text)
        dialect = connection.dialect
        self._answer(dialect.failure(self.raw_id, dialect.error_json(INTERNAL)))

    def _abandon(self) -> None:
        if self.open:
            self.open = False
            self._end_stream()
            self._finished()

    def _write(self, body: bytes) -> None:
        """Send a packet, with more to follow."""
        raise NotImplementedError

    def _answer(self, body: bytes) -> None:
        """Send the last packet."""
        raise NotImplementedError

    def _finished(self) -> None:
        """It ended without an answer."""
        raise NotImplementedError

    def _end_stream(self) -> None:
        """The request is over; a transport that listens for its caller's leaving may stop."""

    # -- as an origin

    @property
    def transport(self) -> str:
        return self.connection.name.partition("-")[0]

    @property
    def source(self) -> str:
        return self.connection.peer

    @property
    def message_id(self) -> str:
        return f"{self.connection.name}:{self.raw_id.decode(errors='replace')}"

    @property
    def correlation_id(self) -> str | None:
        return self.raw_id.decode(errors="replace").strip('"')

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def attempt(self) -> int:
        return 1

    @property
    def redelivered(self) -> bool:
        return False

    @property
    def order_key(self) -> None:
        return None


class WireRequest(Request[W], gc=False):
    """A request that is answered on the connection it came on."""

    def _write(self, body: bytes) -> None:
        self.connection.write(body)

    def _answer(self, body: bytes) -> None:
        self.connection.answer(body)

    def _finished(self) -> None:
        self.connection.finished()
