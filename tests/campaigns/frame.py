"""Numbered events through a service and a broker that are killed: is one lost, or run twice?

Owns the frame that campaigns of all brokers share: a service in a process of its own, that
writes every event it handles to a journal; a client that sends numbers, each until it is
confirmed; a killer, who kills the broker and the service with SIGKILL at random moments of
the way and starts them again; and the count at the end. A campaign gives the broker, the
options of both sides, and how many events and kills there are to be.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import trio

from understudy.transports.client import Client, connect

from ..brokers.broker import Broker
from ..brokers.leash import Leash

__all__ = ["Campaign", "Tally", "line_of"]

ROOT: Final = Path(__file__).parents[2]

AWAY: Final = 0.5
"""Seconds that what was killed stays away."""

STALLED: Final = 60.0
"""Seconds without a newly handled event after which the rest counts as lost."""


@attrs.frozen
class Tally:
    """What came of a campaign. `flagged` are the duplicates that said they might be some."""

    sent: int
    handled: int
    duplicates: int
    flagged: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.sent - self.handled

    def __str__(self) -> str:
        return (
            f"{self.sent} confirmed, {self.lost} lost, {self.duplicates} run twice "
            f"({self.flagged} of them flagged), {self.seconds:.1f} s"
        )


@attrs.frozen
class Campaign:
    """One run. `serve_options` and `client_options` are those of the transport."""

    broker: Broker
    folder: Path
    serve_options: Mapping[str, Any]
    client_options: Mapping[str, Any]
    events: int
    kills: int
    """How often the broker is killed, and how often the service."""
    seed: int
    say: Callable[[str], object] = lambda text: None

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    async def run(self) -> Tally:
        """Send, kill, wait for the last event, count."""
        began = time.monotonic()
        self.journal.touch()
        service = [self._start_service()]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all)
                nursery.start_soon(self._kill, service)
            await self._all_handled()
        finally:
            service[0].kill()
        return self._tally(time.monotonic() - began)

    # -- sending ------------------------------------------------------------------

    async def _send_all(self) -> None:
        numbers = iter(range(self.events))
        async with connect(self.broker.url, patience=30.0, **self.client_options) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(self._send, client, numbers)
        self.say("all are confirmed")

    async def _send(self, client: Client, numbers: Any) -> None:
        for number in numbers:
            while True:
                try:
                    await client.emit("numbered", {"number": number})
                    break
                except ConnectionError as error:
                    self.say(f"{number} again: {error}")

    # -- killing ------------------------------------------------------------------

    async def _kill(self, service: list[Leash]) -> None:
        """Kill at random points of the way, told by how many events were handled."""
        random = Random(self.seed)
        whom = ["broker", "service"] * self.kills
        random.shuffle(whom)
        points = sorted(random.sample(range(self.events // 10, self.events * 9 // 10), len(whom)))
        for point, victim in zip(points, whom, strict=True):
            while self._written() < point:  # noqa: ASYNC110  # a file tells nobody
                await trio.sleep(0.002)
            self.say(f"the {victim} is killed after {self._written()}")
            if victim == "broker":
                await trio.to_thread.run_sync(self.broker.kill)
                await trio.sleep(AWAY)
                await trio.to_thread.run_sync(self.broker.start)
            else:
                service[0].kill()
                await trio.sleep(AWAY)
                service[0] = self._start_service()

    def _start_service(self) -> Leash:
        command = [sys.executable, "-m", "tests.campaigns.service", self.broker.url]
        command += [str(self.journal), json.dumps(dict(self.serve_options))]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return Leash.start(
            command, log=self.folder / "service.log", environment={"PYTHONPATH": path}
        )

    # -- counting -----------------------------------------------------------------

    def _written(self) -> int:
        # Every line has the same length, see `service.py`.
        return self.journal.stat().st_size // len(line_of(0, False))

    async def _all_handled(self) -> None:
        handled, since = -1, trio.current_time()
        while handled < self.events and trio.current_time() < since + STALLED:
            await trio.sleep(0.05)
            now = len({number for number, _ in self._entries()})
            if now != handled:
                handled, since = now, trio.current_time()

    def _entries(self) -> list[tuple[int, bool]]:
        lines = self.journal.read_text().splitlines()
        return [(int(line[:10]), line[11:] == "again") for line in lines]

    def _tally(self, seconds: float) -> Tally:
        seen: set[int] = set()
        duplicates = flagged = 0
        for number, again in self._entries():
            if number in seen:
                duplicates += 1
                flagged += again
            seen.add(number)
        return Tally(self.events, len(seen), duplicates, flagged, seconds)


def line_of(number: int, redelivered: bool) -> bytes:
    return b"%010d %b\n" % (number, b"again" if redelivered else b"first")
