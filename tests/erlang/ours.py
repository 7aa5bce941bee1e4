"""Our side: a scenario on an understudy tree, in virtual time.

Depends on what users have, and on lifecycle notices, so that the inside of supervisors
may change. Every worker is an actor that does what it is told and logs it to its
`Stage`; restarts come at once, as in OTP.
"""

import math
from collections import Counter
from typing import Any, Final

import attrs
import trio
from trio.testing import MockClock

from understudy.actors.errors import DeclarationError, StartFailed, UnderstudyError
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import Crashed, Escalated, Notice, Started, Stopped
from understudy.supervisors.child import ChildSpec, Supervisor, child
from understudy.supervisors.strategy import Strategy
from understudy.supervisors.system import ChildState, System, running

from .puppet import SHORT, Crash, Kill, Leave, Puppet
from .scenario import Member, Scenario, Step, Team
from .tally import Tally
from .trace import Moment

__all__ = ["Played", "Stage", "play"]

REST: Final = 0.9
"""Seconds after which a step is over."""


@attrs.frozen
class Played:
    """What happened, and how often which rule was needed for it."""

    trace: list[Moment]
    exercised: Counter[str]


def play(scenario: Scenario) -> Played:
    """Play a scenario to its end, in virtual time."""
    stage = Stage(scenario)
    trio.run(stage.run, clock=MockClock(autojump_threshold=0))
    return Played(stage.trace, stage.tally.counts)


