"""RabbitMQ under kills: `python -m tests.campaigns.rabbitmq KIND [EVENTS [KILLS [SEED]]]`.

KIND is `quorum` or `classic`. After a kill of the broker, a classic queue flags as redelivered
whatever it still has, first deliveries too; a quorum queue counts. No event that was confirmed
may be lost.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import trio

from understudy.supervisors.child import Supervisor
from understudy.supervisors.system import running
from understudy.transports.bridge import serve

from ..brokers.rabbitmq import RabbitmqBroker
from .frame import Campaign

__all__ = ["campaign", "declare"]

QUEUE: Final = "numbers"

SETTLED: Final = 8.0
"""Seconds after which RabbitMQ 3.10 has a new quorum queue on its disk. One that is younger when
the broker is killed is never heard of again, whatever was confirmed."""


async def declare(url: str, *, quorum: bool) -> None:
    """Make the queue, so that nobody sends before there is one."""
    bridge = serve(url, queue=QUEUE, quorum=quorum)
    async with running(Supervisor("declaring", [bridge])):
        await trio.sleep(SETTLED if quorum else 0)


def campaign(
    broker: RabbitmqBroker, folder: Path, events: int, kills: int, seed: int, *, quorum: bool
) -> Campaign:
    common = {"queue": QUEUE, "heartbeat": 1.0, "reconnect_max": 0.5}
    return Campaign(
        broker=broker,
        folder=folder,
        serve_options={**common, "quorum": quorum},
        client_options=common,
        events=events,
        kills=kills,
        seed=seed,
    )


async def main() -> None:
    kind, *numbers = sys.argv[1:]
    events, kills, seed = (*map(int, numbers), *(10_000, 2, 1)[len(numbers) :])
    with TemporaryDirectory() as name, RabbitmqBroker(Path(name)) as broker:
        await declare(broker.url, quorum=kind == "quorum")
        run = campaign(broker, Path(name), events, kills, seed, quorum=kind == "quorum")
        tally = await attrs.evolve(run, say=_say).run()
    _say(f"{kind}: {tally}")
    sys.exit(tally.lost > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
