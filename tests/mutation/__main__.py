"""Mutation testing: `python -m tests.mutation --file supervisors/strategy.py`.

Makes every mutant of the files, runs for each the tests that execute its line, and
prints those that no test notices. Exit code 1 if one of them is not in survivors.toml,
or if an entry there is out of date. `--only N ...` runs single mutants by their number
(`--list` shows them); `--tests` looks at other tests than usual.

Neither mutmut nor cosmic-ray: mutants here move what is around an `await`, run only the
tests that execute their line, and are accepted by their text with a reason, which holds
when other code moves (more in mutants.py).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

from .campaign import Verdict, observe, run
from .mutants import Mutant, mutants_of
from .survivors import accepted, stale
from .workshop import ROOT, copies

FILES = (
    "supervisors/strategy.py",
    "supervisors/supervisor.py",
    "supervisors/keeper.py",
    "actors/mailbox.py",
    "actors/cell.py",
)
TESTS = ("tests/actors", "tests/supervisors", "tests/testing")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        for number, mutant in _mutants(ROOT, options.file or FILES, options.only):
            _say(f"{number} {mutant}")
        return 0
    start = monotonic()
    with copies(options.jobs) as made:
        # Of the copy: somebody may have changed the repository meanwhile.
        mutants = list(_mutants(made[0].tree, options.file or FILES, options.only))
        files = sorted({mutant.file for _, mutant in mutants})
        selection = observe(made, files, options.tests or TESTS)
        _say(f"{len(selection.seconds)} tests; {len(mutants)} mutants of {', '.join(files)}")
        verdicts = list(_told(run(made, [one for _, one in mutants], selection), options.verbose))
    unlisted = _report(verdicts, complete=not (options.only or options.tests))
    _say(f"{monotonic() - start:.0f} s")
    return 1 if unlisted else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--file", action="append", help="one file of the house; may be repeated")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants in the file")
    parser.add_argument("--tests", nargs="+", help="files and folders with tests")
    parser.add_argument("--jobs", type=int, default=2, help="copies to work in at the same time")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    parser.add_argument("--verbose", action="store_true", help="say of each what noticed it")
    return parser


def _mutants(
    root: Path, files: Sequence[str], only: Sequence[int] | None
) -> Iterator[tuple[int, Mutant]]:
    for file in files:
        for number, mutant in enumerate(mutants_of(file, (root / file).read_bytes()), 1):
            if only is None or number in only:
                yield number, mutant


def _told(verdicts: Iterator[Verdict], verbose: bool) -> Iterator[Verdict]:
    for verdict in verdicts:
        if verdict.noticed_by is None:
            _say(f"survived {verdict.tests} tests: {verdict.mutant}")
        elif verbose:
            _say(f"noticed by {verdict.noticed_by}: {verdict.mutant}")
        yield verdict


def _report(verdicts: Sequence[Verdict], *, complete: bool) -> bool:
    """Print what it came to; returns whether anything is not as listed."""
    listed = accepted()
    survivors = [one.mutant for one in verdicts if one.noticed_by is None]
    unlisted = [mutant for mutant in survivors if mutant.key not in listed]
    files = sorted({one.mutant.file for one in verdicts})
    gone = [key for file in files for key in stale(listed, file, survivors)] if complete else []
    for key in gone:
        _say(f"out of date in survivors.toml: {key}")
    for mutant in unlisted:
        _say(f"not in survivors.toml: {mutant}")
    for file in files:
        of_file = [one for one in verdicts if one.mutant.file == file]
        alive = [mutant for mutant in survivors if mutant.file == file]
        known = sum(mutant.key in listed for mutant in alive)
        _say(
            f"{file}: {len(of_file)} mutants, {len(of_file) - len(alive)} noticed, "
            f"{known} survive and are listed, {len(alive) - known} survive and are not"
        )
    return bool(unlisted or gone)


if __name__ == "__main__":
    sys.exit(main())
