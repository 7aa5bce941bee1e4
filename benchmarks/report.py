"""What the benchmarks share: medians of interleaved rounds, and a table of ratios."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence

import attrs

__all__ = ["Bar", "interleaved", "pin", "table"]


@attrs.frozen
class Bar:
    """`subject` must reach `factor` times what `peer` reaches."""

    subject: str
    peer: str
    factor: float


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each contender's results, measured in turns so that drifts meet all."""
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            results[name].append(measure())
    return {name: statistics.median(values) for name, values in results.items()}


def table(title: str, unit: str, rates: Mapping[str, float], bars: Sequence[Bar]) -> bool:
    """Print rates and ratios; True if every bar was reached."""
    width = max(len(name) for name in rates)
    print(f"\n{title}")
    for name, rate in rates.items():
        print(f"  {name:<{width}}  {rate:>12,.0f} {unit}")
    good = True
    for bar in bars:
        ratio = rates[bar.subject] / rates[bar.peer]
        reached = ratio >= bar.factor
        good = good and reached
        verdict = "reached" if reached else "MISSED"
        print(f"  {ratio:6.2f} x {bar.peer}, bar {bar.factor:g}: {verdict}")
    return good
