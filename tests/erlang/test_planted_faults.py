"""The comparison with OTP finds a fault in our supervisors, whichever it is.

Each fault is planted into the code that runs, and must make at least one scenario of the
slice come out differently that came out as in OTP before.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import pytest

from understudy.actors.incarnation import Ending
from understudy.supervisors.inbox import Due
from understudy.supervisors.strategy import (
    Restart,
    Strategy,
    Window,
    group_of,
    is_restarted,
    one_for_all,
    rest_for_one,
)
from understudy.supervisors.supervisor import Supervision

from .campaign import played
from .scenario import Scenario
from .trace import Moment, first_difference

Pair: TypeAlias = tuple[Scenario, list[Moment]]


@pytest.fixture(scope="module")
def alike(scenarios: list[Scenario], expected: list[list[Moment]]) -> list[Pair]:
    """The scenarios that come out the same on both sides, and how."""
    pairs = zip(scenarios, expected, strict=True)
    return [(s, otp) for s, otp in pairs if first_difference(played(s).trace, otp) is None]


def replaced(patch: pytest.MonkeyPatch, original: Any, fault: Any) -> None:
    """Put `fault` wherever a module of the supervisors has `original`."""
    name = original.__name__
    holders = [
        module
        for full, module in list(sys.modules.items())
        if full.startswith("understudy.supervisors") and vars(module).get(name) is original
    ]
    assert len(holders) > 1, f"{name} is used nowhere: this fault plants nothing."
    for module in holders:
        patch.setattr(module, name, fault)


# -- what restarts, and with whom ---------------------------------------------


def a_group_restarts_in_reverse_order(patch: pytest.MonkeyPatch) -> None:
    def fault(strategy: Strategy, index: int, count: int) -> Sequence[int]:
        return list(reversed(group_of(strategy, index, count)))

    replaced(patch, group_of, fault)


def rest_for_one_restarts_earlier_siblings(patch: pytest.MonkeyPatch) -> None:
    def fault(strategy: Strategy, index: int, count: int) -> range:
        return range(count) if strategy is rest_for_one else group_of(strategy, index, count)

    replaced(patch, group_of, fault)


def one_for_all_spares_earlier_siblings(patch: pytest.MonkeyPatch) -> None:
    def fault(strategy: Strategy, index: int, count: int) -> range:
        return group_of(rest_for_one if strategy is one_for_all else strategy, index, count)

    replaced(patch, group_of, fault)


def rest_for_one_spares_the_last_sibling(patch: pytest.MonkeyPatch) -> None:
    def fault(strategy: Strategy, index: int, count: int) -> range:
        group = group_of(strategy, index, count)
        return group[:-1] if strategy is rest_for_one and len(group) > 1 else group

    replaced(patch, group_of, fault)


def a_temporary_child_is_restarted(patch: pytest.MonkeyPatch) -> None:
    def fault(restart: Restart, ending: Ending) -> bool:
        return not ending.clean if restart == "temporary" else is_restarted(restart, ending)

    replaced(patch, is_restarted, fault)


def a_transient_child_is_restarted_after_a_normal_end(patch: pytest.MonkeyPatch) -> None:
    def fault(restart: Restart, ending: Ending) -> bool:
        return restart != "temporary"

    replaced(patch, is_restarted, fault)


def a_permanent_child_is_not_restarted_after_a_normal_end(patch: pytest.MonkeyPatch) -> None:
    def fault(restart: Restart, ending: Ending) -> bool:
        return not ending.clean and is_restarted(restart, ending)

    replaced(patch, is_restarted, fault)


def a_killed_child_counts_as_one_that_ended_in_order(patch: pytest.MonkeyPatch) -> None:
    kinds = ("normal", "shutdown", "killed")
    patch.setattr(Ending, "clean", property(lambda ending: ending.kind in kinds))


def a_supervisor_that_gives_up_counts_as_one_that_ended_in_order(patch: pytest.MonkeyPatch) -> None:
    kinds = ("normal", "shutdown", "gave up")
    patch.setattr(Ending, "clean", property(lambda ending: ending.kind in kinds))


# -- how many restarts are too many -------------------------------------------


class _Window(Window):
    """A window that counts as it should, made to be spoilt."""

    more: ClassVar[int] = 0

    def __init__(self, max_restarts: int, within: float) -> None:
        super().__init__(max_restarts, within)
        self.times: list[float] = []

    def add(self, now: float) -> bool:
        self.times = [then for then in self.times if self.counts(now - then)]
        self.times.append(now)
        return len(self.times) <= self.max_restarts + self.more

    def counts(self, age: float) -> bool:
        return age <= self.within

    def clear(self) -> None:
        super().clear()
        self.times.clear()


def the_edge_of_the_window_is_outside(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        def counts(self, age: float) -> bool:
            return age < self.within

    replaced(patch, Window, Fault)


def the_window_is_a_second_too_long(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        def counts(self, age: float) -> bool:
            return age <= self.within + 1

    replaced(patch, Window, Fault)


def one_restart_more_is_allowed(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        more = 1

    replaced(patch, Window, Fault)


def one_restart_less_is_allowed(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        more = -1

    replaced(patch, Window, Fault)


def restarts_are_never_forgotten(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        def counts(self, age: float) -> bool:
            return True

    replaced(patch, Window, Fault)


def a_rebuilt_supervisor_remembers_its_restarts(patch: pytest.MonkeyPatch) -> None:
    class Fault(_Window):
        def clear(self) -> None: ...

    replaced(patch, Window, Fault)


def a_restart_that_fails_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    original = Supervision._ended

    async def fault(self: Supervision, end: Any) -> Any:
        window = self.window
        if end.expected == "restarting":
            self.window = Window(1000, window.within)
        try:
            return await original(self, end)
        finally:
            self.window = window

    patch.setattr(Supervision, "_ended", fault)


# -- what comes first ---------------------------------------------------------


def a_restart_queues_up_behind_what_came_meanwhile(patch: pytest.MonkeyPatch) -> None:
    original = Supervision._start_group
    queued: list[Due] = []

    async def fault(self: Supervision, due: Due) -> None:
        if due in queued:
            queued.remove(due)
            await original(self, due)
        else:
            queued.append(due)
            self._inbox.post(due)

    patch.setattr(Supervision, "_start_group", fault)


# -- stops --------------------------------------------------------------------


def all_children_are_stopped_in_start_order(patch: pytest.MonkeyPatch) -> None:
    module = sys.modules[Supervision._stop_all.__module__]
    patch.setattr(module, "reversed", list, raising=False)


def a_group_is_stopped_in_start_order(patch: pytest.MonkeyPatch) -> None:
    module = sys.modules[Supervision._clear_group.__module__]
    patch.setattr(module, "reversed", list, raising=False)


def significant_children_are_ignored(patch: pytest.MonkeyPatch) -> None:
    def fault(self: Supervision, child: Any) -> bool:
        return False

    patch.setattr(Supervision, "_ends_supervisor", fault)


def one_significant_child_is_as_good_as_all(patch: pytest.MonkeyPatch) -> None:
    def fault(self: Supervision, child: Any) -> bool:
        return child.spec.significant and self.spec.auto_shutdown != "never"

    patch.setattr(Supervision, "_ends_supervisor", fault)


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    a_group_restarts_in_reverse_order,
    rest_for_one_restarts_earlier_siblings,
    one_for_all_spares_earlier_siblings,
    rest_for_one_spares_the_last_sibling,
    a_temporary_child_is_restarted,
    a_transient_child_is_restarted_after_a_normal_end,
    a_permanent_child_is_not_restarted_after_a_normal_end,
    a_killed_child_counts_as_one_that_ended_in_order,
    a_supervisor_that_gives_up_counts_as_one_that_ended_in_order,
    the_edge_of_the_window_is_outside,
    the_window_is_a_second_too_long,
    one_restart_more_is_allowed,
    one_restart_less_is_allowed,
    restarts_are_never_forgotten,
    a_rebuilt_supervisor_remembers_its_restarts,
    a_restart_that_fails_is_not_counted,
    a_restart_queues_up_behind_what_came_meanwhile,
    all_children_are_stopped_in_start_order,
    a_group_is_stopped_in_start_order,
    significant_children_are_ignored,
    one_significant_child_is_as_good_as_all,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_the_comparison_finds(
    plant: Callable[[pytest.MonkeyPatch], None], alike: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)

    assert any(first_difference(played(scenario).trace, otp) for scenario, otp in alike)
