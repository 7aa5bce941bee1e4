"""The type checkers find in the samples what users rely on them to find.

Every planted mistake carries a `type: ignore`, and both checkers report one that is
not needed, so "no errors" says that each mistake was found and nothing else was.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..missing import missing

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(str(path.relative_to(ROOT)) for path in Path(__file__).parent.glob("sample_*.py"))

MYPY = ("mypy", "--no-error-summary", "--hide-error-context")
PYRIGHT = ("pyright", "--pythonpath", sys.executable)


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_every_planted_mistake_is_found_and_nothing_else(checker: tuple[str, ...]) -> None:
    _need(checker)
    outcome = _run(checker, *SAMPLES)

    assert outcome.returncode in (0, 1), outcome.stderr
    # Those alone: mypy reports what it finds in the modules that they import, too.
    assert [line for line in outcome.stdout.splitlines() if "sample_" in line] == []


@pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_a_mistake_that_is_not_found_fails_the_check(
    checker: tuple[str, ...], tmp_path: Path
) -> None:
    _need(checker)
    sample = tmp_path / "sample_of_no_mistake.py"
    sample.write_text(
        "# pyright: reportUnnecessaryTypeIgnoreComment=true\nprint(1)  # type: ignore[arg-type]\n"
    )
    outcome = _run(checker, str(sample))

    assert outcome.returncode == 1
    assert "sample_of_no_mistake.py:2" in outcome.stdout


def _need(checker: tuple[str, ...]) -> None:
    """pyright runs on Node; without one it would fetch its own."""
    if checker is PYRIGHT and shutil.which("node") is None:
        missing("node is not installed, so that pyright cannot run")


def _run(checker: tuple[str, ...], *files: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *checker, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
