"""Drawing scenarios: random trees and random schedules from a seed.

A scenario is drawn so that its outcome is decided: no two things race, and no count
depends on where within a second something happens. Where children take time to stop or
to start, no two steps are exactly one period apart: the two clocks differ in what they
make of a restart some milliseconds past the edge of the window. Where nothing takes
time, the edge itself is played.
"""

from random import Random
from typing import Any, Final

import attrs

from .scenario import (
    Act,
    Auto,
    Failing,
    Limit,
    Member,
    Restart,
    Scenario,
    Step,
    Stops,
    Strategy,
    Team,
    Worker,
    paths,
)

__all__ = ["draw", "draw_many"]


def draw_many(seed: int, count: int) -> list[Scenario]:
    return [draw(seed, number) for number in range(count)]


def draw(seed: int, number: int) -> Scenario:
    """Scenario `number` of a seed."""
    random = Random(f"{seed}/{number}")
    tree = _team(random, "r", 1)
    steps = _steps(random, tree)
    return Scenario(seed, number, tree, steps)


# -- trees --------------------------------------------------------------------

_RESTARTS: Final[list[Restart]] = ["permanent", "transient", "temporary"]
_FAILING: Final[dict[Failing, int]] = {"raises": 15, "hangs": 1, "ignores": 4}
_STRATEGIES: Final[list[Strategy]] = ["one_for_one", "one_for_all", "rest_for_one"]
_AUTO: Final[list[Auto]] = ["never", "any", "all"]
_STOPS: Final[dict[tuple[Limit, Stops], int]] = {
    ("seconds", "clean"): 12,
    ("seconds", "slow"): 1,
    ("seconds", "hangs"): 1,
    ("brutal", "clean"): 3,
    ("infinity", "clean"): 2,
    ("infinity", "slow"): 1,
}
_LEAST_PERIOD: Final = 3


def _team(random: Random, name: str, depth: int, above: Team | None = None) -> Team:
    team = Team(
        name=name,
        members=(),
        restart=random.choices(_RESTARTS, [5, 4, 1])[0],
        strategy=random.choice(_STRATEGIES),
        intensity=random.choices(range(5), [1, 4, 4, 3, 2])[0],
        period=random.randint(_LEAST_PERIOD, 9),
        auto_shutdown=random.choices(_AUTO, [5, 2, 2])[0],
    )
    team = attrs.evolve(team, significant=_significant(random, team.restart, above))
    size = random.randint(1, 5 if depth == 1 else 4)
    members = (_member(random, f"c{number}", depth, team) for number in range(1, size + 1))
    return attrs.evolve(team, members=tuple(members))


def _member(random: Random, name: str, depth: int, above: Team) -> Member:
    if depth < 3 and random.random() < 0.35:
        return _team(random, name, depth + 1, above)
    return _worker(random, name, above, first_fails=0.01)


def _worker(random: Random, name: str, above: Team, *, first_fails: float) -> Worker:
    restart = random.choices(_RESTARTS, [5, 4, 3])[0]
    limit, stops = random.choices(list(_STOPS), list(_STOPS.values()))[0]
    failing: list[tuple[int, Failing]] = []
    if random.random() < first_fails:
        failing.append((1, _failure(random)))
    elif random.random() < 0.06:
        failing.append((1, "ignores"))
    if random.random() < 0.4:
        later = [number for number in range(2, 7) if random.random() < 0.4]
        failing.extend((number, _failure(random)) for number in later)
    return Worker(
        name=name,
        restart=restart,
        limit=limit,
        stops=stops,
        significant=_significant(random, restart, above),
        failing=tuple(failing),
    )


def _failure(random: Random) -> Failing:
    return random.choices(list(_FAILING), list(_FAILING.values()))[0]


def _significant(random: Random, restart: Restart, above: Team | None) -> bool:
    if above is None or above.auto_shutdown == "never" or restart == "permanent":
        return False
    return random.random() < 0.7


# -- schedules ----------------------------------------------------------------

_ACTS: Final[dict[Act, int]] = {
    "crash": 10,
    "leave": 4,
    "kill": 2,
    "start": 3,
    "stop": 2,
    "hold": 2,
}
_ACTS_WHILE_HELD: Final[dict[Act, int]] = {
    "crash": 6,
    "leave": 3,
    "kill": 1,
    "start": 2,
    "stop": 3,
}


