"""The cell: what there is of an actor beyond its incarnations.

Owns the mailbox, the reference, and the record of crashes on outside messages;
makes a new instance for each incarnation and runs it on `Lanes`. Does not decide
about restarts: it raises `Crash` and its supervisor does.

An actor without anything to do has no task: `run` returns while the incarnation
lives on, asleep, and is called again when there is mail. A passive actor has no
instance, either.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Literal, Protocol

import attrs
import trio
from trio.lowlevel import current_task

from .actor import Actor
from .asyncio_code import Abroad
from .batches import Batches
from .behavior import Behavior, Handler
from .belongings import Belongings
from .classify import NO_TABLE, Word, classify
from .context import CURRENT, NOTHING, TAKEN, Hand
from .envelope import Envelope
from .errors import Fenced, Retry
from .incarnation import Crash, Incarnation
from .keys import KeyOf, Keys, key_function
from .lanes import LEAVE, Doze, Lanes
from .lifecycle import Activated, Bus, Passivated, Undelivered
from .mailbox import Mailbox, MailboxStatistics, Overflow
from .ref import Ref
from .rest import Rests
from .retry import RetryPolicy
from .sickness import WELL, Sickness, Well
from .timers import Timer, Timers
from .watching import Links, Terminated, Watches

__all__ = ["Cell", "CellOptions", "CellServices", "CellStatistics", "Offspring", "Tracer"]


@attrs.frozen
class CellOptions:
    """How one actor treats its messages. Times in seconds.

    `mailbox` messages may wait, and `overflow` says what happens to one more.
    `concurrency` messages interleave, but with a `key` never two of the same key; on a
    crash the others in hand may take `crash_grace` to finish. Messages that ask for a
    `Retry` are kept no longer than `max_age`. After `sick_after` different outside
    messages crashed it in a row the actor is sick: its events are held back, or with
    `on_sick="escalate"` its supervisor decides. `blame="actor"` counts crashes on outside
    messages like all others. An actor that was idle for `passivate_after` lays down its
    instance until there is mail again. `retry` says how often its events are tried; None
    leaves that to the system.
    """

    mailbox: int = 1024
    overflow: Overflow = "wait"
    concurrency: int = 1
    key: str | KeyOf | None = None
    crash_grace: float = 1.0
    max_age: float = 3600.0
    sick_after: int = 10
    on_sick: Literal["hold", "escalate"] = "hold"
    blame: Literal["message", "actor"] = "message"
    passivate_after: float | None = None
    retry: RetryPolicy | None = None


@attrs.frozen
class CellStatistics:
    """A reading of one actor.

    `in_hand` messages are being handled, `held` events wait because it is sick, `crashes`
    in a row were on outside messages. A passive one has no instance just now.
    """

    mailbox: MailboxStatistics
    in_hand: int
    held: int
    crashes: int
    sick: bool
    suspended: bool
    passive: bool


class Offspring(Protocol):
    """The children of one incarnation of an actor, under a supervisor of their own."""

    @property
    def children(self) -> Mapping[str, Any]:
        """What each child offers (a reference for an actor) by name, in start order."""
        ...

    async def start(self, spec: Any) -> Any:
        """Start a child and return what it offers; raises `StartFailed`, `DeclarationError`."""

    async def stop(self, name: str) -> None:
        """Stop a child for good; raises `LookupError` if there is none."""

    async def end(self, *, kill: bool) -> None:
        """Stop all children in reverse order, or cancel them; returns when they are over."""


class Tracer(Protocol):
    """Told of every message that one actor handles. No method raises."""

    def received(self, envelope: Envelope) -> None: ...

    def handled(self, envelope: Envelope, error: BaseException | None) -> None: ...


class CellServices(Protocol):
    """What a cell needs from the system it lives in."""

    timers: Timers
    rests: Rests
    bus: Bus
    random: Random
    threads: bool
    """False runs `thread=True` handlers in place, so that virtual time holds."""

    def set_aside(
        self, envelope: Envelope, error: BaseException, reason: str, path: str, incarnation: int
    ) -> None:
        """Make a dead letter of a local message that has no receipt."""

    def lookup(self, wanted: type[Any] | str, near: str) -> Ref[Any]:
        """An actor by class, name or path, as seen from the actor at `near`."""
        ...

    def offspring(self, path: str, failed: Callable[[BaseException], None]) -> Offspring:
        """A supervisor for children of the actor at `path`; `failed` when it gives up."""
        ...


class Cell:
    """One logical actor; a `Runnable` for its supervisor."""

    __slots__ = (
        "_arguments",
        "_belongings",
        "_hand",
        "_lanes",
        "_life",
        "_local_ids",
        "_postponed",
        "_watchers",
        "abroad",
        "actor",
        "batches",
        "behavior",
        "instance",
        "keys",
        "mailbox",
        "options",
        "path",
        "ref",
        "services",
        "sickness",
        "stand_in",
        "suspended",
        "tracer",
    )

    def __init__(
        self,
        path: str,
        actor: type[Actor[Any]],
        arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        options: CellOptions,
        services: CellServices,
    ) -> None:
        self.path = path
        self.actor = actor
        self.behavior = Behavior.of(actor)
        self.options = options
        self.services = services
        self.mailbox = mailbox = Mailbox(path, options.mailbox, options.overflow)
        if options.overflow in ("drop_oldest", "drop_newest"):
            mailbox.drop = self._dropped
        mailbox.owner = self
        mailbox.concurrency = options.concurrency
        self.ref: Ref[Any] = Ref(mailbox, self.behavior, services.timers, self.undelivered)
        self.sickness: Sickness | Well = WELL
        keyed = options.key is not None or self.behavior.keyed
        self.keys = Keys(mailbox, key_function(options.key, path)) if keyed else None
        self.batches = Batches(self) if self.behavior.batched else None
        self.instance: Actor[Any] | None = None
        self.abroad: Abroad | None = None
        self.tracer: Tracer | None = None
        self.stand_in: Callable[[Handler], Handler] | None = None  # of tests, to inject faults
        self.suspended = False
        self._arguments = arguments
        self._local_ids = 0
        self._postponed: dict[Timer, Envelope] | None = None
        self._watchers: dict[Watches, None] | None = None
        self._life: Incarnation | None = None
        self._hand: Hand | None = None
        self._lanes: Lanes | None = None
        self._belongings: Belongings | None = None

    def __repr__(self) -> str:
        return f"<Cell {self.path} {self.actor.__qualname__}>"

    def statistics(self) -> CellStatistics:
        hands, sickness = self.mailbox.hands, self.sickness
        return CellStatistics(
            mailbox=self.mailbox.statistics(),
            in_hand=sum(not hand.fenced and hand.envelope is not NOTHING for hand in hands),
            held=len(sickness.held),
            crashes=sickness.crashes,
            sick=sickness.sick,
            suspended=self.suspended,
            passive=self.instance is None,
        )

    # -- one incarnation ----------------------------------------------------------

    async def run(self, incarnation: Incarnation) -> None:
        """One incarnation: a new instance, `started()`, its messages, `stopping()`.

        Called again for the same incarnation each time it wakes up.
        """
        hand = self._begin(incarnation)
        try:
            while not (self.instance is None and self._is_leaving(incarnation)):
                if self.instance is None and await self._start(incarnation):
                    return
                doze = await self._handle(incarnation, hand)
                if not doze:
                    return
                if doze == "passive":
                    self._passivate(incarnation)
                if not self.mailbox.queue and not incarnation.interrupt:
                    self._sleep(incarnation)
                    return
        finally:
            hand.task = None

    def _begin(self, incarnation: Incarnation) -> Hand:
        hand = self._hand
        if hand is None or self._life is not incarnation:
            self._life = incarnation
            self._belongings = None
            self.instance = None
            self._hand = hand = Hand(incarnation)
            incarnation.interrupt |= self.suspended
            incarnation.on_fence(self._over)
            incarnation.on_stop(self.mailbox.wake)
        CURRENT.set(hand)
        hand.task = current_task()
        self.mailbox.hands = (hand,)
        return hand

    async def _start(self, incarnation: Incarnation) -> bool:
        """Make the instance and start it; True if there is nothing to handle."""
        actor = self._instance(incarnation)
        if self.behavior.loop == "asyncio":
            self.abroad = Abroad()
            await self.abroad.call(actor.started)
        else:
            await actor.started()
        if incarnation.ending is not None:
            return True  # left behind while it started: this place is another life's by now
        self.instance = actor
        if incarnation.started:
            number = incarnation.number
            self.services.bus.publish(Activated(path=self.path, incarnation=number))
            return False
        incarnation.announce(self.ref)
        if self.mailbox.queue or incarnation.interrupt or not self.may_sleep:
            return False
        self._sleep(incarnation)
        return True

    async def _handle(self, incarnation: Incarnation, hand: Hand) -> Doze:
        """Handle messages to the end of the life, or until there is nothing to do."""
        actor = self.instance
        if actor is None:
            return ""
        self._lanes = Lanes(self, actor, incarnation, hand)
        try:
            doze = await self._lanes.run()
        except BaseException:
            await self._end_children(incarnation)
            raise
        if doze == "rest":
            return doze
        await self._end_children(incarnation)
        if incarnation.ending is None and not incarnation.killed:
            if self.abroad is not None:
                await self.abroad.call(actor.stopping)
            else:
                await actor.stopping()
        return doze

    def _passivate(self, incarnation: Incarnation) -> None:
        after, number = self.options.passivate_after or 0.0, incarnation.number
        self.instance = None
        self._lanes = None
        self._belongings = None
        self.services.bus.publish(Passivated(path=self.path, incarnation=number, after=after))

    def _sleep(self, incarnation: Incarnation) -> None:
        self.mailbox.hands = ()
        self._lanes = None
        incarnation.sleep()
        self.mailbox.sleep(incarnation.wake)

    def _is_leaving(self, incarnation: Incarnation) -> bool:
        """Whether it need not be started any more: it is told to stop and has no mail."""
        nothing = not incarnation.draining or not self.mailbox.queue
        return incarnation.killed or (incarnation.stopping and incarnation.started and nothing)

    async def _end_children(self, incarnation: Incarnation) -> None:
        """Of this life; what was left behind of an earlier one has no part in them."""
        if self._belongings is not None and self._life is incarnation:
            await self._belongings.end_children()

    def _over(self) -> None:
        """The incarnation is over: fence what is left of it."""
        life, hand = self._life, self._hand
        self.mailbox.hands = ()
        if self._lanes is not None:
            self._lanes.fence()
            self._lanes = None
        if hand is not None:
            hand.fence()
        self.instance = None
        if self._belongings is not None and life is not None and life.ending is not None:
            self._belongings.end(life.ending)

    # -- all incarnations ---------------------------------------------------------

    def open(self) -> None:
        """Take mail from now on, also before the first incarnation has started."""
        if not self.mailbox.is_open:
            self.mailbox.open()

    def close(self, why: str) -> None:
        """No further incarnation comes: release all mail and take no more."""
        for timer, envelope in (self._postponed or {}).items():
            timer.cancel()
            self.mailbox.free()
            self.release(envelope, why)
        self._postponed = None

        def release(envelope: Envelope) -> None:
            self.release(envelope, why)

        self.mailbox.close(release)
        self.sickness.release(release)
        if self.keys is not None:
            self.keys.release(release)
        if self.batches is not None:
            self.batches.close(why)
        self._tell_watchers()

    def release(self, envelope: Envelope, why: str) -> None:
        """Give one message back to where it came from, unhandled."""
        if envelope.receipt is not None:
            envelope.receipt.released(why)
        else:
            self.undelivered(envelope.message, why)

    def give_back(self, envelope: Envelope, why: str) -> None:
        """A message was cancelled in hand, through no fault of its own: the next life has it."""
        if envelope.message is TAKEN:
            return
        if envelope.receipt is None and self.mailbox.is_open:
            self.mailbox.readmit(envelope, first=True)
        else:
            self.release(envelope, why)

    def undelivered(self, message: Any, why: str) -> None:
        # The type alone: contents of messages do not belong in logs.
        name = type(message).__name__
        notice = Undelivered(path=self.path, incarnation=self.number, why=why, message=name)
        self.services.bus.publish(notice)

    def postpone(self, envelope: Envelope, error: Retry) -> None:
        """Let a local message without a receipt come back in `error.after` seconds."""
        now = trio.current_time()
        if envelope.attempt == 1:
            envelope.since = now
        due = now + error.after
        if due - envelope.since > self.options.max_age or not self.mailbox.reserve():
            self.set_aside(envelope, error, "expired")
            return
        envelope.attempt += 1
        postponed = self._postponed = self._postponed or {}

        def back() -> None:
            del postponed[timer]
            self.mailbox.free()
            self.mailbox.readmit(envelope)

        timer = self.services.timers.call_at(due, back)
        postponed[timer] = envelope

    def comes_again(self, envelope: Envelope) -> bool:
        """Whether a message that has just failed is to be run again."""
        if envelope.receipt is not None:
            return envelope.receipt.open
        # By identity: envelopes of equal messages are equal.
        return any(waiting is envelope for waiting in (self._postponed or {}).values())

    def keep_order(self) -> None:
        """Handle messages with the same order key in order from now on."""
        if self.keys is None:
            self.keys = Keys(self.mailbox, None)
            if self._lanes is not None:
                self._lanes.shift()
            if self._life is not None:
                self._life.interrupt = True

    def classify(self, error: BaseException, handler: Handler | None) -> tuple[Word, BaseException]:
        """What an exception of a handler means here, and the exception to go on with."""
        own = NO_TABLE if handler is None else handler.on_error
        return classify(error, own, self.behavior.on_error)

    def set_aside(self, envelope: Envelope, error: BaseException, reason: str) -> None:
        """Make a dead letter of a local message."""
        self.services.set_aside(envelope, error, reason, self.path, self.number)

    def next_local_id(self) -> str:
        self._local_ids += 1
        return f"{self.path}#{self._local_ids}"

    def sickened(self) -> Sickness:
        """The record of crashes on outside messages, made at the first of them."""
        if isinstance(self.sickness, Well):
            timers, after = self.services.timers, self.options.sick_after
            self.sickness = Sickness(self.mailbox, timers, after, self._cannot_hold)
        return self.sickness

    # -- what belongs to the actor in its present life ------------------------------

    @property
    def state(self) -> Handler | None:
        """What stands in for `receive` just now, if anything does."""
        states = self._belongings.states if self._belongings is not None else None
        return states[-1] if states else None

    @property
    def occupied(self) -> bool:
        """Whether it has anything that being passive would lose."""
        waiting = self.mailbox.queue or self.mailbox.reserved
        return bool(waiting or self._belongings)

    @property
    def may_sleep(self) -> bool:
        """Whether it can do without a task: one ends its children, one waits to be passive."""
        children = self._belongings is not None and self._belongings.offspring is not None
        return not children and self.options.passivate_after is None

    @property
    def life(self) -> Incarnation | None:
        """The present incarnation, or the last one."""
        return self._life

    @property
    def traps_exits(self) -> bool:
        return self.actor.trap_exits

    def belongings(self, incarnation: Incarnation) -> Belongings:
        """Of this incarnation; raises `Fenced` if it is over."""
        if incarnation.ending is not None or self._life is not incarnation:
            raise Fenced(self.path, incarnation.number)
        if self._belongings is None:
            self._belongings = Belongings(self, incarnation)
        return self._belongings

    def retake(self, envelope: Envelope) -> bool:
        """Take a message back that its handler had put aside before it failed."""
        return self._belongings is not None and self._belongings.retake(envelope)

    def let_go(self, envelope: Envelope) -> bool:
        """Whether a message from outside that was taken out of the hand is done with here."""
        stashed = self._belongings is not None and self._belongings.stashed(envelope)
        return envelope.origin is not None and not stashed

    def links(self) -> Links | None:
        """The links of the present incarnation; None if there is none."""
        if self._life is None or self._life.ending is not None:
            return None
        return self.belongings(self._life).links

    def change_state(self, incarnation: Incarnation) -> None:
        """`receive` is another one now: the lanes must look."""
        if self._lanes is not None:
            self._lanes.shift()
        incarnation.interrupt = True

    def leave(self, incarnation: Incarnation) -> None:
        """End this incarnation in order, after the message in hand."""
        incarnation.signal(LEAVE)
        self.mailbox.wake()

    def fail(self, error: BaseException) -> None:
        """Crash the present incarnation before its next message."""
        if self._life is not None:
            self._life.signal(Crash(error))
            self.mailbox.wake()

    # -- watched and looked at ------------------------------------------------------

    def add_watcher(self, watcher: Watches) -> None:
        self._watchers = self._watchers or {}
        self._watchers[watcher] = None

    def remove_watcher(self, watcher: Watches) -> None:
        if self._watchers is not None:
            self._watchers.pop(watcher, None)

    def suspend(self) -> None:
        """Handle nothing until `resume`; a stop ends it without handling what waits."""
        self.suspended = True
        if self._life is not None:
            self._life.interrupt = True

    def resume(self) -> None:
        self.suspended = False
        self._wake_lanes()

    def trace(self, tracer: Tracer | None) -> None:
        """Tell `tracer` of every message from now on; None ends that."""
        self.tracer = tracer
        if self._life is not None:
            self._life.interrupt = True
            self._wake_lanes()

    @property
    def observed(self) -> bool:
        return self.tracer is not None or self.stand_in is not None

    def _wake_lanes(self) -> None:
        """Let the lanes look what is the matter; who sleeps will look when there is mail."""
        if self.mailbox.sleeper is None:
            self.mailbox.wake()

    def _tell_watchers(self) -> None:
        watchers, self._watchers = self._watchers, None
        ending = self._life.ending if self._life is not None else None
        terminated = Terminated(
            self.ref,
            ending.kind if ending is not None else "not running",
            ending.error if ending is not None else None,
        )
        for watcher in watchers or ():
            watcher.ended(self, terminated)

    @property
    def number(self) -> int:
        return self._life.number if self._life is not None else 0

    def _instance(self, incarnation: Incarnation) -> Actor[Any]:
        actor: Actor[Any] = self.actor.__new__(self.actor)
        actor._incarnation = incarnation
        actor._cell = self
        positional, keywords = self._arguments()
        actor.__init__(*positional, **keywords)  # type: ignore[misc]
        return actor

    def _dropped(self, envelope: Envelope) -> None:
        self.undelivered(envelope.message, f"the mailbox is full ({self.options.overflow})")
        if envelope.receipt is not None:
            envelope.receipt.failed(self.mailbox.full())
        if self.keys is not None:
            self.keys.done(envelope, again=False)

    def _cannot_hold(self, envelope: Envelope) -> None:
        # Not `released`: with the mailbox open, that would bring it back at once, for ever.
        if envelope.receipt is not None:
            why = "the actor is sick and holds as many events as it may"
            envelope.receipt.failed(Retry(why))
