"""The service that benchmarks/tcp.py measures: `python benchmarks/tcp_server.py [PORT]`.

The same two handlers as its peers, with an attrs payload that is validated; prints
`ready PORT` and ends when its standard input closes. Everything that keeps messages
safe is on, as always.
"""

import sys

import trio
from attrs import define

from understudy import Actor, Supervisor, child, message_pattern, running, serve


@define
class Item:
    sku: str
    quantity: int
    price: float


@define
class Order:
    id: int
    customer: str
    items: list[Item]
    note: str | None
    express: bool


class Service(Actor):
    """Plain functions, and a plain answer, as in the peers."""

    @message_pattern("math.sum")
    def sum(self, numbers: list[float]) -> float:
        return sum(numbers)

    @message_pattern("orders.place")
    def place(self, order: Order) -> dict[str, float]:
        total = 0.0
        for item in order.items:
            total += item.quantity * item.price
        return {"id": order.id, "total": total, "lines": len(order.items)}


async def main(port: int) -> None:
    tree = Supervisor("benchmark", [child(Service), serve(f"tcp://127.0.0.1:{port}")])
    async with running(tree) as system:
        address = system.addresses()["benchmark/tcp"]
        print("ready", address.rpartition(":")[2], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
