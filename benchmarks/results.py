"""What a benchmark leaves behind: results as data, and the JSON files that keep them.

A `Result` is one table of figures with the bars they are held against; a `Run` is what
one start of one benchmark has shown so far, and on which machine. `build/bench/NAME.json`
holds a list of runs, the newest last, so that figures can be followed over time. How
results look is told elsewhere: report.py for a terminal, page.py for a browser.

Invariant: a bar is reached, missed, not measured or no bar at all, and says which; a
figure that could not be taken is left out, never made up.
"""

import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import attrs
import msgspec

__all__ = [
    "FOLDER",
    "Bar",
    "Machine",
    "Result",
    "Run",
    "Verdict",
    "judge",
    "kept",
    "load",
    "now",
    "this",
]

FOLDER: Final = Path(__file__).parent.parent / "build" / "bench"

_SAMPLE: Final = 0.5
"""Seconds for which the machine is watched before a benchmark begins."""


@attrs.frozen
class Bar:
    """`subject` must reach `factor` times what `peer` reaches.

    Without a `peer` the figure itself is held against `factor`, without a `factor` the
    ratio is only told. `at_most` turns the bar round.
    """

    subject: str
    peer: str | None
    factor: float | None = None
    at_most: bool = False


@attrs.frozen
class Verdict:
    """A bar and what came out: `value` is the ratio, or the figure if there is no peer."""

    value: float | None
    outcome: Literal["reached", "MISSED", "not measured", "no bar"]


@attrs.frozen
class Result:
    """One table: figures by name, all in one `unit`. `note` says what a reader must know."""

    title: str
    unit: str
    figures: Mapping[str, float]
    bars: tuple[Bar, ...] = ()
    note: str = ""
    less_is_better: bool = False


@attrs.frozen
class Machine:
    """Where it was measured. `busy` is the share of its CPUs that others had just before."""

    python: str
    system: str
    processor: str
    cpus: int
    versions: Mapping[str, str]
    busy: float | None


@attrs.frozen
class Run:
    """What one start of a benchmark has shown; `about` is what its module says of itself."""

    benchmark: str
    about: str
    at: str
    machine: Machine
    results: tuple[Result, ...] = ()


def judge(result: Result, bar: Bar) -> Verdict:
    """What became of one bar of a result."""
    subject = result.figures.get(bar.subject)
    peer = 1.0 if bar.peer is None else result.figures.get(bar.peer)
    if subject is None or not peer:
        return Verdict(None, "not measured")
    value = subject / peer
    if bar.factor is None:
        return Verdict(value, "no bar")
    reached = value <= bar.factor if bar.at_most else value >= bar.factor
    return Verdict(value, "reached" if reached else "MISSED")


def this() -> Machine:
    """The machine and the Python that this process runs on."""
    return Machine(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=platform.platform(aliased=True, terse=True),
        processor=_processor(),
        cpus=os.cpu_count() or 1,
        versions={name: version(name) for name in ("understudy", "trio", "pykka")},
        busy=_busy(),
    )


def load(benchmark: str, folder: Path = FOLDER) -> tuple[Run, ...]:
    """All runs of a benchmark, the newest last; none if it has never run.

    Raises `msgspec.DecodeError` for a file that is not ours.
    """
    file = folder / f"{benchmark}.json"
    return msgspec.json.decode(file.read_bytes(), type=tuple[Run, ...]) if file.exists() else ()


def kept(runs: tuple[Run, ...], folder: Path = FOLDER) -> None:
    """Write the runs of one benchmark; a reader sees the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{runs[-1].benchmark}.json"
    half = file.with_suffix(".part")
    half.write_bytes(msgspec.json.format(msgspec.json.encode(runs)) + b"\n")
    half.replace(file)


def now() -> str:
    """This moment, as runs tell it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _busy() -> float | None:
    """The share of all CPUs in use while this process sleeps; None where nothing tells."""
    if not Path("/proc/stat").exists():
        return None
    before = _ticks()
    time.sleep(_SAMPLE)
    idle, total = (after - past for after, past in zip(_ticks(), before, strict=True))
    return round(1 - idle / total, 2) if total else None


def _ticks() -> tuple[int, int]:
    """Idle and total clock ticks of all CPUs since the system started."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(word) for word in line.split()[1:]]
    return ticks[3] + ticks[4], sum(ticks[:8])
