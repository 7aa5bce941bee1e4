"""The bridges to brokers beside the brokers' own clients, FastStream, aiomqtt and NestJS.

Consumers are processes pinned to one core, the broker and whoever sends to the other. Each
reading of events has a fresh consumer: where the broker keeps events, they wait for it
there, elsewhere they are sent as fast as the broker takes them; the first are its warm-up,
and what it leaves unacknowledged fails it. Services are fresh as well, and are driven with
64 requests in flight. Readings are interleaved, rates are medians.

All get the same order, and ours, NestJS and the brokers' own clients the same packet; ours
and FastStream validate it, and so does msgspec, which the brokers' own clients are given.
Where the broker is the limit rates come close to each other; the CPU time of the consumer's
process, told beside them, does not. NestJS is as it comes, but that on RabbitMQ it acknowledges
by hand, as ours does, and its client does not hold small packets back (`noDelay`).

What is not installed here is left out, and said.

    python -m benchmarks.brokers [WIRE...]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import attrs

from benchmarks import broker_load
from benchmarks.broker_cases import CASES, SETTINGS, Case
from benchmarks.broker_lines import Failed
from benchmarks.broker_wires import WIRES
from benchmarks.report import Report, in_turns, pin
from benchmarks.results import Bar, Result

ROOT: Final = Path(__file__).parent.parent
PEERS: Final = ROOT / "tests" / "peers" / "nest"
CONSUMER_CORE, LOAD_CORE = "0", 1
LIMIT: Final = 30.0
"""Seconds for one reading, the start of its consumer included."""
WARMUP: Final = 0.1
"""The share of a reading's events that come before the clock starts."""


@attrs.frozen
class Reading:
    """A rate per second, and the CPU time of one message, in microseconds."""

    rate: float
    cpu: float | None


# -- consumers ------------------------------------------------------------------------


