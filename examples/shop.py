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
import io
import json
import logging
import os
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
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
from understudy.actors.lifecycle import DeadLettered, Escalated, Restarting, Started
from understudy.cli.main import main as understudy
from understudy.supervisors.logs import LOGGER, configure, log_lifecycle
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


# -- the demo -------------------------------------------------------------------------

PAYMENTS: Final = "shop/back-office/payments"
SHOWN: Final = {"Crashed", "Restarting", "GaveUp", "Escalated", "DeadLettered"}
"""Notices whose log lines are part of the story; the log file has all of them."""


class StoryBroken(Exception):
    """Something did not happen as told."""


class Story(logging.Handler):
    """Prints chapters, sentences, and the log as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.out = sys.stdout
        self.colour = self.out.isatty() and "NO_COLOR" not in os.environ
        self.began = time.perf_counter()
        self.chapters = 0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def chapter(self, title: str) -> None:
        self.chapters += 1
        self.say(f"{self.chapters}. {title}", style="1", indent="\n")

    def say(self, text: str, *, style: str = "", indent: str = "   ") -> None:
        text = textwrap.fill(text, 96, initial_indent=indent, subsequent_indent=" " * 14)
        print(f"\033[{style}m{text}\033[0m" if style and self.colour else text, file=self.out)

    def check(self, fact: bool, text: str) -> None:
        """Say what is true if `fact` is. Raises `StoryBroken` if it is not."""
        if not fact:
            raise StoryBroken(text)
        self.say(text)

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "notice", "") in SHOWN:
            self.say(f"{self.elapsed:6.3f} s   {record.getMessage()}", style="2")

    def tree(self, system: System) -> None:
        for line in system.tree():
            name = "  " * line.depth + line.path.rpartition("/")[2]
            text = f"   {name:<18}{line.kind:<12}{line.state:<10}incarnation {line.incarnation}"
            self.say(text, style="33" if line.incarnation > 1 else "", indent="")


@attrs.frozen
class Demo:
    """What happens in each chapter."""

    story: Story
    system: System
    client: Client
    store: SQLiteStore
    letters: Path
    seen: Lifecycle

    async def play(self) -> None:
        for chapter in (
            self.a_tree_is_started,
            self.orders_are_placed,
            self.a_bad_payload_is_answered,
            self.a_request_crashes_its_actor,
            self.a_local_crash_is_counted,
            self.a_subtree_is_rebuilt,
            self.a_poison_event_is_set_aside,
            self.a_dead_letter_is_replayed,
            self.what_is_left,
        ):
            await chapter()

    async def a_tree_is_started(self) -> None:
        self.story.chapter("A tree is started, child by child")
        self.story.tree(self.system)
        (address,) = self.system.addresses().values()
        self.story.check(self.system.healthy, f"It is healthy and listens at {address}.")

    async def orders_are_placed(self) -> None:
        self.story.chapter("Orders are placed, and streamed")
        place, story = Orders.place, self.story
        tea = PlaceOrder("ada@example.org", [Item("tea", 2), Item("cup", 1)])
        pot = PlaceOrder("bob@example.org", [Item("pot", 1)])
        orders = [await self.client.send(place, wish) for wish in (tea, pot)]
        streamed = [order async for order in self.client.stream(Orders.all, None)]
        for order in streamed:
            items = ", ".join(f"{item.quantity} {item.sku}" for item in order.items)
            story.say(f"order {order.id} of {order.customer}: {items}, {cents(order.total)}")
        story.check(streamed == orders, "The stream had what the answers had said.")
        error = await refusal(self.client.send(place, attrs.evolve(pot, items=[Item("pot", 5)])))
        story.check(error.get("status") == 409, f"Five more pots: {error}")

    async def a_bad_payload_is_answered(self) -> None:
        self.story.chapter("A bad payload is answered with every wrong field")
        items = [{"sku": 7, "quantity": 1}, {"quantity": "two"}, {"sku": "tea", "quantity": 0}]
        wish = {"customer": None, "items": items}
        self.story.say(f"orders.place {json.dumps(wish)}")
        error = await refusal(self.client.send("orders.place", wish))
        for problem in error.get("errors", ()):
            self.story.say(f"{problem['path']:<20}{problem['message']}", indent="      ")
        self.story.check(
            [problem["path"] for problem in error["errors"]]
            == [
                "customer",
                "items[0].sku",
                "items[1].sku",
                "items[1].quantity",
                "items[2].quantity",
            ],
            "No handler has run, and nothing was counted.",
        )

    async def a_request_crashes_its_actor(self) -> None:
        self.story.chapter("A request crashes its actor, and its caller is answered at once")
        story, client = self.story, self.client
        before = await client.send(Orders.placed_in_this_life, None)
        began = trio.current_time()
        error = await refusal(client.send(Orders.split, Split(1, people=0)))
        answered = trio.current_time() - began
        await self.started("shop/orders")
        text = f"The caller has {error['message']!r} after {answered * 1000:.1f} ms, no detail."
        story.check(error["message"] == "Internal server error" and answered < 1, text)
        after = await client.send(Orders.placed_in_this_life, None)
        text = f"Orders placed in this life: {before} before the crash, {after} now."
        story.check((before, after) == (2, 0), text)
        kept = [order.id async for order in client.stream(Orders.all, None)]
        story.check(kept == [1, 2], "The orders themselves are in the repository, as before.")

    async def a_local_crash_is_counted(self) -> None:
        self.story.chapter("A crash of the program's own counts, and restarts wait longer")
        self.story.say(
            "Nobody has paid yet, so closing the day divides by zero; 3 restarts may be."
        )
        delays = []
        for left in (2, 1, 0):
            await self.close_the_day_in_vain()
            crash = trio.current_time()
            notice = await self.seen.expect(Restarting, lambda n: n.path == PAYMENTS)
            await self.started(PAYMENTS)
            await self.started("shop/back-office/mail")
            down = trio.current_time() - crash
            delays.append(notice.delay)
            text = f"It was down for {down * 1000:.0f} ms; {left} more restarts may be."
            self.story.check(notice.left == left and down >= notice.delay * 0.99, text)
        text = "Each restart took mail along (one_for_all), and each waited longer than the last."
        self.story.check(all(one < other for one, other in pairwise(delays)), text)

    async def a_subtree_is_rebuilt(self) -> None:
        self.story.chapter("One crash too many: the back office gives up, its parent rebuilds it")
        story, payments = self.story, self.system.ref(Payments)
        await self.close_the_day_in_vain()
        escalated = await self.seen.expect(Escalated)
        await self.started("shop/tcp")
        text = "The door was started after the back office, so it was closed and opened with it."
        story.check(escalated.child == "shop/back-office", text)
        order = await self.client.send(Payments.pay, OrderId(1))
        story.check(
            order.state == "paid", f"The client is connected again: order 1 is {order.state}."
        )
        average = await payments.ask(CloseDay())
        text = f"The day can be closed: {cents(average)} a payment. The reference was taken before."
        story.check(average == order.total, text)

    async def a_poison_event_is_set_aside(self) -> None:
        self.story.chapter("A poison event is retried, then set aside as a dead letter")
        self.story.say("The template for mails has a typo: {custmer}.")
        await self.client.emit("orders.shipped", OrderId(1))
        dead = await self.seen.expect(DeadLettered, within=5)
        (letter,) = await self.store.find("dead")
        text = f"It is in {self.letters.name}, to the byte: {letter.pattern} {letter.body!r}"
        self.story.check((letter.id, letter.attempts) == (dead.id, 4), text)
        office = self.states()["shop/back-office"].incarnation
        self.story.check(office == 2, "Mail alone was restarted, and no restart was counted.")
        self.story.check(await self.command("list") == 0, "Nothing is lost.")

    async def a_dead_letter_is_replayed(self) -> None:
        self.story.chapter("The cause is fixed, the dead letter replayed")
        repository: Repository = self.system.offer("repository")
        repository.template = repository.template.replace("custmer", "customer")
        (letter,) = await self.store.find("dead")
        code = await self.command("replay", letter.id, "--wait", "5")
        sent = repository.mails
        self.story.check(code == 0 and len(sent) == 1, f"One mail was sent: {sent}")
        order = repository.find(1)
        self.story.check(order.state == "shipped", f"Order 1 is {order.state}.")

    async def what_is_left(self) -> None:
        self.story.chapter("The tree after all that")
        self.story.tree(self.system)
        lives = [line.incarnation for line in self.system.tree()]
        self.story.check(
            self.system.healthy and lives == [1, 1, 1, 2, 2, 5, 9, 2],
            f"It is healthy. All of it took {self.story.elapsed:.1f} s.",
        )

    # -- details

    async def started(self, path: str) -> None:
        """Wait until the next life of a child has begun."""
        await self.seen.expect(Started, lambda notice: notice.path == path, within=5)

    async def close_the_day_in_vain(self) -> None:
        try:
            await self.system.ref(Payments).ask(CloseDay())
        except ActorCrashed as error:
            if isinstance(error.__cause__, ZeroDivisionError):
                return
            raise
        raise StoryBroken("closing a day without payments crashes")

    async def command(self, *arguments: str) -> int:
        """A command of the command line, which works on the file from any process."""
        self.story.say(f"$ understudy dead-letters {' '.join(arguments)}", style="1")
        output = io.StringIO()
        with redirect_stdout(output):
            whole = ["dead-letters", *arguments, "--store", str(self.letters)]
            code = await trio.to_thread.run_sync(understudy, whole)
        for line in output.getvalue().splitlines():
            self.story.say(line)
        return code


async def refusal(call: Awaitable[object]) -> dict[str, Any]:
    """The error that a call is answered with."""
    try:
        await call
    except RpcError as error:
        return dict(error.error)
    raise StoryBroken("the call is refused")


def cents(amount: int) -> str:
    return f"{amount / 100:.2f}"


async def demo(folder: Path, story: Story) -> None:
    letters = folder / "dead-letters.sqlite"
    store = SQLiteStore(letters)
    events = RetryPolicy(attempts=4, delays=(0.0, 0.1, 0.2))
    url = free_url()
    async with running(shop(url), dead_letters=store, events=events) as system:
        end_log = log_lifecycle(system.bus, system.timers)
        async with connect(url) as client:
            await Demo(story, system, client, store, letters, Lifecycle(system.bus)).play()
        end_log()


def free_url() -> str:
    """A port that stays the same when the listener is restarted, which port 0 would not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def folder_for(keep: str | None) -> Iterator[Path]:
    if keep is not None:
        yield Path(keep)
    else:
        with TemporaryDirectory(prefix="shop-") as folder:
            yield Path(folder)


def tell(keep: str | None) -> int:
    """Run the demo; returns the exit code."""
    story = Story()
    LOGGER.addHandler(story)
    with folder_for(keep) as folder, (folder / "shop.log").open("w") as log:
        configure("text", stream=log)
        try:
            trio.run(demo, folder, story)
        except (StoryBroken, AssertionError) as error:
            print(f"This did not happen: {error}", file=sys.stderr)
            return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="A shop under supervision.")
    parser.add_argument("mode", nargs="?", choices=["demo", "serve"], default="demo")
    parser.add_argument("url", nargs="?", default=URL, help=f"where to serve ({URL})")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the demo's log and dead letters")
    given = parser.parse_args()
    if given.mode == "serve":
        run(shop(given.url))
    else:
        sys.exit(tell(given.keep))


if __name__ == "__main__":
    main()
