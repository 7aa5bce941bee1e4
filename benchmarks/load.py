"""Load for any server that speaks NestJS's TCP format: as many requests as it can answer.

A fixed number of requests is kept in flight over one or more connections; every reply
makes room for the next request. The requests are the same for every server, and are
written once, before the clock starts; each connection sends slices of them.

What is checked. In the warm-up every reply is parsed: its frame, its id, its value. In
the measured part parsing would cost more than the servers do, so replies are counted by
the mark that ends a request, one reply is parsed in every `_SAMPLE_EVERY` reads, and any
error, any reply too many, a closed connection, or `_SILENCE` seconds without a reply
fails the run. All of the payloads and replies are ASCII, so a frame's length, which
counts UTF-16 units, is its length in bytes.

Latency is taken per write: from sending a batch of requests to having counted as many
replies as were in flight at its end. For a server that answers in order that is the time
of its slowest request.

    python benchmarks/load.py PORT --pattern math.sum --connections 8 --requests 200000

prints one line of JSON. Give server and load a core each (`taskset -c 0`, `-c 1`); a
`load_cpu` near 1 means that the load, not the server, was the limit. The NestJS and bare
Node servers to compare with are tests/peers/nest/bench/nest.mjs and net.mjs.
"""

import argparse
import json
import random
import re
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["PATTERNS", "LoadFailed", "run"]

_MARK = b'"isDisposed":true'
_ERROR = b'"err"'
_TAIL = len(_MARK) - 1  # the most of a mark that can end one read without being counted
_READ = 256 * 1024
_RING = 256  # distinct requests, so that an id comes back long after its reply
_SAMPLE_EVERY = 64  # reads of one connection
_SILENCE = 10.0  # seconds
_BOUNDARY = re.compile(rb"\}(?=\d+#\{)")


class LoadFailed(Exception):
    """The server gave a wrong answer, an error, or none; says which, and after how many."""


def run(
    port: int,
    pattern: str = "math.sum",
    *,
    connections: int = 1,
    in_flight: int = 64,
    requests: int = 200_000,
    warmup: int = 20_000,
    host: str = "127.0.0.1",
) -> dict[str, Any]:
    """Drive the server at `host:port` and return what was measured.

    `in_flight` is shared out over the connections, at least one request for each.
    Rates are replies per second, latencies milliseconds; `load_cpu` is the share of the
    measured time for which this process was running. Raises `LoadFailed`, `OSError` if
    the server cannot be reached, and `ValueError` for an unknown pattern or a bad number.
    """
    _check_options(pattern, connections, in_flight, requests, warmup)
    window = max(1, in_flight // connections)
    if window > _RING // 2:
        raise ValueError(f"{window} requests in flight per connection; at most {_RING // 2} fit.")
    book = _Requests(pattern, window)
    lines: list[_Connection] = []
    try:
        for number in range(connections):
            lines.append(_Connection(f"connection {number + 1}", (host, port), book, window))
        _drive(lines, warmup)
        for line in lines:
            line.checking, line.batches = False, []
        cpu, start = time.process_time(), time.perf_counter()
        _drive(lines, requests)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
    finally:
        for line in lines:
            line.close()
    batches = [batch for line in lines for batch in line.batches]
    return {
        "pattern": pattern,
        "connections": connections,
        "in_flight": window * connections,
        "requests": requests,
        "seconds": round(seconds, 3),
        "requests_per_second": round(requests / seconds),
        "p50_ms": round(_percentile(batches, 0.50) * 1e3, 3),
        "p99_ms": round(_percentile(batches, 0.99) * 1e3, 3),
        "load_cpu": round(used / seconds, 2),
    }


def _check_options(
    pattern: str, connections: int, in_flight: int, requests: int, warmup: int
) -> None:
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}; expected one of {', '.join(PATTERNS)}.")
    if min(connections, in_flight, requests) < 1 or warmup < 0:
        raise ValueError("connections, in_flight and requests must be at least 1, warmup 0.")


def _sum_request(number: int, chance: random.Random) -> tuple[Any, Any]:
    data = [number, 2, chance.randrange(1000)]
    return data, sum(data)


