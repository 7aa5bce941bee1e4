"""A service for the command line to call, in a process of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_SHOP = """
from pathlib import Path
import trio
from understudy.actors.actor import Actor
from understudy.actors.errors import RpcError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.transports.bridge import serve

class Till(Actor):
    @message_pattern({"cmd": "sum"})
    async def sum(self, numbers: list[int]) -> int:
        return sum(numbers)

    @message_pattern("nothing")
    async def nothing(self) -> None:
        pass

    @message_pattern("refuse")
    async def refuse(self) -> None:
        raise RpcError({"status": 404, "message": "no such till"})

    @message_pattern("count")
    async def count(self, to: int):
        for number in range(to):
            yield {"number": number}

    @message_pattern("slow")
    async def slow(self) -> None:
        await trio.sleep(0.5)

    @event_pattern("paid")
    async def paid(self, amount: int) -> None:
        if not Path("open").exists():
            raise RpcError("the till is closed")

tree = Supervisor("shop", [child(Till, concurrency=8), serve("tcp://127.0.0.1:0")])
no_tree = Till
"""


_MAIN = "import sys; from understudy.cli.main import main; sys.exit(main())"


class Shop:
    """A running service: where it listens, and where its dead letters are."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.store = folder / "letters.sqlite"
        (folder / "shop.py").write_text(_SHOP)
        command = [sys.executable, "-c", _MAIN, "run", "shop:tree"]
        options = ["--dead-letters", self.store.name, "--log-format", "text", "--drain", "5"]
        self.process = subprocess.Popen(
            [*command, *options, *arguments], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        self.before: list[str] = []
        """What it logged up to what was waited for."""
        self.url = self.logged("listens at ")

    def logged(self, text: str) -> str:
        """Wait for a line of the log with `text`; returns what follows it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.before.append(line)
            if text in line:
                return line.partition(text)[2].strip()
        self.process.communicate()
        raise AssertionError(f"the service ended without saying {text!r}: {self.before}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture(scope="session", autouse=True)
def control() -> Iterator[Path]:
    """The folder for the control sockets of all services here; its path is short enough."""
    folder = Path(tempfile.mkdtemp(prefix="ctl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_CONTROL", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, control: Path) -> Path:
    """A folder for control sockets in which there are none."""
    folder = Path(tempfile.mkdtemp(dir=control))
    monkeypatch.setenv("UNDERSTUDY_CONTROL", str(folder))
    return folder


@pytest.fixture
def free_url() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One service for all tests of the command line; it must drain at their end."""
    service = Shop(tmp_path_factory.mktemp("shop"))
    try:
        yield service
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.communicate()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the module `shop` in it."""
    (tmp_path / "shop.py").write_text(_SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    monkeypatch.delitem(os.environ, "UNDERSTUDY_DEAD_LETTERS", raising=False)
    return tmp_path
