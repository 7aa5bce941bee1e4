"""Who is restarted, whether, and when: tables, with Erlang/OTP's `supervisor` as the reference."""

from random import Random

import pytest

from understudy.actors.errors import DeclarationError
from understudy.actors.incarnation import Ending, Kind
from understudy.supervisors.strategy import (
    Backoff,
    Restart,
    Strategy,
    Window,
    group_of,
    is_restarted,
    one_for_all,
    one_for_one,
    rest_for_one,
)

CLEAN: list[Kind] = ["normal", "shutdown"]
ABNORMAL: list[Kind] = ["killed", "crashed", "gave up", "stuck"]


@pytest.mark.parametrize("kind", CLEAN + ABNORMAL)
def test_a_permanent_child_comes_back_whatever_ended_it(kind: Kind) -> None:
    assert is_restarted("permanent", Ending(kind))


@pytest.mark.parametrize("kind", CLEAN + ABNORMAL)
def test_a_transient_child_comes_back_after_an_abnormal_end_only(kind: Kind) -> None:
    assert is_restarted("transient", Ending(kind)) is (kind in ABNORMAL)


@pytest.mark.parametrize("kind", CLEAN + ABNORMAL)
def test_a_temporary_child_never_comes_back(kind: Kind) -> None:
    assert not is_restarted("temporary", Ending(kind))


def test_a_supervisor_that_gave_up_has_ended_abnormally() -> None:
    restart: Restart = "transient"

    assert is_restarted(restart, Ending("gave up"))


@pytest.mark.parametrize(
    ("strategy", "index", "group"),
    [
        pytest.param(one_for_one, 0, [0], id="one for one, the first"),
        pytest.param(one_for_one, 2, [2], id="one for one, the last"),
        pytest.param(one_for_all, 0, [0, 1, 2], id="one for all, the first"),
        pytest.param(one_for_all, 1, [0, 1, 2], id="one for all, in the middle"),
        pytest.param(rest_for_one, 0, [0, 1, 2], id="rest for one, the first"),
        pytest.param(rest_for_one, 1, [1, 2], id="rest for one, in the middle"),
        pytest.param(rest_for_one, 2, [2], id="rest for one, the last"),
    ],
)
def test_a_strategy_names_those_restarted_in_start_order(
    strategy: Strategy, index: int, group: list[int]
) -> None:
    assert list(group_of(strategy, index, 3)) == group


@pytest.mark.parametrize(
    ("max_restarts", "within", "times", "allowed"),
    [
        pytest.param(0, 5, [0.0], [False], id="none allowed"),
        pytest.param(1, 5, [0.0, 0.0], [True, False], id="two at once"),
        pytest.param(1, 5, [0.0, 5.0], [True, False], id="the edge still counts"),
        pytest.param(1, 5, [0.0, 5.001], [True, True], id="just beyond the edge"),
        pytest.param(1, 1, [0.0, 1.1], [True, True], id="fractions of a second"),
        pytest.param(2, 5, [0.0, 4.0, 6.0, 10.0], [True] * 4, id="it slides"),
        pytest.param(2, 5, [0.0, 4.0, 6.0, 8.0], [True] * 3 + [False], id="three in five"),
    ],
)
def test_the_window_counts_restarts_of_the_last_seconds(
    max_restarts: int, within: float, times: list[float], allowed: list[bool]
) -> None:
    window = Window(max_restarts, within)

    assert [window.add(now) for now in times] == allowed


def test_the_window_tells_how_many_restarts_are_left() -> None:
    window = Window(3, 5)
    window.add(0.0)
    window.add(4.0)

    assert [window.left(4.0), window.left(5.0), window.left(5.1), window.left(9.1)] == [1, 1, 2, 3]


def test_a_cleared_window_has_forgotten_its_restarts() -> None:
    window = Window(1, 5)
    window.add(0.0)
    window.clear()

    assert window.add(0.0)


def test_delays_double_from_the_minimum_to_the_maximum() -> None:
    backoff = Backoff(0.1, 1.0, jitter=0)

    delays = [backoff.delay(failures, Random(0)) for failures in range(1, 8)]

    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_delay_stays_finite_after_any_number_of_failures() -> None:
    assert Backoff(0.1, 30, jitter=0).delay(100_000, Random(0)) == 30


def test_jitter_lengthens_a_delay_by_a_share_that_the_seed_decides() -> None:
    backoff = Backoff(1.0, 1.0, jitter=0.5)
    share = Random(7).random()

    assert backoff.delay(2, Random(7)) == 1.0 + 0.5 * share


def test_the_first_restart_has_no_delay_and_no_jitter() -> None:
    random = Random(7)

    assert Backoff(jitter=1.0).delay(1, random) == 0.0
    assert random.random() == Random(7).random()


@pytest.mark.parametrize(
    ("backoff", "quiet"),
    [
        pytest.param(Backoff(1, 3), 2, id="the mean of both bounds"),
        pytest.param(Backoff(1, 3, reset_after=10), 10, id="as said"),
        pytest.param(Backoff(1, 3, reset_after=0), 0, id="at once"),
    ],
)
def test_a_quiet_time_begins_the_delays_anew(backoff: Backoff, quiet: float) -> None:
    assert backoff.quiet == quiet


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(0, 1), (-1, 1), (2, 1)], ids=["zero", "negative", "turned round"]
)
def test_bounds_that_cannot_be_are_refused(minimum: float, maximum: float) -> None:
    expected = f"0 < minimum <= maximum expected, got {minimum} and {maximum}"
    with pytest.raises(DeclarationError, match=expected):
        Backoff(minimum, maximum)


def test_negative_jitter_is_refused() -> None:
    with pytest.raises(DeclarationError, match="jitter must not be negative, got -1"):
        Backoff(jitter=-1)
