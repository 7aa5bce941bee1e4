"""Redis streams under kills: `python -m tests.campaigns.redis_streams [EVENTS [KILLS [SEED]]]`.

The server syncs its file at every write, so what was acknowledged stays acknowledged. What
the service had in hand when it was killed comes again and is flagged; none may be lost.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

from ..brokers.redis import RedisBroker
from .frame import Campaign

__all__ = ["campaign"]


def campaign(broker: RedisBroker, folder: Path, events: int, kills: int, seed: int) -> Campaign:
    quick = {"heartbeat": 1.0, "reconnect_max": 0.5}
    reading = {"group": "counting", "consumer": "one", "pubsub": False}
    return Campaign(
        broker=broker,
        folder=folder,
        serve_options={"stream": "numbers", **reading, **quick},
        client_options={"stream": "numbers", **quick},
        events=events,
        kills=kills,
        seed=seed,
    )


async def main() -> None:
    events, kills, seed = (*map(int, sys.argv[1:]), *(10_000, 2, 1)[len(sys.argv) - 1 :])
    with TemporaryDirectory() as name, RedisBroker(Path(name)) as broker:
        whole = campaign(broker, Path(name), events, kills, seed)
        tally = await attrs.evolve(whole, say=_say).run()
    _say(str(tally))
    sys.exit(tally.lost > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
