"""The files of a new service, as `understudy new` writes them.

`@NAME@` stands for the project, `@PACKAGE@` for its package, `@EXTRAS@` and `@URL@` for what
it serves on, `@VARIABLE@` for the environment variable that names another URL.
"""

from typing import Final

__all__ = ["FILES"]

_PYPROJECT: Final = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "A service of supervised actors."
requires-python = ">=3.11"
dependencies = ["understudy@EXTRAS@"]

[project.optional-dependencies]
test = ["pytest>=8", "pytest-trio>=0.8"]

[tool.hatch.build.targets.wheel]
packages = ["@PACKAGE@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
trio_mode = true
"""

_README: Final = """\
# @NAME@

A service of supervised actors, made with [understudy](https://pypi.org/project/understudy/).

```console
$ python -m venv .venv && . .venv/bin/activate
$ pip install -e '.[test]'
$ pytest
$ understudy check @PACKAGE@.service:tree
$ understudy run @PACKAGE@.service:tree --reload
```

In another terminal:

```console
$ understudy send @URL@ orders.place '{"id": 7, "item": "lamp"}'
$ understudy send @URL@ orders.find '{"id": 7}'
$ understudy top
```

An event that cannot be handled is tried again, and then set aside; it is replayed when what was
missing is there:

```console
$ understudy emit @URL@ orders.shipped '{"id": 8}'
$ understudy tree
$ understudy dead-letters list
$ understudy send @URL@ orders.place '{"id": 8, "item": "chair"}'
$ understudy dead-letters replay --all --wait 5
```

| | |
|---|---|
| `@PACKAGE@/orders.py` | what is said to the service, and the actor that answers |
| `@PACKAGE@/service.py` | the tree: what runs, under whom, and where it listens |
| `tests/` | the actor by itself, and the whole service over the wire |
"""

_IGNORED: Final = """\
.venv/
__pycache__/
*.egg-info/
dist/
dead-letters.sqlite*
"""

_PACKAGE: Final = '"""@NAME@: a service of supervised actors."""\n'

_ORDERS: Final = '''\
"""Orders: what is said about them, what is kept of them, and the actor that answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import Factory, define, evolve, frozen

from understudy import Actor, RetryPolicy, RpcError, event_pattern, message_pattern


@frozen
class Order:
    id: int
    item: str
    shipped: bool = False


@frozen
class OrderId:
    id: int


@define
class Store:
    """Stands for a database: what must outlive a crash of the actor is not in the actor."""

    orders: dict[int, Order] = Factory(dict)


@asynccontextmanager
async def open_store() -> AsyncIterator[Store]:
    yield Store()  # a pool of connections would be opened before, and closed after this


class Orders(Actor):
    def __init__(self, store: Store) -> None:
        self.store = store

    @message_pattern("orders.place")  # a request: the caller gets what this returns
    async def place(self, order: Order) -> Order:
        if order.id in self.store.orders:
            raise RpcError({"status": 409, "message": f"there is an order {order.id} already"})
        self.store.orders[order.id] = order
        return order

    @message_pattern("orders.find")
    async def find(self, which: OrderId) -> Order:
        if which.id not in self.store.orders:
            raise RpcError({"status": 404, "message": f"there is no order {which.id}"})
        return self.store.orders[which.id]

    # An event: nobody waits for an answer. If it comes before its order, the KeyError crashes
    # the actor, which is restarted; the event is tried again, and then is a dead letter.
    @event_pattern("orders.shipped", retry=RetryPolicy(attempts=3, delays=(0.0, 0.1)))
    async def shipped(self, which: OrderId) -> None:
        order = self.store.orders[which.id]
        self.store.orders[which.id] = evolve(order, shipped=True)
'''

_SERVICE: Final = '''\
"""The tree of the service: `understudy run @PACKAGE@.service:tree`."""

import os

from understudy import Supervisor, child, needs, resource, rest_for_one, run, serve

from .orders import Orders, open_store

URL = os.environ.get("@VARIABLE@", "@URL@")


def service(url: str) -> Supervisor:
    """Started from top to bottom, stopped from bottom to top."""
    return Supervisor(
        "@NAME@",
        [
            resource(open_store, name="store"),
            child(Orders, needs("store")),
            serve(url),
        ],
        strategy=rest_for_one,
    )


tree = service(URL)

if __name__ == "__main__":
    run(tree)
'''

_TESTS: Final = '''\
"""The actor by itself, and the whole service over the wire."""

import pytest

from @PACKAGE@.orders import Order, OrderId, Orders, Store
from @PACKAGE@.service import service
from understudy import RpcError, connect, running
from understudy.testing import isolated


async def test_an_order_that_was_placed_is_found() -> None:
    async with isolated(Orders, Store()) as orders:
        await orders.ask(Orders.place, Order(7, "lamp"))

        assert await orders.ask(Orders.find, OrderId(7)) == Order(7, "lamp")


async def test_a_missing_order_is_a_404() -> None:
    async with isolated(Orders, Store()) as orders:
        with pytest.raises(RpcError, match="there is no order 8"):
            await orders.ask(Orders.find, OrderId(8))


async def test_the_service_answers_on_the_wire() -> None:
    async with running(service("tcp://127.0.0.1:0")) as system:
        (url,) = system.addresses().values()
        async with connect(url) as client:
            await client.send(Orders.place, Order(7, "lamp"))

            assert await client.send(Orders.find, OrderId(7)) == Order(7, "lamp")
'''

FILES: Final = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    ".gitignore": _IGNORED,
    "@PACKAGE@/__init__.py": _PACKAGE,
    "@PACKAGE@/orders.py": _ORDERS,
    "@PACKAGE@/service.py": _SERVICE,
    "tests/test_orders.py": _TESTS,
}
"""Text by path, both with the words that stand for others."""
