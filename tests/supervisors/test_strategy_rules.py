"""The values that a tree gets when nobody chooses any (the names of strategies, the back-off), and
what a window has left.
"""

from random import Random

from understudy.supervisors.strategy import Backoff, Strategy, Window


def test_strategies_have_the_names_that_they_have_in_otp() -> None:
    assert [strategy.value for strategy in Strategy] == [
        "one_for_one",
        "one_for_all",
        "rest_for_one",
    ]


def test_a_backoff_of_its_own_accord_waits_a_tenth_of_a_second_to_half_a_minute() -> None:
    backoff = Backoff()

    assert (backoff.minimum, backoff.maximum, backoff.jitter) == (0.1, 30.0, 0.2)
    assert backoff.quiet == (0.1 + 30.0) / 2
    assert 30.0 <= backoff.delay(1000, Random(1)) <= 36.0


def test_a_window_that_is_full_allows_no_restart_more() -> None:
    window = Window(1, 5)
    window.add(0)

    assert window.left(0) == 0
    assert window.left(6) == 1
