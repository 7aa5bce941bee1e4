"""A shop under supervision, and a demo that breaks it in every way it is made for.

    python examples/shop.py                the demo: a service and its client in one process
    python examples/shop.py serve [URL]    the service alone, at tcp://127.0.0.1:3001 unless said

The tree, in the order of its start; what comes later needs what stands before it:

    shop               rest_for_one: with a child restart those started after it
      repository       a resource: what must outlive the actors
      stock            asked by orders, in a protocol of its own
      orders           requests from outside, and a stream
      back-office      one_for_all: payments and mail restart together
        payments
        mail           an event from outside
      tcp              the way in, last to open and first to close
"""

import argparse
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import attrs
import trio
from attrs.validators import ge, matches_re, min_len

from understudy import (
    Actor,
    ActorCrashed,
    Backoff,
    Client,
    Ref,
    Request,
    RetryPolicy,
    RpcError,
    SQLiteStore,
    Supervisor,
    System,
    child,
    connect,
    event_pattern,
    message_pattern,
    needs,
    one_for_all,
    resource,
    rest_for_one,
    run,
    running,
    serve,
)
from understudy.actors.lifecycle import Crashed, DeadLettered, Escalated, Restarting, Started
from understudy.cli.main import main as understudy
from understudy.supervisors.logs import log_lifecycle
from understudy.testing import Lifecycle

URL: Final = "tcp://127.0.0.1:3001"
PRICES: Final = {"tea": 450, "cup": 1200, "pot": 3900}
"""In cents."""

# -- what is said ---------------------------------------------------------------------


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
    people: int  # with validator=ge(1) the demo would miss a chapter


@attrs.frozen
class Reserve(Request[None]):
    items: list[Item]


class CloseDay(Request[int]):
    """What was the average payment, in cents?"""


# -- the actors -----------------------------------------------------------------------


@attrs.define
class Repository:
    """Stands for a database."""

    orders: dict[int, Order] = attrs.Factory(dict)
    stock: dict[str, int] = attrs.Factory(lambda: {"tea": 40, "cup": 12, "pot": 3})
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
    yield Repository()


class Stock(Actor[Reserve]):
    def __init__(self, repository: Repository) -> None:
        self.shelf = repository.stock

    def receive(self, message: Reserve) -> None:
        """All of it or nothing: one message at a time, so nobody comes between."""
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
        return self.repository.find(bill.id).total // bill.people

    @message_pattern("orders.placed")
    async def placed_in_this_life(self) -> int:
        return self.placed


class Payments(Actor[CloseDay]):
    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.taken: list[int] = []

    @message_pattern("payments.pay")
    async def pay(self, which: OrderId) -> Order:
        order = self.repository.find(which.id)
        if order.state != "placed":
            raise RpcError({"status": 409, "message": f"order {which.id} is {order.state} already"})
        self.taken.append(order.total)
        return self.repository.save(attrs.evolve(order, state="paid"))

    def receive(self, message: CloseDay) -> int:
        return sum(self.taken) // len(self.taken)  # who would close a day without a payment?


class Mail(Actor):
    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    @event_pattern("orders.shipped")
    async def on_shipped(self, event: OrderId) -> None:
        order = self.repository.find(event.id)
        text = self.repository.template.format(id=order.id, customer=order.customer)
        self.repository.mails.append(text)
        self.repository.save(attrs.evolve(order, state="shipped"))


def shop(url: str) -> Supervisor:
    back_office = Supervisor(
        "back-office",
        [
            child(Payments, needs("repository"), backoff=Backoff(0.2, 2.0)),
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


