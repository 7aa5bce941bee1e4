"""References: how one actor, or a program, sends to another.

A reference stands for the logical actor, whichever incarnation is alive. It is
valid for as long as its tree: mail sent while the actor restarts waits in the
mailbox, mail for an actor that has ended is undelivered (a lifecycle notice),
and an ask of it fails at once.

`tell` and `ask` work on the mailbox without a call in between: they are the two
hot paths (benchmarks/mailbox.py).
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import msgspec
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from .context import CURRENT, FENCE, MessageContext, origin_now
from .cycles import refuse_cycle
from .envelope import Envelope, Receipt
from .errors import ActorCrashed, ActorStopped, AskCycle, AskTimeout, NoHandler
from .mailbox import Mailbox
from .pattern import Pattern

if TYPE_CHECKING:
    from .actor import Actor, Request
    from .behavior import Behavior, Handler
    from .timers import Timers

__all__ = ["ABSENT", "Ref", "takes_items"]

A_co = TypeVar("A_co", covariant=True)
S = TypeVar("S")
M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds an ask waits unless told otherwise (Erlang's `gen_server:call`)."""

STREAM_CREDIT: Final = 16
"""Items a streaming handler may be ahead of its caller."""

_hand: Final = CURRENT.get
"""The hand of the running task; found once, since it is asked for with every message."""


class _Absent:
    """The type of "no second argument"."""


ABSENT: Final = _Absent()