def _order_request(number: int, chance: random.Random) -> tuple[Any, Any]:
    # Prices are whole quarters: sums of them are exact, in whatever order they are added.
    lines = [(chance.randint(1, 9), chance.randint(1, 400) * 0.25) for _ in range(2)]
    items = [
        {"sku": f"SKU-{chance.randrange(10_000):05d}", "quantity": quantity, "price": price}
        for quantity, price in lines
    ]
    order = {
        "id": chance.getrandbits(40),
        "customer": f"customer{number}@example.com",
        "items": items,
        "note": "please ring twice" if number % 2 else None,
        "express": number % 3 == 0,
    }
    total = sum(quantity * price for quantity, price in lines)
    return order, {"id": order["id"], "total": total, "lines": len(lines)}


PATTERNS: dict[str, Callable[[int, random.Random], tuple[Any, Any]]] = {
    "math.sum": _sum_request,
    "orders.place": _order_request,
}
"""What makes the n-th request of a pattern: its data, and the response it must get."""


class _Requests:
    """A ring of written requests, and the response that each must get."""

    def __init__(self, pattern: str, window: int) -> None:
        chance = random.Random(20)  # the same requests for every server
        frames: list[bytes] = []
        self.ids: list[str] = []
        self.expected: dict[str, Any] = {}
        for number in range(_RING):
            data, response = PATTERNS[pattern](number, chance)
            key = f"{chance.getrandbits(84):021x}"  # as long as the ids of NestJS's clients
            body = json.dumps({"pattern": pattern, "data": data, "id": key}, separators=(",", ":"))
            frames.append(f"{len(body)}#{body}".encode("ascii"))
            self.ids.append(key)
            self.expected[key] = response
        # The first window stands at the end once more, so that no slice has to wrap.
        frames += frames[:window]
        self._bytes = memoryview(b"".join(frames))
        self._offsets = [0]
        for frame in frames:
            self._offsets.append(self._offsets[-1] + len(frame))

    def slice(self, first: int, count: int) -> memoryview:
        """The bytes of `count` requests, at most a window, from the `first`-th on."""
        return self._bytes[self._offsets[first] : self._offsets[first + count]]

    def check(self, frame: bytes, where: str) -> str:
        """The id of the request that this reply answers rightly."""
        try:
            reply = json.loads(frame)
            key, response = reply["id"], reply["response"]
            right = reply["isDisposed"] is True and self.expected[key] == response
        except (ValueError, TypeError, KeyError):
            right, key = False, ""
        if not right:
            raise LoadFailed(f"{where}: not the right reply: {frame[:300]!r}")
        return str(key)


