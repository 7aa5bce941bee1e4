"""How long an answer takes: `ask`, beside pykka's.

One caller, and 64 callers at once (tasks here, threads there, as each library has them),
each waiting for its answer before it asks again. A latency is what one caller sees of
one ask; those of all rounds are taken together. Both run in this process, pinned to one
core, in turns; both handlers are plain functions.

With 64 callers, latency is mostly the other 63: it says how fair and how fast the actor
is, not how far away.

    python -m benchmarks.answers
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable
from itertools import chain

import pykka
import trio

from benchmarks.report import Report, in_turns, percentile, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, Supervisor, child, running

ASKS = 10_000
CALLERS = 64


class Echo(Actor[int]):
    def receive(self, message: int) -> int:
        return message


class Peer(pykka.ThreadingActor):
    def on_receive(self, message: int) -> int:
        return message


def ask(callers: int) -> list[float]:
    found: list[float] = []

    async def main() -> None:
        async with running(Supervisor("benchmark", [child(Echo)])) as system:
            ref = system.ref(Echo)

            async def caller() -> None:
                for number in range(ASKS // callers):
                    begin = time.perf_counter()
                    await ref.ask(number)  # type: ignore[call-overload]
                    found.append(time.perf_counter() - begin)

            async with trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(caller)

    trio.run(main)
    return found


def ask_pykka(callers: int) -> list[float]:
    ref = Peer.start()
    found: list[float] = []

    def caller() -> None:
        for number in range(ASKS // callers):
            begin = time.perf_counter()
            ref.ask(number)
            found.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ref.stop()
    return found


def latencies(
    title: str, contenders: dict[str, Callable[[], list[float]]], rounds: int
) -> list[Result]:
    readings = in_turns(contenders, rounds)
    pooled = {name: [1e6 * one for one in chain(*found)] for name, found in readings.items()}
    return [
        Result(
            f"{title}, {what}",
            "µs",
            {name: percentile(found, share) for name, found in pooled.items()},
            (Bar("understudy", "pykka"),),
            less_is_better=True,
        )
        for share, what in ((0.5, "median"), (0.99, "99th percentile"))
    ]


def main(rounds: int) -> bool:
    report = Report("answers", __doc__)
    for callers, title in (
        (1, "ask by one caller"),
        (CALLERS, f"ask by each of {CALLERS} callers"),
    ):

        def ours(callers: int = callers) -> list[float]:
            return ask(callers)

        def theirs(callers: int = callers) -> list[float]:
            return ask_pykka(callers)

        for result in latencies(title, {"understudy": ours, "pykka": theirs}, rounds):
            report.show(result)
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How long an answer takes.")
    parser.add_argument("--rounds", type=int, default=5)
    pin(0)
    quiet()
    sys.exit(0 if main(parser.parse_args().rounds) else 1)
