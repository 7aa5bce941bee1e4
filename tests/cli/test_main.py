"""What all commands share."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from understudy.cli import client
from understudy.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"understudy {version('understudy')}\n"


def test_without_a_command_the_usage_is_shown(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 2
    assert "required: COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    "interrupt",
    [KeyboardInterrupt(), BaseExceptionGroup("tasks", [KeyboardInterrupt()])],
    ids=["alone", "in a group of tasks"],
)
def test_ctrl_c_ends_quietly_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, interrupt: BaseException
) -> None:
    def interrupted(*_: object) -> int:
        raise interrupt

    monkeypatch.setattr(client, "_connected", interrupted)

    assert main(["emit", "tcp://127.0.0.1:1", "paid"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys; from understudy.cli import client; from understudy.cli.main import main\n"
        "client._connected = lambda *_: print('much') or 0\n"
        "sys.exit(main(['send', 'tcp://127.0.0.1:1', 'paid']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("command", ["status", "tree", "top"])
def test_services_are_looked_at_without_loading_trio(command: str) -> None:
    program = (
        "import sys; from understudy.cli.main import main\n"
        f"main([{command!r}, 'nobody'])\n"
        "print(bool({'trio', 'rich', 'watchfiles'} & sys.modules.keys()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert out.stdout == "False\n"


def test_dead_letters_are_looked_at_without_loading_trio() -> None:
    program = (
        "import sys; from understudy.cli.main import main\n"
        "main(['dead-letters', 'list', '--store', 'no/such/file'])\n"
        "print('trio' in sys.modules, 'understudy.supervisors.delivery.store_file' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert out.stdout == "False True\n"
