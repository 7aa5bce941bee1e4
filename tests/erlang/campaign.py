"""A long comparison with Erlang/OTP: `python -m tests.erlang.campaign --scenarios 2000`.

Prints every difference with the scenario that shows it, made as small as it gets, and
how often each rule was needed. A seed is drawn and printed if none is given; one
scenario runs alone with `--seed S --only N`. Exit code 1 if anything differs.
"""

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .draw import draw, draw_many
from .otp import WHY_NOT, play_on_otp
from .ours import Played, play
from .scenario import Scenario, without
from .trace import Difference, Moment, first_difference

__all__ = ["Comparison", "compare", "explained", "played", "shrunk", "table"]

SHOWN: Final = 10
"""Differences that are printed."""
SHRUNK: Final = 3
"""Differences that are made smaller: each takes many runs of OTP."""


@attrs.frozen
class Comparison:
    """What a number of scenarios came to."""

    differences: list[tuple[Scenario, Difference]]
    steps: int
    exercised: Counter[str]


def compare(scenarios: Sequence[Scenario], otp: Sequence[Sequence[Moment]]) -> Comparison:
    """Play each scenario on our side and hold it against what OTP did."""
    result = Comparison([], sum(map(len, otp)), Counter())
    for scenario, expected in zip(scenarios, otp, strict=True):
        ours = played(scenario)
        result.exercised.update(ours.exercised)
        difference = first_difference(ours.trace, expected)
        if difference is not None:
            result.differences.append((scenario, difference))
    return result


def played(scenario: Scenario) -> Played:
    """Our side; what breaks it is part of the trace, so that it is a difference."""
    try:
        return play(scenario)
    except Exception as error:  # noqa: BLE001  # shown where the traces part
        return Played([Moment(-1, "", "", "", "", f"broke: {error!r}")], Counter())


def shrunk(scenario: Scenario, difference: Difference) -> tuple[Scenario, Difference]:
    """A smaller scenario in which the sides still differ, and how."""
    while True:
        candidates = list(without(scenario))
        smaller = compare(candidates, play_on_otp(candidates)).differences
        if not smaller:
            return scenario, difference
        scenario, difference = min(smaller, key=lambda found: len(str(found[0])))


def explained(scenario: Scenario, difference: Difference) -> str:
    alone = f"python -m tests.erlang.campaign --seed {scenario.seed} --only {scenario.number}"
    return f"{scenario}\n{difference}\nrun it alone, in full: {alone}"


def table(exercised: Counter[str]) -> str:
    """How often each rule was needed, one a line."""
    width = max(map(len, exercised), default=0)
    return "\n".join(f"{name:<{width}}  {exercised[name]:>6}" for name in sorted(exercised))


def _main(arguments: Iterable[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.erlang.campaign")
    parser.add_argument("--scenarios", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="N")
    parser.add_argument("--whole", action="store_true", help="do not make what differs smaller")
    options = parser.parse_args(list(arguments))
    if WHY_NOT is not None:
        return _say(WHY_NOT, code=2)
    logging.getLogger("understudy").setLevel(logging.CRITICAL + 1)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    alone = options.only is not None
    scenarios = [draw(seed, options.only)] if alone else draw_many(seed, options.scenarios)
    begun = time.monotonic()
    otp = play_on_otp(scenarios)
    between = time.monotonic()
    result = compare(scenarios, otp)
    ended = time.monotonic()
    for index, (scenario, difference) in enumerate(result.differences[:SHOWN]):
        whole = options.whole or index >= SHRUNK
        found = (scenario, difference) if whole else shrunk(scenario, difference)
        _say(explained(*found) + "\n")
    if alone and not result.differences:
        _say("\n".join([str(scenarios[0]), *map(str, otp[0])]))
    _say(table(result.exercised))
    return _say(
        f"seed {seed}: {len(scenarios)} scenarios, {result.steps} steps compared, "
        f"{len(result.differences)} differ; "
        f"OTP {between - begun:.1f} s, ours {ended - between:.1f} s",
        code=1 if result.differences else 0,
    )


def _say(text: str, code: int = 0) -> int:
    sys.stdout.write(text + "\n")
    return code


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
