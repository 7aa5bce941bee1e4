"""Type-checked, never run: what mypy and pyright make of references.

A line that must be an error ends in `# error`; a `reveal_type` line ends in
`# type: T`. tests/typing/test_samples.py compares both checkers with that.
"""

from collections.abc import AsyncIterator

import attrs
from typing_extensions import reveal_type

from understudy.actors.actor import Actor, Request
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.ref import Ref
from understudy.testing import Probe, isolated


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
    def receive(self, message: Increment | Get) -> int | None: ...


class Orders(Actor):
    @message_pattern("find")
    async def find(self, query: FindOrder) -> Order: ...

    @message_pattern("plain")
    def plain(self, query: FindOrder) -> Order: ...

    @message_pattern("context")
    async def with_context(self, query: FindOrder, context: MessageContext) -> Order: ...

    @message_pattern("nothing")
    async def nothing(self) -> Order: ...

    @message_pattern("default")
    async def with_default(self, query: FindOrder = FindOrder(1)) -> Order: ...

    @event_pattern("created")
    async def on_created(self, order: Order) -> None: ...

    @message_pattern("tail")
    async def tail(self, query: FindOrder) -> AsyncIterator[Order]:
        yield Order(query.id)


class Archive(Orders):
    pass


async def ask_by_method(orders: Ref[Orders]) -> None:
    reveal_type(await orders.ask(Orders.find, FindOrder(7)))  # type: Order
    reveal_type(await orders.ask(Orders.plain, FindOrder(7)))  # type: Order
    reveal_type(await orders.ask(Orders.with_context, FindOrder(7)))  # type: Order
    reveal_type(await orders.ask(Orders.with_default, FindOrder(7)))  # type: Order
    reveal_type(await orders.ask(Orders.nothing, None))  # type: Order
    reveal_type(await orders.ask("find", {"id": 7}))  # type: Any
    await orders.ask(Orders.find, FindOrder(7), timeout=1.5)
    await orders.ask(Orders.find, Order(7))  # error
    await orders.ask(Orders.find, {"id": 7})  # error
    await orders.ask(Orders.plain, 7)  # error
    await orders.ask(Orders.with_context, Order(7))  # error
    await orders.ask(Orders.find)  # error
    await orders.ask(Counter.receive, Get())  # error
    (await orders.ask(Orders.find, FindOrder(7))).customer  # error
    number: int = await orders.ask(Orders.find, FindOrder(7))  # error
    print(number)


async def ask_by_message(counter: Ref[Counter]) -> None:
    reveal_type(await counter.ask(Get()))  # type: int
    await counter.ask(Wrong())  # error
    await counter.ask(Increment(1))  # error
    text: str = await counter.ask(Get())  # error
    print(text)


async def tell(counter: Ref[Counter], orders: Ref[Orders]) -> None:
    counter.tell(Increment(1))
    await counter.tell_wait(Increment(1))
    counter.tell(Wrong())  # error
    await counter.tell_wait(Wrong())  # error
    orders.tell(Increment(1))  # error
    orders.tell(Orders.on_created, Order(7))
    orders.tell(Orders.on_created, FindOrder(7))  # error
    orders.tell("created", {"id": 7})
    await orders.tell_wait(Orders.on_created, Order(7))
    await orders.tell_wait(Orders.on_created, 7)  # error


async def stream(orders: Ref[Orders]) -> None:
    async for order in orders.stream(Orders.tail, FindOrder(7)):
        reveal_type(order)  # type: Order
    async for item in orders.stream("tail", {}):
        reveal_type(item)  # type: Any
    orders.stream(Orders.tail, Order(7))  # error


def references_are_covariant(archive: Ref[Archive], orders: Ref[Orders]) -> None:
    base: Ref[Orders] = archive
    derived: Ref[Archive] = orders  # error
    print(base, derived)


async def an_actor_knows_its_reference(archive: Archive) -> None:
    reveal_type(archive.ref)  # type: Ref[Archive]


async def testing() -> None:
    async with isolated(Orders) as orders:
        reveal_type(orders)  # type: Isolated[Orders]
        reveal_type(await orders.ask(Orders.find, FindOrder(7)))  # type: Order
        await orders.ask(Orders.find, Order(7))  # error
        same: Ref[Orders] = orders
        print(same)
    mail: Ref[Orders] = Probe(Orders)
    reveal_type(await Probe().expect(Order))  # type: Order
    print(mail)
