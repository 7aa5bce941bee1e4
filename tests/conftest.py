"""What tests of every floor share."""

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """Virtual time: when every task waits, the clock jumps to the next deadline."""
    return MockClock(autojump_threshold=0)
