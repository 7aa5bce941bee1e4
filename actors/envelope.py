"""What travels to a mailbox, and who is told how it ended.

An `Envelope` is one message on its way to one actor. Its `Receipt` is told
exactly once how the message ended; what that means (resume an asker, write a
reply, acknowledge to a broker, retry, set aside) is the receipt's business, so
that an actor runs all messages alike. Its `Origin` is the message from outside
that all this work is for, if there is one: crashes are blamed on it, and it
travels along with everything a handler tells and asks meanwhile.

`Envelope` is a msgspec struct because creating one costs a third of a class
with `__init__` (benchmarks/mailbox.py: it is made once per message).
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from .behavior import Handler

__all__ = [
    "Burying",
    "Counting",
    "Departing",
    "Envelope",
    "Origin",
    "Postponing",
    "Receipt",
    "Settlement",
]


class Origin(Protocol):
    """A message that came in through a bridge, as its handlers may see it."""

    @property
    def transport(self) -> str:
        """The bridge's scheme: `tcp`, `nats`, `memory`..."""
        ...

    @property
    def source(self) -> str:
        """Where it came from: a peer's address, a queue, a subject. Never a credential."""
        ...

    @property
    def pattern(self) -> str:
        """The route it came in on."""
        ...

    @property
    def message_id(self) -> str:
        """The same for every delivery of the same message."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """The id that the sender matches its answer by."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers as they came; empty where the transport has none."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first run of this message."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether it may have been handled before."""
        ...

    @property
    def order_key(self) -> Hashable | None:
        """Messages with the same one are handled in the order in which they came."""
        ...


class Receipt(Protocol):
    """Told once how its message ended; told again, it does nothing. No method raises."""

    @property
    def open(self) -> bool:
        """False once nobody waits for the end any more; the message need not run then."""
        ...

    def succeeded(self, value: Any) -> None:
        """The handler returned `value`; a finished stream gives `msgspec.UNSET`."""

    async def ready(self) -> None:
        """Wait until one more item of a stream may be given, or the caller has left."""

    def item(self, value: Any, *, last: bool) -> None:
        """One item of a stream; `last` ends it, as `succeeded` would without an item."""

    def failed(self, error: Exception) -> None:
        """The handler refused the message (`RpcError`) or asked for a `Retry`: no crash."""

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        """The handler crashed on it."""

    def released(self, why: str) -> None:
        """It was not handled, or not to its end: the actor stopped or was cancelled."""


@runtime_checkable
class Departing(Protocol):
    """A receipt that knows when its caller leaves in the middle of a stream.

    Optional beside `Receipt`: without it, a generator that waits learns of the
    departure only when it yields its next item.
    """

    def on_leave(self, function: Callable[[], None]) -> None:
        """Call `function` if the caller leaves before the end; at once if it has left."""


@runtime_checkable
class Counting(Protocol):
    """A receipt whose message is tried more than once, and knows how often. Optional, too."""

    def ran(self, times: int) -> None:
        """It was run in a batch that failed, and comes again; `times` runs count as its own."""


class Settlement(Protocol):
    """How a bridge settles a delivery with its broker; one call, once per delivery.

    `supervisors/delivery` decides which; bridges implement them. None blocks:
    a bridge queues what has to cross the network.
    """

    def acknowledge(self) -> None:
        """Handled, or durable among the dead letters: the broker may forget it."""

    def give_back(self) -> bool:
        """Not handled: deliver it again, to us or to somebody else.

        False where the transport cannot take anything back (TCP): the caller must
        then keep the message itself.
        """
        ...


@runtime_checkable
class Burying(Protocol):
    """A settlement that has a place of its own for dead letters, too.

    Optional beside `Settlement`: without it, a message is acknowledged when its dead
    letter is durable here.
    """

    def bury(self, letter: Any, then: Callable[[], object]) -> None:
        """Keep a letter that is durable here; call `then`, which settles, once it is kept."""


@runtime_checkable
class Postponing(Protocol):
    """A settlement whose broker can keep a message for a while. Optional, too."""

    def postpone(self, inbound: Any, delay: float) -> bool:
        """Have it delivered in `delay` seconds as `inbound`, to us or to somebody else.

        False if it must wait here; after True, nothing more is said to the settlement.
        """
        ...


class Envelope(msgspec.Struct, gc=False):
    """One message for one actor.

    Not tracked by the garbage collector: nothing that an envelope points to
    points back to it for longer than its own turn.
    """

    message: Any
    handler: "Handler | None" = None  # None: the actor's plain `receive`
    receipt: Receipt | None = None
    origin: Origin | None = None
    deadline: float = float("inf")  # trio time at which the asker gives up
    attempt: int = 1
    since: float = 0.0  # trio time of the first `Retry`; 0 before it
    probing: bool = False  # lets it through to an actor that is sick
    local_id: str = ""  # given when a handler asks for the context of a local message
