"""What the size of a tree costs those who work in it: message rate and restart time.

Trees of 10, 1,000 and 100,000 actors under one supervisor stand side by side, each in a
process of its own, and are measured in turns. In each the same number of actors works,
ten of them, spread over the tree; all others are idle. Whatever grows with the tree
(a search through the children, say) shows as a ratio that is not 1.

Message rate: ten senders under backpressure, each telling one of the ten actors; counted
once they are handled, as messages for each of them. Restart time: from the `tell` that
crashes an actor to the answer of its next incarnation to a message, with the dead letter
of the crash taken in between, without any backoff.

    python -m benchmarks.trees
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain

import trio

from benchmarks.processes import Worker
from benchmarks.report import Report, in_turns, percentile, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, MailboxFull, Ref, Supervisor, child, running

SIZES = (10, 1_000, 100_000)
ACTIVE = 10
TELLS = 10_000
CRASHES = 200
CRASH = -1


class Worked(Actor[int]):
    """Counts what it handles, and crashes when it is told to."""

    count = 0

    def receive(self, message: int) -> int:
        if message == CRASH:
            raise ValueError("it was told to crash")
        self.count += 1
        return self.count


Refs = Sequence[Ref[Worked]]


async def messages(refs: Refs) -> float:
    """Messages that each of the actors handles per second."""

    async def send(ref: Ref[Worked]) -> None:
        before = await answer(ref)
        for number in range(TELLS):
            try:
                ref.tell(number)
            except MailboxFull:
                await ref.tell_wait(number)
        handled = await answer(ref) - before - 1
        if handled != TELLS:
            raise SystemExit(f"{TELLS} messages were sent, {handled} were handled")

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for ref in refs:
            nursery.start_soon(send, ref)
    return TELLS / (time.perf_counter() - begin)


async def restarts(refs: Refs) -> list[float]:
    """Seconds that each crash kept an actor from answering."""
    found: list[float] = []
    for number in range(CRASHES):
        ref = refs[number % len(refs)]
        begin = time.perf_counter()
        ref.tell(CRASH)
        count = await answer(ref)
        found.append(time.perf_counter() - begin)
        if count != 1:
            raise SystemExit(f"{ref.path} did not crash: it has handled {count} messages")
    return found


async def answer(ref: Ref[Worked]) -> int:
    count: int = await ref.ask(0, timeout=60)  # type: ignore[call-overload]
    return count


async def work(size: int) -> None:
    """One tree: reads what to measure from the standard input until it closes."""
    children = [child(Worked, name=f"worker{number}", backoff=None) for number in range(size)]
    tree = Supervisor("benchmark", children, max_restarts=10**9)
    async with running(tree) as system:
        names = [f"benchmark/worker{number}" for number in range(0, size, size // ACTIVE)]
        refs = [system.ref(name) for name in names[:ACTIVE]]
        # Waiting for the next question blocks the loop: nothing else is to be done meanwhile.
        for line in sys.stdin:
            question = line.strip()
            if question == "messages":
                print(json.dumps(await messages(refs)), flush=True)
            elif question == "restarts":
                print(json.dumps(await restarts(refs)), flush=True)
            else:
                print(json.dumps("ready"), flush=True)


def label(size: int) -> str:
    return f"{size:,} actors"


def main(rounds: int) -> bool:
    report = Report("trees", __doc__)
    least, most = label(SIZES[0]), label(SIZES[-1])
    with ExitStack() as stack:
        trees = {label(n): stack.enter_context(Worker("trees", str(n))) for n in SIZES}
        for tree in trees.values():
            tree.ask("ready?")
        rates = in_turns({n: partial(t.ask, "messages") for n, t in trees.items()}, rounds)
        times = in_turns({n: partial(t.ask, "restarts") for n, t in trees.items()}, rounds)
    report.show(
        Result(
            "messages handled by each of ten actors, in a tree of",
            "messages/s",
            {name: statistics.median(found) for name, found in rates.items()},
            (Bar(most, least, 0.8),),
        )
    )
    pooled = {name: [1e6 * one for one in chain(*found)] for name, found in times.items()}
    for share, what, bar in ((0.5, "median", 1.2), (0.99, "99th percentile", None)):
        report.show(
            Result(
                f"crash to next answer, {what}, in a tree of",
                "µs",
                {name: percentile(found, share) for name, found in pooled.items()},
                (Bar(most, least, bar, at_most=True),),
                less_is_better=True,
            )
        )
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the size of a tree costs.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", type=int, metavar="SIZE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        pin(0)
        quiet()
        trio.run(work, given.worker)
    else:
        sys.exit(0 if main(given.rounds) else 1)
