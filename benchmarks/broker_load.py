"""Load for services on a broker: requests are always in flight, 64 of them by default.

The requests are written once, before the clock starts, and sent straight on the broker's
protocol; every answer makes room for the next request. In the measured part answers are
counted by the mark that begins one on the wire, since parsing would cost more than the
services do; the first is looked at whole. A silence fails the run.

Not owned here: who answers. FastStream is asked as its own client would ask it.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec
from pamqp import commands

from benchmarks.broker_lines import AmqpLine, Failed, MqttLine, NatsLine, dial, redis_command
from benchmarks.broker_meter import REQUEST
from benchmarks.broker_wires import ORDER

__all__ = ["Line", "connect", "drive", "rate"]

IN_FLIGHT: Final = 64
_RING: Final = 256
"""Different requests, so that an id comes back long after its answer."""
_READ: Final = 256 * 1024
_RIGHT: Final = b'"total":11.25'
"""In every right answer."""


@attrs.define
class Line:
    """A connection to a broker, `ring` requests ready to be sent, and the `mark` of answers."""

    socket: socket.socket
    ring: Sequence[bytes]
    mark: bytes
    _tail: bytes = b""
    _sent: int = 0

    def send(self, count: int) -> None:
        begin = self._sent % len(self.ring)
        requests = [*self.ring[begin : begin + count]]
        requests += self.ring[: count - len(requests)]
        self._sent += count
        self.socket.sendall(b"".join(requests))

    def answers(self) -> int:
        """How many answers have come; waits for some bytes."""
        try:
            data = self.socket.recv(_READ)
        except TimeoutError:
            raise Failed("no answer came any more") from None
        if not data:
            raise Failed("the broker ended the connection")
        # What the server asks now and then, to see whether we are there.
        if data.endswith(b"PING\r\n"):
            self.socket.sendall(b"PONG\r\n")
        data = self._tail + data
        # A mark that was cut is found next time, and one that was counted is not in the tail.
        self._tail = data[len(data) - len(self.mark) + 1 :] if len(self.mark) > 1 else b""
        return data.count(self.mark)

    def check(self) -> None:
        """One request, whose answer must be right."""
        self.send(1)
        answer = b""
        while _RIGHT not in answer.replace(b": ", b":"):
            try:
                data = self.socket.recv(_READ)
            except TimeoutError:
                data = b""
            if not data:
                raise Failed(f"not the answer that was expected: {answer!r}")
            answer += data
        # Its last bytes may be still to come.
        time.sleep(0.05)
        self.socket.setblocking(False)
        try:
            self.socket.recv(_READ)
        except BlockingIOError:
            pass
        finally:
            self.socket.settimeout(10)


def drive(line: Line, requests: int, in_flight: int = IN_FLIGHT) -> None:
    """Have so many requests answered."""
    open_, unsent = min(in_flight, requests), requests
    line.send(open_)
    unsent -= open_
    while open_:
        came = line.answers()
        more = min(came, unsent)
        open_ += more - came
        unsent -= more
        if more:
            line.send(more)


def rate(line: Line, requests: int) -> float:
    """Requests per second."""
    begin = time.perf_counter()
    drive(line, requests)
    return requests / (time.perf_counter() - begin)


def connect(wire: str, url: str, name: str, *, bare: bool) -> Line:
    """A line to a service at a broker; FastStream wants the order `bare`."""
    lines = {"nats": _nats, "redis": _redis, "rabbitmq": _rabbitmq, "mqtt": _mqtt}
    line = lines[wire](url, name, bare)
    line.socket.settimeout(10)
    return line


def _body(number: int, bare: bool) -> bytes:
    data = {**ORDER, "id": number}
    packet = {"pattern": REQUEST, "data": data, "id": f"{number:05d}"}
    return msgspec.json.encode(data if bare else packet)


def _nats(url: str, _: str, bare: bool) -> Line:
    line = NatsLine(url)
    line.socket.sendall(b"SUB bench.reply.* 2\r\n")
    line.flush()
    bodies = [_body(number, bare) for number in range(_RING)]
    ring = [
        b"PUB %b bench.reply.%d %d\r\n%b\r\n" % (REQUEST.encode(), number, len(body), body)
        for number, body in enumerate(bodies)
    ]
    return Line(line.socket, ring, b"MSG bench.reply.")


def _redis(url: str, _: str, bare: bool) -> Line:
    line = dial(url)
    # With the third version of the protocol one connection can publish and subscribe.
    line.sendall(b"HELLO 3\r\nSUBSCRIBE " + REQUEST.encode() + b".reply\r\n")
    time.sleep(0.2)
    line.recv(_READ)
    bodies = [_body(number, bare) for number in range(_RING)]
    if bare:
        bodies = asyncio.run(_as_faststream(bodies))
    ring = [redis_command("PUBLISH", REQUEST, body) for body in bodies]
    return Line(line, ring, b"$7\r\nmessage\r\n")


async def _as_faststream(bodies: Sequence[bytes]) -> list[bytes]:
    """Each body in the envelope in which FastStream's client sends a request."""
    from faststream.redis.parser import BinaryMessageFormatV1  # noqa: PLC0415  # a peer's

    return [
        await BinaryMessageFormatV1.encode(
            message=body,
            reply_to=f"{REQUEST}.reply",
            headers={"content-type": "application/json"},
            correlation_id=str(number),
        )
        for number, body in enumerate(bodies)
    ]


def _rabbitmq(url: str, name: str, bare: bool) -> Line:
    line = AmqpLine(url)
    direct = "amq.rabbitmq.reply-to"
    line.call(commands.Basic.Consume(queue=direct, no_ack=True), 1)
    ring = [
        AmqpLine.publish(
            name,
            _body(number, bare),
            content_type="application/json",
            reply_to=direct,
            correlation_id=f"{number:05d}",
        )
        for number in range(_RING)
    ]
    # A frame of the first channel whose length has two zero bytes, with basic.deliver in it.
    return Line(line.socket, ring, b"\x00\x3c\x00\x3c")


def _mqtt(url: str, _: str, bare: bool) -> Line:
    line = MqttLine(url)
    topic = f"{REQUEST}/reply"
    line.subscribe(topic)
    ring = [line.publish(REQUEST, _body(number, bare)) for number in range(_RING)]
    return Line(line.socket, ring, topic.encode())
