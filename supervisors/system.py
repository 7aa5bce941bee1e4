"""A system: one running tree, and everything that its parts share.

Owns the clock, the lifecycle bus, the registry, the random numbers and the
dead-letter office; nothing of it is global, so two systems fit in one test. All
that is random comes from one `random.Random`, and all time from trio: with a seed
and a mock clock a run repeats itself.
"""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from typing import Any, Literal, TypeVar, overload

import attrs
import trio

from ..actors.actor import Actor
from ..actors.encoding import encode
from ..actors.envelope import Envelope
from ..actors.errors import StartFailed, UnderstudyError
from ..actors.incarnation import Ending, Incarnation
from ..actors.lifecycle import Bus, Crashed, Started, Stopped, Stopping
from ..actors.ref import Ref
from ..actors.rest import Rests
from ..actors.retry import DEFAULT_POLICY, RetryPolicy
from ..actors.timers import Timers
from .child import ActorSpec, ChildSpec, Supervisor
from .debug import Debug
from .delivery.intake import Intake
from .delivery.office import REPLAY_POLL, DeadLetterOffice, describe_error
from .delivery.record import DeadLetter
from .delivery.store import DeadLetterStore, MemoryStore
from .health import Conditions, Health, health_of, kind_of, numbers_of
from .history import History
from .keeper import Keeper, address_of, offer_of
from .logs import log_lifecycle
from .offspring import Brood
from .pool import PoolSpec
from .registry import Registry, Visibility
from .running_child import Child
from .story import Story
from .supervisor import Supervision

__all__ = ["ChildState", "System", "running"]

A = TypeVar("A", bound=Actor[Any])


@attrs.frozen
class ChildState:
    """One line of the tree: a child, its state and since when (trio time)."""

    path: str
    kind: str
    state: str
    since: float
    incarnation: int
    depth: int


