"""The lanes of one incarnation: where messages are handled.

An actor with `concurrency=N` has up to N lanes, each a task that takes envelopes
from the mailbox and runs them one after the other; a lane is added only when all
others are busy, so the usual actor has one. The lane's loop is
the receiving half of the hot path (benchmarks/mailbox.py): per message no task,
no scope, no lookup that could be done per class. Everything unusual (a stop, a
signal, a trace, a state) raises `incarnation.interrupt`, and is looked at only then.

A crash ends intake at once; messages in hand on other lanes get `crash_grace`
seconds, then they are cancelled and given back.
"""

from typing import TYPE_CHECKING, Any, Final, Literal

import trio
from trio.lowlevel import checkpoint, current_task

from .actor import Actor
from .asyncio_code import Abroad
from .batches import Run
from .behavior import Handler
from .classify import only_leaf
from .context import CURRENT, NOTHING, TAKEN, Hand, MessageContext, is_outside
from .envelope import Envelope
from .errors import DeathPact, Retry
from .incarnation import Crash, Directive, Incarnation
from .lifecycle import Recovered, Sick
from .streams import hand_out
from .timers import GRAIN
from .watching import Exited

if TYPE_CHECKING:
    from .cell import Cell
    from .timers import Timer

__all__ = ["LEAVE", "Doze", "Lanes"]

_BURST: Final = range(128)
"""Messages handled before other tasks get their turn."""

Doze = Literal["", "rest", "passive"]

LEAVE: Final = object()
"""The signal by which an actor ends itself."""

_END: Final = Envelope(None)
_PAUSE: Final = Envelope(None)
"""What `_attend` says when there is nothing to handle: for good, or for now."""


