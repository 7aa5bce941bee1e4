"""What a user subclasses: `Actor`, and `Request` for messages that have an answer.

What an actor can do beside handling messages stands here as thin methods, each
explained; the parts that do it are in files of their own (schedule.py, watching.py,
deferred.py...), reached through what belongs to the present incarnation.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Never, Protocol, Self, overload

from typing_extensions import TypeVar

from .context import CURRENT, FENCE, NOTHING, TAKEN, origin_now
from .deferred import Reply
from .envelope import Envelope
from .errors import ActorStopped, MailboxFull, NoHandler, UnderstudyError
from .ref import ABSENT, takes_items
from .schedule import Scheduled

if TYPE_CHECKING:
    from .belongings import Belongings
    from .cell import Cell, Offspring
    from .classify import OnError
    from .handlers import Loop
    from .incarnation import Incarnation
    from .pattern import Pattern
    from .ref import Ref

__all__ = ["Actor", "Request"]

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True, default=Never)
R_co = TypeVar("R_co", covariant=True)


class _SpecOf(Protocol[A_co]):
    """A child spec of an actor class, as `child(...)` makes it."""

    @property
    def actor(self) -> type[A_co]: ...


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
    it, unless `on_error` says otherwise, and its supervisor makes a new one from the same
    arguments. Whatever must survive that belongs in another actor, or outside of the
    process.
    """

    on_error: ClassVar["OnError"] = {}
    """What exceptions of its handlers mean: `{sqlite3.OperationalError: "retry"}`.

    The words are explained at `classify.Word`. Tables of base classes hold as well.
    """

    trap_exits: ClassVar[bool] = False
    """Whether the end of a linked actor is a message (`Exited`) instead of a crash."""

    loop: ClassVar["Loop"] = "trio"
    """`"asyncio"` runs its hooks and handlers on the users' asyncio loop, plain ones too.

    `__init__` runs in trio: connections and pools are opened in `started`, closed in
    `stopping`. Messages are sent by `trio_call`. A handler may say otherwise by its own
    `loop=`, and those with `thread=True` stay in threads.
    """

    # Set by the cell before `__init__` runs; not an annotation in the body so that
    # attrs classes do not take it for a field.
    if TYPE_CHECKING:
        _incarnation: Incarnation
        _cell: Cell

    # -- hooks --------------------------------------------------------------------

    async def started(self) -> None:
        """Runs before the first message; the next sibling starts when it is done.

        Raise `Ignore` if there is nothing to do here, and that is no failure.
        """

    async def stopping(self) -> None:
        """Runs after the last message of an ordered stop; not after a crash or a kill."""

    def receive(self, message: M_contra, /) -> Any:
        """Handle a message that was sent without a pattern; `def` or `async def`."""
        raise NoHandler(type(message).__name__, self.path)

    # -- who and where ------------------------------------------------------------

    @property
    def ref(self) -> "Ref[Self]":
        """The reference of this actor; valid across incarnations."""
        return self._cell.ref

    @property
    def path(self) -> str:
        """Where the actor stands in its tree, e.g. `shop/orders`."""
        return self._incarnation.path

    @property
    def incarnation(self) -> int:
        """1 for the first life, one more for each restart."""
        return self._incarnation.number

    @overload
    def lookup(self, actor: type[A], /) -> "Ref[A]": ...
    @overload
    def lookup(self, actor: str, /) -> "Ref[Any]": ...
    def lookup(self, actor: "type[A] | str", /) -> "Ref[A]":
        """The reference of another actor: by class, by name or by path.

        A name is looked for among the children of this actor, then among its siblings,
        and so on upwards. Raises `LookupError` if there is none, or more than one.
        """
        return self._cell.services.lookup(actor, self.path)

    # -- timers -------------------------------------------------------------------

    def after(
        self, seconds: float, message: Any, data: Any = ABSENT, /, *, key: Hashable = None
    ) -> "Scheduled":
        """Send itself a message in `seconds`; addressed as in `tell`.

        A timer under the same `key` is replaced, a message of it that waits already
        included. Timers end with their incarnation; `cancel()` of what is returned ends
        one before.
        """
        return self._plan(seconds, None, message, data, key)

    def every(
        self, seconds: float, message: Any, data: Any = ABSENT, /, *, key: Hashable = None
    ) -> "Scheduled":
        """Send itself a message every `seconds`, the first one in as many.

        Never more than one of them waits: an actor that is slower misses some. Otherwise
        as `after`.
        """
        return self._plan(seconds, seconds, message, data, key)

    # -- others -------------------------------------------------------------------

    def watch(self, ref: "Ref[Any]", /) -> None:
        """Get one `Terminated` when that actor has ended for good, at once if it has already.

        It comes before all other mail, to `receive`. An actor whose protocol
        (`Actor[...]`) does not have `Terminated` crashes with `DeathPact` instead. A pool has
        ended when its supervisor has; watch its members, by their paths, for theirs.
        """
        self._belongings.watches.watch(ref._mailbox.owner)

    def unwatch(self, ref: "Ref[Any]", /) -> None:
        """No `Terminated` of that actor any more, not even one that is on its way."""
        self._belongings.watches.unwatch(ref._mailbox.owner)

    def link(self, ref: "Ref[Any]", /) -> None:
        """Couple the lives of both: when one ends abnormally, the other crashes with it.

        The error is `LinkBroken`. An actor that sets `trap_exits` gets `Exited` instead, to
        `receive`. A link ends with either incarnation, and breaks at once if the other does
        not run.
        """
        self._belongings.links.link(_cell_of(ref))

    def unlink(self, ref: "Ref[Any]", /) -> None:
        """Undo `link`, on both sides."""
        self._belongings.links.unlink(_cell_of(ref))

    # -- children -----------------------------------------------------------------

    @property
    def children(self) -> Mapping[str, Any]:
        """What its children offer (references of actors), by name, in start order."""
        offspring = self._belongings.offspring
        return {} if offspring is None else offspring.children

    @overload
    async def start_child(self, spec: _SpecOf[A], /) -> "Ref[A]": ...
    @overload
    async def start_child(self, spec: Any, /) -> Any: ...
    async def start_child(self, spec: Any, /) -> Any:
        """Start a child under this actor and return its reference (or what else it offers).

        Its path is `<path of this actor>/<its name>`. Children restart by themselves, up
        to 3 times in 5 seconds; after that this actor crashes. They end before it does.

        Raises `StartFailed`, and `DeclarationError` for a name that is taken.
        """
        belongings = self._belongings
        if belongings.offspring is None:
            services = self._cell.services
            belongings.offspring = services.offspring(self.path, self._cell.fail)
        offspring: Offspring = belongings.offspring
        return await offspring.start(spec)

    async def stop_child(self, name: str, /) -> None:
        """Stop a child for good; raises `LookupError` if there is none of that name."""
        offspring = self._belongings.offspring
        if offspring is None:
            raise LookupError(f"{self.path} has no child {name!r}.")
        await offspring.stop(name)

    # -- the message in hand ------------------------------------------------------

    def stash(self) -> None:
        """Put the message in hand aside; `unstash` brings it back.

        Stashed messages take room in the mailbox; they return to it, in their order, when
        this incarnation ends. Raises `MailboxFull` if there is no room.
        """
        self._stashable()
        mailbox = self._cell.mailbox
        if not mailbox.reserve():
            raise MailboxFull(self.path, mailbox.capacity)
        self._belongings.stash.append(self._take())

    def unstash(self, count: int | None = None, /) -> None:
        """Bring back all stashed messages (or the `count` oldest), before all other mail."""
        belongings = self._belongings
        belongings.unstash(len(belongings.stash) if count is None else count)

    def reply_later(self) -> Reply:
        """Keep the message in hand open: it is answered by the `Reply` that is returned.

        An event counts as handled when that is used. A message that waits for its reply is
        released when this incarnation ends. It fails, as in a crash, when its handler raises
        after this, and when the reply is dropped unused.
        """
        replies = self._belongings.replies
        return Reply(self._take(), self._incarnation, replies)

    @overload
    def forward(self, ref: "Ref[Any]", message: Any, /) -> None: ...
    @overload
    def forward(
        self, ref: "Ref[Any]", message: "Pattern | Callable[..., Any]", data: Any, /
    ) -> None: ...
    def forward(self, ref: "Ref[Any]", message: Any, data: Any = ABSENT, /) -> None:
        """Let another actor answer the message in hand, by a message addressed as in `tell`.

        Whoever waits for this message gets that actor's answer. Raises what `tell` raises,
        `ActorStopped` if that actor has ended, and `TypeError` for an ask that a stream would
        have to answer; the message stays in hand then. Where nobody waits (for what was
        told, and for ticks of timers) it is a `tell`.
        """
        target = _cell_of(ref)
        handler = None
        if data is not ABSENT:
            handler, message = target.behavior.resolve(message, data, target.path)
        elif target.behavior.receive is None:
            raise NoHandler(type(message).__name__, target.path)
        held = self._in_hand()
        receipt = held.receipt
        if handler is not None and handler.mode == "stream" and not takes_items(receipt):
            raise TypeError(
                f"{self.path}: {handler.name} streams, and whoever asked waits for one answer. "
                "Forward it to a handler that returns."
            )
        tick = receipt if isinstance(receipt, Scheduled) else None
        if tick is not None:
            receipt = None  # what it brought must not end with this incarnation's timers
        onward = Envelope(message, handler, receipt, held.origin, held.deadline)
        if not target.mailbox.put(onward):
            if target.mailbox.is_open:
                raise target.mailbox.full()
            raise ActorStopped(target.path)
        self._take()
        if tick is not None:
            tick.succeeded(None)

    # -- itself -------------------------------------------------------------------

    def become(self, receive: Callable[[Any], Any], /) -> None:
        """Let another method of this actor take the place of `receive`: `become(self.open)`.

        `unbecome` goes back to the one before. A new incarnation begins with `receive`.
        Handlers of patterns stay what they are. Raises `TypeError` for anything but a method
        of this actor, and for a generator.
        """
        function = getattr(receive, "__func__", None)
        if function is None or getattr(receive, "__self__", None) is not self:
            raise TypeError(f"{self.path}: become takes a method of this actor, got {receive!r}.")
        self._belongings.states.append(self._cell.behavior.state(function))
        self._cell.change_state(self._incarnation)

    def unbecome(self) -> None:
        """Undo the last `become`; nothing happens if there is none."""
        states = self._belongings.states
        if states:
            states.pop()
            self._cell.change_state(self._incarnation)

    def stop(self) -> None:
        """End in order after the message in hand; `stopping()` runs.

        A clean end: whether it is restarted is up to the restart type (only `permanent`).
        """
        origin_now()
        self._cell.leave(self._incarnation)

    # -- details ------------------------------------------------------------------

    @property
    def _belongings(self) -> "Belongings":
        origin_now()  # refuses what does not run in trio
        return self._cell.belongings(self._incarnation)

    def _plan(
        self, seconds: float, period: float | None, message: Any, data: Any, key: Hashable
    ) -> "Scheduled":
        handler = None
        if data is not ABSENT:
            handler, message = self._cell.behavior.resolve(message, data, self.path)
        elif self._cell.behavior.receive is None:
            raise NoHandler(type(message).__name__, self.path)
        return self._belongings.schedule.add(key, seconds, period, message, handler)

    def _in_hand(self) -> Envelope:
        hand = CURRENT.get()
        envelope = hand.envelope
        if envelope.origin is FENCE:
            raise hand.refuse()
        if hand.incarnation is not self._incarnation or envelope is NOTHING:
            raise UnderstudyError(f"{self.path}: there is no message in hand outside of a handler.")
        if envelope.message is TAKEN:
            raise UnderstudyError(
                f"{self.path}: the message in hand was stashed, forwarded or left to be "
                "answered later already."
            )
        return envelope

    def _take(self) -> Envelope:
        self._in_hand()
        return CURRENT.get().take()

    def _stashable(self) -> None:
        self._in_hand()
        self._belongings  # noqa: B018  # raises if this incarnation is over


def _cell_of(ref: "Ref[Any]") -> "Cell":
    cell: Cell = ref._mailbox.owner
    if not hasattr(cell, "links"):  # it can be watched, but has no life of an actor
        raise TypeError(
            f"{ref.path} is a pool, more than one actor: only its end can be watched. Name one "
            f"of its members instead: lookup({ref.path + '/1'!r})."
        )
    return cell
