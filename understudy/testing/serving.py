"""A whole tree as a service, for tests: `async with service(tree) as shop`.

The tree is the one of the program, but for its bridges: it is served in memory, or at
the URL of a real transport, with a client beside it. It runs in the background, so that
a test may stop it and go on.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar, overload

import attrs
import trio

from ..actors.actor import Actor
from ..actors.errors import DeclarationError
from ..actors.lifecycle import Bus, Crashed, Restarting
from ..actors.pattern import Pattern
from ..actors.ref import Ref
from ..actors.retry import DEFAULT_POLICY, RetryPolicy
from ..supervisors.child import ChildSpec, Supervisor
from ..supervisors.delivery.record import DeadLetter
from ..supervisors.delivery.store import DeadLetterStore
from ..supervisors.story import Story
from ..supervisors.system import System, running
from ..transports.client import Client, connect
from ..transports.options import shown
from .failures import is_cancelled, of_a_block, the_one_to_raise
from .faults import Fault
from .letters import DeadLetters, KeptLetters
from .lifecycle import Lifecycle
from .places import MEMORY, found_at, is_virtual, place
from .specs import served_at, with_faults
from .virtual import in_virtual_time

__all__ = ["RunningService", "Serve", "service"]

A = TypeVar("A", bound=Actor[Any])


class RunningService:
    """A tree that is served, a client of it, and what a test wants to know and do beside.

    `at` names a child by path, by name, or by its reference.
    """

    system: System
    """The running tree."""

    client: Client
    """Connected to the service, from outside, as another program would be."""

    url: str
    """Where it is served; for clients of the test's own."""

    lifecycle: Lifecycle
    """The notices about all of the tree, from its first start on."""

    def __init__(self, host: "_Host", system: System, url: str) -> None:
        self.system = system
        self.lifecycle = host.lifecycle
        self.url = url
        self._host = host

    def __repr__(self) -> str:
        return f"<RunningService {self.system.name} at {shown(self.url)}>"

    @overload
    def ref(self, actor: type[A]) -> Ref[A]: ...
    @overload
    def ref(self, actor: str) -> Ref[Any]: ...
    def ref(self, actor: Any) -> Ref[Any]:
        """The reference of an actor by class, name or path; raises `LookupError`."""
        return self.system.ref(actor)

    def connect(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """One more client."""
        return connect(self.url, **options)

    # -- what has happened --------------------------------------------------------

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters so far, oldest first, once they are durable; after the end, too.

        A store of the test's own is read by the test after the end.
        """
        return list(await self.system.dead_letters(limit=1_000_000))

    async def expect_dead_letter(
        self,
        pattern: Pattern | Callable[..., Any] | None = None,
        *,
        reason: str | None = None,
        attempts: int | None = None,
        within: float = 60.0,
    ) -> DeadLetter:
        """The next dead letter of a pattern, a method or a type of messages, each returned once.

        Raises `AssertionError` when there was none after `within` seconds.
        """
        __tracebackhide__ = True
        letters = self._host.letters
        return await letters.expect(self.system, pattern, reason, attempts, within)

    async def expect_crash(
        self,
        at: Ref[Any] | str | None = None,
        error: type[BaseException] = BaseException,
        *,
        match: str = "",
        within: float = 1.0,
    ) -> Crashed:
        """The next crash, of any child unless `at` says which; see `Lifecycle.expect_crash`."""
        __tracebackhide__ = True
        path = self._path(at)
        return await self.lifecycle.expect_crash(error, match=match, path=path, within=within)

    async def expect_no_crash(
        self, at: Ref[Any] | str | None = None, *, within: float = 1.0
    ) -> None:
        """Raises `AssertionError` for a crash not expected yet, or that comes `within` seconds."""
        __tracebackhide__ = True
        await self.lifecycle.expect_no_crash(path=self._path(at), within=within)

    async def expect_restart(
        self, at: Ref[Any] | str | None = None, *, within: float = 60.0
    ) -> Restarting:
        """The next restart, complete; see `Lifecycle.expect_restart`."""
        __tracebackhide__ = True
        return await self.lifecycle.expect_restart(path=self._path(at), within=within)

    def restarts(self, at: Ref[Any] | str) -> int:
        """How often a child was restarted so far."""
        return self.lifecycle.restarts(self._path(at))

    def why(self, at: Ref[Any] | str) -> Story:
        """Why it was last restarted, or ended: the chain of causes."""
        return self.system.why(self._path(at) or "")

    # -- its end ------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop the service in order and wait until it has ended; the block goes on."""
        await self._host.end("it was asked to")

    async def kill(self) -> None:
        """End it at once, as far as that goes: everything is cancelled."""
        self.system.kill()
        await self._host.end("it was killed")

    def _path(self, at: Ref[Any] | str | None) -> str | None:
        if at is None or isinstance(at, Ref):
            return None if at is None else at.path
        paths = [line.path for line in self.system.tree()]
        found = [at] if at in paths else [path for path in paths if path.endswith(f"/{at}")]
        if len(found) != 1:
            raise LookupError(f"{self.system.name}: {at!r} is not one of {', '.join(paths)}.")
        return found[0]


class Serve(Protocol):
    """The type of the fixture `service`: `service`, at the transport of this run."""

    def __call__(
        self, tree: Supervisor | Sequence[ChildSpec], **options: Any
    ) -> AbstractAsyncContextManager[RunningService]: ...


@asynccontextmanager
async def service(
    tree: Supervisor | Sequence[ChildSpec],
    *,
    url: str = MEMORY,
    faults: Mapping[str, Sequence[Fault]] | None = None,
    events: RetryPolicy = DEFAULT_POLICY,
    dead_letters: DeadLetterStore | None = None,
    seed: int = 0,
    bridge: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
) -> AsyncIterator[RunningService]:
    """Run a tree, or some children, as a service for as long as the block lasts.

    All bridges of the tree are left out; the one of the test stands where the first of
    them did, or last. It serves at a `url` made from this one, apart from other tests, with
    the options `bridge`; `client` are those of the client. `faults` are there from the first
    start on, by the path or the name of an actor. In virtual time `thread=True` handlers
    run in place.

    An error in the block is raised as it is; if the tree ends by itself, the block is
    cancelled and what ended the tree raised. Raises `DeclarationError` for a transport
    with sockets in virtual time.
    """
    if not isinstance(tree, Supervisor):
        tree = Supervisor("test", tree)
    virtual = in_virtual_time()
    if virtual and not is_virtual(url):
        raise DeclarationError(
            f"{shown(url)} has sockets, which wait in real time, but this test runs in virtual "
            "time. Take the fixture virtual_time instead of a clock: it is virtual in memory only."
        )
    if faults:
        tree = with_faults(tree, faults)
    own_url = place(url, tree.name)
    host = _Host(
        events=events, dead_letters=dead_letters or KeptLetters(), seed=seed, threads=not virtual
    )
    tree, path = served_at(tree, own_url, bridge or {}, host.listen)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, tree)
        with host.block:
            try:
                system = await host.system()
                shop = RunningService(host, system, found_at(own_url, system.addresses().get(path)))
                async with connect(shop.url, **(client or {})) as shop.client:
                    yield shop
            except BaseException as error:
                if is_cancelled(error):
                    raise
                failure = error
        await host.end("the block was left")
    failure = the_one_to_raise(failure, host.failure)
    if failure is not None:
        raise of_a_block(failure)


