"""Acknowledgements: few, and never for what is still in hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame

from understudy.transports.rabbitmq.settling import Unsettled


def acknowledged(data: bytes) -> list[tuple[int, bool]]:
    found = []
    while data:
        one: Any
        size, _, one = frame.unmarshal(data)
        found.append((one.delivery_tag, one.multiple))
        data = data[size:]
    return found


@pytest.mark.parametrize(
    ("held", "tags", "sent"),
    [
        ([1, 2, 3], [1, 2, 3], [(3, True)]),
        ([1, 2, 3], [1], [(1, False)]),
        ([1, 2, 3], [3], [(3, False)]),
        ([1, 2, 3, 4], [1, 2, 4], [(4, False), (2, True)]),
        ([1], [7], []),
        ([1, 2], [2, 2], [(2, False)]),
    ],
    ids=["all", "the first", "the last", "a gap", "unknown", "twice"],
)
def test_one_acknowledgement_stands_for_many_where_it_can(
    held: list[int], tags: list[int], sent: list[tuple[int, bool]]
) -> None:
    unsettled = Unsettled()
    for tag in held:
        unsettled.add(tag)

    assert acknowledged(unsettled.acks(1, tags)) == sent


@given(st.permutations(range(1, 30)), st.lists(st.integers(1, 6), min_size=30, max_size=30))
def test_nothing_in_hand_is_ever_acknowledged_and_all_is_in_the_end(
    order: list[int], sizes: list[int]
) -> None:
    unsettled, waiting = Unsettled(), set(order)
    for tag in sorted(order):
        unsettled.add(tag)
    in_hand = set(order)
    for size in sizes:
        burst, order = order[:size], order[size:]
        in_hand -= set(burst)
        for tag, multiple in acknowledged(unsettled.acks(1, burst)):
            meant = {each for each in waiting if each <= tag} if multiple else {tag}
            assert meant <= waiting
            assert not meant & in_hand
            waiting -= meant

    assert not waiting
    assert len(unsettled) == 0
