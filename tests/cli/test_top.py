"""`understudy top`: live in a terminal, with rich and without; once where there is none."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSCTTY, TIOCSWINSZ

import pytest

from understudy.cli.main import main

from .conftest import Shop


class Terminal:
    """A terminal in which `top` runs, and everything that was drawn there."""

    def __init__(self, *arguments: str) -> None:
        self.drawn = ""
        self._master, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, pack("4H", 40, 120, 0, 0))
        command = [sys.executable, "-m", "understudy.cli", "top", "--interval", "0.1", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, TIOCSCTTY, 0),  # so that its Ctrl-C interrupts
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(slave)

    def until(self, pattern: str) -> None:
        """Wait until something is drawn that was not before."""
        begin, deadline = len(self.drawn), time.monotonic() + 20
        while not re.search(pattern, self.drawn[begin:]):
            assert time.monotonic() < deadline, self.drawn[begin:]
            self._read(0.1)

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def ended(self) -> int:
        """Its exit code; reads on meanwhile, as a terminal does."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, limit: float) -> None:
        if select.select([self._master], [], [], limit)[0]:
            try:
                self.drawn += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                time.sleep(0.01)  # the other side is closed: it is about to end


@pytest.fixture(params=[["--plain"], []], ids=["plain", "rich"])
def terminal(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    if not request.param:
        pytest.importorskip("rich")
    made = Terminal(f"shop:{shop.process.pid}", *request.param)
    yield made
    made.close()


def test_the_tree_and_what_happens_are_shown_and_q_ends_it(terminal: Terminal, shop: Shop) -> None:
    terminal.until(r"till\s+actor\s+running")
    assert main(["emit", shop.url, "paid", '"much"']) == 0
    terminal.until(r"paid became dead letter")
    terminal.press(b"q")

    assert terminal.ended() == 0
    assert terminal.drawn.rstrip().endswith(("\033[?1049l", "\033[?25h"))  # as it was before


def test_ctrl_c_ends_it_as_well(terminal: Terminal) -> None:
    terminal.until("running")
    terminal.press(b"\x03")

    assert terminal.ended() == 0
    assert "Traceback" not in terminal.drawn


@pytest.mark.usefixtures("alone")
def test_services_may_end_and_come_back_meanwhile(tmp_path: Path) -> None:
    service = Shop(tmp_path)
    terminal = Terminal("--plain", "shop")
    try:
        terminal.until(f"shop:{service.process.pid} is ready")
        assert service.stop() == 0
        terminal.until("no service of this user runs here")
        service = Shop(tmp_path)
        terminal.until(f"shop:{service.process.pid} is ready")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
        assert "shop is stopping: SIGTERM" in terminal.drawn  # the last notices
    finally:
        terminal.close()
        assert service.stop() == 0


def test_without_a_terminal_it_prints_once(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"shop:{shop.process.pid}"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"shop:{shop.process.pid} is ready")
    assert "CHILD" in lines[1]


@pytest.mark.parametrize("interval", ["soon", "0", "1e9"])
def test_an_interval_that_cannot_be_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], interval: str
) -> None:
    with pytest.raises(SystemExit):
        main(["top", "--interval", interval])

    assert "seconds expected, from 0.05 to 3600" in capsys.readouterr().err
