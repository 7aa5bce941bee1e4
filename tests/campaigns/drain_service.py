"""The service of the drain campaign: writes down what it has read, and what became of it.

`python -m tests.campaigns.drain_service JOURNAL LETTERS`; port 0, told by the first line of
the journal. A line for each event that was handled, at its end the numbers of requests and
events that were read off the network, by what the frames of all connections gave.
"""

import os
import random
import sys
from pathlib import Path

import trio

from understudy.actors.actor import Actor
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.run import run
from understudy.supervisors.system import System
from understudy.transports.bridge import serve
from understudy.transports.codec import nest

read = {"requests": 0, "events": 0}


class Counted(nest.NestFrames):
    """Frames that count what they give: what was read, whatever is done with it."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        bodies = super().feed(data)
        requests = sum(b'"id":' in body for body in bodies)
        read["requests"] += requests
        read["events"] += len(bodies) - requests
        return bodies


class Counter(Actor):
    def __init__(self, journal: int) -> None:
        self.journal = journal

    async def started(self) -> None:
        self.random = random.Random()

    @message_pattern("work")
    async def work(self, number: int) -> int:
        if number % 3 == 0:
            await trio.sleep(self.random.random() * 0.01)
        return number

    @event_pattern("numbered")
    async def numbered(self, number: int) -> None:
        if number % 7 == 0:
            raise RpcError("not this one")  # a dead letter, at once
        await trio.sleep(self.random.random() * 0.005)
        os.write(self.journal, b"event %d\n" % number)


def main() -> None:
    journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    nest.frames = lambda limit=4 * 1024 * 1024: Counted(limit)
    counter = child(Counter, journal, concurrency=64)
    tree = Supervisor("counting", [counter, serve("tcp://127.0.0.1:0", name="bridge")])
    try:
        run(
            tree,
            dead_letters=Path(sys.argv[2]),
            control=False,
            on_ready=lambda system: _tell(journal, system),
        )
    finally:
        os.write(journal, b"read %d %d\n" % (read["requests"], read["events"]))


def _tell(journal: int, system: System) -> None:
    port = system.addresses()["counting/bridge"].rpartition(":")[2]
    os.write(journal, f"port {port}\n".encode())


if __name__ == "__main__":
    main()
