"""What the benchmarks share: interleaved rounds, and a report on the terminal and in a file.

Owns how figures are taken (in turns, so that drifts meet all; medians; one core; the log
off, the garbage collector on, as users have it) and how they are printed. What they are
is in results.py.
"""

import logging
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from benchmarks.results import (
    FOLDER,
    Bar,
    Machine,
    Result,
    Run,
    Verdict,
    judge,
    kept,
    load,
    now,
    this,
)

__all__ = [
    "Report",
    "bar_text",
    "figure_text",
    "in_turns",
    "interleaved",
    "percentile",
    "pin",
    "quiet",
]

T = TypeVar("T")


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def quiet() -> None:
    """Take the log out of the measurement: crashes and dead letters are logged otherwise."""
    logging.disable(logging.CRITICAL)


def in_turns(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """All readings of each contender, taken in turns so that drifts meet all."""
    readings: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            readings[name].append(measure())
    return readings


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each contender's results, measured in turns."""
    readings = in_turns(contenders, rounds)
    return {name: statistics.median(values) for name, values in readings.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Report:
    """One run of one benchmark: prints every result, and keeps it at once.

    `good` is True as long as every bar was reached. A bar that was not measured is not.
    """

    def __init__(
        self,
        benchmark: str,
        about: str | None,
        folder: Path = FOLDER,
        machine: Machine | None = None,
    ) -> None:
        self.good = True
        self._folder = folder
        self._before = load(benchmark, folder)
        self._run = Run(benchmark, about or "", now(), machine or this())

    def show(self, result: Result) -> None:
        """Print a table of figures and ratios, and add it to the file of this benchmark."""
        width = max((len(name) for name in result.figures), default=0)
        print(f"\n{result.title}")
        for name, figure in result.figures.items():
            print(f"  {name:<{width}}  {figure_text(figure):>12} {result.unit}")
        for bar in result.bars:
            verdict = judge(result, bar)
            self.good = self.good and verdict.outcome in ("reached", "no bar")
            print(f"  {_line(result, bar, verdict)}", flush=True)
        self._run = attrs.evolve(self._run, results=(*self._run.results, result))
        kept((*self._before, self._run), self._folder)


def figure_text(figure: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def bar_text(result: Result, bar: Bar) -> str:
    """What a bar asks for: "at least 6", "at most 400 MB", or nothing."""
    if bar.factor is None:
        return ""
    unit = "" if bar.peer is not None else f" {result.unit}"
    return f"at {'most' if bar.at_most else 'least'} {bar.factor:g}{unit}"


def _line(result: Result, bar: Bar, verdict: Verdict) -> str:
    value = "     -" if verdict.value is None else f"{verdict.value:6.2f}"
    what = f"{bar.subject}: {value}"
    what += f" {result.unit}" if bar.peer is None else f" x {bar.peer}"
    wanted = bar_text(result, bar)
    return f"{what}, bar {wanted}: {verdict.outcome}" if wanted else f"{what} ({verdict.outcome})"