class Lanes:
    """Runs one instance on the messages of its cell until it stops or crashes."""

    __slots__ = (
        "_actor",
        "_cell",
        "_crash",
        "_dozing",
        "_hands",
        "_idle_since",
        "_idle_timer",
        "_incarnation",
        "_leaving",
        "_nursery",
        "listed",
        "receive",
        "shifting",
        "touched",
    )

    def __init__(
        self, cell: "Cell", actor: Actor[Any], incarnation: Incarnation, hand: Hand
    ) -> None:
        self._cell = cell
        self._actor = actor
        self._incarnation = incarnation
        self._hands: list[Hand] = [hand]
        self._crash: Crash | None = None
        self._leaving = False
        self._nursery: trio.Nursery | None = None
        self._dozing: Doze = ""
        self.touched = self.listed = self.shifting = False
        self._idle_since = 0.0
        self._idle_timer: Timer | None = None
        # Senders made sure that there is one where it is needed.
        self.receive: Any = cell.state or cell.behavior.receive

    def shift(self) -> None:
        """`receive` is another one now: every lane must look."""
        self.receive = self._cell.state or self._cell.behavior.receive
        # Whichever lane looks first must not look for all: from now on each does, each time.
        self.shifting = self._nursery is not None

    async def run(self) -> Doze:
        """Handle messages; returns after an ordered stop, raises `Crash`.

        Says whether it returns because there was nothing to do: for so long that its task
        may end (`rest`), or that the actor is to be passive.
        """
        cell = self._cell
        cell.mailbox.hands = self._hands
        try:
            if cell.options.concurrency == 1:
                await self._lane(self._hands[0])
            else:
                async with trio.open_nursery() as self._nursery:
                    await self._lane(self._hands[0])
        finally:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
        crash, self._crash = self._crash, None
        try:
            if crash is not None:
                raise crash
        finally:
            del crash  # its traceback has this frame: it would keep itself, and what was in hand
        return self._dozing

    def fence(self) -> None:
        """The incarnation is over: what a leftover still holds goes back, and stays back."""
        for hand in self._hands:
            envelope = hand.envelope
            if envelope is not NOTHING and not hand.fenced:
                if envelope.receipt is not None:
                    envelope.receipt.released("the actor was ended while it handled this")
                if self._cell.keys is not None and envelope.message is not TAKEN:
                    again = envelope.receipt is not None and envelope.receipt.open
                    self._cell.keys.done(envelope, again=again)
            hand.fence()

    # -- the loop -----------------------------------------------------------------

    async def _lane(self, hand: Hand) -> None:
        CURRENT.set(hand)
        hand.task = current_task()
        cell, actor, incarnation = self._cell, self._actor, self._incarnation
        mailbox, sickness, keys = cell.mailbox, cell.sickness, cell.keys
        batches = cell.batches
        queue, senders = mailbox.ready_queue(), mailbox.senders
        take = queue.popleft
        receive = self.receive
        special = keys is not None or batches is not None or cell.observed
        parallel = self._nursery is not None
        while True:
            for _ in _BURST:
                if incarnation.interrupt:
                    envelope = self._attend()
                    if envelope is _END:
                        return
                    receive, keys = self.receive, cell.keys
                    special = keys is not None or batches is not None or cell.observed
                    if envelope is None:
                        if not queue:
                            break
                        envelope = take()
                    elif envelope is _PAUSE:
                        break
                elif queue:
                    envelope = take()
                else:
                    break
                hand.envelope = envelope
                if senders:
                    mailbox.drained()
                receipt = envelope.receipt
                if receipt is not None and (
                    not receipt.open or (sickness.sick and sickness.holds(envelope))
                ):
                    if keys is not None:
                        keys.done(envelope, again=receipt.open)
                    continue
                handler = envelope.handler or receive
                try:
                    if special:
                        if not self._begins(envelope):
                            hand.envelope = NOTHING
                            if not self._is_blocked():
                                continue
                            if incarnation.stopping:
                                return
                            break
                        if cell.stand_in is not None:
                            handler = cell.stand_in(handler)
                    if parallel and (queue or not mailbox.parked):
                        self._share()
                    if handler.direct:
                        value = handler.function(actor, envelope.message)
                        if handler.is_async:
                            value = await value
                    elif not handler.batch or batches is None:
                        value = await self._call(handler, envelope)
                    else:
                        batch = batches.gather(envelope)
                        if batch is None:
                            continue
                        hand.envelope = envelope = batch
                        receipt = batch.receipt
                        value = await self._call(handler, batch)
                except BaseException as error:  # noqa: BLE001
                    if hand.fenced:
                        return
                    held, hand.envelope = hand.envelope, NOTHING  # the fence must not release it
                    try:
                        if held.message is TAKEN and cell.retake(envelope):
                            held = envelope
                        ends = self._refused(error, held, handler)
                    finally:
                        self._done(envelope, error, gone=held is not envelope)
                    if ends:
                        return
                else:
                    if receipt is not None:
                        if hand.envelope is envelope:
                            receipt.succeeded(value)
                            if sickness.crashes and envelope.origin is not None:
                                self._well(envelope)
                        elif hand.fenced:
                            return  # its answer comes too late
                        elif sickness.crashes and cell.let_go(envelope):
                            self._well(envelope)
                    if special:
                        self._done(envelope, None)
            else:
                hand.envelope = NOTHING
                await checkpoint()
                continue
            hand.envelope = NOTHING
            self.touched = True
            if not self.listed:
                self._idle()
            await mailbox.mail()
            if self._dozing:
                return  # all of them: what has come meanwhile is for `Cell.run` to look at

    def _attend(self) -> Envelope | None:
        """Something unusual is the matter: what to handle next, `_END`, `_PAUSE`, or None."""
        cell, incarnation = self._cell, self._incarnation
        if self._crash or self._leaving or incarnation.killed or incarnation.ending:
            return _END
        if incarnation.stopping:
            if cell.batches is not None and incarnation.draining and not cell.mailbox.queue:
                cell.batches.flush()
            waiting = cell.mailbox.queue or incarnation.signals
            if not incarnation.draining or cell.suspended or not waiting:
                return _END
        elif cell.suspended:
            return _PAUSE
        envelope = self._signalled() if incarnation.signals else None
        if self._crash is not None or self._leaving:
            cell.mailbox.wake()  # other lanes must hear of it, too
            return _END
        incarnation.interrupt = bool(
            incarnation.stopping or incarnation.signals or cell.observed or self.shifting
        )
        return envelope

    def _signalled(self) -> Envelope | None:
        cell, incarnation = self._cell, self._incarnation
        if not incarnation.signals:
            return None
        signal = incarnation.signals.popleft()
        if signal is LEAVE:
            self._leaving = True
            return None
        if isinstance(signal, Crash):
            self._fall(signal)
            return None
        if not cell.behavior.takes(type(signal)):
            how = signal.how if isinstance(signal, Exited) else None
            self._fall(Crash(DeathPact(cell.path, signal.ref.path, how)))
            return None
        return Envelope(signal)

    def _begins(self, envelope: Envelope) -> bool:
        """Whether a message may run now: the turn of its key has come, or its batch has room."""
        keys, batches, tracer = self._cell.keys, self._cell.batches, self._cell.tracer
        if batches is not None and batches.full and envelope.handler and envelope.handler.batch:
            self._cell.mailbox.queue.appendleft(envelope)
            return False
        if keys is not None and not keys.begin(envelope):
            return False
        if tracer is not None:
            tracer.received(envelope)
        return True

    def _is_blocked(self) -> bool:
        """Whether what is at the front of the mailbox waits for what runs in other lanes."""
        keys, batches = self._cell.keys, self._cell.batches
        return (keys is not None and keys.full) or (batches is not None and batches.full)

    def _done(self, envelope: Envelope, error: BaseException | None, *, gone: bool = False) -> None:
        """A message has run: tell whoever traces it, and let the next of its key go on.

        One that is `gone` was forwarded or answered before its handler failed.
        """
        cell, keys, tracer = self._cell, self._cell.keys, self._cell.tracer
        if tracer is not None:
            tracer.handled(envelope, error)
        if keys is not None:
            again = error is not None and not gone and cell.comes_again(envelope)
            # What was cancelled in hand is back in the mailbox, unless its receipt ended it.
            cancelled = not isinstance(error, Exception | None) and envelope.receipt is None
            keys.done(envelope, again=again or (cancelled and not gone))

    def _share(self) -> None:
        """This lane is about to be busy: wake or add another for the mail after this."""
        mailbox, nursery = self._cell.mailbox, self._nursery
        if mailbox.parked:
            trio.lowlevel.reschedule(mailbox.parked.pop())
        elif nursery is not None and len(self._hands) < self._cell.options.concurrency:
            hand = Hand(self._incarnation)
            self._hands.append(hand)
            nursery.start_soon(self._lane, hand)

    # -- one message --------------------------------------------------------------

    async def _call(self, handler: Handler, envelope: Envelope) -> Any:
        """Run a handler that is more than a plain function of its payload."""
        arguments: list[Any] = [self._actor]
        if handler.takes_payload:
            arguments.append(envelope.message)
        if handler.takes_context:
            run = envelope.receipt if handler.batch else None
            arguments.append(
                [self._context(item) for item in run.items]
                if isinstance(run, Run)
                else self._context(envelope)
            )
        if handler.abroad:
            abroad = self._cell.abroad or Abroad()
            return await abroad.handle(handler, arguments, envelope.receipt)
        function = handler.function
        if handler.mode == "stream":
            return await hand_out(function(*arguments), envelope.receipt)
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

    def _refused(self, error: BaseException, envelope: Envelope, handler: Handler) -> bool:
        """Settle a message whose handler raised; True if this lane must end."""
        cell, receipt = self._cell, envelope.receipt
        if not isinstance(error, Exception):
            cell.give_back(envelope, "it was cancelled")
            raise error
        leaf = only_leaf(error)
        verdict, meant = cell.classify(leaf, handler)
        taken = envelope.message is TAKEN  # it has an end of its own, so this cannot answer it
        if verdict in ("crash", "stop", "escalate") or taken or not isinstance(meant, Exception):
            whole = error if meant is leaf else meant  # a group is reported whole
            self._crashed(whole, envelope, verdict)
        elif receipt is not None:
            receipt.failed(meant)
        elif isinstance(meant, Retry):
            cell.postpone(envelope, meant)
        else:
            cell.set_aside(envelope, meant, "rejected")
        return self._crash is not None

    def _crashed(self, error: BaseException, envelope: Envelope, verdict: str) -> None:
        cell, incarnation = self._cell, self._incarnation
        if envelope.receipt is not None:
            envelope.receipt.crashed(error, cell.path, incarnation.number)
        elif envelope.message is not TAKEN:
            cell.set_aside(envelope, error, "crashed")
        if self._crash is not None:
            return  # another lane crashed first; its reason is the one reported
        directive: Directive = "stop" if verdict == "stop" else ""
        origin = envelope.origin if cell.options.blame == "message" else None
        if verdict == "escalate":
            directive = "escalate"
        elif origin is not None and cell.sickened().crashed(origin):
            if cell.options.on_sick == "escalate":
                cell.sickened().cure()
                origin = None
            else:
                self._publish_sick()
        self._fall(Crash(error, origin, _pattern(envelope), cell.sickness.crashes, directive))

    def _fall(self, crash: Crash) -> None:
        """This is how the incarnation ends; other lanes have a little time."""
        self._crash = crash
        self._incarnation.interrupt = True
        self._incarnation.draining = False
        if self._nursery is not None:
            deadline = trio.current_time() + self._cell.options.crash_grace
            self._nursery.cancel_scope.deadline = deadline
            self._cell.mailbox.wake()

    def _publish_sick(self) -> None:
        cell, crashes = self._cell, self._cell.sickened().different
        number = self._incarnation.number
        cell.services.bus.publish(Sick(path=cell.path, incarnation=number, crashes=crashes))

    def _well(self, envelope: Envelope) -> None:
        held = len(self._cell.sickness.held)
        if self._cell.sickened().succeeded(envelope):
            path, number = self._cell.path, self._incarnation.number
            self._cell.services.bus.publish(Recovered(path=path, incarnation=number, held=held))

    # -- nothing to do ------------------------------------------------------------

    def _idle(self) -> None:
        limit, services = self._cell.options.passivate_after, self._cell.services
        if limit is None:
            services.rests.add(self)
            return
        self._idle_since = services.timers.now()
        if self._idle_timer is None:
            due = self._idle_since + limit
            self._idle_timer = services.timers.call_at(due, self._may_be_passive)

    def rest(self) -> None:
        if self._all_idle() and self._cell.may_sleep:
            self._doze("rest")

    def _may_be_passive(self) -> None:
        """The time is over; one timer looks again and again, so that going idle costs nothing."""
        limit, timers = self._cell.options.passivate_after or 0.0, self._cell.services.timers
        idle = self._all_idle() and not self._cell.occupied
        due = self._idle_since + limit if idle else timers.now() + max(limit, GRAIN)
        if idle and due <= timers.now():
            self._doze("passive")
        else:
            self._idle_timer = timers.call_at(due, self._may_be_passive)

    def _all_idle(self) -> bool:
        busy = self._incarnation.interrupt or self._cell.mailbox.queue
        return not busy and len(self._cell.mailbox.parked) == len(self._hands)

    def _doze(self, how: Doze) -> None:
        self._dozing = how
        self._cell.mailbox.wake()


def _pattern(envelope: Envelope) -> str | None:
    """What was being handled: a route, or the type of a message without one."""
    if envelope.handler is not None:
        return envelope.handler.route
    return "receive" if envelope.message is TAKEN else type(envelope.message).__name__