@contextmanager
def started(who: str, wire: str, url: str, name: str, *numbers: int) -> Iterator["Consumer"]:
    """A consumer's process, pinned; it is ended here, or after `LIMIT`."""
    process = subprocess.Popen(
        [*_pinned(), *_command(who, wire, url, name, numbers)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    consumer = Consumer(who, process)
    watchdog = threading.Timer(LIMIT, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield consumer
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


class Consumer:
    """A running consumer, and what it says."""

    def __init__(self, who: str, process: subprocess.Popen[str]) -> None:
        self.who = who
        self._process = process

    def line(self, beginning: str) -> str:
        """The next line that begins so. Raises `Failed` if it ends before."""
        # A pipe, since that was asked for.
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line
        raise Failed(f"{self.who} ended, or was too slow, before it printed {beginning!r}")

    def cpu(self) -> float | None:
        """The CPU seconds it has used; None where nothing tells."""
        file = Path(f"/proc/{self._process.pid}/stat")
        if not file.exists():
            return None
        fields = file.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pinned() -> list[str]:
    return ["taskset", "--cpu-list", CONSUMER_CORE] if shutil.which("taskset") else []


def _command(who: str, wire: str, url: str, name: str, numbers: Sequence[int]) -> list[str]:
    if who != "nest":
        module = [sys.executable, "-m", "benchmarks.broker_consumers"]
        return [*module, who, wire, url, name, *map(str, numbers)]
    transport = {"rabbitmq": "rmq", "mqtt-session": "mqtt"}.get(wire, wire)
    command = ["node", str(PEERS / "bench" / "broker.mjs"), transport, url]
    command += [name] if wire in ("rabbitmq", "kafka", "mqtt-session") else []
    return command + [
        f"--{option}={number}"
        for option, number in zip(("messages", "warmup"), numbers, strict=False)
    ]


# -- readings -------------------------------------------------------------------------

_numbers: Final = count(1)


def consumed(wire_name: str, url: str, who: str, messages: int) -> Reading:
    """How fast a fresh consumer takes events. Raises `Failed`."""
    wire = WIRES[wire_name](url)
    name, bare = f"bench{os.getpid()}-{next(_numbers)}", who == "faststream"
    warmup = max(1, int(messages * WARMUP))
    wire.make(name)
    try:
        if wire.keeps:
            wire.fill(name, warmup + messages, bare=bare)
        with started(who, wire_name, url, name, messages, warmup) as consumer:
            if not wire.keeps:
                # The warm-up apart, so that nothing else is read before the clock starts.
                consumer.line("ready")
                wire.fill(name, warmup, bare=bare)
                consumer.line("warm")
                wire.fill(name, messages, bare=bare)
            found = json.loads(consumer.line("{"))
        if left := wire.left(name):
            raise Failed(f"{who} left {left} events unacknowledged")
    finally:
        wire.drop(name)
    return Reading(messages / found["seconds"], found["cpu"] / messages * 1e6)


def answered(wire: str, url: str, who: str, requests: int) -> Reading:
    """How fast a fresh service answers. Raises `Failed`."""
    name = f"bench{os.getpid()}-{next(_numbers)}"
    queue = WIRES[wire](url)
    queue.make(name)
    try:
        with started(who, wire, url, name) as service:
            service.line("ready")
            line = broker_load.connect(wire, url, name, bare=who == "faststream")
            try:
                line.check()
                broker_load.drive(line, max(1, int(requests * WARMUP)))
                before = service.cpu()
                rate = broker_load.rate(line, requests)
                after = service.cpu()
            finally:
                line.socket.close()
    finally:
        queue.drop(name)
    if before is None or after is None:
        return Reading(rate, None)
    return Reading(rate, (after - before) / requests * 1e6)


def measured(case: Case, url: str, peers: Iterable[str], rounds: int) -> Result:
    """One table. Who fails once is not asked again, and is said."""
    failed: dict[str, str] = {}

    def reading(who: str) -> Reading | None:
        if who in failed:
            return None
        measure = consumed if case.is_events else answered
        try:
            return measure(case.wire, url, who, case.counts[who])
        except (Failed, OSError) as error:
            failed[who] = str(error) or type(error).__name__
            return None

    names = [who for who in case.counts if who in peers]
    readings = in_turns({who: partial(reading, who) for who in names}, rounds)
    figures: dict[str, float] = {}
    cpus: list[str] = []
    for who in names:
        found = [each for each in readings[who] if each is not None]
        if who in failed:
            continue
        label = case.label(who)
        figures[label] = statistics.median(each.rate for each in found)
        if used := [each.cpu for each in found if each.cpu is not None]:
            cpus.append(f"{label} {statistics.median(used):.0f} µs")
    bars = tuple(
        Bar("understudy", case.label(who), case.bar if who == "raw" else 1.0)
        for who in names
        if who != "understudy" and who not in case.unbarred
    )
    unit = f"{case.title.partition(' ')[0]}/s"
    notes = [f"Not measured: {why}." for why in failed.values()]
    if cpus:
        notes.insert(0, f"CPU time of the consumer's process for one message: {', '.join(cpus)}.")
    return Result(case.title, unit, figures, bars, " ".join(notes))


# -- what is here ---------------------------------------------------------------------


def lacking_here() -> dict[str, str]:
    """What cannot be measured here, and why."""
    lacking = {}
    if find_spec("faststream") is None:
        lacking["faststream"] = "FastStream is not installed: pip install -e '.[bench]'"
    if find_spec("aiomqtt") is None:
        lacking["aiomqtt"] = "aiomqtt is not installed: pip install -e '.[bench]'"
    if shutil.which("npm") is None:
        lacking["nest"] = "Node and npm are not installed: apt-get install nodejs npm"
    return lacking


def main(rounds: int, wires: Sequence[str]) -> bool:
    lacking = lacking_here()
    peers = {"understudy", "raw", "faststream", "aiomqtt", "nest"} - set(lacking)
    if "nest" in peers and not (PEERS / "node_modules").exists():
        subprocess.run(["npm", "ci", "--silent"], cwd=PEERS, check=True)
    for why in lacking.values():
        print(f"left out: {why}")
    report = Report("brokers", __doc__)
    pin(LOAD_CORE)
    cases = [case for case in CASES if not wires or case.wire in wires]
    for kind in dict.fromkeys(case.broker for case in cases):
        if kind.executable() is None:
            print(f"left out: {kind.program} is not installed: apt-get install {kind.program}")
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            with kind(Path(folder), settings=SETTINGS[kind]) as broker:
                for case in cases:
                    if case.broker is kind:
                        result = measured(case, broker.url, peers, rounds)
                        report.show(result)
                        print(f"  {result.note}", flush=True)
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Brokers, beside their clients and NestJS.")
    parser.add_argument("wires", nargs="*", metavar="WIRE", help=f"of {', '.join(WIRES)}")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if unknown := set(given.wires) - set(WIRES):
        parser.error(f"there is no wire {', '.join(unknown)}")
    sys.exit(0 if main(given.rounds, given.wires) else 1)