class Stage:
    """Plays one scenario and keeps its trace."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.trace: list[Moment] = []
        self.log: list[str] = []
        self.gate = ""
        self._gated: trio.Event | None = None
        self._verdict = ""
        self._ended: list[tuple[str, int, str]] = []
        self._done: list[tuple[int, str]] = []
        self._open: set[int] = set()
        self._starts: Counter[str] = Counter()
        self._lives: dict[tuple[str, int], int] = {}
        self._latest: dict[str, int] = {}
        self._members: dict[str, Member] = {}
        self.tally = Tally(self._members)
        self._step = -1
        self._system: System | None = None
        self._began = 0.0
        self._halted = False

    async def run(self) -> None:
        """Play it; the block of `running` ends early when the root does."""
        name = self.scenario.tree.name
        self._members[name] = self.scenario.tree
        tree = self._supervisor(self.scenario.tree, name)
        root = "ended"
        try:
            async with running(tree) as system:
                self._begin(system)
                async with trio.open_nursery() as nursery:
                    await self._play(system, nursery)
        except SupervisorGaveUp:
            root = "gave up"
        except StartFailed:
            root = "start failed"
        if root == "ended" and not self._halted:
            self.tally.add(f"auto_shutdown {self.scenario.tree.auto_shutdown} of the root")
        self._done.extend((index, "refused") for index in self._open)
        self._moment("", root)

    def count_start(self, path: str) -> int:
        self._starts[path] += 1
        return self._starts[path]

    def up(self, path: str, incarnation: int, number: int) -> None:
        """A start has succeeded: the end of this life is of interest."""
        self._lives[path, incarnation] = number

    def holds(self, path: str) -> bool:
        """Whether this start is held: only where one supervisor waits for it.

        Two that wait, as when the one above is rebuilt, would race when released.
        """
        if self.gate != path or self._system is None:
            return False
        above = path.rpartition("/")[0]
        lines = self._system.tree()
        return any(line.path == above and line.state == "running" for line in lines)

    async def pass_gate(self) -> str:
        """Wait for the release of a held start; returns how it is released."""
        self.gate = ""
        self._gated = trio.Event()
        self.tally.add("start held")
        await self._gated.wait()
        return self._verdict

    # -- steps --------------------------------------------------------------------

    async def _play(self, system: System, nursery: trio.Nursery) -> None:
        for index, step in enumerate(self.scenario.steps):
            self._step = index
            await trio.sleep_until(self._began + step.at)
            if step.act == "halt":
                self._halted = True
                system.stop()
                await trio.sleep_forever()
            self._act(system, nursery, step)
            await trio.sleep(REST)
            self._moment("held" if self._gated is not None else self._listing(system), "up")

    def _begin(self, system: System) -> None:
        """The tree is up: what came before is taken from how it looks now."""
        self._system = system
        self._began = trio.current_time()
        for line in system.tree()[1:]:
            self._latest[line.path] = line.incarnation
            if isinstance(self._members[line.path], Team):
                self._lives[line.path, line.incarnation] = self.count_start(line.path)
        self._moment(self._listing(system), "up")
        system.bus.subscribe(self._notice)

    def _act(self, system: System, nursery: trio.Nursery, step: Step) -> None:
        match step.act:
            case "crash":
                self._tell(system, step.path, Crash())
            case "leave":
                self._tell(system, step.path, Leave())
            case "kill":
                self._tell(system, step.path, Kill())
            case "hold":
                self.gate = step.path
                self._tell(system, step.path, Crash())
            case "release":
                self._release(step.how)
            case "start" | "stop":
                self._open.add(self._step)
                nursery.start_soon(self._command, system, step, self._step)

    def _tell(self, system: System, path: str, message: Any) -> None:
        states = {line.path: line.state for line in system.tree()}
        if states.get(path) == "running":
            system.ref(path).tell(message)
            self.tally.add(type(message).__name__.lower())
        else:
            self._done.append((-1, "nobody"))

    def _release(self, how: str) -> None:
        self.gate = ""
        if self._gated is not None:
            self._verdict = how
            self._gated.set()
            self._gated = None

    async def _command(self, system: System, step: Step, index: int) -> None:
        above, _, _ = step.path.rpartition("/")
        outcome = "ok"
        held = self._gated is not None
        try:
            if step.member is not None:
                spec = self._spec(step.member, step.path)
                await system.start_child(spec, under=above)
            else:
                await system.stop_child(step.path)
        except StartFailed:
            outcome = "failed"
        except (DeclarationError, LookupError, UnderstudyError):
            outcome = "refused"
        self._open.remove(index)
        self._done.append((index, outcome))
        self.tally.add(f"{step.act}_child {outcome}{' after a wait' * held}")

    # -- specs --------------------------------------------------------------------

    def _spec(self, member: Member, path: str) -> ChildSpec:
        self._members[path] = member
        if isinstance(member, Team):
            return self._supervisor(member, path)
        hangs = any(how == "hangs" for _, how in member.failing)
        return child(
            Puppet,
            self,
            member,
            name=member.name,
            restart=member.restart,
            shutdown={"brutal": 0.0, "seconds": SHORT, "infinity": math.inf}[member.limit],
            start_timeout=SHORT if hangs else math.inf,
            backoff=None,
            significant=member.significant,
        )

    def _supervisor(self, team: Team, path: str) -> Supervisor:
        return Supervisor(
            team.name,
            [self._spec(member, f"{path}/{member.name}") for member in team.members],
            strategy=Strategy(team.strategy),
            max_restarts=team.intensity,
            within=float(team.period),
            auto_shutdown=team.auto_shutdown,
            restart=team.restart,
            backoff=None,
            significant=team.significant,
        )

    # -- what is seen -------------------------------------------------------------

    def _notice(self, notice: Notice) -> None:
        path, number = notice.path, notice.incarnation
        self.tally.notice(notice, was_up=(path, number) in self._lives)
        if isinstance(notice, Started) and isinstance(self._members.get(path), Team):
            self._lives[path, number] = self.count_start(path)
        if isinstance(notice, Started):
            self._latest[path] = number
        elif isinstance(notice, Crashed):
            killed = isinstance(notice.error, trio.Cancelled)
            self._end(path, number, "killed" if killed else "crashed")
        elif isinstance(notice, Stopped):
            clean = notice.how in ("normal", "shutdown")
            self._end(path, number, "clean" if clean else notice.how)
        elif isinstance(notice, Escalated):
            self._end(notice.child, self._latest[notice.child], "gave up")

    def _end(self, path: str, incarnation: int, how: str) -> None:
        number = self._lives.pop((path, incarnation), None)
        if number is not None:
            self._ended.append((path, number, how))

    def _moment(self, tree: str, root: str) -> None:
        done = (f"{index}={text}" if index >= 0 else text for index, text in sorted(self._done))
        ended: list[str] = []
        # A supervisor that is held tells of ends only after that.
        if tree != "held":
            ended = [f"{path}#{number}={how}" for path, number, how in sorted(self._ended)]
            self._ended.clear()
        log, ends, dones = map("; ".join, (self.log, ended, done))
        self.trace.append(Moment(self._step, log, ends, dones, tree, root))
        self.log.clear()
        self._done.clear()

    def _listing(self, system: System) -> str:
        lines = system.tree()
        return f"{lines[0].path}({_listed(lines[1:], lines[0].path)})"


def _listed(lines: list[ChildState], above: str) -> str:
    texts: list[str] = []
    for line in lines:
        over, _, name = line.path.rpartition("/")
        if over != above:
            continue
        if line.state == "running" and line.kind == "supervisor":
            texts.append(f"{name}({_listed(lines, line.path)})")
        else:
            sign = {"running": "+", "ended": "-", "down": "-"}
            texts.append(name + sign.get(line.state, f"?{line.state}"))
    return " ".join(texts)
