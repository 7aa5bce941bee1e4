"""JetStream under kills: `python -m tests.campaigns.jetstream [EVENTS [KILLS [SEED]]]`.

The server loses the acknowledgements of its last moments when it is killed, so events come
twice; none may be lost.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

from ..brokers.nats import NatsBroker
from .frame import Campaign

__all__ = ["campaign"]


def campaign(broker: NatsBroker, folder: Path, events: int, kills: int, seed: int) -> Campaign:
    return Campaign(
        broker=broker,
        folder=folder,
        serve_options={
            "stream": "NUMBERS",
            "durable": "counting",
            "ack_wait": 2.0,
            "heartbeat": 1.0,
            "reconnect_max": 0.5,
        },
        client_options={"stream": "NUMBERS", "heartbeat": 1.0, "reconnect_max": 0.5},
        events=events,
        kills=kills,
        seed=seed,
    )


async def main() -> None:
    events, kills, seed = (*map(int, sys.argv[1:]), *(10_000, 2, 1)[len(sys.argv) - 1 :])
    with TemporaryDirectory() as name, NatsBroker(Path(name)) as broker:
        tally = await attrs.evolve(
            campaign(broker, Path(name), events, kills, seed), say=_say
        ).run()
    _say(str(tally))
    sys.exit(tally.lost > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
