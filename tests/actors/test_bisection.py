"""Who is to blame for a failing batch, found in few runs."""

from collections import deque
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.bisection import Bisection


def search(items: int, most: int, bad: set[int]) -> tuple[list[list[int]], dict[int, int]]:
    """All runs in order, and how often each item to blame has failed when it was found."""
    line, bisection = deque(range(items)), Bisection()
    runs: list[list[int]] = []
    found: dict[int, int] = {}
    while line:
        count = bisection.next(len(line), most)
        run = [line.popleft() for _ in range(count)]
        runs.append(run)
        if bad.isdisjoint(run):
            bisection.succeeded(count)
        elif failures := bisection.failed(count):
            found[run[0]] = failures
        else:
            line.extendleft(reversed(run))
    return runs, found


@given(st.integers(1, 600), st.data())
def test_every_bad_item_is_found_alone_and_every_other_is_run_to_its_end(
    items: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, items - 1), max_size=8))
    most = data.draw(st.integers(1, items))
    runs, found = search(items, most, bad)

    assert set(found) == bad
    good = [number for run in runs if bad.isdisjoint(run) for number in run]
    assert good == [number for number in range(items) if number not in bad]


@given(st.integers(2, 600), st.data())
def test_one_bad_item_costs_a_logarithm_of_runs(items: int, data: st.DataObject) -> None:
    runs, found = search(items, items, {bad := data.draw(st.integers(0, items - 1))})

    assert len(runs) <= ceil(log2(items)) + 3
    assert found[bad] == sum(bad in run for run in runs)


@pytest.mark.parametrize("bad", range(500))
def test_one_in_500_is_found_in_12_runs_at_most(bad: int) -> None:
    runs, _ = search(500, 500, {bad})

    assert len(runs) <= 12


def test_an_item_that_is_gone_is_no_suspect_any_more() -> None:
    bisection = Bisection()
    bisection.failed(2)
    bisection.left(1)
    assert bisection.next(9, 9) == 1
    bisection.left(1)

    assert (bisection.next(9, 9), bisection.runs) == (9, 0)


def test_what_fails_once_and_then_succeeds_alone_blames_nobody() -> None:
    bisection = Bisection()
    assert bisection.failed(2) == 0
    bisection.succeeded(1)
    bisection.succeeded(1)

    assert bisection.failed(1) == 1
