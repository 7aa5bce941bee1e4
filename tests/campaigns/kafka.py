"""Kafka under kills and rebalances: `python -m tests.campaigns.kafka [EVENTS [KILLS [SEED]]]`.

Numbered events with keys, each confirmed by the broker. The broker and the service are killed
with SIGKILL at random moments, and every few seconds a second member of the group comes or
goes. None may be lost. What was in hand when a member was killed, or was run after its last
commit, comes again and is flagged; so does what its client sent again because it did not
learn that it had arrived, and that cannot be known. Of each key, the first runs are in order.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import attrs
import trio

from understudy.transports.client import Client

from ..brokers.kafka import KafkaBroker
from ..brokers.leash import Leash
from .frame import Campaign

__all__ = ["KafkaCampaign", "campaign"]

KEYS: Final = 32
"""As many as there are senders."""

PACE: Final = 0.03
"""Seconds between two events of one sender."""

MOST: Final = 120.0
"""Seconds that members come and go after the last kill, at most."""


@attrs.frozen
class KafkaCampaign(Campaign):
    """A campaign with a group whose members change, and events that have keys."""

    pause: float = 3.0
    """Seconds between two changes of the group."""

    async def _kill(self, service: list[Leash]) -> None:
        second: list[Leash] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._come_and_go, second)
                await super()._kill(service)
                with trio.move_on_after(MOST):
                    while self._written() < self.events:  # noqa: ASYNC110  # a file tells nobody
                        await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        finally:
            for member in second:
                member.kill()

    async def _come_and_go(self, second: list[Leash]) -> None:
        while True:
            await trio.sleep(self.pause)
            if second:
                self.say("the second member leaves")
                await trio.to_thread.run_sync(second.pop().terminate, 20)
            else:
                self.say("a second member comes")
                second.append(self._start_service())

    async def _send(self, client: Client, numbers: Any) -> None:
        """One sender sends all of a key, so that there is an order to be kept."""
        mine = next(numbers)
        for number in range(mine, self.events, KEYS):
            await trio.sleep(PACE)  # so that members and the broker are killed meanwhile
            while True:
                try:
                    await client.emit(
                        "numbered", {"number": number}, headers={"kafka_key": f"k{mine}"}
                    )
                    break
                except ConnectionError as error:
                    self.say(f"{number} again: {error}")

    def out_of_order(self) -> int:
        """How many numbers were first run after a later one of their key."""
        latest: dict[int, int] = {}
        seen: set[int] = set()
        found = 0
        for number, _ in self._entries():
            if number not in seen:
                found += number < latest.get(number % KEYS, -1)
                latest[number % KEYS] = max(number, latest.get(number % KEYS, -1))
            seen.add(number)
        return found


def campaign(
    broker: KafkaBroker, folder: Path, events: int, kills: int, seed: int, pause: float = 3.0
) -> KafkaCampaign:
    quick = {"prefix": "numbers", "heartbeat": 1.0, "reconnect_max": 0.5, "connect_timeout": 5.0}
    group = {"session_timeout": 2.0, "rebalance_grace": 1.0, "commit_interval": 0.2}
    return KafkaCampaign(
        broker=broker,
        folder=folder,
        serve_options={"partitions": 4, "start": "earliest", **group, **quick},
        client_options=quick,
        events=events,
        kills=kills,
        seed=seed,
        pause=pause,
    )


async def main() -> None:
    events, kills, seed = (*map(int, sys.argv[1:]), *(10_000, 2, 1)[len(sys.argv) - 1 :])
    with TemporaryDirectory() as name, KafkaBroker(Path(name)) as broker:
        whole = attrs.evolve(campaign(broker, Path(name), events, kills, seed), say=_say)
        tally = await whole.run()
        disorder = whole.out_of_order()
    _say(f"{tally}, {disorder} out of order")
    sys.exit(tally.lost > 0 or disorder > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
