"""A campaign: every mutant against the tests that could notice it.

Owns the order of the work: which copy is at which mutant, and which tests come next
for it. What a mutant is, which tests concern it and how they are run stands elsewhere.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

import attrs

from .mutants import Mutant
from .selection import Selection
from .workshop import Copy, Run

__all__ = ["Verdict", "observe", "run"]

_OBSERVING = 1200.0
"""Seconds that the tests may take without any mutant."""

_UNSTEADY = 10
"""How many tests may fail only when they run together with others than usual."""


@attrs.frozen
class Verdict:
    """What became of one mutant: the test that noticed it, or None if all `tests` passed."""

    mutant: Mutant
    noticed_by: str | None
    tests: int


def observe(copies: Sequence[Copy], files: Sequence[str], tests: Sequence[str]) -> Selection:
    """Learn which tests execute what in `files`; the copies share the tests among them."""
    modules = copies[0].test_modules(tests)
    parts = [copy.place / "observed" for copy in copies]
    begun: list[Run] = []
    for number, copy in enumerate(copies):
        share = modules[number :: len(copies)]
        if share:
            begun.append(copy.observe(files, share, parts[number], _OBSERVING))
    while going := [one for one in begun if not one.is_over()]:
        wait([one.sentinel for one in going], min(one.left for one in going))
    for one in begun:
        one.completed()
    selection = Selection.read(parts[: len(begun)]).executing(files)
    _warm(copies, selection)
    return _steady(copies[0], selection)


def _warm(copies: Sequence[Copy], selection: Selection) -> None:
    """Let every copy compile its tests once: after this nothing of them is written."""
    going = [copy.collect(sorted(selection.seconds), _OBSERVING) for copy in copies]
    while left := [one for one in going if not one.is_over()]:
        wait([one.sentinel for one in left], min(one.left for one in left))
    for one in going:
        one.completed()


def _steady(copy: Copy, selection: Selection) -> Selection:
    """Leave out the tests that fail without any mutant when they run as a campaign runs them.

    Raises `RuntimeError` if there is no end of them.
    """
    for _ in range(_UNSTEADY):
        run = copy.test(sorted(selection.seconds, key=selection.seconds.__getitem__), _OBSERVING)
        while not run.is_over():
            wait([run.sentinel], run.left)
        if run.result() == 0:
            return selection
        selection = selection.without(copy.last)
    raise RuntimeError(f"More than {_UNSTEADY} tests fail without any mutant, as {copy.last}.")


def run(
    copies: Sequence[Copy], mutants: Sequence[Mutant], selection: Selection
) -> Iterator[Verdict]:
    """Try every mutant; each copy has one at a time."""
    noticed = Counter[str]()
    waiting = deque(mutants)
    free = deque(copies)
    trials: list[_Trial] = []
    while waiting or trials:
        while waiting and free:
            trials.append(_Trial(waiting.popleft(), free.popleft(), selection, noticed))
        for trial in list(trials):
            verdict = trial.look()
            if verdict is not None:
                trials.remove(trial)
                free.append(trial.copy)
                if verdict.noticed_by is not None:
                    noticed[verdict.noticed_by] += 1
                yield verdict
        runs = [trial.run for trial in trials if trial.run is not None]
        if runs:
            wait([one.sentinel for one in runs], min(one.left for one in runs))


class _Trial:
    """One mutant in one copy, at one portion of its tests after the other."""

    def __init__(
        self, mutant: Mutant, copy: Copy, selection: Selection, noticed: Counter[str]
    ) -> None:
        self.copy = copy
        self.run: Run | None = None
        self._mutant = mutant
        self._selection = selection
        # First those that have noticed most so far: they look at this file closely.
        self._tests = selection.covering(mutant.file, mutant.lines)
        self._tests.sort(key=lambda test: -noticed[test])
        self._tests = selection.within(self._tests)
        self._portions = deque(selection.portions(self._tests))
        self._source = copy.read(mutant.file)
        copy.write(mutant.file, mutant.applied(self._source))

    def look(self) -> Verdict | None:
        """What became of the mutant, if that is known; goes on to its next tests if not."""
        if self.run is not None:
            if not self.run.is_over():
                return None
            if self.run.result() != 0:
                return self._over(self.copy.last)
        if not self._portions:
            return self._over(None)
        portion = self._portions.popleft()
        seconds = sum(self._selection.seconds[test] for test in portion)
        self.run = self.copy.test(portion, limit=60.0 + 5 * seconds)
        return None

    def _over(self, noticed_by: str | None) -> Verdict:
        self.copy.write(self._mutant.file, self._source)
        return Verdict(self._mutant, noticed_by, len(self._tests))
