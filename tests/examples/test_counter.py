"""The smallest example does what its few lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

COUNTER = Path(__file__).parents[2] / "examples" / "counter.py"


@pytest.fixture(scope="module")
def counter() -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", str(COUNTER)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_it_counts_crashes_and_is_back_with_a_clean_state(
    counter: "subprocess.CompletedProcess[str]",
) -> None:
    assert counter.returncode == 0
    assert counter.stdout == "the count is 5\nafter a crash: 0 in life 2\n"


def test_the_only_thing_logged_is_its_crash_and_where_that_was(
    counter: "subprocess.CompletedProcess[str]",
) -> None:
    error = "ValueError: this counter only counts up"
    crash, _, frame, _, raised, letter = counter.stderr.splitlines()

    assert crash == f"example/counter crashed (incarnation 1) on Increment: {error}"
    assert str(COUNTER) in frame
    assert raised == error
    assert letter.startswith("example/counter: Increment became dead letter ")


def test_it_is_readable_in_a_minute() -> None:
    assert len(COUNTER.read_text().splitlines()) <= 40
