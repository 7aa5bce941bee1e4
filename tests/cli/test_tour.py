"""The newcomer's path: every command that docs/commands.md shows, in order, with its output.

Ids, times and numbers differ from run to run, and so do the widths of columns; all else has to
be as shown. Nothing is installed: the environment of the tests has all that pip would bring.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
BIN = Path(sys.executable).parent
LATER = ("dead-letters list", "status")
"""What is shown a moment after the command before, which only begins it."""


def _commands() -> Iterator[tuple[str, str]]:
    """Every command of the page with the output below it."""
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def _alike(text: str) -> str:
    """The text without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    text = re.sub(r"\d+(\.\d+)? (ms|s|min)\b", "TIME", text)
    text = text.replace(", TIME ago", "")  # told only of what is a while ago
    return " ".join(re.sub(r"\d+(\.\d+)?(s\b)?", "N", text).split())


@pytest.fixture
def environment(free_url: str, alone: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SHOP_URL": free_url}


def test_every_command_of_the_page_does_what_is_shown(
    tmp_path: Path, environment: dict[str, str], free_url: str
) -> None:
    folder, services, shown = tmp_path, [], 0
    try:
        for command, output in _commands():
            command = command.replace("tcp://127.0.0.1:3001", free_url)
            if command.startswith("pip install"):
                continue
            if command.startswith("cd "):
                folder /= command[3:]
            elif command.endswith(" &"):
                services.append(_begun(command[:-2], folder, environment))
            elif command == "kill %1":
                _ended(services.pop())
            else:
                said = _said(command, output, folder, environment)
                if output:
                    assert _alike(said) == _alike(output), command
                    shown += 1
    finally:
        for service in services:
            service.kill()
            service.wait()
    assert shown == 14


def _said(command: str, output: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command says; what only comes a moment later is asked for again."""
    deadline = time.monotonic() + 20
    while True:
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        late = any(word in command for word in LATER) or "shop.sock" in command
        if done.returncode == 0 and not (late and _alike(said) != _alike(output or said)):
            return said
        if not late or time.monotonic() > deadline:
            pytest.fail(f"{command} ended with {done.returncode}: {said}")
        time.sleep(0.05)


def _begun(command: str, folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command.split(), cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def _ended(service: "subprocess.Popen[bytes]") -> None:
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0


def test_every_command_has_its_place_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    known = re.findall(r"^    ([a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)

    assert "top" in known
    assert [name for name in known if not re.search(rf"understudy [^`]*\b{name}\b", PAGE)] == []
