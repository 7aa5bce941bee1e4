"""One slice of scenarios, played once on OTP, for all tests of this folder."""

import logging
from collections.abc import Iterator

import pytest

from ..missing import missing
from .draw import draw_many
from .otp import WHY_NOT, play_on_otp
from .scenario import Scenario
from .trace import Moment

SEED = 1
COUNT = 300


@pytest.fixture(scope="session")
def otp() -> None:
    """Skips where there is no Erlang, unless peers are required."""
    if WHY_NOT is not None:
        missing(WHY_NOT)


@pytest.fixture(scope="session")
def scenarios() -> list[Scenario]:
    return draw_many(SEED, COUNT)


@pytest.fixture(scope="session")
def expected(otp: None, scenarios: list[Scenario]) -> list[list[Moment]]:
    """What OTP does in each scenario."""
    return play_on_otp(scenarios)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of planned crashes are no news."""
    logger = logging.getLogger("understudy")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)
