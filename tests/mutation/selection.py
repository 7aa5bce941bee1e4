"""Which tests execute which lines, and how long each takes.

Learned in one run of the tests with coverage, in a copy of the repository. Owns the
two pytest plugins: `Observer` for that run, `Chosen` for the tests of one mutant.

Only tests that passed without any mutant are ever chosen, and none that takes longer
than `SLOW`: a campaign runs most tests hundreds of times.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from time import perf_counter

import attrs
import coverage
import pytest

__all__ = ["SLOW", "Chosen", "Observer", "Selection"]

SLOW = 0.7
"""Seconds above which a test is left out."""

_PORTIONS = (25, 120, 400)
_BUDGET = 6.0
"""Seconds of tests for one mutant: what the first of them miss, the rest hit by chance."""


@attrs.frozen
class Selection:
    """What tests execute: per file and line the tests, and the seconds of each test."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, frozenset[str]]]

    @classmethod
    def read(cls, parts: Sequence[Path]) -> "Selection":
        """Put together what several runs wrote."""
        seconds: dict[str, float] = {}
        lines: dict[str, dict[int, frozenset[str]]] = {}
        for part in parts:
            noted = json.loads(part.read_text())
            seconds |= noted["seconds"]
            for file, by_line in noted["lines"].items():
                known = lines.setdefault(file, {})
                for line, tests in by_line.items():
                    known[int(line)] = known.get(int(line), frozenset()) | frozenset(tests)
        return cls(seconds, lines)

    def covering(self, file: str, lines: range) -> list[str]:
        """The tests to run for a change in these lines: those of the file itself first,
        then the fastest first.

        What runs when the file is imported (a default, a constant) concerns every test
        of the file, also one that only looks at it.
        """
        by_line = self.lines.get(file, {})
        tests = frozenset[str]().union(*(by_line.get(line, frozenset()) for line in lines))
        if tests == {""}:
            tests = tests.union(*by_line.values(), self._own([file]))
        own = self._own([file])
        known = [test for test in tests if test in self.seconds]
        return sorted(known, key=lambda test: (test not in own, self.seconds[test], test))

    def executing(self, files: Sequence[str]) -> "Selection":
        """The same, but only with tests that execute anything of these files."""
        of_files = [tests for file in files for tests in self.lines.get(file, {}).values()]
        wanted = self._own(files).union(*of_files)
        seconds = {test: taken for test, taken in self.seconds.items() if test in wanted}
        return Selection(seconds, self.lines)

    def _own(self, files: Sequence[str]) -> frozenset[str]:
        """The tests of the files themselves, by name."""
        names = [f"test_{Path(file).stem}" for file in files]
        return frozenset(test for test in self.seconds if any(name in test for name in names))

    def without(self, test: str) -> "Selection":
        """The same, but that this test is never run."""
        return Selection({one: s for one, s in self.seconds.items() if one != test}, self.lines)

    def within(self, tests: Sequence[str]) -> list[str]:
        """As many of these tests, in their order, as a mutant may take time for."""
        ends = accumulate(self.seconds[test] for test in tests)
        return [test for test, end in zip(tests, ends, strict=True) if end <= _BUDGET]

    def portions(self, tests: Sequence[str]) -> Iterator[list[str]]:
        """Few tests first: most mutants are noticed soon, and every file costs its import."""
        start = 0
        for size in _PORTIONS:
            if start < len(tests):
                yield list(tests[start : start + size])
            start += size
        if start < len(tests):
            yield list(tests[start:])


class Observer:
    """Notes what every test executes; writes it to `out` at the end of the run."""

    def __init__(self, root: Path, files: Sequence[str], out: Path) -> None:
        self._root, self._files, self._out = root, files, out
        self._seconds: dict[str, float] = {}
        self._bad: set[str] = set()
        # The floors are reached through links, and known to coverage by their real places.
        include = [str(root / file) for file in files]
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=include)
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        start = perf_counter()
        result = yield
        self._seconds[item.nodeid] = perf_counter() - start
        self._coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._bad.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {}
        for file in self._files:
            by_line = data.contexts_by_lineno(str(self._root / file))
            lines[file] = {line: sorted(tests) for line, tests in by_line.items()}
        seconds = {
            test: taken
            for test, taken in self._seconds.items()
            if test not in self._bad and taken <= SLOW
        }
        noted = {"seconds": seconds, "lines": lines, "bad": sorted(self._bad)}
        self._out.write_text(json.dumps(noted))


class Chosen:
    """Runs the chosen tests alone, in their order, and writes down the first that fails."""

    def __init__(self, tests: Sequence[str], out: Path) -> None:
        self._order = {test: number for number, test in enumerate(tests)}
        self._out = out

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order),
            key=lambda item: self._order[item.nodeid],
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._out.write_text(nodeid)  # beforehand: it may never come back
