"""The lanes of one incarnation: where messages are handled.

An actor with `concurrency=N` has up to N lanes, each a task that takes envelopes
from the mailbox and runs them one after the other; a lane is added only when all
others are busy, so the usual actor has one. The lane's loop is
the receiving half of the hot path (benchmarks/mailbox.py): per message no task,
no scope, no lookup that could be done per class.

A crash ends intake at once; messages in hand on other lanes get `crash_grace`
seconds, then they are cancelled and given back.
"""

import types
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import UNSET
from trio.lowlevel import checkpoint

from .actor import Actor
from .behavior import Handler
from .context import CURRENT, NOTHING, Hand, MessageContext, is_outside
from .envelope import Departing, Envelope
from .errors import Retry, RpcError
from .incarnation import Crash, Incarnation
from .lifecycle import Recovered, Sick

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["Lanes"]

_BURST: Final = range(128)
"""Messages handled before other tasks get their turn."""


class Lanes:
    """Runs one instance on the messages of its cell until it stops or crashes."""

    def __init__(
        self, cell: "Cell", actor: Actor[Any], incarnation: Incarnation, hand: Hand
    ) -> None:
        self._cell = cell
        self._actor = actor
        self._incarnation = incarnation
        self._first_hand = hand
        self._hands: list[Hand] = [hand]
        self._crash: Crash | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Handle messages; returns after an ordered stop, raises `Crash`."""
        incarnation = self._incarnation
        incarnation.on_stop(self._cell.mailbox.wake)
        incarnation.on_fence(self._fence)
        if self._cell.options.concurrency == 1:
            await self._lane(self._first_hand)
        else:
            async with trio.open_nursery() as self._nursery:
                await self._lane(self._first_hand)
        if self._crash is not None:
            raise self._crash

    async def _lane(self, hand: Hand) -> None:
        CURRENT.set(hand)
        cell, actor, incarnation = self._cell, self._actor, self._incarnation
        mailbox, sickness = cell.mailbox, cell.sickness
        queue, senders, take = mailbox.queue, mailbox.senders, mailbox.queue.popleft
        receive: Any = cell.behavior.receive  # senders made sure that it is there if it is needed
        parallel = self._nursery is not None
        while True:
            for _ in _BURST:
                if not queue:
                    break
                if incarnation.interrupt and (self._crash or not incarnation.draining):
                    return
                hand.envelope = envelope = take()
                if senders:
                    mailbox.drained()
                receipt = envelope.receipt
                if receipt is not None and (
                    not receipt.open or (sickness.sick and sickness.holds(envelope))
                ):
                    continue
                if parallel and (queue or not mailbox.parked):
                    self._share()
                handler = envelope.handler or receive
                try:
                    if handler.direct:
                        value = handler.function(actor, envelope.message)
                        if handler.is_async:
                            value = await value
                    else:
                        value = await self._call(handler, envelope)
                except BaseException as error:  # noqa: BLE001
                    if hand.fenced:
                        return
                    hand.envelope = NOTHING  # settled here, so the fence must not release it
                    if self._refused(error, envelope):
                        return
                else:
                    if receipt is not None:
                        if hand.envelope is not envelope:
                            return  # fenced while it ran: its answer comes too late
                        receipt.succeeded(value)
                        if sickness.crashes and envelope.origin is not None:
                            self._well(envelope)
            hand.envelope = NOTHING
            if queue:
                await checkpoint()
            elif incarnation.interrupt:
                return
            else:
                await mailbox.mail()

    def _share(self) -> None:
        """This lane is about to be busy: wake or add another for the mail after this."""
        mailbox, nursery = self._cell.mailbox, self._nursery
        if mailbox.parked:
            trio.lowlevel.reschedule(mailbox.parked.pop())
        elif nursery is not None and len(self._hands) < self._cell.options.concurrency:
            hand = Hand(self._incarnation)
            self._hands.append(hand)
            nursery.start_soon(self._lane, hand)

    async def _call(self, handler: Handler, envelope: Envelope) -> Any:
        """Run a handler that is more than a plain function of its payload."""
        arguments: list[Any] = [self._actor]
        if handler.takes_payload:
            arguments.append(envelope.message)
        if handler.takes_context:
            arguments.append(self._context(envelope))
        function = handler.function
        if handler.mode == "stream":
            return await self._stream(function(*arguments), envelope)
        if handler.mode == "async":
            return await function(*arguments)
        if handler.mode == "thread" and self._cell.services.threads:
            return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
        return function(*arguments)

    def _context(self, envelope: Envelope) -> MessageContext:
        if is_outside(envelope):
            local_id = ""
        else:
            envelope.local_id = local_id = envelope.local_id or self._cell.next_local_id()
        return MessageContext(envelope, self._cell.path, local_id)

    async def _stream(self, items: AsyncGenerator[Any, None], envelope: Envelope) -> Any:
        """Hand out what a generator yields, and say of the last item that it is the last.

        Each item is kept back for as long as the generator runs on without waiting:
        only then is it known whether it was the last one (NestJS marks it so). Between
        the generator's first step and its wait nothing may be awaited: trio is
        promised that the task goes to sleep where the generator said so.
        """
        receipt = envelope.receipt
        try:
            with trio.CancelScope() as scope:
                if isinstance(receipt, Departing):
                    receipt.on_leave(scope.cancel)
                step = await _advance(items)
                while not step.done:
                    if receipt is None:
                        step = await _advance(items)
                        continue
                    await receipt.ready()
                    if not receipt.open:
                        break
                    item, step = step.value, _try_to_advance(items)
                    receipt.item(item, last=step.done)
                    if step.pending is not None:
                        step = await _finish(step)
                    if step.error is not None:
                        raise step.error
        finally:
            # Outside the scope: a generator left at a yield may await in its clean-up.
            await items.aclose()
        return UNSET

    def _refused(self, error: BaseException, envelope: Envelope) -> bool:
        """Settle a message whose handler raised; True if this lane must end."""
        leaf = _only_leaf(error)
        receipt = envelope.receipt
        if isinstance(leaf, self._actor.infrastructure):
            retry = Retry(f"{type(leaf).__name__}: {leaf}")
            retry.__cause__ = leaf
            leaf = retry
        if isinstance(leaf, Retry):
            if receipt is not None:
                receipt.failed(leaf)
            else:
                self._cell.postpone(envelope, leaf)
            return False
        if isinstance(leaf, RpcError):
            if receipt is not None:
                receipt.failed(leaf)
            else:
                self._cell.set_aside(envelope, leaf, "rejected")
            return False
        if isinstance(error, Exception):
            self._crashed(error, envelope)
            return True
        self._cell.give_back(envelope, "it was cancelled")
        raise error

    def _crashed(self, error: Exception, envelope: Envelope) -> None:
        cell, incarnation = self._cell, self._incarnation
        if envelope.receipt is not None:
            envelope.receipt.crashed(error, cell.path, incarnation.number)
        else:
            cell.set_aside(envelope, error, "crashed")
        if self._crash is not None:
            return  # another lane crashed first; its reason is the one reported
        origin = envelope.origin if cell.options.blame == "message" else None
        if origin is not None and cell.sickness.crashed(origin):
            if cell.options.on_sick == "escalate":
                cell.sickness.cure()
                origin = None
            else:
                notice = Sick(
                    path=cell.path,
                    incarnation=incarnation.number,
                    crashes=cell.sickness.different,
                )
                cell.services.bus.publish(notice)
        handler = envelope.handler
        pattern = handler.route if handler is not None else type(envelope.message).__name__
        self._crash = Crash(error, origin, pattern, cell.sickness.crashes)
        incarnation.interrupt = True
        incarnation.draining = False
        if self._nursery is not None:
            self._begin_grace(self._nursery)

    def _begin_grace(self, nursery: trio.Nursery) -> None:
        deadline = trio.current_time() + self._cell.options.crash_grace
        nursery.cancel_scope.deadline = deadline
        self._cell.mailbox.wake()

    def _well(self, envelope: Envelope) -> None:
        held = len(self._cell.sickness.held)
        if self._cell.sickness.succeeded(envelope):
            path, number = self._cell.path, self._incarnation.number
            self._cell.services.bus.publish(Recovered(path=path, incarnation=number, held=held))

    def _fence(self) -> None:
        """The incarnation is over: what a leftover still holds goes back, and stays back."""
        for hand in self._hands:
            envelope = hand.envelope
            if envelope is not NOTHING and not hand.fenced and envelope.receipt is not None:
                envelope.receipt.released("the actor was ended while it handled this")
            hand.fence()


def _only_leaf(error: BaseException) -> BaseException:
    """The one exception in a group of one: a nursery in a handler wraps what it raises."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Step:
    """What a generator did: an item, its end, an error, or the wait before one of these."""

    __slots__ = ("done", "error", "pending", "trap", "value")

    def __init__(
        self,
        value: Any = None,
        *,
        done: bool = False,
        error: BaseException | None = None,
        pending: Any = None,
        trap: Any = None,
    ) -> None:
        self.value, self.done, self.error = value, done, error
        self.pending, self.trap = pending, trap


async def _advance(items: AsyncGenerator[Any, None]) -> _Step:
    try:
        return _Step(await anext(items))
    except StopAsyncIteration:
        return _Step(done=True)


def _try_to_advance(items: AsyncGenerator[Any, None]) -> _Step:
    """Run a generator up to its next item, its end or its first wait."""
    pending = anext(items).__await__()
    try:
        trap = next(pending)
    except StopIteration as stop:
        return _Step(stop.value)
    except StopAsyncIteration:
        return _Step(done=True)
    except Exception as error:  # noqa: BLE001  # the item before it goes out first
        return _Step(error=error)
    return _Step(pending=pending, trap=trap)


@types.coroutine
def _finish(step: _Step) -> Generator[Any, Any, _Step]:
    """Wait on for what `_try_to_advance` had begun."""
    pending, trap = step.pending, step.trap
    try:
        while True:
            try:
                sent = yield trap
            except BaseException as error:  # noqa: BLE001  # handed on, as `yield from` does
                trap = pending.throw(error)
            else:
                trap = pending.send(sent)
    except StopIteration as stop:
        return _Step(stop.value)
    except StopAsyncIteration:
        return _Step(done=True)
