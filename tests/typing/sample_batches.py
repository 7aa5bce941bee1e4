"""Type-checked, never run: a handler of batches is sent one item, and called with a list."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any

import attrs

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern
from understudy.actors.ref import Ref


@attrs.frozen
class Sale:
    id: int


class Ledger(Actor[Any]):
    @event_pattern("sold", batch=500, within=0.2)
    async def sold(self, sales: list[Sale]) -> None: ...

    @event_pattern("returned", batch=10)
    async def returned(self, sales: list[Sale], contexts: list[MessageContext]) -> None: ...


async def sends_items(ledger: Ref[Ledger]) -> None:
    ledger.tell(Ledger.sold, Sale(1))
    ledger.tell(Ledger.returned, Sale(1))
    ledger.tell(Ledger.sold, [Sale(1)])  # type: ignore
    ledger.tell(Ledger.sold, 1)  # type: ignore


async def calls_with_lists(ledger: Ledger) -> None:
    await ledger.sold([Sale(1)])
    await ledger.sold(Sale(1))  # type: ignore
