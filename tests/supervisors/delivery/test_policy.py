"""Attempts and back-off for events: a pure decision per failure."""

from random import Random

import pytest

from understudy.supervisors.delivery.policy import DEFAULT_POLICY, RetryPolicy


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
