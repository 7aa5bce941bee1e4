"""A shop as a service: what is said to it, its actors, and their tree.

    python examples/shop.py [URL]            the service, until SIGTERM
    python -m examples.shop_demo             a tour: breaks it in every way it is made for

shop               rest_for_one: with a child restart those started after it
  repository       a resource: what must outlive the actors
  stock            asked by orders, in a protocol of its own
  orders           requests from outside, and a stream
  back-office      one_for_all: payments and mail restart together
    payments       requests from outside, and a daily task of its own
    mail           an event from outside
  tcp              the way in: last to open, first to close
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

import attrs
from attrs.validators import ge, matches_re, min_len

from understudy import (
    Actor,
    Backoff,
    Ref,
    Request,
    RpcError,
    Supervisor,
    child,
    event_pattern,
    message_pattern,
    needs,
    one_for_all,
    resource,
    rest_for_one,
    run,
    serve,
)

__all__ = [
    "CloseDay",
    "Item",
    "Mail",
    "Order",
    "OrderId",
    "Orders",
    "Payments",
    "PlaceOrder",
    "Repository",
    "Split",
    "Stock",
    "cents",
    "shop",
]

PRICES: Final = {"tea": 450, "cup": 1200, "pot": 3900}
"""In cents."""

STOCK: Final = {"tea": 40, "cup": 12, "pot": 3}


# -- what is said -------------------------------------------------------------


@attrs.frozen
class Item:
    sku: str
    quantity: int = attrs.field(validator=ge(1))


@attrs.frozen
class PlaceOrder:
    customer: str = attrs.field(validator=matches_re(r"[^@\s]+@[^@\s]+"))
    items: list[Item] = attrs.field(validator=min_len(1))


@attrs.frozen
class Order:
    id: int
    customer: str
    items: list[Item]
    total: int
    state: Literal["placed", "paid", "shipped"] = "placed"


@attrs.frozen
class OrderId:
    id: int


@attrs.frozen
class Split:
    id: int
    people: int  # a validator is missing here: the demo shows what that costs


@attrs.frozen
class Reserve(Request[None]):
    items: list[Item]


@attrs.frozen
class Paid:
    order: Order


class CloseDay(Request[int]):
    """What was the average payment, in cents?"""


# -- who answers --------------------------------------------------------------


@attrs.define
class Repository:
    """Stands for a database."""

    orders: dict[int, Order] = attrs.Factory(dict)
    stock: dict[str, int] = attrs.Factory(STOCK.copy)
    mails: list[str] = attrs.Factory(list)
    template: str = "Order {id} is on its way to {custmer}."

    def find(self, id: int) -> Order:
        if id not in self.orders:
            raise RpcError({"status": 404, "message": f"there is no order {id}"})
        return self.orders[id]

    def save(self, order: Order) -> Order:
        self.orders[order.id] = order
        return order


@asynccontextmanager
async def open_repository() -> AsyncIterator[Repository]:
    """A pool of connections would be opened and closed here."""
    yield Repository()


class Stock(Actor[Reserve]):
    def __init__(self, repository: Repository) -> None:
        self.shelf = repository.stock

    def receive(self, message: Reserve) -> None:
        """All of it or nothing; one message at a time, so that nobody comes between."""
        for item in message.items:
            if self.shelf.get(item.sku, 0) < item.quantity:
                raise RpcError({"status": 409, "message": f"not enough {item.sku} in stock"})
        for item in message.items:
            self.shelf[item.sku] -= item.quantity


class Orders(Actor):
    def __init__(self, repository: Repository, stock: Ref[Stock]) -> None:
        self.repository = repository
        self.stock = stock
        self.placed = 0

    @message_pattern("orders.place")
    async def place(self, wish: PlaceOrder) -> Order:
        await self.stock.ask(Reserve(wish.items))
        total = sum(PRICES[item.sku] * item.quantity for item in wish.items)
        self.placed += 1
        number = len(self.repository.orders) + 1
        return self.repository.save(Order(number, wish.customer, wish.items, total))

    @message_pattern("orders.all")
    async def all(self, customer: str | None = None) -> AsyncIterator[Order]:
        for order in list(self.repository.orders.values()):
            if customer in (None, order.customer):
                yield order

    @message_pattern("orders.split")
    async def split(self, bill: Split) -> int:
        return round(self.repository.find(bill.id).total / bill.people)

    @message_pattern("orders.count")
    async def count(self) -> int:
        """How many were placed in this life of the actor?"""
        return self.placed


class Payments(Actor[CloseDay]):
    def __init__(self, repository: Repository, mail: "Ref[Mail]") -> None:
        self.repository = repository
        self.mail = mail
        self.taken: list[int] = []

    @message_pattern("payments.pay")
    async def pay(self, which: OrderId) -> Order:
        order = self.repository.find(which.id)
        if order.state != "placed":
            raise RpcError({"status": 409, "message": f"order {order.id} is {order.state}"})
        self.taken.append(order.total)
        paid = self.repository.save(attrs.evolve(order, state="paid"))
        self.mail.tell(Paid(paid))
        return paid

    def receive(self, message: CloseDay) -> int:
        return round(sum(self.taken) / len(self.taken))  # who would close a day without payments?


class Mail(Actor[Paid]):
    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def receive(self, message: Paid) -> None:
        self.repository.mails.append(f"Thank you for {cents(message.order.total)}.")

    @event_pattern("orders.shipped")
    async def on_shipped(self, event: OrderId) -> None:
        order = self.repository.find(event.id)
        text = self.repository.template.format(id=order.id, customer=order.customer)
        self.repository.mails.append(text)
        self.repository.save(attrs.evolve(order, state="shipped"))


def cents(amount: int) -> str:
    return f"{amount / 100:.2f}"


# -- and under whom -----------------------------------------------------------


def shop(url: str) -> Supervisor:
    """The tree of a shop that listens at `url`."""
    back_office = Supervisor(
        "back-office",
        [
            child(Payments, needs("repository"), needs("mail"), backoff=Backoff(0.2, 2.0)),
            child(Mail, needs("repository")),
        ],
        strategy=one_for_all,
        max_restarts=3,
        within=10,
    )
    return Supervisor(
        "shop",
        [
            resource(open_repository, name="repository"),
            child(Stock, needs("repository")),
            child(Orders, needs("repository"), needs("stock"), concurrency=16),
            back_office,
            serve(url),
        ],
        strategy=rest_for_one,
    )


if __name__ == "__main__":
    run(shop(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:3001"))
