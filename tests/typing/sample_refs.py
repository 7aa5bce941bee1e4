"""Type-checked, never run: what mypy and pyright make of references.

Each `type: ignore` is a mistake that must be found: where it is not, the comment is
an error itself, to mypy (strict) and pyright (below).
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import AsyncIterator
from typing import Any, assert_type

import attrs

from understudy.actors.actor import Actor, Request
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.ref import Ref
from understudy.testing import Isolated, Probe, isolated


@attrs.frozen
class FindOrder:
    id: int


@attrs.frozen
class Order:
    id: int


@attrs.frozen
class Increment:
    by: int


class Get(Request[int]):
    pass


class Wrong:
    pass


class Counter(Actor[Increment | Get]):
    def receive(self, message: Increment | Get) -> int | None:
        raise NotImplementedError


class Orders(Actor):
    @message_pattern("find")
    async def find(self, query: FindOrder) -> Order:
        raise NotImplementedError

    @message_pattern("plain")
    def plain(self, query: FindOrder) -> Order:
        raise NotImplementedError

    @message_pattern("context")
    async def with_context(self, query: FindOrder, context: MessageContext) -> Order:
        raise NotImplementedError

    @message_pattern("nothing")
    async def nothing(self) -> Order:
        raise NotImplementedError

    @message_pattern("default")
    async def with_default(self, query: FindOrder = FindOrder(1)) -> Order:
        raise NotImplementedError

    @event_pattern("created")
    async def on_created(self, order: Order) -> None:
        raise NotImplementedError

    @message_pattern("ticks")
    async def ticks(self) -> AsyncIterator[Order]:
        yield Order(1)

    @message_pattern("tail")
    async def tail(self, query: FindOrder) -> AsyncIterator[Order]:
        yield Order(query.id)


class Archive(Orders):
    pass


async def ask_by_method(orders: Ref[Orders]) -> None:
    assert_type(await orders.ask(Orders.find, FindOrder(7)), Order)
    assert_type(await orders.ask(Orders.plain, FindOrder(7)), Order)
    assert_type(await orders.ask(Orders.with_context, FindOrder(7)), Order)
    assert_type(await orders.ask(Orders.with_default, FindOrder(7)), Order)
    assert_type(await orders.ask(Orders.nothing, None), Order)
    assert_type(await orders.ask("find", {"id": 7}), Any)
    await orders.ask(Orders.find, FindOrder(7), timeout=1.5)
    await orders.ask(Orders.find, Order(7))  # type: ignore[arg-type]
    await orders.ask(Orders.find, {"id": 7})  # type: ignore[arg-type]
    await orders.ask(Orders.plain, 7)  # type: ignore[arg-type]
    await orders.ask(Orders.with_context, Order(7))  # type: ignore[arg-type]
    await orders.ask(Orders.find)  # type: ignore[call-overload]
    await orders.ask(Counter.receive, Get())  # type: ignore[arg-type]
    _ = (await orders.ask(Orders.find, FindOrder(7))).customer  # type: ignore[attr-defined]
    _number: int = await orders.ask(Orders.find, FindOrder(7))  # type: ignore[arg-type]


async def ask_by_message(counter: Ref[Counter]) -> None:
    assert_type(await counter.ask(Get()), int)
    await counter.ask(Wrong())  # type: ignore[call-overload]
    await counter.ask(Increment(1))  # type: ignore[call-overload]
    _text: str = await counter.ask(Get())  # type: ignore[arg-type]


async def tell(counter: Ref[Counter], orders: Ref[Orders]) -> None:
    counter.tell(Increment(1))
    await counter.tell_wait(Increment(1))
    counter.tell(Wrong())  # type: ignore[call-overload]
    await counter.tell_wait(Wrong())  # type: ignore[call-overload]
    orders.tell(Increment(1))  # type: ignore[call-overload]
    orders.tell(Orders.on_created, Order(7))
    orders.tell(Orders.on_created, FindOrder(7))  # type: ignore[arg-type]
    orders.tell("created", {"id": 7})
    await orders.tell_wait(Orders.on_created, Order(7))
    await orders.tell_wait(Orders.on_created, 7)  # type: ignore[arg-type]


async def stream(orders: Ref[Orders]) -> None:
    async for order in orders.stream(Orders.tail, FindOrder(7)):
        assert_type(order, Order)
    async for tick in orders.stream(Orders.ticks, None):
        assert_type(tick, Order)
    async for item in orders.stream("tail", {}):
        assert_type(item, Any)
    orders.stream(Orders.tail, Order(7))  # type: ignore[arg-type]


def references_are_covariant(archive: Ref[Archive], orders: Ref[Orders]) -> None:
    _base: Ref[Orders] = archive
    _derived: Ref[Archive] = orders  # type: ignore[assignment]


async def an_actor_knows_its_reference(archive: Archive) -> None:
    assert_type(archive.ref, Ref[Archive])


async def isolated_actors() -> None:
    async with isolated(Orders) as orders:
        assert_type(orders, Isolated[Orders])
        assert_type(await orders.ask(Orders.find, FindOrder(7)), Order)
        await orders.ask(Orders.find, Order(7))  # type: ignore[arg-type]
        _same: Ref[Orders] = orders
    _mail: Ref[Orders] = Probe(Orders)
    assert_type(await Probe().expect(Order), Order)
