"""SIGTERM in the midst of full load: `python -m tests.campaigns.drain [ROUNDS [SEED]]`.

In each round a service is started as a process and kept busy over several connections, with
requests and events in turn. At a random moment it gets a SIGTERM. Then what it has read must
be what it has answered, by the count of its peers, and what it has handled or kept as a dead
letter, by its journal and the file of its dead letters; and it must end with 0.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import trio

from understudy.supervisors.delivery.store_file import StoreFile
from understudy.transports.codec import nest

from ..brokers.leash import Leash

__all__ = ["Round", "Tally", "drained"]

ROOT: Final = Path(__file__).parents[2]
CONNECTIONS: Final = 4
WINDOW: Final = 64
"""Requests of one connection that wait for their answers."""

LATE: Final = 30.0


@attrs.frozen
class Tally:
    """What came of one round. `kept` are the dead letters."""

    requests: int
    answered: int
    failed: int
    events: int
    handled: int
    kept: int
    code: int

    @property
    def good(self) -> bool:
        return (
            self.code == 0
            and self.answered + self.failed == self.requests
            and self.handled + self.kept == self.events
        )

    def __str__(self) -> str:
        return (
            f"{self.requests} requests read, {self.answered} answered, {self.failed} with an "
            f"error; {self.events} events read, {self.handled} handled, {self.kept} dead "
            f"letters; exit code {self.code}"
        )


class Round:
    """One service, from its start to its end."""

    def __init__(self, folder: Path, moment: float) -> None:
        self._journal, self._letters = folder / "journal", folder / "letters.sqlite"
        self._folder, self._moment = folder, moment
        self._answered = self._failed = 0

    async def run(self) -> Tally:
        self._journal.touch()
        command = [sys.executable, "-m", "tests.campaigns.drain_service"]
        command += [str(self._journal), str(self._letters)]
        environment = {"PYTHONPATH": str(ROOT)}
        leash = Leash.start(command, log=self._folder / "log", environment=environment)
        try:
            port = await self._port(leash)
            with trio.fail_after(LATE):
                async with trio.open_nursery() as nursery:
                    for number in range(CONNECTIONS):
                        nursery.start_soon(self._load, port, number * 1_000_000)
                    await trio.sleep(self._moment)
                    await trio.to_thread.run_sync(self._end, leash)
            code = leash.ended
        finally:
            leash.kill()
        return self._tally(-1 if code is None else code)

    def _end(self, leash: Leash) -> None:
        os.kill(leash.pid, signal.SIGTERM)
        until = time.monotonic() + LATE
        while leash.ended is None and time.monotonic() < until:
            time.sleep(0.01)

    async def _port(self, leash: Leash) -> int:
        with trio.fail_after(LATE):
            while leash.ended is None:
                for line in self._journal.read_text().splitlines():
                    return int(line.split()[1])
                await trio.sleep(0.01)
        raise RuntimeError((self._folder / "log").read_text())

    async def _load(self, port: int, first: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        room = trio.Semaphore(WINDOW)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream, room, first)
            frames = nest.frames()
            try:
                async for data in stream:
                    for body in frames.feed(bytes(data)):
                        if b'"err"' in body:
                            self._failed += 1
                        else:
                            self._answered += 1
                        room.release()
            except trio.BrokenResourceError:
                pass  # what was read of it is counted; what is missing is found by the tally
            nursery.cancel_scope.cancel()

    async def _send(self, stream: trio.SocketStream, room: trio.Semaphore, first: int) -> None:
        number = first
        try:
            while True:
                number += 1
                await room.acquire()
                event = nest.frame(b'{"pattern":"numbered","data":%d}' % number)
                request = b'{"pattern":"work","data":%d,"id":"%d"}' % (number, number)
                await stream.send_all(event + nest.frame(request))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is ending, which is what is looked at here

    def _tally(self, code: int) -> Tally:
        requests = events = -1
        handled: set[str] = set()
        for line in self._journal.read_text().splitlines():
            kind, *words = line.split()
            if kind == "event":
                handled.add(words[0])
            elif kind == "read":
                requests, events = map(int, words)
        kept = self._kept() - handled
        return Tally(requests, self._answered, self._failed, events, len(handled), len(kept), code)

    def _kept(self) -> set[str]:
        found: set[str] = set()
        after = ""
        with StoreFile(self._letters) as file:
            while letters := file.find(limit=1000, after=after):
                found.update((letter.body or b"").decode() for letter in letters)
                after = letters[-1].id
        return found


async def drained(
    rounds: int, seed: int, say: Callable[[str], object] = lambda text: None
) -> list[Tally]:
    """The rounds that went wrong."""
    random = Random(seed)
    wrong: list[Tally] = []
    total = 0
    for number in range(rounds):
        with TemporaryDirectory() as name:
            tally = await Round(Path(name), random.uniform(0.02, 0.5)).run()
        total += tally.requests + tally.events
        if not tally.good:
            wrong.append(tally)
            say(f"round {number + 1}: {tally}")
    say(f"{rounds} rounds, {total} messages read, {len(wrong)} rounds went wrong")
    return wrong


async def main() -> None:
    rounds, seed = (*map(int, sys.argv[1:]), *(200, 1)[len(sys.argv) - 1 :])
    wrong = await drained(rounds, seed, _say)
    sys.exit(bool(wrong))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
