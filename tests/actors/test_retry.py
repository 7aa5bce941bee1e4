"""Attempts, back-off and ages for events: a pure decision per failure."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import DeclarationError
from understudy.actors.retry import DEFAULT_POLICY, RetryPolicy, policy_for


def test_an_event_is_run_five_times_at_most_unless_told_otherwise() -> None:
    delays = [DEFAULT_POLICY.after_crash(attempt, Random(0)) for attempt in range(1, 7)]

    assert [delay is None for delay in delays] == [False, False, False, False, True, True]


def test_the_default_waits_are_0_and_01_and_1_and_10_seconds() -> None:
    policy = RetryPolicy(jitter=0)

    assert [policy.after_crash(attempt, Random(0)) for attempt in range(1, 5)] == [0, 0.1, 1, 10]


def test_jitter_lengthens_a_wait_by_a_share_that_the_seed_decides() -> None:
    policy = RetryPolicy(delays=(10.0,), jitter=0.2)

    assert policy.after_crash(1, Random(7)) == 10 * (1 + 0.2 * Random(7).random())


@pytest.mark.parametrize(
    ("policy", "attempt", "delay"),
    [
        pytest.param(RetryPolicy(attempts=9, delays=(1, 2), jitter=0), 8, 2, id="the last repeats"),
        pytest.param(RetryPolicy(attempts=2, delays=(), jitter=0), 1, 0, id="no waits at all"),
        pytest.param(RetryPolicy(attempts=1), 1, None, id="one attempt only"),
        pytest.param(RetryPolicy(attempts=5), 77, None, id="the broker counted further"),
    ],
)
def test_a_policy_decides_by_the_number_of_the_attempt(
    policy: RetryPolicy, attempt: int, delay: float | None
) -> None:
    assert policy.after_crash(attempt, Random(0)) == delay


@pytest.mark.parametrize(
    ("age", "after", "delay"),
    [(0, 5, 5), (55, 5, 5), (55.5, 5, None), (0, 61, None)],
    ids=["young", "just in time", "too old by then", "asks for more than there is"],
)
def test_a_message_is_put_off_until_its_greatest_age(
    age: float, after: float, delay: float | None
) -> None:
    assert RetryPolicy(max_age=60).after_retry(age, after) == delay


def test_no_event_is_stale_unless_a_policy_says_when() -> None:
    assert DEFAULT_POLICY.stale_after == math.inf


# -- exponential ------------------------------------------------------------------------


def test_exponential_waits_double_up_to_their_maximum_and_stay_there() -> None:
    policy = RetryPolicy.exponential(8, first=0.1, maximum=1, jitter=0)

    waits = [policy.after_crash(attempt, Random(0)) for attempt in range(1, 9)]

    assert waits == [0.1, 0.2, 0.4, 0.8, 1, 1, 1, None]


def test_exponential_waits_take_another_factor_and_the_limits_of_age() -> None:
    policy = RetryPolicy.exponential(4, 1, 100, factor=5, jitter=0, max_age=60, stale_after=30)

    assert policy == RetryPolicy(4, (1, 5, 25), 0, max_age=60, stale_after=30)


def test_a_factor_of_one_is_the_same_wait_for_ever() -> None:
    assert RetryPolicy.exponential(9, 2, 60, factor=1).delays == (2,)


@given(st.integers(1, 10_000), st.floats(1e-3, 1e3), st.floats(1, 1e6), st.floats(1, 1e3))
def test_exponential_waits_never_shrink_and_never_exceed_the_maximum(
    attempts: int, first: float, times: float, factor: float
) -> None:
    policy = RetryPolicy.exponential(attempts, first, first * times, factor, jitter=0)

    assert all(early <= late for early, late in pairwise(policy.delays))
    assert policy.delays[0] == first
    assert policy.delays[-1] <= first * times
    assert len(policy.delays) <= max(1, attempts - 1)


# -- what can never work ----------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], RetryPolicy], str]] = {
    "no attempt": (lambda: RetryPolicy(attempts=0), "attempts=0: 1 or more expected"),
    "a negative wait": (lambda: RetryPolicy(delays=(1, -2)), "-2 is not a number of seconds"),
    "an endless wait": (lambda: RetryPolicy(delays=(math.inf,)), "inf is not a number of seconds"),
    "negative jitter": (lambda: RetryPolicy(jitter=-0.1), "jitter=-0.1: a share of the delay"),
    "jitter is no number": (lambda: RetryPolicy(jitter=math.nan), "jitter=nan: a share"),
    "a negative age": (lambda: RetryPolicy(max_age=-1), "max_age=-1: 0 seconds or more"),
    "stale at once": (lambda: RetryPolicy(stale_after=0), "stale_after=0: more than 0 seconds"),
    "no first wait": (lambda: RetryPolicy.exponential(3, 0, 5), "first=0, maximum=5, factor=2"),
    "falling": (lambda: RetryPolicy.exponential(3, 1, 5, 0.5), r"factor=0.5: 0 < first <= maxi"),
    "no maximum": (lambda: RetryPolicy.exponential(3, 1, math.inf), "all of them finite"),
}


@pytest.mark.parametrize(("make", "why"), WRONG.values(), ids=WRONG)
def test_a_policy_that_can_never_work_is_refused(make: Callable[[], RetryPolicy], why: str) -> None:
    with pytest.raises(DeclarationError, match=f"^RetryPolicy.*{why}"):
        make()


# -- who decides ------------------------------------------------------------------------

HANDLER, ACTOR, SYSTEM = (RetryPolicy(attempts=number) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("handler", "actor", "chosen"),
    [(HANDLER, ACTOR, HANDLER), (HANDLER, None, HANDLER), (None, ACTOR, ACTOR)]
    + [(None, None, SYSTEM)],
    ids=["handler before actor", "handler before system", "actor before system", "nobody else"],
)
def test_the_nearest_policy_decides_alone(
    handler: RetryPolicy | None, actor: RetryPolicy | None, chosen: RetryPolicy
) -> None:
    assert policy_for(handler, actor, SYSTEM) is chosen
