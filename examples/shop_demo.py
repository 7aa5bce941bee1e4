"""The demo: a service and its client in one process, and everything that can go wrong.

Each chapter makes something happen, waits until the tree says that it did, and checks
what it tells. Nothing in here sleeps.

    python -m examples.shop_demo [--keep FOLDER]
"""

import argparse
import io
import json
import os
import socket
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import attrs
import trio

from examples.shop import (
    CloseDay,
    Item,
    OrderId,
    Orders,
    Payments,
    PlaceOrder,
    Repository,
    Split,
    cents,
    shop,
)
from examples.shop_story import BOLD, Story, StoryBroken
from understudy import (
    ActorCrashed,
    Client,
    RetryPolicy,
    RpcError,
    SQLiteStore,
    System,
    connect,
    running,
)
from understudy.actors.lifecycle import DeadLettered, Escalated, Restarting, Started
from understudy.cli.main import main as command_line
from understudy.supervisors.logs import LOGGER, configure
from understudy.testing import Lifecycle

__all__ = ["demo"]

PAYMENTS: Final = "shop/back-office/payments"
MAIL: Final = "shop/back-office/mail"


async def demo(folder: Path, story: Story) -> None:
    """Tell the story; dead letters are kept in `folder`.

    Raises `StoryBroken`, and `AssertionError` for a notice that does not come.
    """
    url = free_url()
    letters = folder / "dead-letters.sqlite"
    store, events = SQLiteStore(letters), RetryPolicy(attempts=4, delays=(0.0, 0.1, 0.2))
    async with running(shop(url), dead_letters=store, events=events) as system:
        async with connect(url) as client:
            await Demo(story, system, client, letters, Lifecycle(system.bus)).play()


