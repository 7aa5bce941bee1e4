"""What a user subclasses: `Actor`, and `Request` for messages that have an answer."""

from typing import TYPE_CHECKING, Any, Generic, Never, Self

from typing_extensions import TypeVar

from .errors import NoHandler

if TYPE_CHECKING:
    from .incarnation import Incarnation
    from .ref import Ref

__all__ = ["Actor", "Request"]

M_contra = TypeVar("M_contra", contravariant=True, default=Never)
R_co = TypeVar("R_co", covariant=True)


class Request(Generic[R_co]):
    """A message that is answered with an `R`: `class Get(Request[int])`.

    `await ref.ask(Get())` is then an `int` to mypy and pyright.
    """

    __slots__ = ()


class Actor(Generic[M_contra]):
    """A handler class with a mailbox; one message at a time, unless `concurrency` says more.

    Handlers are methods decorated with `message_pattern` and `event_pattern`, or a
    plain `receive` with `match`; `Actor[Increment | Get]` lets a type checker hold
    `tell` against the messages that `receive` takes.

    An instance is one incarnation: an exception other than `RpcError` and `Retry` ends
    it, and its supervisor makes a new one from the same arguments. Whatever must
    survive that belongs in another actor, or outside of the process.
    """

    infrastructure: tuple[type[Exception], ...] = ()
    """Exceptions that mean "not now" (a database that is away): retried, no crash."""

    # Set by the cell before `__init__` runs; not an annotation in the body so that
    # attrs classes do not take it for a field.
    if TYPE_CHECKING:
        _incarnation: Incarnation
        _ref: Ref[Any]

    async def started(self) -> None:
        """Runs before the first message; the next sibling starts when it is done."""

    async def stopping(self) -> None:
        """Runs after the last message of an ordered stop; not after a crash or a kill."""

    def receive(self, message: M_contra, /) -> Any:
        """Handle a message that was sent without a pattern; `def` or `async def`."""
        raise NoHandler(type(message).__name__, self.path)

    @property
    def ref(self) -> "Ref[Self]":
        """The reference of this actor; valid across incarnations."""
        return self._ref

    @property
    def path(self) -> str:
        """Where the actor stands in its tree, e.g. `shop/orders`."""
        return self._incarnation.path

    @property
    def incarnation(self) -> int:
        """1 for the first life, one more for each restart."""
        return self._incarnation.number
