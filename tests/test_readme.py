"""What the README shows is what happens."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BIN = Path(sys.executable).parent


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def port() -> int:
    return _free_port()


@pytest.fixture
def service(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The README's service, started as the README starts it."""
    (tmp_path / "orders.py").write_text(_blocks("python")[0].replace("3001", str(port)))
    command = [str(BIN / "understudy"), "run", "orders:tree"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        _wait_for(port)
        yield process
        process.send_signal(signal.SIGTERM)


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the service did not start")


def test_the_first_example_answers_as_shown(
    service: subprocess.Popen[bytes], port: int, tmp_path: Path
) -> None:
    """Every command of the first console block, with the output printed under it."""
    lines = _blocks("console")[0].replace("3001", str(port)).splitlines()
    shown = 0
    for index, line in enumerate(lines):
        if not line.startswith("$ understudy ") or line.endswith("&"):
            continue
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", line[2:]], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        following = lines[index + 1] if index + 1 < len(lines) else "$"
        if not following.startswith("$"):
            assert (done.stdout + done.stderr).strip() == following
            shown += 1
    assert shown == 3


def test_an_event_that_does_not_fit_is_listed_among_the_dead_letters(
    service: subprocess.Popen[bytes], port: int, tmp_path: Path
) -> None:
    url = f"tcp://127.0.0.1:{port}"
    understudy = str(BIN / "understudy")
    subprocess.run([understudy, "emit", url, "orders.placed", '{"id": 9}'], check=True)
    listed = ""
    for _ in range(100):
        command = [understudy, "dead-letters", "list"]
        listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
        if "does not fit" in listed:
            break
        time.sleep(0.05)
    assert "orders.placed" in listed
    assert "item: is missing" in listed


def test_the_service_ends_cleanly_on_sigterm(service: subprocess.Popen[bytes]) -> None:
    service.send_signal(signal.SIGTERM)
    assert service.wait(10) == 0


def test_every_linked_file_exists() -> None:
    root = Path(__file__).parent.parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (root / link).exists()]
    assert not missing