def free_url() -> str:
    """A port that stays the same when its listener is restarted, which port 0 would not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@attrs.frozen
class Demo:
    """What happens in each chapter."""

    story: Story
    system: System
    client: Client
    letters: Path
    seen: Lifecycle

    async def play(self) -> None:
        for chapter in (
            self.a_tree_is_started,
            self.orders_are_placed,
            self.a_bad_payload_is_answered,
            self.a_request_crashes_its_actor,
            self.a_crash_of_our_own_is_counted,
            self.a_subtree_is_rebuilt,
            self.a_poison_event_is_set_aside,
            self.a_dead_letter_is_replayed,
            self.the_tree_is_whole,
        ):
            await chapter()

    async def a_tree_is_started(self) -> None:
        self.story.chapter("A tree is started, child by child")
        self.story.tree(self.system.tree())
        (address,) = self.system.addresses().values()
        self.story.check(self.system.healthy, f"It is healthy and listens at {address}.")

    async def orders_are_placed(self) -> None:
        client, story = self.client, self.story
        story.chapter("Orders are placed, and streamed")
        tea = PlaceOrder("ada@example.org", [Item("tea", 2), Item("cup", 1)])
        pot = PlaceOrder("bob@example.org", [Item("pot", 1)])
        orders = [await client.send(Orders.place, wish) for wish in (tea, pot)]
        streamed = [order async for order in client.stream(Orders.all, None)]
        for order in streamed:
            items = ", ".join(f"{item.quantity} {item.sku}" for item in order.items)
            story.say(f"order {order.id} of {order.customer}: {items}, {cents(order.total)}")
        story.check(streamed == orders, "The stream has what was answered.")
        many = PlaceOrder("eve@example.org", [Item("pot", 5)])
        error = await refusal(client.send(Orders.place, many))
        story.check(error["status"] == 409, f"Five more pots are refused: {json.dumps(error)}")

    async def a_bad_payload_is_answered(self) -> None:
        self.story.chapter("A bad payload is answered with every wrong field")
        wish = {"customer": None, "items": [{"sku": 7}, {"sku": "tea", "quantity": 0}]}
        self.story.say(f"orders.place {json.dumps(wish)}")
        error = await refusal(self.client.send("orders.place", wish))
        problems = {problem["path"]: problem["message"] for problem in error["errors"]}
        for path, message in problems.items():
            self.story.say(f"{path:<18}  {message}", indent=6)
        fields = {"customer", "items[0].sku", "items[0].quantity", "items[1].quantity"}
        orders = len(self.repository.orders)
        self.story.check(
            problems.keys() == fields and orders == 2, f"There are {orders} orders, as before."
        )

    async def a_request_crashes_its_actor(self) -> None:
        client, story = self.client, self.story
        story.chapter("A request crashes its actor; its caller is answered at once")
        before = await client.send("orders.count", returns=int)
        began = trio.current_time()
        error = await refusal(client.send(Orders.split, Split(1, people=0)))
        answered = trio.current_time() - began
        await self.started("shop/orders", 2)
        text = f"The caller has {error['message']!r} after {answered * 1000:.1f} ms."
        story.check(error["message"] == "Internal server error" and answered < 1, text)
        after = await client.send("orders.count", returns=int)
        text = f"The state is clean: {before} orders counted in that life, {after} in this one."
        story.check((before, after) == (2, 0), text)
        kept = [order.id async for order in client.stream(Orders.all, None)]
        story.check(kept == [1, 2], "The orders are in the repository, which did not restart.")

    async def a_crash_of_our_own_is_counted(self) -> None:
        story = self.story
        story.chapter("A crash of the program's own counts, and restarts wait longer each time")
        story.say("Closing a day without payments divides by zero.")
        delays = []
        for left in (2, 1, 0):
            began = trio.current_time()
            await self.close_the_day_in_vain()
            notice = await self.seen.expect(Restarting, lambda n: n.path == PAYMENTS)
            await self.started(PAYMENTS, notice.incarnation)
            await self.started(MAIL, notice.incarnation)
            down = trio.current_time() - began
            delays.append(notice.delay)
            text = f"Both are back after {down * 1000:.0f} ms."
            story.check(notice.left == left and down >= notice.delay, text)
        story.check(
            delays[0] == 0 and all(one < next_one for one, next_one in pairwise(delays)),
            "The first restart came at once, each later one waited about twice as long.",
        )

    async def a_subtree_is_rebuilt(self) -> None:
        client, story, payments = self.client, self.story, self.system.ref(Payments)
        story.chapter("One crash too many: the back office gives up, its parent rebuilds it")
        await self.close_the_day_in_vain()
        escalated = await self.seen.expect(Escalated)
        await self.started("shop/tcp", 2)
        story.check(
            (escalated.path, escalated.child) == ("shop", "shop/back-office"),
            "What was started after it was closed and opened with it.",
        )
        order = await client.send(Payments.pay, OrderId(1))
        story.check(
            order.state == "paid", f"The client is connected again: order 1 is {order.state}."
        )
        average = await payments.ask(CloseDay())
        text = f"A reference from before reaches the new actor: {cents(average)} a payment today."
        story.check(average == order.total, text)

    async def a_poison_event_is_set_aside(self) -> None:
        story = self.story
        story.chapter("A poison event is tried four times, then set aside as a dead letter")
        story.hidden.add("Restarting")
        story.say(f"The template of mails is {self.repository.template!r}.")
        await self.client.emit("orders.shipped", OrderId(1))
        dead = await self.seen.expect(DeadLettered, within=5)
        await self.started(MAIL, 9)
        restarts = [notice for notice in self.seen.of(Restarting) if notice.path == MAIL]
        story.check(
            (dead.attempts, [notice.left for notice in restarts]) == (4, [None] * 4),
            "Mail alone was restarted, and the window was not touched: the message is to blame.",
        )
        shown = await self.command("list", "--status", "dead")
        story.check(dead.id in shown, f"It is on disk, in {self.letters.name}.")

    async def a_dead_letter_is_replayed(self) -> None:
        story, repository = self.story, self.repository
        story.chapter("The cause is fixed, the dead letter is replayed")
        repository.template = repository.template.replace("custmer", "customer")
        (dead,) = self.seen.of(DeadLettered)
        shown = await self.command("replay", dead.id, "--wait", "5")
        story.check(f"{dead.id}  replayed" in shown, f"The customer got: {repository.mails}")
        order = repository.find(1)
        story.check(
            order.state == "shipped" and order.customer in repository.mails[-1],
            f"Order 1 is {order.state}.",
        )

    async def the_tree_is_whole(self) -> None:
        self.story.chapter("The tree after all that")
        lines = self.system.tree()
        self.story.tree(lines)
        lives = {line.path.rpartition("/")[2]: line.incarnation for line in lines}
        # Payments: 3 restarts and 1 rebuild; mail: the same, and 4 of its own.
        expected = {"orders": 2, "back-office": 2, "payments": 5, "mail": 9, "tcp": 2}
        self.story.check(
            self.system.healthy and lives == dict.fromkeys(lives, 1) | expected,
            f"It is healthy again. All this took {self.story.elapsed:.1f} s.",
        )

    # -- details

    @property
    def repository(self) -> Repository:
        found = self.system.offer("repository")
        if not isinstance(found, Repository):
            raise StoryBroken("the repository is offered")
        return found

    async def started(self, path: str, incarnation: int) -> None:
        """Wait until this life of a child has begun."""
        wanted = (path, incarnation)
        await self.seen.expect(Started, lambda n: (n.path, n.incarnation) == wanted, within=5)

    async def close_the_day_in_vain(self) -> None:
        try:
            await self.system.ref(Payments).ask(CloseDay())
        except ActorCrashed as error:
            if not isinstance(error.__cause__, ZeroDivisionError):
                raise
        else:
            raise StoryBroken("closing a day without payments crashes")

    async def command(self, *arguments: str) -> str:
        """Run the command line on the dead letters, as another process could; returns its output.

        Raises `StoryBroken` when it fails.
        """
        self.story.say(f"$ understudy dead-letters {' '.join(arguments)}", BOLD)
        whole = ["dead-letters", *arguments, "--store", str(self.letters)]
        with redirect_stdout(io.StringIO()) as output:
            code = await trio.to_thread.run_sync(command_line, whole)
        for line in output.getvalue().splitlines():
            self.story.say(line)
        if code != 0:
            raise StoryBroken(f"the command succeeds, its exit code was {code}")
        return output.getvalue()


async def refusal(call: Awaitable[object]) -> dict[str, Any]:
    """The error that a call is answered with; raises `StoryBroken` when it succeeds."""
    try:
        await call
    except RpcError as error:
        return dict(error.error)
    raise StoryBroken("the call is answered with an error")


# -- as a program -------------------------------------------------------------


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
        except BrokenPipeError:
            # Who listened has left; Python flushes stdout once more: into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    if keep is not None:
        story.say(f"The whole log and the dead letters are in {keep}.")
    return 0


@contextmanager
def folder_for(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with TemporaryDirectory(prefix="shop-") as folder:
            yield Path(folder)
    else:
        Path(keep).mkdir(exist_ok=True)
        yield Path(keep)


def main() -> None:
    parser = argparse.ArgumentParser(description="A shop under supervision.")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the log and the dead letters there")
    sys.exit(tell(parser.parse_args().keep))


if __name__ == "__main__":
    main()
