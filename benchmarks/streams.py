"""How fast a stream runs: `ref.stream(...)` of an async generator, beside what it stands on.

The peers do less: a plain async generator is only iterated (no second task, no bound, no
waiting), trio's memory channel hands items from one task to another, with room for as
many as our caller grants in advance. Ours also waits for the caller, ends with it, and
knows of every item whether it is the last. All in this process, pinned to one core.

    python -m benchmarks.streams
"""

import argparse
import sys
import time
from collections.abc import AsyncIterator

import trio

from benchmarks.report import Report, interleaved, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, Supervisor, child, message_pattern, running

ITEMS = 50_000
CREDIT = 16


async def count_up(items: int) -> AsyncIterator[int]:
    for number in range(items):
        yield number


class Source(Actor):
    @message_pattern("numbers")
    async def numbers(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number


async def rate(items: AsyncIterator[int]) -> float:
    """Items per second; takes every one of them."""
    begin = time.perf_counter()
    count = 0
    async for _ in items:
        count += 1
    elapsed = time.perf_counter() - begin
    if count != ITEMS:
        raise SystemExit(f"{ITEMS} items were yielded, {count} came")
    return count / elapsed


async def stream() -> float:
    async with running(Supervisor("benchmark", [child(Source)])) as system:
        return await rate(system.ref(Source).stream(Source.numbers, ITEMS))


async def generator() -> float:
    return await rate(count_up(ITEMS))


async def channel() -> float:
    send, receive = trio.open_memory_channel[int](CREDIT)

    async def produce() -> None:
        async with send:
            for number in range(ITEMS):
                await send.send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        return await rate(receive)


def main(rounds: int) -> bool:
    report = Report("streams", __doc__)
    rates = interleaved(
        {
            "understudy": lambda: trio.run(stream),
            "trio channel": lambda: trio.run(channel),
            "plain async generator": lambda: trio.run(generator),
        },
        rounds,
    )
    bars = (Bar("understudy", "trio channel"), Bar("understudy", "plain async generator"))
    report.show(Result("items of a stream, to one caller", "items/s", rates, bars))
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How fast a stream runs.")
    parser.add_argument("--rounds", type=int, default=7)
    pin(0)
    quiet()
    sys.exit(0 if main(parser.parse_args().rounds) else 1)
