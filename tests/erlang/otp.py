"""The other side: a real Erlang/OTP plays the scenarios, all of them in one process.

Owns the translation into Erlang terms and back into traces. What OTP does is in the
three modules beside this file; they are compiled anew each time, which takes a second.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from .scenario import Member, Scenario, Step, Worker
from .trace import Moment

__all__ = ["WHY_NOT", "play_on_otp"]

HERE: Final = Path(__file__).parent
MODULES: Final = ("oracle", "oracle_child", "oracle_supervisor")
AT_ONCE: Final = 24

WHY_NOT: Final = (
    "Erlang/OTP is not installed (erl and erlc, from 24 on), so that nothing can be compared"
    if shutil.which("erl") is None or shutil.which("erlc") is None
    else None
)


def play_on_otp(
    scenarios: Sequence[Scenario], mode: Literal["abnormal", "plain"] = "abnormal"
) -> list[list[Moment]]:
    """What OTP does in each scenario; in the mode `plain` a supervisor gives up as OTP's does.

    Raises `RuntimeError` with what Erlang said if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = [str(HERE / f"{module}.erl") for module in MODULES]
        _run(["erlc", "-o", folder, *sources])
        played = Path(folder) / "scenarios"
        plays = ",\n".join(
            f"{{{number}, {_member(scenario.tree)}, [{_steps(scenario.steps)}]}}"
            for number, scenario in enumerate(scenarios)
        )
        played.write_text(f"{{{mode}, {AT_ONCE}, [{plays}]}}.\n")
        command = ["erl", "-noshell", "-noinput", "-pa", folder]
        lines = _run([*command, "-eval", f'oracle:main(["{played}"]).'])
    if lines[-1:] != ["end"]:
        raise RuntimeError("Erlang stopped half-way:\n" + "\n".join(lines[-20:]))
    traces: list[list[Moment]] = [[] for _ in scenarios]
    for line in lines[:-1]:
        number, _, rest = line.partition("\t")
        traces[int(number)].append(Moment.parse(rest))
    return traces


def _run(command: list[str]) -> list[str]:
    environment = {**os.environ, "ERL_CRASH_DUMP_SECONDS": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1500, env=environment
    )
    if done.returncode:
        said = "\n".join([*done.stdout.splitlines()[-20:], done.stderr])
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout.splitlines()


def _steps(steps: Iterable[Step]) -> str:
    return ", ".join(map(_step, steps))


def _step(step: Step) -> str:
    facts = [str(step.at), step.act]
    if step.path:
        facts.append(f'"{step.path}"')
    if step.act == "release":
        facts.append(step.how or "on")
    elif step.how:
        facts.append(step.how)
    if step.member is not None:
        facts.append(_member(step.member))
    return f"{{{', '.join(facts)}}}"


def _member(member: Member) -> str:
    significant = str(member.significant).lower()
    if isinstance(member, Worker):
        failing = ", ".join(f"{{{number}, {how}}}" for number, how in member.failing)
        return (
            f'{{worker, "{member.name}", {member.restart}, {member.limit}, {member.stops}, '
            f"{significant}, [{failing}]}}"
        )
    members = ", ".join(map(_member, member.members))
    return (
        f'{{team, "{member.name}", {member.restart}, {member.strategy}, {member.intensity}, '
        f"{member.period}, {member.auto_shutdown}, {significant}, [{members}]}}"
    )
