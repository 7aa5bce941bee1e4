"""The children of an actor: a supervisor of its own, for as long as one of its lives.

They stand under the actor's path (`shop/orders/session-1`), are restarted one for
one, three times in five seconds, and end before the incarnation that started them
is over. Whoever wants other limits starts a `Supervisor(...)` as the child.

Their tasks run beside the tree, shielded from what cancels the actor: only `end`
stops them, in order or by cancelling them. They handle no patterns from outside:
the actor that started them passes on what is for them.

Invariant: of two lives of one actor, the children of the first are over before the
second can start one. An actor without children costs nothing here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from ..actors.errors import UnderstudyError
from ..actors.incarnation import Incarnation
from .child import ChildSpec, Supervisor
from .keeper import Keeper, offer_of
from .running_child import Tree
from .supervisor import Supervision

__all__ = ["Brood", "Nest"]


class Nest(Tree, Protocol):
    """What a brood needs of the system."""

    def ended(self, brood: "Brood") -> None:
        """The children of one life of an actor are over."""


class Brood:
    """The children of one incarnation of one actor.

    `failed` is called with the reason when their supervisor gives up.
    """

    def __init__(
        self,
        nest: Nest,
        path: str,
        above: Keeper | None,
        nursery: trio.Nursery,
        failed: Callable[[BaseException], None],
        former: "Brood | None",
    ) -> None:
        self.path = path
        self.keeper: Supervision | None = None
        self._nest = nest
        self._above = above
        self._nursery = nursery
        self._failed = failed
        self._former = former
        self._life = Incarnation(path, 1, self._reported)
        self._changed = trio.Event()
        self._ending = False
        self._beginning = trio.Lock()

    @property
    def children(self) -> Mapping[str, Any]:
        """What each offers, by name, in start order; without those that offer nothing now."""
        if self.keeper is None:
            return {}
        kept = self.keeper.children.items()
        offers = {name: offer_of(child) for name, child in kept if child.state != "ended"}
        return {name: offer for name, offer in offers.items() if offer is not None}

    async def start(self, spec: ChildSpec) -> Any:
        """Start a child and return what it offers; raises `StartFailed`, `DeclarationError`."""
        keeper = await self._begun()
        return offer_of(await keeper.start_child(spec))

    async def stop(self, name: str) -> None:
        """Stop a child for good; raises `LookupError` if there is none."""
        if self.keeper is None:
            raise LookupError(f"{self.path} has no child {name!r}.")
        await self.keeper.stop_child(name)

    async def end(self, *, kill: bool) -> None:
        """Stop all children in reverse order, or cancel them; returns when they are over.

        If it is cancelled meanwhile, the children are, too, and it returns when that is done.
        """
        self._ending = True
        try:
            if not kill and self._life.ending is None:
                self._life.stop(drain=True)
                await self._until_over()
        finally:
            with trio.CancelScope(shield=True):
                if self._life.ending is None:
                    self._life.kill()
                    self._life.stop(drain=False)
                    await self._until_over()
            self._leave()

    async def _begun(self) -> Supervision:
        async with self._beginning:
            if self._former is not None:
                # Its actor was left behind as stuck, and could not end it.
                await self._former.end(kill=True)
                self._former = None
            if self._ending:
                raise UnderstudyError(f"{self.path} is ending and starts no more children.")
            if self.keeper is None:
                spec = Supervisor(self.path.rpartition("/")[2])
                self.keeper = Supervision(spec, self.path, self._nest, self._above, "private")
                self._nursery.start_soon(self._live, self.keeper, name=f"{self.path}/*")
            while not self._life.started and self._life.ending is None:
                await self._change()
            return self.keeper

    async def _live(self, keeper: Supervision) -> None:
        with trio.CancelScope(shield=True):
            await self._life.live(keeper)

    def _reported(self, life: Incarnation) -> None:
        self._changed.set()
        ending = life.ending
        if ending is None or self._ending:
            return
        self._ending = True
        self._leave()
        self._failed(ending.error or UnderstudyError(f"its children ended: {ending.kind}"))

    def _leave(self) -> None:
        if self.keeper is not None:
            self.keeper.leave()
        self._nest.ended(self)

    async def _until_over(self) -> None:
        if self.keeper is not None:
            await self.keeper.over.wait()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
