"""Puppets for the tests of supervision."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from understudy.actors.incarnation import Incarnation
from understudy.supervisors.child import ChildSpec, Supervisor, Wiring
from understudy.supervisors.system import running


class Stage:
    """Makes puppets, pulls their strings, and keeps the `story` of what they did."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.starts: list[float] = []
        self.failing: Counter[str] = Counter()  # starts that fail
        self.dying: Counter[str] = Counter()  # lives that end in a crash at once
        self.leaving: set[str] = set()  # ends without having started
        self.slow: dict[str, float] = {}  # seconds to start
        self.lingers: dict[str, float] = {}  # seconds to stop
        self.shielded: dict[str, float] = {}  # seconds that no cancellation shortens
        self._cues: dict[str, tuple[trio.Event, list[BaseException]]] = {}

    def puppet(self, name: str, **options: Any) -> ChildSpec:
        return _Puppet(name=name, stage=self, **{"backoff": None, **options})

    def tree(self, names: str, **options: Any) -> Supervisor:
        return Supervisor("top", [self.puppet(name) for name in names.split()], **options)

    def end(self, name: str) -> None:
        self._cues[name][0].set()

    def crash(self, name: str, error: BaseException | None = None) -> None:
        cue, errors = self._cues[name]
        errors.append(error or OSError(f"{name} crashed"))
        cue.set()

    def news(self) -> list[str]:
        """The story since the last look."""
        news, self.story = self.story, []
        return news

    async def until_end(self, tree: Supervisor, act: Callable[[], object]) -> None:
        """Run a tree, do something to it, and wait until it has ended by itself."""
        async with running(tree):
            self.news()
            act()
            await trio.sleep_forever()

    async def play(self, name: str, incarnation: Incarnation) -> None:
        self.story.append(f"{name} starts")
        self.starts.append(trio.current_time())
        await trio.sleep(self.slow.get(name, 0))
        if name in self.leaving:
            return
        if self.failing[name]:
            self.failing[name] -= 1
            raise OSError(f"{name} cannot start")
        cue, errors = self._cues[name] = (trio.Event(), [])
        incarnation.announce(self)
        self.story.append(f"{name} is up")
        if self.dying[name]:
            self.dying[name] -= 1
            raise OSError(f"{name} died")
        incarnation.on_stop(cue.set)
        await cue.wait()
        for error in errors:
            raise error
        await self._leave(name, incarnation)

    async def _leave(self, name: str, incarnation: Incarnation) -> None:
        if incarnation.stopping:
            self.story.append(f"{name} stops")
        with trio.CancelScope(shield=True):
            await trio.sleep(self.shielded.get(name, 0))
        await trio.sleep(self.lingers.get(name, 0))
        self.story.append(f"{name} is down")


@attrs.frozen(kw_only=True, eq=False)
class _Puppet(ChildSpec):
    stage: Stage

    def build(self, wiring: Wiring) -> "_Strings":
        return _Strings(self)


class _Strings:
    def __init__(self, spec: _Puppet) -> None:
        self._spec = spec

    async def run(self, incarnation: Incarnation) -> None:
        await self._spec.stage.play(self._spec.name, incarnation)

    def open(self) -> None: ...

    def close(self, why: str) -> None: ...


@pytest.fixture
def stage() -> Stage:
    return Stage()
