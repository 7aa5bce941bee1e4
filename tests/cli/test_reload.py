"""`understudy run --reload`: changes, mistakes and signals, in real processes."""

import builtins
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.cli.main import main
from understudy.supervisors.control_place import Found, find

_SERVICE = """
from understudy import Supervisor, child, Actor
class Plain(Actor):
    async def stopping(self):
        print("stopped in order", flush=True)
tree = Supervisor("again", [child(Plain, name="NAME")])
"""


class Reloading:
    """A service that is run again, and what was said on stderr."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "again.py"
        self.write("first")
        (folder / "log").touch()
        self._log = folder / "log"
        command = [sys.executable, "-m", "understudy.cli", "run", "again:tree", "--reload"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def write(self, name: str) -> None:
        self.file.write_text(_SERVICE.replace("NAME", name))

    def running(self, than: Found | None = None) -> Found:
        """The service once it answers; another one than before."""
        found: Found = self._until(
            lambda: next((one for one in find("again") if one != than), None)
        )
        return found

    def log(self) -> str:
        return self._log.read_text()

    def said(self, text: str) -> None:
        self._until(lambda: text in self.log())

    def _until(self, ready: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while not (found := ready()):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return found

    def gone(self) -> None:
        """Wait until no service answers, whether the reloading process lives or not."""
        deadline = time.monotonic() + 30
        while find("again"):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def reloading(tmp_path: Path) -> Iterator[Reloading]:
    pytest.importorskip("watchfiles")
    made = Reloading(tmp_path)
    yield made
    if made.process.poll() is None:
        made.signal(signal.SIGTERM)
    assert find("again") == []  # no service is left behind


def test_a_change_starts_the_service_again_after_an_ordered_stop(reloading: Reloading) -> None:
    first = reloading.running()
    reloading.said("again/first started")
    reloading.write("second")

    second = reloading.running(than=first)
    assert second.pid != first.pid
    reloading.said("again.py changed, starting again")
    reloading.said("stopped in order")
    reloading.said("again/second started")
    assert reloading.signal(signal.SIGTERM) == 0


def test_a_mistake_waits_for_the_next_change(reloading: Reloading) -> None:
    first = reloading.running()
    reloading.said("again is up")
    reloading.file.write_text("tree = 1 / 0")
    reloading.said("ZeroDivisionError")
    reloading.said("the service has ended (exit code 78); waiting for a change")
    assert find("again") == []

    reloading.write("mended")
    reloading.running(than=first)
    reloading.said("again/mended started")
    assert reloading.signal(signal.SIGINT) == 0


def test_the_service_ends_in_order_when_its_parent_is_killed(reloading: Reloading) -> None:
    reloading.said("again is up")
    reloading.process.kill()
    reloading.process.wait()

    reloading.gone()
    assert "stopped in order" in reloading.log()


def test_without_watchfiles_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "watchfiles":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)

    assert main(["run", "shop:tree", "--reload"]) == 78
    assert "pip install 'understudy[reload]'" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_78(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("watchfiles")

    assert main(["run", "shop:tree", "--reload", "--reload-dir", "nowhere"]) == 78
    assert "--reload-dir nowhere: there is no such folder" in capsys.readouterr().err
