"""What a test does when a program that it needs beside itself is not there.

It skips with a sentence that says what to install. Where peers are required (in CI) it
fails with that sentence instead, so that no test is ever skipped there unseen.
"""

import os
from typing import Final, NoReturn

import pytest

__all__ = ["REQUIRED", "missing"]

REQUIRED: Final = "UNDERSTUDY_REQUIRE_PEERS"
"""Set in the environment: missing peers fail the tests that need them."""


def missing(why: str) -> NoReturn:
    """Skip the running test for this reason, or fail it where peers are required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{why} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(why)
