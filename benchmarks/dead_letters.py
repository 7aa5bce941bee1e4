"""How fast dead letters become durable: rows per second in `SQLiteStore`, on a real disk.

"The store" is given letters as fast as it takes them; "through an actor" sends messages
that a handler rejects, so that making the letter, its traceback and its notice are in it
too. The clock stops when the last row is safe from a loss of power (WAL, synchronous
FULL), and the rows are counted. The peer is Python's own sqlite3 with the same promise
and the same bytes in one plain table, once with a commit for every row, once with one
for 512 rows, as many as the store puts into a transaction.

The files are made under build/, since a temporary folder is often no disk at all.

    python -m benchmarks.dead_letters
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import trio

from benchmarks.report import Report, interleaved, pin, quiet
from benchmarks.results import FOLDER, Bar, Result
from understudy import Actor, RpcError, SQLiteStore, Supervisor, child, running
from understudy.supervisors.delivery.record import DeadLetter, new_id

BURST = 512
ROWS = 10 * BURST
BODY = b'{"id": 7, "customer": "customer7@example.com", "items": [{"sku": "SKU-1"}]}'


class Rejecting(Actor[dict[str, int]]):
    def receive(self, message: dict[str, int]) -> None:
        raise RpcError("it is rejected")


def letters() -> list[DeadLetter]:
    random = Random(3)
    return [
        DeadLetter(
            id=new_id(1_750_000_000 + number, random),
            at=1_750_000_000.0 + number,
            kind="event",
            pattern="orders.placed",
            handler="benchmark/orders.placed",
            actor="benchmark/orders",
            incarnation=1,
            transport="tcp",
            source="127.0.0.1",
            message_id=str(number),
            correlation_id=None,
            headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            body=BODY,
            attempts=5,
            reason="crashed",
            error="ValueError: no such order",
            traceback='  File "orders.py", line 3\nValueError: no such order\n',
            first_at=1_750_000_000.0,
        )
        for number in range(ROWS)
    ]


async def store(file: Path) -> float:
    kept = SQLiteStore(file)
    made = letters()
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.run)
        begin = time.perf_counter()
        for letter in made:
            await kept.put(letter)
        await kept.flush()
        elapsed = time.perf_counter() - begin
        check(kept.statistics().written)
        await kept.close()
    return ROWS / elapsed


async def actor(file: Path) -> float:
    kept = SQLiteStore(file)
    tree = Supervisor("benchmark", [child(Rejecting)])
    async with running(tree, dead_letters=kept) as system:
        ref = system.ref(Rejecting)
        begin = time.perf_counter()
        # In waves: local letters that the backlog has no room for are counted, not kept.
        for _ in range(ROWS // BURST):
            for number in range(BURST):
                await ref.tell_wait({"id": number})
            with suppress(RpcError):  # this one comes back to us, after all before it
                await ref.ask({})  # type: ignore[call-overload]
            await system.dead_letters(limit=1)
        elapsed = time.perf_counter() - begin
        check(kept.statistics().written)
    return ROWS / elapsed


def plain(file: Path, burst: int) -> float:
    made = letters()
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE letter (id TEXT PRIMARY KEY, error TEXT, trace TEXT, body BLOB)")
    rows = [(one.id, one.error, one.traceback, one.body) for one in made]
    begin = time.perf_counter()
    for first in range(0, ROWS, burst):
        with database:
            database.executemany(
                "INSERT INTO letter VALUES (?, ?, ?, ?)", rows[first : first + burst]
            )
    elapsed = time.perf_counter() - begin
    (count,) = database.execute("SELECT count(*) FROM letter").fetchone()
    check(count)
    database.close()
    return ROWS / elapsed


def check(count: int) -> None:
    if count != ROWS:
        raise SystemExit(f"{ROWS} letters were given, {count} rows were written")


def main(rounds: int) -> bool:
    report = Report("dead_letters", __doc__)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        made = 0

        def fresh() -> Path:
            nonlocal made
            made += 1
            return Path(folder, f"{made}.sqlite")

        rates = interleaved(
            {
                "understudy, the store": lambda: trio.run(store, fresh()),
                "understudy, through an actor": lambda: trio.run(actor, fresh()),
                "sqlite3, a commit for 512 rows": lambda: plain(fresh(), BURST),
                "sqlite3, a commit for each row": lambda: plain(fresh(), 1),
            },
            rounds,
        )
    ours = "understudy, the store"
    bars = (
        Bar(ours, "sqlite3, a commit for each row"),
        Bar(ours, "sqlite3, a commit for 512 rows"),
    )
    report.show(Result("dead letters made durable", "rows/s", rates, bars))
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How fast dead letters become durable.")
    parser.add_argument("--rounds", type=int, default=5)
    pin(0)
    quiet()
    sys.exit(0 if main(parser.parse_args().rounds) else 1)