class _Connection:
    """One socket: what it has sent, what it still waits for, and its two ways to read.

    While `checking` is set, every reply is parsed; otherwise replies are counted.
    """

    def __init__(self, name: str, address: tuple[str, int], book: _Requests, window: int) -> None:
        self.name, self.window = name, window
        self.socket = socket.create_connection(address, timeout=_SILENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.unsent = memoryview(b"")
        self.waiting, self.answered = 0, 0
        self.checking = True
        self.batches: list[tuple[float, int]] = []  # seconds, requests
        self._sent: deque[tuple[float, int]] = deque()  # when, requests; oldest first
        self._spare = 0  # replies to a part of the oldest batch
        self._book = book
        self._next, self._reads = 0, 0
        self._outstanding: set[str] = set()  # ids, while checking
        self._rest = b""  # the beginning of a reply, while checking
        self._buffer = bytearray(_TAIL + _READ)  # what was read, after the tail of the last
        self._space = memoryview(self._buffer)[_TAIL:]

    def send(self, count: int) -> None:
        """Send the next `count` requests, or as much of them as the socket takes."""
        first = self._next
        self._next = (first + count) % _RING
        if self.checking:
            self._outstanding.update(self._book.ids[(first + i) % _RING] for i in range(count))
        self.waiting += count
        self._sent.append((time.perf_counter(), count))
        frames = self._book.slice(first, count)
        self.unsent = memoryview(bytes(self.unsent) + frames) if self.unsent else frames
        self.flush()

    def flush(self) -> None:
        """Send what the socket did not take before."""
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._failed(f"cannot be written to ({error})") from error
        self.unsent = self.unsent[sent:]

    def receive(self) -> int:
        """Read once; the number of replies that ended."""
        try:
            size = self.socket.recv_into(self._space)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._failed(f"cannot be read from ({error})") from error
        if size == 0:
            raise self._failed("was closed by the server")
        replies = self._parse(size) if self.checking else self._count(size)
        self.waiting -= replies
        self.answered += replies
        if self.waiting < 0:
            raise self._failed(f"{-self.waiting} replies more than requests came")
        self._time(replies)
        return replies

    def close(self) -> None:
        """Close the socket; whatever is under way is lost."""
        self.socket.close()

    def _parse(self, size: int) -> int:
        frames, self._rest = _split(self._rest + self._space[:size], self.name)
        for frame in frames:
            key = self._book.check(frame, self.name)
            if key not in self._outstanding:
                raise self._failed(f"a reply came twice: {frame[:300]!r}")
            self._outstanding.remove(key)
            if frame.count(_MARK) != 1:
                raise self._failed(f"cannot count replies written like this: {frame[:300]!r}")
        return len(frames)

    def _count(self, size: int) -> int:
        buffer, end = self._buffer, _TAIL + size
        if (at := buffer.find(_ERROR, 0, end)) >= 0:
            raise self._failed(
                f"an error came: {bytes(buffer[max(0, at - 60) : min(at + 240, end)])!r}"
            )
        replies = buffer.count(_MARK, 0, end)
        self._reads += 1
        if self._reads % _SAMPLE_EVERY == 0:
            self._sample(bytes(buffer[:end]))
        buffer[:_TAIL] = buffer[size:end]
        return replies

    def _sample(self, data: bytes) -> None:
        # A reply is known to begin after the end of another; the tail holds that of the last read.
        if boundary := _BOUNDARY.search(data):
            for frame in _split(data[boundary.end() :], self.name)[0]:
                self._book.check(frame, self.name)

    def _time(self, replies: int) -> None:
        now, sent = time.perf_counter(), self._sent
        replies += self._spare
        while sent and replies >= sent[0][1]:
            when, count = sent.popleft()
            self.batches.append((now - when, count))
            replies -= count
        self._spare = replies

    def _failed(self, why: str) -> LoadFailed:
        state = f"{self.answered} replies had come, {self.waiting} were awaited"
        return LoadFailed(f"{self.name}: {why} ({state}).")


def _split(data: bytes, where: str) -> tuple[list[bytes], bytes]:
    """The whole frames at the start of `data`, and what is left."""
    frames: list[bytes] = []
    start = 0
    while (body := data.find(b"#", start) + 1) > 0:
        length = data[start : body - 1]
        if not length.isdigit():
            raise LoadFailed(f"{where}: not a frame's length: {length[:300]!r}")
        end = body + int(length)
        if end > len(data):
            break
        frames.append(data[body:end])
        start = end
    return frames, data[start:]


def _drive(lines: Sequence[_Connection], requests: int) -> None:
    """Have `requests` requests answered, every connection keeping its window full."""
    unsent = unanswered = requests
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
            if count := min(line.window, unsent):
                unsent -= count
                line.send(count)
                _watch(selector, line, selectors.EVENT_READ)
        while unanswered:
            events = selector.select(_SILENCE)
            if not events:
                raise _silent(lines)
            for key, ready in events:
                line = key.data
                if ready & selectors.EVENT_WRITE:
                    line.flush()
                replies = line.receive() if ready & selectors.EVENT_READ else 0
                unanswered -= replies
                if count := min(replies, unsent):
                    unsent -= count
                    line.send(count)
                _watch(selector, line, key.events)


def _watch(selector: selectors.BaseSelector, line: _Connection, watched: int) -> None:
    """Wait for room to write only while there is something that did not fit."""
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
    if wanted != watched:
        selector.modify(line.socket, wanted, line)


def _silent(lines: Sequence[_Connection]) -> LoadFailed:
    waiting = sum(line.waiting for line in lines)
    answered = sum(line.answered for line in lines)
    return LoadFailed(
        f"no reply for {_SILENCE:g} s: {answered} replies had come, {waiting} were awaited."
    )


def _percentile(batches: list[tuple[float, int]], share: float) -> float:
    """The latency within which this share of the requests was answered."""
    ordered = sorted(batches)
    rank = share * sum(size for _, size in ordered)
    for latency, size in ordered:
        rank -= size
        if rank <= 0:
            return latency
    return ordered[-1][0]


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Load for a server of NestJS's TCP format.")
    parser.add_argument("port", type=int)
    parser.add_argument("--pattern", choices=sorted(PATTERNS), default="math.sum")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=64, help="over all connections")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--warmup", type=int, default=20_000)
    parser.add_argument("--host", default="127.0.0.1")
    options = vars(parser.parse_args(arguments))
    try:
        result = run(options.pop("port"), options.pop("pattern"), **options)
    except (LoadFailed, OSError, ValueError) as error:
        print(f"load failed: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
