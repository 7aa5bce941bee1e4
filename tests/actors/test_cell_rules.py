"""What an actor does unless it is told otherwise, and what it has before its first life."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell, CellOptions
from understudy.actors.mailbox import Overflow


class Quiet(Actor[str]):
    """Does nothing with what it is told."""

    def receive(self, message: str) -> None: ...


def new_cell(**options: Any) -> Cell:
    services = cast("Any", SimpleNamespace(timers=None))
    return Cell("shop/quiet", Quiet, lambda: ((), {}), CellOptions(**options), services)


def test_an_actor_that_says_nothing_waits_holds_and_is_never_passive() -> None:
    options = CellOptions()

    assert (options.mailbox, options.overflow, options.concurrency) == (1024, "wait", 1)
    assert (options.crash_grace, options.max_age) == (1.0, 3600.0)
    assert (options.sick_after, options.on_sick, options.blame) == (10, "hold", "message")
    assert (options.key, options.passivate_after, options.retry) == (None, None, None)


def test_before_its_first_life_an_actor_has_nothing() -> None:
    cell = new_cell()

    assert (cell.instance, cell.state, cell.life, cell.links()) == (None, None, None, None)
    assert (cell.suspended, cell.tracer) == (False, None)
    assert (cell.occupied, cell.may_sleep) == (False, True)
    assert not cell.mailbox.is_open


def test_a_cell_has_keys_only_if_it_is_told_of_any() -> None:
    assert new_cell().keys is None
    assert new_cell(key="id").keys is not None


def test_whoever_looks_for_cycles_finds_the_lanes_and_the_actor_of_a_mailbox() -> None:
    cell = new_cell(concurrency=3)

    assert (cell.mailbox.concurrency, cell.mailbox.owner) == (3, cell)


@pytest.mark.parametrize(
    ("overflow", "drops"),
    [("wait", False), ("reject", False), ("drop_oldest", True), ("drop_newest", True)],
)
def test_an_actor_hears_of_what_its_mailbox_drops(overflow: Overflow, drops: bool) -> None:
    assert (new_cell(overflow=overflow).mailbox.drop is not None) is drops