@attrs.define(eq=False, kw_only=True)
class _Host:
    """The task that a tree runs in, and the block that is cancelled when the tree ends."""

    events: RetryPolicy
    dead_letters: DeadLetterStore
    seed: int
    threads: bool
    lifecycle: Lifecycle = attrs.field(factory=Lifecycle, init=False)
    letters: DeadLetters = attrs.field(factory=DeadLetters, init=False)
    failure: BaseException | None = attrs.field(default=None, init=False)
    asked: bool = attrs.field(default=False, init=False)
    block: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _system: System | None = attrs.field(default=None, init=False)
    _up: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(self, tree: Supervisor) -> None:
        try:
            async with running(
                tree,
                events=self.events,
                dead_letters=self.dead_letters,
                seed=self.seed,
                threads=self.threads,
            ) as self._system:
                self._up.set()
                await trio.sleep_forever()
        except BaseException as error:
            if is_cancelled(error):
                raise
            self.failure = error
        finally:
            self.over.set()
            if not self.asked:
                self.block.cancel()
        if not self.asked and self.failure is None:
            # What the block had still to do was left out, which must not pass.
            self.failure = AssertionError(f"{tree.name} ended by itself before its block did.")

    async def system(self) -> System:
        """The running tree; waits for its start, and for ever if that fails: see `block`."""
        await self._up.wait()
        if self._system is None:  # never: `run` has set it
            raise RuntimeError("the tree is up and has no system.")
        return self._system

    async def end(self, why: str) -> None:
        """Stop the tree, if it runs, and wait for its end."""
        self.asked = True
        if self._system is not None:
            self._system.stop(why)
        await self.over.wait()

    def listen(self, bus: Bus) -> None:
        self.lifecycle.listen(bus)
        self.letters.listen(bus)
