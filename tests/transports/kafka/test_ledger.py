"""The ledger of a partition: what may be committed, and what its marks say afterwards."""

import pytest

from understudy.transports.kafka.ledger import CAREFUL, Mark, Partition, Place

PLACE = Place("orders", 3)


def partition(begin: int = 10, mark: Mark | None = None, ahead: int = 100) -> Partition:
    """One whose beginning is committed, as it is before anything is taken."""
    found = Partition(PLACE, begin, mark, ahead)
    found.was_committed(begin)
    return found


def test_only_what_is_done_without_a_gap_is_committed() -> None:
    ledger = partition()
    for offset in (10, 11, 12):
        ledger.take(offset)
    ledger.settle(12)
    ledger.settle(11)
    assert ledger.to_commit() is None

    ledger.settle(10)

    assert ledger.to_commit() == (13, "understudy 113 1")


def test_offsets_that_are_missing_hold_nobody_up() -> None:
    ledger = partition()
    for offset in (10, 17, 40):
        ledger.take(offset)
        ledger.settle(offset)

    assert ledger.position == 41


def test_a_partition_that_is_left_with_nothing_in_hand_has_no_mark() -> None:
    ledger = partition()
    ledger.take(10)
    assert ledger.to_commit(clean=True) is None  # it says already what there is to say

    ledger.settle(10)

    assert ledger.to_commit(clean=True) == (11, "")
    assert partition().to_commit(clean=True) == (10, "")


def test_what_was_doubtful_stays_so_until_somebody_has_passed_it() -> None:
    idle, busy = partition(10, Mark(15, 2)), partition(10, Mark(15, 2))
    busy.take(10)
    busy.settle(10)
    assert idle.to_commit(clean=True) == (10, "understudy 15 2")
    assert busy.to_commit(clean=True) == (11, "understudy 15 0")

    for offset in range(11, 15):
        busy.take(offset)
        busy.settle(offset)

    assert busy.to_commit(clean=True) == (15, "")


def test_what_was_not_handed_over_is_left_to_the_next() -> None:
    ledger = partition()
    for offset in (10, 11, 12):
        ledger.take(offset)
    ledger.settle_not(12)
    ledger.settle_not(11)
    ledger.settle(10)

    assert ledger.to_commit(clean=True) == (11, "")


def test_something_given_back_is_not_passed_by_what_came_after_it() -> None:
    ledger = partition()
    for offset in (10, 11, 12):
        ledger.take(offset)
    ledger.settle_not(10)
    ledger.settle(11)

    assert ledger.position == 10


def test_nothing_is_taken_beyond_what_a_committed_mark_covers() -> None:
    ledger = partition(ahead=4)
    for offset in range(10, 14):
        assert not ledger.is_full
        ledger.take(offset)
    assert ledger.is_full

    ledger.settle(10)
    ledger.settle(11)
    assert (ledger.is_due, ledger.to_commit()) == (True, (12, "understudy 16 1"))
    ledger.was_committed(12)

    assert not ledger.is_full


def test_the_next_one_knows_what_may_have_been_run() -> None:
    first = partition()
    for offset in range(10, 30):
        first.take(offset)
    found = first.to_commit() or (10, str(Mark(110, 1)))

    second = partition(found[0], Mark.read(found[1]))

    assert (second.suspect, second.attempt(10), second.attempt(11)) == (110, 2, 1)


def test_who_gets_further_begins_to_count_anew() -> None:
    second = partition(10, Mark(110, 4))
    assert second.begun == 5
    second.take(10)
    second.settle(10)

    position, mark = second.to_commit() or (0, "")

    assert (position, Mark.read(mark)) == (11, Mark(111, 1))


def test_to_go_on_after_a_lost_connection_is_no_beginning() -> None:
    assert Partition(PLACE, 10, Mark(110, 2), 100, ours=True).begun == 2
    assert Partition(PLACE, 10, None, 100, ours=True).begun == 1


def test_what_may_kill_a_process_is_taken_one_at_a_time() -> None:
    begun = [partition(10, Mark(15, count)).is_careful for count in range(1, CAREFUL)]
    killer = partition(10, Mark(15, CAREFUL - 1))
    for offset in range(10, 15):
        assert killer.is_careful
        killer.take(offset)

    assert begun == [False] * (CAREFUL - 2) + [True]
    assert not killer.is_careful


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "somebody else's",
        "understudy",
        "understudy 1",
        "understudy x 1",
        "understudy 1 -1",
    ],
)
def test_other_programs_words_are_no_marks(text: str | None) -> None:
    assert Mark.read(text) is None
    assert partition(10, Mark.read(text)).suspect == 0
