"""A tally of the rules that a scenario needed, taken from lifecycle notices.

A comparison says nothing about a rule that no scenario needs.
"""

from collections import Counter
from typing import Final

import trio

from understudy.actors.lifecycle import Crashed, GaveUp, Notice, Restarting, Stopped

from .scenario import Member, Team, Worker

__all__ = ["Tally"]

ENDED_FROM_ABOVE: Final = frozenset({"shutdown", "killed", "stuck"})


class Tally:
    """Counts rules by name; `members` are the specs that stand at each path."""

    def __init__(self, members: dict[str, Member]) -> None:
        self.counts: Counter[str] = Counter()
        self._members = members
        self._restarts: dict[str, list[float]] = {}

    def add(self, rule: str) -> None:
        self.counts[rule] += 1

    def notice(self, notice: Notice, *, was_up: bool) -> None:
        """Count what a notice says; `was_up` is whether that life had started."""
        member = self._members.get(notice.path)
        match notice:
            case Restarting():
                self._restart(notice)
            case GaveUp():
                self.add(f"gave up at depth {notice.path.count('/') + 1}")
            case Crashed() if not was_up:
                self.add("restart fails")
            case Stopped(how="normal") if isinstance(member, Team):
                self.add(f"auto_shutdown {member.auto_shutdown}")
            case Stopped() if isinstance(member, Worker) and notice.how in ENDED_FROM_ABOVE:
                self.add(f"stop {member.limit} {member.stops}")
            case _:
                pass

    def _restart(self, notice: Restarting) -> None:
        above = notice.path.rpartition("/")[0]
        member, team = self._members[notice.path], self._members[above]
        assert isinstance(team, Team)
        kind = "worker" if isinstance(member, Worker) else "supervisor"
        alone = "" if notice.siblings else " alone"
        self.add(f"restart {team.strategy}{alone}")
        self.add(f"restart {member.restart} {kind}")
        now = trio.current_time()
        before = self._restarts.setdefault(above, [])
        if now - team.period in before:
            self.add("restart at the edge of the window")
        elif any(then < now - team.period for then in before):
            self.add("restart after the window")
        before.append(now)
