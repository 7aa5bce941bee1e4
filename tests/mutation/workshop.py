"""Copies of the repository, and processes that run tests in them.

Nothing is ever changed in the repository itself. Every run is a fork of this process,
which has loaded what is slow to load but nothing of the house; what hangs is killed.

Invariant: a copy has at most one mutant at a time, and one process that tests it.
"""

import importlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import hypothesis
import pytest

from .selection import Chosen, Observer

__all__ = ["ROOT", "Copy", "Run", "copies"]

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

TEST_LIMIT = 4
"""Seconds that one test may take with a mutant; it took less than one without."""

_SLOW_TO_LOAD = (
    "asyncio",
    "cattrs",
    "hypothesis.stateful",
    "msgspec",
    "multiprocessing.pool",
    "pytest_timeout",
    "pytest_trio.plugin",
    "sqlite3",
    "structlog",
    "trio.testing",
)
_MEMORY = 3 << 30
_FORK = get_context("fork")
_WRONG_HOUSE = 70
_NOTHING_RAN = (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR, _WRONG_HOUSE)
_OPTIONS = [
    "-q",
    "-x",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]


class Run:
    """One process with tests in it. `result()` once it `is_over`."""

    def __init__(self, process: BaseProcess, limit: float, log: Path) -> None:
        self._process = process
        self._deadline = monotonic() + limit
        self._log = log
        process.start()

    @property
    def sentinel(self) -> int:
        """Ready to be read when the process has ended."""
        return self._process.sentinel

    @property
    def left(self) -> float:
        """Seconds that it may still take."""
        return max(0.0, self._deadline - monotonic())

    def is_over(self) -> bool:
        if self._process.is_alive():
            if self.left:
                return False
            self._process.kill()
        self._process.join()
        return True

    def result(self) -> int:
        """pytest's exit code; -9 for what was killed, and 1 for what died.

        Raises `RuntimeError` if no test ran, other than for a house that does not load.
        """
        code = self._process.exitcode
        said = self._log.read_text(errors="replace")
        unloaded = code == pytest.ExitCode.USAGE_ERROR and "while loading conftest" in said
        if code in _NOTHING_RAN and not unloaded:
            raise RuntimeError(f"No tests ran. pytest said: {said[-2000:]}")
        return 1 if code is None else code

    def completed(self) -> None:
        """Raises `RuntimeError` if it ended before its last test: nothing was learned then."""
        if self.result() not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            said = self._log.read_text(errors="replace")
            raise RuntimeError(f"The tests without any mutant were broken off: {said[-2000:]}")


class Copy:
    """One copy of the repository."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = place / "tree"
        self._last = place / "last"
        self._log = place / "log"

    @property
    def last(self) -> str:
        """The test that ran last; "an import" if none got that far."""
        return self._last.read_text()

    def test_modules(self, tests: Sequence[str]) -> list[str]:
        """The files with tests in these files and folders."""
        found: list[str] = []
        for one in tests:
            path = self.tree / one
            files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
            found.extend(str(file.relative_to(self.tree)) for file in files)
        return found

    def read(self, file: str) -> bytes:
        return (self.tree / file).read_bytes()

    def write(self, file: str, source: bytes) -> None:
        """Change a file of the copy; what Python had compiled of it goes."""
        path = self.tree / file
        path.write_bytes(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def observe(self, files: Sequence[str], tests: Sequence[str], out: Path, limit: float) -> Run:
        """Run tests without any mutant, and note which lines of `files` they execute."""

        def work() -> int:
            plugin = Observer(self.tree, files, out)
            return pytest.main(
                [option for option in _OPTIONS if option != "-x"] + [*tests], [plugin]
            )

        return self._run(work, limit)

    def collect(self, tests: Sequence[str], limit: float) -> Run:
        """Import these tests and run none."""
        files = sorted({test.partition("::")[0] for test in tests})
        return self._run(lambda: pytest.main([*_OPTIONS, "--collect-only", *files]), limit)

    def test(self, tests: Sequence[str], limit: float) -> Run:
        """Run these tests up to the first that fails."""
        files = sorted({test.partition("::")[0] for test in tests})
        self._last.write_text("an import")
        per_test = ["--timeout", str(TEST_LIMIT), "-o", "timeout_method=thread"]

        def work() -> int:
            # The mutant is never compiled to a file that the next one could be taken for.
            sys.dont_write_bytecode = True
            return pytest.main([*_OPTIONS, *per_test, *files], [Chosen(tests, self._last)])

        return self._run(work, limit)

    def _run(self, work: Callable[[], int], limit: float) -> Run:
        process = _FORK.Process(target=self._inside, args=(work,))
        return Run(process, limit, self._log)

    def _inside(self, work: Callable[[], int]) -> None:
        """The life of the process: everything of the house comes from the copy."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        os.chdir(self.tree)
        os.environ["PYTHONPATH"] = str(self.tree)
        sys.path[:] = [str(self.tree), *(one for one in sys.path if one not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]
        # The same examples for every mutant, or some would be noticed now and then only.
        hypothesis.settings.register_profile(
            "mutation", derandomize=True, database=None, deadline=None, max_examples=30
        )
        os.environ["HYPOTHESIS_PROFILE"] = "mutation"
        code = work()
        house = sys.modules.get("understudy")
        if house is not None and not str(house.__file__).startswith(str(self.tree)):
            code = _WRONG_HOUSE
            sys.stdout.write(f"understudy came from {house.__file__}, not from the copy.")
        sys.stdout.flush()
        os._exit(code)


@contextmanager
def copies(number: int) -> Iterator[list[Copy]]:
    """So many copies of the repository as it is now, in a temporary folder."""
    for name in _SLOW_TO_LOAD:
        importlib.import_module(name)
    with TemporaryDirectory(prefix="mutation-") as folder:
        made = [Copy(Path(folder) / str(one)) for one in range(number)]
        _copy_repository(made[0].tree)
        for one in made[1:]:  # of the first: others may be at work in the repository
            shutil.copytree(made[0].tree, one.tree, symlinks=True)
        yield made


def _copy_repository(tree: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        there = tree / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            shutil.copy2(ROOT / name, there, follow_symlinks=False)
