"""A program that keeps letters and says so after each commit: to be killed at any call.

    python -m tests.supervisors.delivery.letter_writer PATH BURSTS CALL KILLED_AT

For every number N that it reads, it forks a child that writes BURSTS bursts of letters to
PATH; it says what the child said, and then how the child ended. Each line of a child is a
promise that the file must keep whatever comes next: `stored ID`, `replayed ID`,
`discarded ID`, and `done` after the store was closed.

It is made to run under `strace`, told to kill whoever makes the system call CALL for the
KILLED_AT-th time. A child makes all but N of these calls on another file before it begins,
so that its own N-th call is the one that never happens. One start of strace and of Python
then serves for hundreds of kills.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from understudy.supervisors.delivery import store as stores
from understudy.supervisors.delivery.record import DeadLetter
from understudy.supervisors.delivery.store import SQLiteStore
from understudy.supervisors.delivery.store_file import StoreFile
from understudy.supervisors.delivery.store_schema import value

__all__ = ["CALLS", "OTHER_FILE", "letter_of", "say"]

OTHER_FILE: Final = "early-calls"


def _missing(fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink("no-such-file")


CALLS: Final[dict[str, Callable[[int], object]]] = {
    "pwrite64": lambda fd: os.pwrite(fd, b"", 0),
    "fdatasync": os.fdatasync,
    "ftruncate": lambda fd: os.ftruncate(fd, 0),
    "unlink": _missing,
    "openat": lambda fd: os.close(os.open(OTHER_FILE, os.O_RDONLY)),
    "fchown": lambda fd: os.fchown(fd, -1, -1),
    "pread64": lambda fd: os.pread(fd, 0, 0),
}
"""How a child makes one of its early calls; the keys are what it may be killed at."""


def letter_of(id: str) -> DeadLetter:
    """The letter that this program keeps under an id."""
    return DeadLetter(
        id=id,
        at=1_750_000_000.0,
        kind="event",
        pattern="orders.created",
        handler="Orders.on_created",
        actor="shop/orders",
        incarnation=3,
        transport="nats",
        source="orders.created",
        message_id=f"m-{id}",
        correlation_id=None,
        headers={"trace": id},
        body=f"{id} ".encode() * 1000,
        attempts=5,
        reason="crashed",
        error=f"ValueError: {id}",
        traceback="",
        first_at=1_749_999_000.0,
    )


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def burst(store: SQLiteStore, number: int) -> None:
    """Three letters in one or two commits, of which one is replayed and one discarded."""
    ids = [f"{number:04}{letter}" for letter in "abc"]
    for id in ids:
        await store.put(letter_of(id), then=partial(say, f"stored {id}"))
    await store.flush()
    await store.request_replay(ids[:1])
    for taken in await store.take_replays():
        if await store.finish_replay(taken.id, replayed=True, note="handled"):
            say(f"replayed {taken.id}")
    if await store.discard(ids[1:2]):
        say(f"discarded {ids[1]}")


async def write(path: str, bursts: int) -> None:
    store = SQLiteStore(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        assert isinstance(store._writer, StoreFile)
        # The log is folded into the file every few pages, not every thousand.
        value(store._writer._db, "wal_autocheckpoint=20")
        first = 1 + len(await store.find(limit=1_000_000))
        for number in range(first, first + bursts):
            await burst(store, number)
        await store.close()
    say("done")


async def in_place(work: Callable[[], Any], limiter: trio.CapacityLimiter) -> Any:
    """What a worker thread would do: strace counts calls for each thread on its own."""
    await trio.lowlevel.checkpoint()
    return work()


def child(path: str, bursts: int, call: str, early: int) -> None:
    fd = os.open(OTHER_FILE, os.O_RDWR | os.O_CREAT) if early else -1
    for _ in range(early):
        CALLS[call](fd)
    trio.run(write, path, bursts)


def main(path: str, bursts: str, call: str, killed_at: str) -> None:
    stores._in_thread = in_place
    os.chdir(os.path.dirname(path))
    say("ready")
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            child(path, int(bursts), call, int(killed_at) - int(line))
            os._exit(0)
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