class _Schedule:
    """The steps so far, and what stands in the tree if nothing has ended."""

    def __init__(self, random: Random, tree: Team) -> None:
        self.random = random
        self.steps: list[Step] = []
        self.members: dict[str, Member] = dict(paths(tree, tree.name))
        self.edge = not any(_takes_time(member) for member in self.members.values())
        self.now = 0
        self._new = 0

    def add(self, act: Act, **facts: Any) -> None:
        self.now += self._pause()
        self.steps.append(Step(self.now, act, **facts))

    def workers(self, under: str = "") -> list[str]:
        return [
            path
            for path, member in self.members.items()
            if isinstance(member, Worker) and path.startswith(under)
        ]

    def teams(self, under: str = "") -> list[str]:
        return [
            path
            for path, member in self.members.items()
            if isinstance(member, Team) and path.startswith(under)
        ]

    def newcomer(self, team: str) -> tuple[str, Member]:
        """A new child for a team; with a name of its own."""
        self._new += 1
        above = self.members[team]
        assert isinstance(above, Team)
        name = f"d{self._new}"
        depth = team.count("/") + 1
        if depth < 3 and self.random.random() < 0.15:
            member: Member = _team(self.random, name, depth + 1, above)
        else:
            member = _worker(self.random, name, above, first_fails=0.2)
        if self.edge and any(map(_takes_time, dict(paths(member, name)).values())):
            member = Worker(name)
        self.members.update(paths(member, f"{team}/{name}"))
        return f"{team}/{name}", member

    def _pause(self) -> int:
        periods = {m.period for m in self.members.values() if isinstance(m, Team)}
        pauses = [1, 1, 1, 1, 2, 2, 3, *periods, *(period + 1 for period in periods)]
        if not self.edge:
            before = {step.at for step in self.steps}
            pauses = [p for p in pauses if not {self.now + p - at for at in before} & periods]
        return self.random.choice(pauses or [20])


def _steps(random: Random, tree: Team) -> tuple[Step, ...]:
    schedule = _Schedule(random, tree)
    # Many small wounds to one child show what one to each of many does not.
    favourite = random.choice(schedule.workers() or [""])
    for _ in range(random.randint(3, 12)):
        act = random.choices(list(_ACTS), list(_ACTS.values()))[0]
        if act == "hold":
            _hold(schedule)
            continue
        _one(schedule, act, favourite if random.random() < 0.4 else "", "r")
    schedule.add("halt")
    return tuple(schedule.steps)


def _one(schedule: _Schedule, act: Act, path: str, under: str, *, again: bool = True) -> None:
    """One step somewhere in the subtree `under`."""
    random = schedule.random
    if act == "start":
        path, member = schedule.newcomer(random.choice(schedule.teams(under)))
        known = [path for path in schedule.members if path.startswith(f"{under}/")]
        if again and random.random() < 0.3:  # a name that is taken, or was
            path = random.choice(known)
            member = schedule.members[path]
        schedule.add("start", path=path, member=member)
    elif act == "stop":
        found = [path for path in schedule.members if path.startswith(f"{under}/")]
        schedule.add("stop", path=random.choice(found))
    elif workers := schedule.workers(f"{under}/"):
        how = random.choice(["normal", "shutdown"]) if act == "leave" else ""
        schedule.add(act, path=path or random.choice(workers), how=how)


def _hold(schedule: _Schedule) -> None:
    """A supervisor kept busy, and what queues up there meanwhile; each child once."""
    random = schedule.random
    held = [path for path in schedule.workers() if _is_prompt(schedule.members[path])]
    if not held:
        return
    path = random.choice(held)
    team = path.rpartition("/")[0]
    schedule.add("hold", path=path)
    wounded = {path}
    for _ in range(random.randint(0, 4)):
        act = random.choices(list(_ACTS_WHILE_HELD), list(_ACTS_WHILE_HELD.values()))[0]
        if act in ("start", "stop"):
            _one(schedule, act, "", team, again=False)
            continue
        whole = [other for other in schedule.workers(f"{team}/") if other not in wounded]
        if whole:
            wounded.add(other := random.choice(whole))
            _one(schedule, act, other, team)
    schedule.add("release", how=random.choice(["", "", "fail"]))


def _is_prompt(member: Member) -> bool:
    return isinstance(member, Worker) and all(how != "hangs" for _, how in member.failing)


def _takes_time(member: Member) -> bool:
    return isinstance(member, Worker) and member.takes_time
