"""A worker on our side: an actor that does what it is told, and logs it.

What it shares with its other lives, and with the scenario, is the `Stage`'s.
"""

from typing import TYPE_CHECKING, Final

import attrs
import trio

from understudy.actors.actor import Actor
from understudy.actors.errors import Ignore

from .scenario import Worker

if TYPE_CHECKING:
    from .ours import Stage

__all__ = ["SHORT", "Crash", "Kill", "Leave", "Puppet"]

SHORT: Final = 0.001
"""Seconds until a worker that hangs is ended: all of them together fit between two steps."""


@attrs.frozen
class Crash:
    """End with an error."""


@attrs.frozen
class Leave:
    """End in order, by itself."""


@attrs.define
class Kill:
    """End as by a cancellation from elsewhere: once, for it is given back to the mailbox."""

    done: bool = False


class Puppet(Actor[Crash | Leave | Kill]):
    """One life of a worker."""

    def __init__(self, stage: "Stage", worker: Worker) -> None:
        self.stage, self.worker = stage, worker
        self.number = 0
        self.leaves = False

    async def started(self) -> None:
        self.number = self.stage.count_start(self.path)
        self.log("init")
        how = dict(self.worker.failing).get(self.number, "works")
        if self.stage.holds(self.path):
            self.log("wait")
            how = "raises" if await self.stage.pass_gate() == "fail" else how
        if how != "works":
            self.log({"raises": "fail", "hangs": "hang", "ignores": "ignore"}[how])
        if how == "hangs":
            self.stage.tally.add("start hangs")
            await trio.sleep_forever()
        if how == "raises":
            self.stage.tally.add("start fails")
            raise OSError("cannot start")
        if how == "ignores":
            first = "again" if self.incarnation > 1 else "first"
            self.stage.tally.add(f"start ignored, {first}, {self.worker.restart}")
            raise Ignore
        self.stage.up(self.path, self.incarnation, self.number)

    async def stopping(self) -> None:
        self.log("stop")
        if self.worker.stops == "slow":
            await trio.sleep(SHORT / 4)
        elif self.worker.stops == "hangs" and not self.leaves:
            await trio.sleep_forever()
        self.log("down")

    async def receive(self, message: Crash | Leave | Kill) -> None:
        match message:
            case Crash():
                self.log("crash")
                raise OSError("crash")
            case Leave():
                self.log("leave")
                self.leaves = True
                self.stop()
            case Kill(done=False):
                message.done = True
                raise await _stray_cancellation()
            case Kill():
                pass

    def log(self, what: str) -> None:
        self.stage.log.append(f"{what} {self.path}#{self.number}")


async def _stray_cancellation() -> BaseException:
    """A cancellation that belongs to nobody: what comes nearest to `exit(Pid, kill)`."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled
    raise RuntimeError("a cancelled scope let a checkpoint pass")
