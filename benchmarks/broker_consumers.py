"""The consumers that benchmarks/brokers.py measures: ours, and the way to the others.

broker_raw.py has those of the brokers' own clients, broker_faststream.py FastStream's and
broker_aiomqtt.py aiomqtt's.

    python -m benchmarks.broker_consumers WHO WIRE URL NAME [MESSAGES WARMUP]

WHO is `understudy`, `raw`, `faststream` or `aiomqtt`, WIRE one of brokers.py's, NAME the queue or
stream where there is one. With MESSAGES it counts that many events after WARMUP and ends;
without, it answers orders until its standard input closes. Ours runs as users run it:
the options are the defaults, but for the names and what the comments say, and everything
that keeps messages safe is on.
"""

import logging
import sys
from importlib import import_module
from typing import Any

import trio

from benchmarks.broker_meter import EVENT, GROUP, Meter, end_with_parent, ready
from benchmarks.tcp_server import Order, Service
from understudy import Actor, Supervisor, child, event_pattern, running, serve

__all__ = ["consume", "options", "service"]


def options(wire: str, name: str) -> dict[str, Any]:
    """What `serve` is told, beside the URL."""
    found: dict[str, dict[str, Any]] = {
        "jetstream": {"stream": name, "durable": GROUP},
        "streams": {"stream": name, "group": GROUP},
        "rabbitmq": {"queue": name},
        "kafka": {"group": name, "start": "earliest"},
        # What is dropped when it comes too fast would be missing in the end.
        "mqtt": {"qos": 0, "backlog": 65536},
        "mqtt-session": {"client_id": name},
    }
    return found.get(wire, {})


def consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    """Count events until all have come."""
    trio.run(_consume, wire, url, name, messages, warmup)


async def _consume(wire: str, url: str, name: str, messages: int, warmup: int) -> None:
    done = trio.Event()
    meter = Meter(warmup, messages, done.set)

    class Orders(Actor):
        @event_pattern(EVENT)
        async def created(self, order: Order) -> None:
            meter.count()

    bridge = serve(url, **options(wire, name))
    async with running(Supervisor("benchmark", [child(Orders), bridge])):
        ready()
        await done.wait()
    meter.tell()


def service(wire: str, url: str, name: str) -> None:
    """Answer requests for ever."""
    trio.run(_service, wire, url, name)


async def _service(wire: str, url: str, name: str) -> None:
    bridge = serve(url, **options(wire, name))
    async with running(Supervisor("benchmark", [child(Service), bridge])):
        ready()
        await trio.sleep_forever()


def main(who: str, wire: str, url: str, name: str, *numbers: str) -> None:
    end_with_parent()
    # Their logs are off as ours is.
    logging.disable(logging.CRITICAL)
    # The peers' libraries are imported only by who measures them.
    side: Any = sys.modules[__name__]
    if who != "understudy":
        side = import_module(f"benchmarks.broker_{who}")
    if numbers:
        messages, warmup = map(int, numbers)
        side.consume(wire, url, name, messages, warmup)
    else:
        side.service(wire, url, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
