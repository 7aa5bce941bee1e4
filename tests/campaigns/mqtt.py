"""MQTT under cuts and kills: `python -m tests.campaigns.mqtt KIND [EVENTS [KILLS [SEED]]]`.

With the KIND `network` the service is killed and the network between everybody and the broker
is cut: no event that was confirmed may be lost. With `broker` the broker itself is killed, and
with `lazy` the same as Debian configures it: mosquitto confirms before it writes, so events
can be lost, and this says how many.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import attrs
import trio

from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve

from ..brokers.broker import Broker
from ..brokers.mosquitto import MosquittoBroker
from ..transports.mqtt.network import Proxy, proxy
from .frame import Campaign
from .service import Numbered

__all__ = ["Network", "begin", "campaign"]

COMMON: Final[dict[str, Any]] = {"heartbeat": 1.0, "reconnect_max": 0.5, "prefix": "campaign"}
SERVED: Final[dict[str, Any]] = {**COMMON, "client_id": "numbers"}

AUTOSAVE: Final = {"network": 1800, "broker": 1, "lazy": 1800}
"""Seconds between mosquitto's writing all that it has."""


class Network:
    """Stands in for the broker: what is killed is every connection to it."""

    def __init__(self, through: Proxy) -> None:
        self.url = through.url
        self._proxy = through

    def kill(self) -> None:
        """Cut everything; nothing gets through any more."""
        trio.from_thread.run_sync(self._cut)

    def start(self) -> None:
        self._proxy.is_down = False

    def _cut(self) -> None:
        self._proxy.is_down = True
        self._proxy.cut()


@asynccontextmanager
async def begin(kind: str, broker: MosquittoBroker) -> AsyncIterator[Broker]:
    """What is to be killed, once the broker knows the service: before that it keeps nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    numbered = child(Numbered, nowhere)
    async with running(Supervisor("once", [numbered, serve(broker.url, **SERVED)])):
        os.close(nowhere)
    if kind != "network":
        yield broker
        return
    async with proxy(broker.port) as through:
        yield cast(Broker, Network(through))  # the frame asks for no more of it


def campaign(victim: Broker, folder: Path, events: int, kills: int, seed: int) -> Campaign:
    return Campaign(
        broker=victim,
        folder=folder,
        serve_options=SERVED,
        client_options=COMMON,
        events=events,
        kills=kills,
        seed=seed,
    )


async def main() -> None:
    kind, *numbers = sys.argv[1:]
    events, kills, seed = (*map(int, numbers), *(10_000, 3, 1)[len(numbers) :])
    # For 32 senders and a service that is away; mosquitto drops what is over its own 1,000.
    settings = [f"max_queued_messages {events}"]
    with (
        TemporaryDirectory() as name,
        MosquittoBroker(Path(name), autosave=AUTOSAVE[kind], settings=settings) as broker,
    ):
        async with begin(kind, broker) as victim:
            run = campaign(victim, Path(name), events, kills, seed)
            tally = await attrs.evolve(run, say=_say).run()
    _say(f"{kind}: {tally}")
    sys.exit(kind == "network" and tally.lost > 0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
