"""Type-checked, never run: what mypy and pyright make of children that are started.

Each `type: ignore` is a mistake that must be found: where it is not, the comment is
an error itself, to mypy (strict) and pyright (below).
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import Any, assert_type

from understudy.actors.actor import Actor, Request
from understudy.actors.ref import Ref
from understudy.supervisors.child import ActorSpec, ChildSpec, Supervisor, child
from understudy.supervisors.pool import PoolSpec, pool
from understudy.supervisors.system import System


class Count(Request[int]):
    pass


class Orders(Actor[Count]):
    def receive(self, message: Count) -> int:
        return 1


class Stock(Actor[str]):
    def receive(self, message: str) -> None: ...


async def a_started_actor_is_a_reference_to_its_class(system: System) -> None:
    orders = await system.start_child(child(Orders))
    assert_type(orders, Ref[Orders])
    assert_type(await orders.ask(Count()), int)
    orders.tell("count")  # type: ignore

    stock = await system.start_child(pool(Stock, size=2), under="shop/eu")
    assert_type(stock, Ref[Stock])
    stock.tell("one")
    stock.tell(1)  # type: ignore
    await system.stop_child(stock)


async def other_children_offer_anything(system: System, spec: ChildSpec) -> None:
    assert_type(await system.start_child(spec), Any)
    assert_type(await system.start_child(Supervisor("eu")), Any)


def actors_of_two_kinds_stand_in_one_list() -> None:
    specs = [child(Orders), child(Stock)]
    Supervisor("shop", specs)
    assert_type(child(Orders), ActorSpec[Orders])
    assert_type(pool(Orders, size=2), PoolSpec[Orders])
    child(str)  # type: ignore