class Ref(Generic[A_co]):
    """The address of one actor."""

    __slots__ = ("__weakref__", "_behavior", "_mailbox", "_receives", "_timers", "_undelivered")

    def __init__(
        self,
        mailbox: Mailbox,
        behavior: "Behavior",
        timers: "Timers",
        undelivered: Callable[[Any, str], None],
    ) -> None:
        self._mailbox = mailbox
        self._behavior = behavior
        self._receives = behavior.receive is not None
        self._timers = timers
        self._undelivered = undelivered

    @property
    def path(self) -> str:
        """Where the actor stands in its tree, e.g. `shop/orders`."""
        return self._mailbox.path

    @property
    def alive(self) -> bool:
        """Whether mail for it is taken: it runs, or is about to run again."""
        return self._mailbox.is_open

    def __repr__(self) -> str:
        return f"<Ref {self.path}>"

    @overload
    def tell(self: "Ref[Actor[M]]", message: M, /) -> None: ...
    @overload
    def tell(
        self: "Ref[S]",
        message: Callable[[S, P], object]
        | Callable[[S, P, MessageContext], object]
        | Callable[[S], object],
        data: P,
        /,
    ) -> None: ...
    @overload
    def tell(self, message: Pattern, data: object, /) -> None: ...
    def tell(self, message: Any, data: Any = ABSENT, /) -> None:
        """Send and forget: never blocks, never fails for an actor that has ended.

        With one argument, `message` goes to `receive`; with two, it is a method or a
        pattern, and `data` its payload. A crash while handling it is not reported
        here: the message becomes a dead letter.

        Raises `MailboxFull` when there is no room, `NoHandler` and `PayloadError` for
        what the actor can never handle, `Fenced` in what is left of an ended handler.
        """
        handler = None
        if data is not ABSENT:
            handler, message = self._behavior.resolve(message, data, self._mailbox.path)
        elif not self._receives:
            raise self._no_receive(message)
        origin = _hand().envelope.origin
        if origin is FENCE:
            raise _hand().refuse()
        mailbox = self._mailbox
        queue = mailbox.queue
        if len(queue) >= mailbox.limit:
            if not mailbox.put(Envelope(message, handler, None, origin)):
                self._refused(message)
            return
        queue.append(Envelope(message, handler, None, origin))
        if mailbox.parked:
            reschedule(mailbox.parked.pop())

    @overload
    async def tell_wait(self: "Ref[Actor[M]]", message: M, /) -> None: ...
    @overload
    async def tell_wait(
        self: "Ref[S]",
        message: Callable[[S, P], object]
        | Callable[[S, P, MessageContext], object]
        | Callable[[S], object],
        data: P,
        /,
    ) -> None: ...
    @overload
    async def tell_wait(self, message: Pattern, data: object, /) -> None: ...
    async def tell_wait(self, message: Any, data: Any = ABSENT, /) -> None:
        """`tell`, but waits for room in the mailbox. A checkpoint only when it waits."""
        handler, message = self._addressed(message, data)
        envelope = Envelope(message, handler, None, origin_now())
        if not await self._mailbox.put_wait(envelope):
            self._undelivered(message, "the actor has ended")

    @overload
    async def ask(self, message: "Request[R]", /, *, timeout: float = ...) -> R: ...
    @overload
    async def ask(
        self: "Ref[S]",
        message: Callable[[S, P], Awaitable[R]]
        | Callable[[S, P, MessageContext], Awaitable[R]]
        | Callable[[S], Awaitable[R]],
        data: P,
        /,
        *,
        timeout: float = ...,
    ) -> R: ...
    @overload
    async def ask(
        self: "Ref[S]",
        message: Callable[[S, P], R] | Callable[[S, P, MessageContext], R] | Callable[[S], R],
        data: P,
        /,
        *,
        timeout: float = ...,
    ) -> R: ...
    @overload
    async def ask(self, message: Pattern, data: object, /, *, timeout: float = ...) -> Any: ...
    async def ask(
        self, message: Any, data: Any = ABSENT, /, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Any:
        """Send and wait for the answer, at most `timeout` seconds.

        In a handler whose own message is being waited for, not longer than that wait.

        Raises what the handler answered with (`RpcError`, `Retry`), `ActorCrashed` at once
        when it crashes on this message, `ActorStopped` at once when it has ended or ends
        before the answer, `AskCycle` at once when those who would have to answer wait for
        this actor, `AskTimeout`, `MailboxFull` when there was no room within the timeout,
        `NoHandler`, `PayloadError`, and `Fenced` in what is left of an ended handler.
        Cancelling the ask forgets the answer; the handler is not interrupted.
        """
        handler = None
        if data is not ABSENT:
            handler, message = self._behavior.resolve(message, data, self._mailbox.path)
            if handler.mode == "stream":
                raise TypeError(
                    f"{self.path}: {handler.name} streams. Iterate over ref.stream(...) "
                    "instead of awaiting ref.ask(...)."
                )
        elif not self._receives:
            raise self._no_receive(message)
        hand = _hand()
        held = hand.envelope
        origin = held.origin
        if origin is FENCE:
            raise hand.refuse()
        mailbox = self._mailbox
        timers = self._timers
        task = current_task()
        # Whoever waits for this handler waits for what it asks: no longer than that.
        now = timers.now()
        deadline = now + timeout
        if held.deadline < deadline:
            deadline = held.deadline
            timeout = max(0.0, deadline - now)
        reply = _Reply(self, task, deadline, timeout)
        if hand.task is task:
            refuse_cycle(hand, reply)
        envelope = Envelope(message, handler, reply, origin, deadline)
        queue = mailbox.queue
        try:
            if len(queue) >= mailbox.limit:
                await self._put_by(envelope, reply)
                if reply.error is not None:
                    raise reply.error
            else:
                queue.append(envelope)
                if mailbox.parked:
                    reschedule(mailbox.parked.pop())
            # `timers.watch(reply)`, without the call.
            waiting = timers.waiting
            waiting[reply] = None
            if deadline < timers.next_sweep:
                timers.sweep_by(deadline)
            try:
                await wait_task_rescheduled(reply.abandon)
            finally:
                waiting.pop(reply, None)
        finally:
            if hand.waits_for is reply:  # not that of the lane, in a task beside it
                hand.waits_for = None
        if reply.error is not None:
            raise reply.error
        return reply.value

    @overload
    def stream(
        self: "Ref[S]",
        message: Callable[[S, P], AsyncIterator[R]]
        | Callable[[S, P, MessageContext], AsyncIterator[R]]
        | Callable[[S], AsyncIterator[R]],
        data: P,
        /,
    ) -> AsyncIterator[R]: ...
    @overload
    def stream(self, message: Pattern, data: object, /) -> AsyncIterator[Any]: ...
    def stream(self, message: Any, data: Any, /) -> AsyncIterator[Any]:
        """Iterate over what a streaming handler yields.

        The handler is at most `STREAM_CREDIT` items ahead. Leaving the loop ends it.
        Errors are those of `ask`, without a timeout: end the wait with a cancel scope.
        """
        return _Stream(self, message, data)

    def _addressed(self, message: Any, data: Any) -> "tuple[Handler | None, Any]":
        """The handler and the payload of a message, or of a method or pattern and its data."""
        if data is not ABSENT:
            return self._behavior.resolve(message, data, self._mailbox.path)
        if not self._receives:
            raise self._no_receive(message)
        return None, message

    def _no_receive(self, message: Any) -> NoHandler:
        return NoHandler(type(message).__name__, f"{self.path} (it has no receive method)")

    def _refused(self, message: Any) -> None:
        if self._mailbox.is_open:
            raise self._mailbox.full()
        self._undelivered(message, "the actor has ended")

    async def _put_by(self, envelope: Envelope, reply: "_Reply") -> None:
        """Put an ask into a mailbox that may be asleep, full or closed, by its deadline."""
        mailbox = self._mailbox
        task, reply.task = reply.task, None  # it may be dropped at once: nobody to resume yet
        taken = mailbox.put(envelope)
        if not taken and mailbox.overflow != "reject":
            with trio.move_on_at(reply.deadline):
                taken = await mailbox.put_wait(envelope)
        reply.task = task
        if not taken:
            raise mailbox.full() if mailbox.is_open else ActorStopped(self.path)
        hand = _hand()
        if reply.member is not None and reply.open and hand.waits_for is reply:
            # Only now is it known whose answer it is. The message is taken back by being
            # closed: who waits in a ring cannot have begun it.
            try:
                refuse_cycle(hand, reply)
            except AskCycle:
                reply.open, reply.task = False, None
                raise


class _Reply(msgspec.Struct, gc=False, eq=False):
    """The receipt of an ask: resumes the task that asked, once.

    A struct for the reason given at `Envelope`; `task` is let go of with the answer, so
    that no cycle is left behind.
    """

    ref: Any
    task: Any
    deadline: float
    timeout: float
    open: bool = True
    aside: bool = False
    member: Mailbox | None = None
    value: Any = None
    error: BaseException | None = None

    @property
    def mailbox(self) -> Mailbox:
        """Whose answer is awaited; for `cycles`, as are `aside`, `member` and `path`."""
        found: Mailbox = self.ref._mailbox
        return found if self.member is None else self.member

    @property
    def path(self) -> str:
        return self.mailbox.path

    def succeeded(self, value: Any) -> None:
        if not self.open:
            self.ref._undelivered(value, "its asker does not wait any more")
            return
        self.value = value
        self.open = False
        task, self.task = self.task, None
        reschedule(task)

    async def ready(self) -> None:
        """An ask takes no items: `ask` refuses streaming handlers."""

    def item(self, value: Any, *, last: bool) -> None:
        """Never called; see `ready`."""

    def failed(self, error: BaseException) -> None:
        if self.open:
            self.error = error
            self.open = False
            task, self.task = self.task, None
            if task is not None:
                reschedule(task)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        crash = ActorCrashed(path, incarnation)
        crash.__cause__ = error
        self.failed(crash)

    def released(self, why: str) -> None:
        self.failed(ActorStopped(self.ref.path, why))

    def expire(self) -> None:
        self.failed(AskTimeout(self.ref.path, self.timeout))

    def abandon(self, _: RaiseCancelT) -> Abort:
        self.open = False
        self.task = None
        return Abort.SUCCEEDED


def takes_items(receipt: Receipt | None) -> bool:
    """Whether the answer to a message may be a stream: not that of an ask."""
    return not isinstance(receipt, _Reply)


class _Stream:
    """The caller's end of a local stream; leaving the loop ends the handler's work.

    Apart from the channel, because the handler's end must not keep it alive: a
    caller that breaks out of its loop just drops it.
    """

    def __init__(self, ref: Ref[Any], message: Any, data: Any) -> None:
        self._ref = ref
        self._channel = _Channel(ref.path)
        handler, message = ref._behavior.resolve(message, data, ref.path)
        self._envelope: Envelope | None = Envelope(message, handler, self._channel, origin_now())

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Any:
        envelope, self._envelope = self._envelope, None
        if envelope is not None and not await self._ref._mailbox.put_wait(envelope):
            raise ActorStopped(self._ref.path)
        return await self._channel.take()

    async def aclose(self) -> None:
        """Leave before the end."""
        self._channel.leave()

    def __del__(self) -> None:
        self._channel.leave()


class _Channel:
    """The receipt of a stream: a bounded buffer between handler and caller."""

    def __init__(self, path: str) -> None:
        self.open = True
        self._path = path
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._changed = trio.Event()
        self._on_leave: Callable[[], None] | None = None

    def on_leave(self, function: Callable[[], None]) -> None:
        if self.open:
            self._on_leave = function
        else:
            function()

    async def take(self) -> Any:
        while not self._items:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if not self.open:
                raise StopAsyncIteration
            await self._change()
        item = self._items.popleft()
        self._changed.set()
        return item

    def leave(self) -> None:
        self._items.clear()
        if self.open:
            self._finish(None)
            if self._on_leave is not None:
                self._on_leave()

    async def ready(self) -> None:
        while len(self._items) >= STREAM_CREDIT and self.open:
            await self._change()

    def item(self, value: Any, *, last: bool) -> None:
        self._items.append(value)
        if last:
            self.open = False
        self._changed.set()

    def succeeded(self, value: Any) -> None:
        if self.open:
            if value is not msgspec.UNSET:
                self._items.append(value)
            self._finish(None)

    def failed(self, error: BaseException) -> None:
        if self.open:
            self._finish(error)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        crash = ActorCrashed(path, incarnation)
        crash.__cause__ = error
        self.failed(crash)

    def released(self, why: str) -> None:
        self.failed(ActorStopped(self._path, why))

    def _finish(self, error: BaseException | None) -> None:
        self.open = False
        self._error = error
        self._changed.set()

    async def _change(self) -> None:
        # Handler and caller never wait at once: one waits for items, the other for room.
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
