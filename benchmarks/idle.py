"""What actors cost before they do anything: the time to start them, the memory to keep them.

Each reading comes from a fresh process that has started one actor beforehand, so that
code and caches are there already, and then starts 10, 1,000 or 100,000 more, one after
the other, each complete before the next (`start_child`). The memory is what the process
resides in (RSS) after that, less what it was before, for each actor; the garbage
collector is left as it is. "After a message" is the same once every actor has answered.

Peers: pykka, where an actor is a thread (10 and 1,000 of them), and a bare trio task in
a cancel scope of its own, started with `nursery.start`, which is what anything that keeps
a task on trio costs at least. RSS is counted in pages, so at 10 actors bytes are a rough figure.

    python -m benchmarks.idle
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pykka
import trio

from benchmarks.processes import reading
from benchmarks.report import Report, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, Ref, Supervisor, child, running

SIZES = (10, 1_000, 100_000)
OURS, USED = "understudy", "understudy, after a message"
PEER_SIZES = {"pykka": SIZES[:2]}
LIMIT = 60.0
"""Seconds after which a process is given up; its figures are then left out."""

Grow = Callable[[int], Awaitable[None]]
Found = dict[str, dict[str, float]]
"""Readings by kind and size."""


class Idle(Actor[int]):
    def receive(self, message: int) -> int:
        return message


class Thread(pykka.ThreadingActor):
    def on_receive(self, message: int) -> int:
        return message


async def actors(count: int, *, messages: bool = False) -> dict[str, float]:
    async with running(Supervisor("benchmark")) as system:
        found: list[Ref[Idle]] = []

        async def grow(number: int) -> None:
            for _ in range(number):
                found.append(await system.start_child(child(Idle, name=f"idle{len(found)}")))

        async def told() -> None:
            for ref in found:
                await ref.ask(1)  # type: ignore[call-overload]

        return await readings(grow, count, told if messages else None)


async def tasks(count: int) -> dict[str, float]:
    async def idle(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def grow(number: int) -> None:
            for _ in range(number):
                await nursery.start(idle)

        return await readings(grow, count)


async def threads(count: int) -> dict[str, float]:
    async def grow(number: int) -> None:
        for _ in range(number):
            Thread.start()

    return await readings(grow, count)


async def readings(
    grow: Grow, count: int, use: Callable[[], Awaitable[None]] | None = None
) -> dict[str, float]:
    """Print what `count` more cost, and end the process."""
    await grow(1)
    before = resident()
    begin = time.perf_counter()
    await grow(count)
    seconds = time.perf_counter() - begin
    if use is not None:
        await use()
    after = resident()
    found = {"rate": count / seconds, "bytes": (after - before) / count, "resident": after}
    print(json.dumps(found), flush=True)
    os._exit(0)  # an ordered stop of all of them is not what is measured


def resident() -> int:
    """Bytes of memory this process resides in."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def used_actors(count: int) -> dict[str, float]:
    return await actors(count, messages=True)


KINDS: dict[str, Callable[[int], Awaitable[dict[str, float]]]] = {
    OURS: actors,
    USED: used_actors,
    "trio task": tasks,
    "pykka": threads,
}


def label(kind: str, size: int) -> str:
    return f"{kind}, {size:,}"


def measure(rounds: int) -> Found:
    """Medians by kind and size; what took too long is left out."""
    wanted = [(k, n) for n in SIZES for k in KINDS if n in PEER_SIZES.get(k, SIZES)]
    found: dict[str, list[dict[str, float]]] = {}
    late: set[str] = set()
    for turn in range(rounds):
        for kind, size in wanted:
            name = label(kind, size)
            # The large ones are the slow ones, and vary the least.
            if (turn > 0 and size == SIZES[-1]) or name in late:
                continue
            one = reading("idle", kind, str(size), limit=LIMIT)
            if one is None:
                late.add(name)
                print(f"{name}: not done in {LIMIT:g} s, left out", file=sys.stderr)
            else:
                found.setdefault(name, []).append(one)
    return {
        name: {key: statistics.median(one[key] for one in all_) for key in all_[0]}
        for name, all_ in found.items()
    }


def starts(found: Found) -> Result:
    small, most = label(OURS, SIZES[1]), label(OURS, SIZES[-1])
    return Result(
        "start actors one after the other",
        "actors/s",
        {name: one["rate"] for name, one in found.items() if not name.startswith(USED)},
        (
            Bar(small, label("pykka", SIZES[1])),
            Bar(small, label("trio task", SIZES[1])),
            Bar(most, small),
        ),
        "The number is how many were started. pykka's rate counts started threads; ours "
        "and trio's count actors and tasks whose start is complete.",
    )


def memory(found: Found) -> Result:
    return Result(
        "memory of an idle actor",
        "bytes",
        {name: one["bytes"] for name, one in found.items()},
        (
            Bar(label(OURS, SIZES[1]), label("pykka", SIZES[1])),
            Bar(label(OURS, SIZES[-1]), label("trio task", SIZES[-1])),
            Bar(label(USED, SIZES[-1]), label("trio task", SIZES[-1])),
        ),
        "For each of as many as the number says.",
        less_is_better=True,
    )


def total(found: Found) -> Result:
    most = f"{SIZES[-1]:,}"
    return Result(
        f"memory of a process with {most} idle actors",
        "MB",
        {name: one["resident"] / 1e6 for name, one in found.items() if name.endswith(f" {most}")},
        (
            Bar(label(OURS, SIZES[-1]), None, 400, at_most=True),
            Bar(label(USED, SIZES[-1]), None),
        ),
        "RSS of the whole process, Python and libraries included. An actor that has never "
        "had a message may cost less than one that has.",
        less_is_better=True,
    )


def main(rounds: int) -> bool:
    if not Path("/proc/self/statm").exists():
        raise SystemExit("This benchmark reads memory from /proc, which only Linux has.")
    report = Report("idle", __doc__)
    found = measure(rounds)
    for result in (starts(found), memory(found), total(found)):
        report.show(result)
    return report.good


def worker(kind: str, count: int) -> None:
    pin(0)
    quiet()
    trio.run(KINDS[kind], count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What idle actors cost.")
    parser.add_argument("--rounds", type=int, default=5, help="of 10 and 1,000; one of 100,000")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker[0], int(given.worker[1]))
    else:
        sys.exit(0 if main(given.rounds) else 1)
