"""The WebSocket bridge beside the library that it stands on.

One load generator, pinned to one core, drives one server at a time, pinned to the other;
rounds are interleaved and rates are medians. Ours decodes each packet into an attrs class,
passes it to an actor and answers; the bare one is an echo loop on trio-websocket that
decodes plain JSON. Every answer is counted, and the last one of a round is read.

    python -m benchmarks.websocket
"""

import argparse
import json
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter
from typing import Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import Request, TextMessage

from benchmarks.report import Report, interleaved, pin
from benchmarks.results import Bar, Result
from benchmarks.tcp import served

__all__: list[str] = []

LOAD_CORE: Final = 1
SERVER: Final = "benchmarks.websocket_server"
BARS: Final = {1: 0.7, 64: 0.7}
"""By number of requests in flight: which part of the bare echo's rate ours must be."""

ORDER: Final = {
    "id": 7,
    "customer": "Ada",
    "items": [
        {"sku": "tea", "quantity": 2, "price": 3.5},
        {"sku": "jam", "quantity": 1, "price": 4},
    ],
    "note": None,
    "express": True,
}


def rate(port: int, in_flight: int, requests: int) -> float:
    """Requests per second over one connection."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        protocol = WSConnection(ConnectionType.CLIENT)
        line.sendall(protocol.send(Request(host=f"127.0.0.1:{port}", target="/")))
        protocol.receive_data(line.recv(65536))
        list(protocol.events())
        # One masked frame for all: the requests are the same, and so are their ids.
        packet = json.dumps(
            {"pattern": "orders.place", "data": ORDER, "id": "1"}, separators=(",", ":")
        )
        frame = protocol.send(TextMessage(data=packet))
        _drive(line, frame, in_flight, requests // 10)
        began = perf_counter()
        last = _drive(line, frame, in_flight, requests)
        seconds = perf_counter() - began
    answer = json.loads(last)
    if answer.get("id") != "1" or answer.get("response", {}).get("id") != 7:
        raise SystemExit(f"a wrong answer: {answer}")
    return requests / seconds


def _drive(line: socket.socket, frame: bytes, in_flight: int, requests: int) -> bytes:
    """Keep so many requests in flight until all are answered; the last answer."""
    line.sendall(frame * in_flight)
    sent, answered = in_flight, 0
    held, last = b"", b""
    while answered < requests:
        data = line.recv(262144)
        if not data:
            raise SystemExit(f"the server closed the connection after {answered} answers")
        held += data
        start, count = 0, 0
        while len(held) - start >= 4:
            size, head = held[start + 1], 2
            if size == 126:
                size, head = int.from_bytes(held[start + 2 : start + 4]), 4
            if len(held) - start < head + size:
                break
            last = held[start + head : start + head + size]
            start += head + size
            count += 1
        held = held[start:]
        answered += count
        more = min(count, requests - sent)
        if more > 0:
            line.sendall(frame * more)
            sent += more
    return last


def main(rounds: int, requests: int) -> bool:
    report = Report("websocket", __doc__)
    pin(LOAD_CORE)
    kinds = {"understudy": "ours", "bare trio-websocket": "bare"}
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(served([sys.executable, "-m", SERVER, kind]))
            for name, kind in kinds.items()
        }
        for in_flight, factor in BARS.items():

            def measure(port: int, in_flight: int = in_flight) -> Callable[[], float]:
                return lambda: rate(port, in_flight, requests)

            rates = interleaved({name: measure(port) for name, port in ports.items()}, rounds)
            title = f"orders.place, 1 connection, {in_flight} in flight"
            bars = (Bar("understudy", "bare trio-websocket", factor),)
            report.show(Result(title, "requests/s", rates, bars))
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="WebSocket beside trio-websocket alone.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="per round and server")
    given = parser.parse_args()
    sys.exit(0 if main(given.rounds, given.requests) else 1)
