"""gRPC's unary calls: the bridge beside a servicer written on grpc.aio alone.

Both serve one method of one `.proto`, an order with three lines that comes back. Ours reads
it as an attrs class, checks it, and writes the class; the servicer copies protobuf's own
messages. One load generator on grpc.aio, pinned to one core, drives one server at a time,
pinned to the other; rounds are interleaved and rates are medians.

    python -m benchmarks.grpc_unary
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define

from benchmarks.report import Report, interleaved, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, Supervisor, child, message_pattern, serve
from understudy.supervisors.system import running
from understudy.transports.grpc.library import aio, grpc
from understudy.transports.grpc.options import GrpcOptions
from understudy.transports.grpc.protos import Rpc, load

PROTO: Final = """
syntax = "proto3";
package bench;
service Orders { rpc Place (Order) returns (Order); }
message Line { string sku = 1; int32 quantity = 2; }
message Order { int64 order_id = 1; repeated Line lines = 2; optional string note = 3; }
"""
SERVER_CORE, LOAD_CORE = "0", 1
BARS: Final = {64: 0.8, 1: None}
"""By calls in flight: what part of the servicer's rate ours must be."""


@define
class Line:
    sku: str
    quantity: int


@define
class Order:
    order_id: int
    lines: list[Line]
    note: str | None


class Orders(Actor):
    @message_pattern("Orders.Place")
    async def place(self, order: Order) -> Order:
        return order


def method(proto: str) -> Rpc:
    return load("the benchmark", GrpcOptions(proto=proto)).find("Orders.Place")


async def ours(proto: str) -> None:
    tree = Supervisor("bench", [child(Orders), serve("grpc://127.0.0.1:0", proto=proto)])
    async with running(tree) as system:
        print(system.addresses()["bench/grpc"].rpartition(":")[2], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def servicer(proto: str) -> None:
    rpc = method(proto)

    async def place(order: Any, _: Any) -> Any:
        answer = rpc.answer(order_id=order.order_id, note=order.note)
        for line in order.lines:
            answer.lines.add(sku=line.sku, quantity=line.quantity)
        return answer

    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        place, rpc.request.FromString, rpc.answer.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler("bench.Orders", {"Place": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def drive(port: int, body: bytes, calls: int, at_once: int) -> float:
    """Calls per second."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        place = channel.unary_unary("/bench.Orders/Place")
        await place(body, wait_for_ready=True)
        left = iter(range(calls))

        async def work() -> None:
            for _ in left:
                await place(body)

        begin = time.perf_counter()
        await asyncio.gather(*[work() for _ in range(at_once)])
        return calls / (time.perf_counter() - begin)


@contextmanager
def served(kind: str, proto: str) -> Iterator[int]:
    """A server in a process of its own, pinned; yields its port."""
    command = [sys.executable, "-m", "benchmarks.grpc_unary", "--serve", kind, "--proto", proto]
    if shutil.which("taskset"):
        command = ["taskset", "--cpu-list", SERVER_CORE, *command]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


def main(rounds: int, calls: int) -> bool:
    report = Report("grpc_unary", __doc__)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        proto = str(Path(folder) / "bench.proto")
        Path(proto).write_text(PROTO)
        lines = [{"sku": f"sku-{number}", "quantity": number} for number in range(3)]
        body = method(proto).request(order_id=7, lines=lines, note="a note").SerializeToString()
        kinds = ("understudy", "grpc.aio")
        ports = {kind: stack.enter_context(served(kind, proto)) for kind in kinds}
        pin(LOAD_CORE)
        for at_once, factor in BARS.items():

            def rate(port: int, at_once: int) -> Callable[[], float]:
                return lambda: asyncio.run(drive(port, body, calls, at_once))

            rates = interleaved({kind: rate(ports[kind], at_once) for kind in kinds}, rounds)
            bars = (Bar("understudy", "grpc.aio", factor),)
            report.show(Result(f"an order, {at_once} in flight", "calls/s", rates, bars))
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="gRPC beside a servicer on grpc.aio.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5000, help="per round and server")
    parser.add_argument("--serve", choices=["understudy", "grpc.aio"], help=argparse.SUPPRESS)
    parser.add_argument("--proto", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet()
    if given.serve == "understudy":
        trio.run(ours, given.proto)
    elif given.serve:
        asyncio.run(servicer(given.proto))
    else:
        sys.exit(0 if main(given.rounds, given.calls) else 1)