class System:
    """The tree at run time. Made by `running` and `run`; one per tree and start."""

    def __init__(
        self,
        tree: Supervisor,
        *,
        dead_letters: DeadLetterStore | None = None,
        events: RetryPolicy = DEFAULT_POLICY,
        seed: int | None = None,
        threads: bool = True,
    ) -> None:
        tree.check_needs()
        self.name = tree.name
        self.threads = threads
        self.random = Random(seed)
        self.timers = Timers()
        self.rests = Rests(self.timers)
        self.bus = Bus()
        self.history = History()
        self.bus.subscribe(self.history.take)
        self._conditions = Conditions()
        self.bus.subscribe(self._conditions.take)
        self.registry = Registry()
        store = MemoryStore() if dead_letters is None else dead_letters
        self.office = DeadLetterOffice(store, self.bus, self.random, tree.name)
        store.on_alarm = self.office.alarmed
        self.intake = Intake(self, events)
        self.root = Supervision(tree, tree.name, self)
        self._life = Incarnation(tree.name, 1, self._reported)
        self._changed = trio.Event()
        self._begun = False
        self._since = math.inf
        self._services: list[trio.CancelScope] = []
        self._broods: dict[str, Brood] = {}
        self._nursery: trio.Nursery | None = None
        self._writing = trio.CancelScope()
        self._replaying = trio.CancelScope()

    # -- what users do with it ----------------------------------------------------

    @overload
    def ref(self, actor: type[A]) -> Ref[A]: ...
    @overload
    def ref(self, actor: str) -> Ref[Any]: ...
    def ref(self, actor: type[A] | str) -> Ref[A]:
        """The reference of the one actor of a class, or with a name or path.

        Raises `LookupError` if there is none, or more than one.
        """
        return self.registry.address(actor).ref

    def offer(self, name: str) -> Any:
        """What the child `name` of the root offers: a resource's object, an actor's reference.

        Raises `LookupError` if there is no such child, or if it does not run just now.
        """
        try:
            return self.root.offer(name, self.name, 1)
        except StartFailed as error:
            raise LookupError(f"{self.name} does not offer {name!r} just now.") from error

    def tree(self) -> list[ChildState]:
        """The whole tree as it is, parents before children."""
        root = ChildState(self.name, "supervisor", self._state(), 0.0, 1, 0)
        return [root, *(_line(child, depth) for child, depth in self._walk())]

    def addresses(self) -> dict[str, str]:
        """Where bridges listen just now, by path: `{"shop/tcp": "tcp://127.0.0.1:3001"}`."""
        found = ((child.path, child.incarnation) for child, _ in self._walk())
        return {path: life.address for path, life in found if life is not None and life.address}

    @property
    def healthy(self) -> bool:
        """Whether it is ready, as `health()` has it."""
        if self._state() != "running" or self.office.store.alarm is not None:
            return False
        return all(self._conditions.well(child) for child, _ in self._walk())

    def health(self, *, limit: int = 1000) -> Health:
        """How all of it is, as a record: live, ready and why not, the first `limit` children."""
        return health_of(
            self.name,
            self._state(),
            self._since,
            (child for child, _ in self._walk()),
            self._conditions,
            self.office.store.statistics(),
            why=self._reason,
            limit=limit,
        )

    def statistics(self, *, limit: int = 1000) -> dict[str, Any]:
        """What the first `limit` children with such numbers count, each its own record, by path."""
        return dict(islice(numbers_of(child for child, _ in self._walk()), limit))

    def why(self, actor: Ref[Any] | str) -> Story:
        """Why an actor or a supervisor was last restarted, or ended: the chain of causes.

        By reference or path. `print` it; a story without causes says that none is known.
        """
        return self.history.why(actor if isinstance(actor, str) else actor.path)

    def debug(self, actor: Ref[Any] | str) -> Debug:
        """A look into one running actor: its status and state, suspend, resume, trace.

        By reference or path. Raises `LookupError` if there is none.
        """
        path = actor if isinstance(actor, str) else actor.path
        for child, _ in self._walk():
            if child.path == path:
                return Debug(child)
        raise LookupError(f"no actor at {path!r}.")

    def supervision(self, path: str) -> Supervision:
        """The running supervisor at `path`, to start and stop children of.

        An actor that has started children is the supervisor of these. Raises `LookupError`.
        """
        found: Keeper | None = self.root if path == self.name else self._below(path)
        if not isinstance(found, Supervision):
            raise LookupError(f"no supervisor at {path!r}.")
        return found

    @overload
    async def start_child(
        self, spec: ActorSpec[A] | PoolSpec[A], *, under: str | None = None
    ) -> Ref[A]: ...
    @overload
    async def start_child(self, spec: ChildSpec, *, under: str | None = None) -> Any: ...
    async def start_child(self, spec: ChildSpec, *, under: str | None = None) -> Any:
        """Add a child to a running supervisor (the root if not said) and start it.

        Returns what it offers: a reference for an actor or a pool. Raises `StartFailed`,
        and `DeclarationError` for what can be no child there.
        """
        return offer_of(await self.supervision(under or self.name).start_child(spec))

    async def stop_child(self, child: "str | Ref[Any]") -> None:
        """Stop a child for good: the one at a path, or the actor of a reference.

        Raises `LookupError` if it is not there.
        """
        path = child if isinstance(child, str) else child.path
        above, _, name = path.rpartition("/")
        await self.supervision(above or self.name).stop_child(name)

    async def dead_letters(self, *, limit: int = 100) -> Sequence[DeadLetter]:
        """What was set aside, oldest first, whatever became of it since."""
        await self.office.flush()
        return await self.office.store.find(limit=limit)

    async def replay(self, *ids: str) -> int:
        """Deliver dead letters again, with their old identity; returns how many there were.

        How each replay ends stands in its letter, some time later.
        """
        return await self.office.replay(*ids)

    def stop(self, why: str = "it was asked to") -> None:
        """Begin the ordered stop: intake first, then what is in hand, then the rest."""
        if not self._life.stopping and self._life.ending is None:
            self.bus.publish(Stopping(path=self.name, incarnation=1, why=why))
            self._replaying.cancel()
            self._life.stop(drain=True)

    def kill(self) -> None:
        """Do not wait any longer: cancel everything, in the order of the stop."""
        self._life.kill()
        self._life.stop(drain=False)

    async def stopped(self) -> None:
        """Wait until the tree has ended; raises why, unless it was asked to."""
        while self._life.ending is None:
            await self._change()
        _raise(self._life.ending)

    # -- what its parts need ------------------------------------------------------

    def joined(self, child: Child, visibility: Visibility) -> None:
        address = address_of(child)
        if address is not None:
            self.registry.add(address, visibility)

    def left(self, child: Child) -> None:
        address = address_of(child)
        if address is not None:
            self.registry.remove(address)

    def lookup(self, wanted: type[Any] | str, near: str) -> Ref[Any]:
        """An actor by class, name or path, as seen from the actor at `near`."""
        return self.registry.lookup(wanted, near).ref

    def offspring(self, path: str, failed: Callable[[BaseException], None]) -> Brood:
        """A supervisor for the children of the actor at `path`, in its present life."""
        if self._nursery is None:
            raise UnderstudyError(f"{path}: its system does not run, so it can have no children.")
        brood = Brood(self, path, self._above(path), self._nursery, failed, self._broods.get(path))
        self._broods[path] = brood
        return brood

    def ended(self, brood: Brood) -> None:
        """The children of one life of an actor are over."""
        if self._broods.get(brood.path) is brood:
            del self._broods[brood.path]

    def set_aside(
        self, envelope: Envelope, error: BaseException, reason: str, path: str, incarnation: int
    ) -> None:
        """Make a dead letter of a local message."""
        handler, origin = envelope.handler, envelope.origin
        receive = (
            self.registry.cells[path].behavior.receive if path in self.registry.cells else None
        )
        used = handler or receive
        text, trace = describe_error(error)
        now = time.time()
        kind = type(envelope.message).__name__
        self.office.take_local(
            DeadLetter(
                id=self.office.new_id(),
                at=now,
                kind="tell",
                pattern=(handler.route if handler is not None else None) or kind,
                handler=used.name if used is not None else "",
                actor=path,
                incarnation=incarnation,
                transport="local",
                source="",
                message_id=envelope.local_id or self.office.new_id(),
                correlation_id=origin.message_id if origin is not None else None,
                headers={},
                body=_written(envelope.message),
                attempts=envelope.attempt,
                reason=reason,
                error=text,
                traceback=trace,
                first_at=now,
            )
        )

    # -- running ------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the tree in `nursery` and return when it is up.

        Raises `StartFailed`, or what else made the start fail. `finish` must follow.
        """
        self._nursery = nursery
        await nursery.start(self._serve, self.office.store.run)
        nursery.start_soon(self._serve, self.timers.run)
        nursery.start_soon(self._serve, self.office.run)
        self._begun = True
        self._since = trio.current_time()
        nursery.start_soon(self._life.live, self.root)
        while not self._life.started and self._life.ending is None:
            await self._change()
        if self._life.ending is not None:
            if not self._life.stopping:
                _raise(self._life.ending)
            return
        self.bus.publish(Started(path=self.name, incarnation=1))
        nursery.start_soon(self._replays)

    async def finish(self) -> None:
        """Wait for the end of the tree and for the last dead letter to be durable."""
        try:
            while self._begun and self._life.ending is None:
                await self._change()
            for brood in list(self._broods.values()):
                await brood.end(kill=True)  # of an actor that was left behind as stuck
            self._replaying.cancel()  # it must not look into a store that is being closed
            self.intake.release_waiting("the service stops")
            if self._begun and not self._writing.cancel_called:
                with self._writing:
                    await self.office.flush()
                    await self.office.store.close()
        finally:
            for scope in self._services:
                scope.cancel()

    async def _serve(self, service: Callable[..., Awaitable[None]], **options: Any) -> None:
        """Run what the end of the tree still needs, shielded from whatever ends the tree."""
        with trio.CancelScope(shield=True) as scope:
            self._services.append(scope)
            try:
                await service(**options)
            except Exception:
                self._writing.cancel()  # `finish` must not wait for what nobody writes
                raise

    async def _replays(self) -> None:
        poll = REPLAY_POLL if not isinstance(self.office.store, MemoryStore) else math.inf
        with self._replaying:
            await self.office.run_replays(self.intake.replay, poll=poll)

    def _reported(self, life: Incarnation) -> None:
        if life.ending is not None:
            ending = life.ending
            if not ending.clean and ending.error is not None and ending.kind == "crashed":
                self.bus.publish(Crashed(path=self.name, incarnation=1, error=ending.error))
            self.bus.publish(Stopped(path=self.name, incarnation=1, how=ending.kind))
        self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()

    def _walk(self) -> Iterator[tuple[Child, int]]:
        """All children and how deep they stand, parents before children."""
        return self._walk_below(self.root, 1)

    def _walk_below(self, keeper: Keeper, depth: int) -> Iterator[tuple[Child, int]]:
        for child in list(keeper.children.values()):
            yield child, depth
            below = self._keeper(child)
            if below is not None:
                yield from self._walk_below(below, depth + 1)

    def _below(self, path: str) -> Keeper | None:
        """Who keeps the children of what stands at `path`, if it has any."""
        root, *names = path.split("/")
        keeper: Keeper | None = self.root if root == self.name else None
        for name in names:
            child = keeper.children.get(name) if keeper is not None else None
            keeper = self._keeper(child) if child is not None else None
        return keeper

    def _reason(self, path: str) -> str:
        """The failure behind the state of a child."""
        failures = ("crashed", "raised", "gave up")
        return next((one.text for one in self.why(path).causes if one.what in failures), "")

    def _above(self, path: str) -> Keeper | None:
        return self._below(path.rpartition("/")[0])

    def _keeper(self, child: Child) -> Keeper | None:
        if isinstance(child.runnable, Keeper):
            return child.runnable
        brood = self._broods.get(child.path)
        return brood.keeper if brood is not None else None

    def _state(self) -> Literal["starting", "running", "stopping", "down"]:
        if self._life.ending is not None:
            return "down"
        if self._life.stopping:
            return "stopping"
        return "running" if self._life.started else "starting"


@asynccontextmanager
async def running(
    tree: Supervisor,
    *,
    dead_letters: DeadLetterStore | None = None,
    events: RetryPolicy = DEFAULT_POLICY,
    seed: int | None = None,
    threads: bool = True,
) -> AsyncIterator[System]:
    """Run a tree for as long as the block lasts: `async with running(tree) as system`.

    `dead_letters` stay in memory unless a store is given; `events` says how often events
    are tried; `seed` makes what is random repeat itself; without `threads`, handlers with
    `thread=True` run in place, so that virtual time holds.

    Leaving the block stops the tree in order, and so does a cancellation from
    outside; one that comes while the tree stops already ends its children's time for
    that. If the tree ends by itself meanwhile, the block is cancelled and
    `SupervisorGaveUp`, or whatever ended it, raised.
    """
    system = System(tree, dead_letters=dead_letters, events=events, seed=seed, threads=threads)
    end_log = log_lifecycle(system.bus, system.timers)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await system.run(nursery)
            with trio.CancelScope() as block:
                nursery.start_soon(_cancel_at_end, system, block)
                yield system
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  # raised below, not in a group
            failure = error
        finally:
            # A cancellation has reached the tree already; with a stop on top it would hurry.
            if trio.current_effective_deadline() > -math.inf:
                system.stop("the block was left")
            with trio.CancelScope(shield=True):
                await system.finish()
            end_log()
            nursery.cancel_scope.cancel()
    failure = _failure(system, failure)
    if failure is not None:
        raise failure


def _failure(system: System, block: BaseException | None) -> BaseException | None:
    """What `running` raises, of how the tree ended and what the block raised."""
    ending = system._life.ending
    tree = None if ending is None or ending.clean else ending.error
    if tree is None or tree is block:
        return block
    if block is None:
        return tree
    # Errors of the house are what the block saw of the tree's end: the tree tells why.
    raised, other = (tree, block) if isinstance(block, UnderstudyError) else (block, tree)
    raised.add_note(f"Meanwhile: {type(other).__name__}: {other}")
    return raised


async def _cancel_at_end(system: System, block: trio.CancelScope) -> None:
    while system._life.ending is None:
        await system._change()
    block.cancel()


def _written(message: Any) -> bytes | None:
    """A local message's body for its dead letter; None where it has none that JSON can say."""
    try:
        return encode(message)
    except TypeError:
        return None


def _raise(ending: Ending) -> None:
    if ending.clean:
        return
    if ending.error is not None:
        raise ending.error
    raise UnderstudyError(f"the tree ended: {ending.kind}")


def _line(child: Child, depth: int) -> ChildState:
    return ChildState(child.path, kind_of(child), child.state, child.since, child.number, depth)
