"""A program that gives events to a dead-letter office, as intake does, whatever the disk does.

    python -m tests.supervisors.delivery.letter_office PATH EVENTS [FILE_LIMIT]

It says `alarm WHY` and `alarm over`, `in ID` when an event was let in, `paused` when it
has to wait for room, `stored ID` when its letter is durable and it may be acknowledged,
and `done` at the end. FILE_LIMIT bounds every file of this process, in bytes.
"""

import resource
import sys
from functools import partial
from random import Random
from typing import Final

import trio

from understudy.actors.lifecycle import Bus
from understudy.supervisors.delivery.office import DeadLetterOffice
from understudy.supervisors.delivery.store import SQLiteStore

from .letter_writer import letter_of, say

__all__ = ["BACKLOG", "CAPACITY"]

BACKLOG: Final = 8
CAPACITY: Final = 4


async def give(office: DeadLetterOffice, ids: list[str]) -> None:
    for id in ids:
        with trio.move_on_after(0.3) as patience:
            await office.room()
        if patience.cancelled_caught:
            say("paused")
            await office.room()
        say(f"in {id}")
        office.take(letter_of(id), partial(say, f"stored {id}"))
        await trio.lowlevel.checkpoint()


async def main(path: str, events: int) -> None:
    store = SQLiteStore(path, capacity=CAPACITY, burst=2)
    store.on_alarm = lambda why: say("alarm over" if why is None else f"alarm {why}")
    office = DeadLetterOffice(store, Bus(), Random(1), "shop", backlog=BACKLOG)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        nursery.start_soon(office.run)
        await give(office, [f"{number:04}" for number in range(events)])
        await office.flush()
        await store.close()
        nursery.cancel_scope.cancel()
    say("done")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), hard))
    trio.run(main, sys.argv[1], int(sys.argv[2]))
