"""The mailbox beside trio's memory channel and pykka.

Everything runs in this process, pinned to one core, in interleaved rounds; rates
are medians, and a message counts when it has been handled. Ours has its usual bound
of 1,024 and a sender that waits for room, with everything on that keeps messages safe.
pykka's mailbox has no bound, so its sender never waits.

"64 in flight" means 64 callers, tasks here and threads there, that each ask and wait.
pykka's other form, one thread that keeps 64 futures, is shown too, without a bar.

    python -m benchmarks.mailbox
"""

import argparse
import sys
import threading
import time
from collections import deque

import pykka
import trio

from benchmarks.report import Report, interleaved, pin, quiet
from benchmarks.results import Bar, Result
from understudy import Actor, MailboxFull, Supervisor, child, running

TELLS = 200_000
ASKS = 20_000
CALLERS = 64


class Counter(Actor[int]):
    """Counts what it handles; `receive` is a plain function, as pykka's is."""

    count = 0

    def receive(self, message: int) -> int:
        self.count += 1
        return self.count


class AsyncCounter(Actor[int]):
    count = 0

    async def receive(self, message: int) -> int:
        self.count += 1
        return self.count


class Peer(pykka.ThreadingActor):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_receive(self, message: int) -> int:
        self.count += 1
        return self.count


def channel() -> float:
    async def main() -> float:
        send, receive = trio.open_memory_channel[int](1024)
        count = 0

        async def consume() -> None:
            nonlocal count
            async for _ in receive:
                count += 1

        begin = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            for number in range(TELLS):
                await send.send(number)
            await send.aclose()
        return checked(count, TELLS) / (time.perf_counter() - begin)

    return trio.run(main)


def tell(actor: type[Actor[int]]) -> float:
    async def main() -> float:
        async with running(Supervisor("benchmark", [child(actor, mailbox=1024)])) as system:
            ref = system.ref(actor)
            begin = time.perf_counter()
            for number in range(TELLS):
                try:
                    ref.tell(number)
                except MailboxFull:
                    await ref.tell_wait(number)
            count = await ref.ask(0, timeout=60)  # type: ignore[call-overload]
            return (checked(count, TELLS + 1)) / (time.perf_counter() - begin)

    return trio.run(main)


def tell_pykka() -> float:
    ref = Peer.start()
    begin = time.perf_counter()
    for number in range(TELLS):
        ref.tell(number)
    count = ref.ask(0)
    elapsed = time.perf_counter() - begin
    ref.stop()
    return checked(count, TELLS + 1) / elapsed


def ask(callers: int) -> float:
    async def main() -> float:
        async with running(Supervisor("benchmark", [child(Counter)])) as system:
            ref = system.ref(Counter)

            async def caller() -> None:
                for number in range(ASKS // callers):
                    await ref.ask(number)  # type: ignore[call-overload]

            begin = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(caller)
            return ASKS // callers * callers / (time.perf_counter() - begin)

    return trio.run(main)


def ask_pykka(callers: int) -> float:
    ref = Peer.start()

    def caller() -> None:
        for number in range(ASKS // callers):
            ref.ask(number)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    ref.stop()
    return ASKS // callers * callers / elapsed


def ask_pykka_futures() -> float:
    ref = Peer.start()
    waiting: deque[pykka.Future[int]] = deque()
    begin = time.perf_counter()
    for number in range(ASKS):
        waiting.append(ref.ask(number, block=False))
        if len(waiting) >= CALLERS:
            waiting.popleft().get()
    while waiting:
        waiting.popleft().get()
    elapsed = time.perf_counter() - begin
    ref.stop()
    return ASKS / elapsed


def checked(count: object, expected: int) -> int:
    if count != expected:
        raise SystemExit(f"{expected} messages were sent, {count} were handled")
    return expected


def main(rounds: int) -> bool:
    pin(0)
    quiet()
    report = Report("mailbox", __doc__)
    tells = interleaved(
        {
            "understudy, def": lambda: tell(Counter),
            "understudy, async def": lambda: tell(AsyncCounter),
            "trio channel": channel,
            "pykka": tell_pykka,
        },
        rounds,
    )
    single = interleaved({"understudy": lambda: ask(1), "pykka": lambda: ask_pykka(1)}, rounds)
    many = interleaved(
        {
            "understudy": lambda: ask(CALLERS),
            "pykka": lambda: ask_pykka(CALLERS),
            "pykka, futures": ask_pykka_futures,
        },
        rounds,
    )
    report.show(
        Result(
            "tell, sender under backpressure",
            "messages/s",
            tells,
            (Bar("understudy, def", "trio channel", 6), Bar("understudy, def", "pykka", 4)),
        )
    )
    report.show(
        Result("ask, one at a time", "asks/s", single, (Bar("understudy", "pykka", 2),)),
    )
    report.show(
        Result(f"ask, {CALLERS} callers", "asks/s", many, (Bar("understudy", "pykka", 6),)),
    )
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The mailbox beside its peers.")
    parser.add_argument("--rounds", type=int, default=7)
    sys.exit(0 if main(parser.parse_args().rounds) else 1)
