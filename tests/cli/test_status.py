"""`status`, `tree` and `why`: what they print of real services, and their exit codes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.cli import services
from understudy.cli.main import main

from .conftest import Shop

Capture = pytest.CaptureFixture[str]


def _name(shop: Shop) -> str:
    return f"shop:{shop.process.pid}"


@pytest.mark.parametrize("options", [[], ["--live"]], ids=["ready", "live"])
def test_a_service_that_is_ready_gives_0(shop: Shop, capsys: Capture, options: list[str]) -> None:
    assert main(["status", _name(shop), *options]) == 0

    assert capsys.readouterr().out.startswith(f"{_name(shop)} is ready, up ")


def test_status_as_json_is_the_health_record(shop: Shop, capsys: Capture) -> None:
    assert main(["status", _name(shop), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["pid"], told["ready"]) == ("shop", shop.process.pid, True)


def test_a_service_that_is_not_ready_gives_1_and_says_why(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "stuck.py").write_text(
        "import contextlib\nfrom understudy import Supervisor, resource\n"
        "@contextlib.asynccontextmanager\nasync def database():\n"
        "    raise OSError('nobody there')\n    yield\n"
        "tree = Supervisor('stuck', [resource(database)])\n"
    )
    command = [sys.executable, "-m", "understudy.cli", "run", "stuck:tree"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("nobody there" in line for line in process.stderr)
            not_ready = main(["status", "stuck"])
            live = main(["status", "stuck", "--live"])
        finally:
            process.kill()

    out = capsys.readouterr().out
    assert (not_ready, live) == (1, 0)
    assert "stuck/database is waiting: OSError: nobody there; tried again in" in out
    assert f"stuck:{process.pid} is starting, " in out


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("arguments", [[], ["shop"], ["--live"]])
def test_no_service_is_1_for_status(capsys: Capture, arguments: list[str]) -> None:
    assert main(["status", *arguments]) == 1

    err = capsys.readouterr().err
    assert err.startswith("understudy: no service of this user runs here (looked in ")
    assert err.endswith("Start one with `understudy run module:tree`.\n")


@pytest.mark.usefixtures("alone")
def test_no_service_as_json_is_json(capsys: Capture) -> None:
    assert main(["status", "--json"]) == 1

    told = json.loads(capsys.readouterr().out)
    assert (told["live"], told["ready"]) == (False, False)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("arguments", [["tree"], ["top"], ["why", "shop/till"]])
def test_no_service_is_69_for_others(capsys: Capture, arguments: list[str]) -> None:
    assert main(arguments) == 69

    assert "no service of this user runs here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("bar", "no service 'bar' runs. There are: shop:"),
        ("shop:x", "a name, name:pid or the path"),
    ],
    ids=["another name", "no number"],
)
def test_a_wrong_name_is_told_what_there_is(
    shop: Shop, capsys: Capture, which: str, text: str
) -> None:
    assert main(["tree", which]) == 69

    assert text in capsys.readouterr().err


def test_tree_shows_every_child(shop: Shop, capsys: Capture) -> None:
    assert main(["tree", _name(shop)]) == 0

    _, head, root, till, bridge = capsys.readouterr().out.splitlines()[:5]
    assert head.split() == ["CHILD", "KIND", "STATE", "FOR", "RESTARTS", "MAIL"]
    assert root.startswith("shop ")
    assert till.split()[:3] == ["till", "actor", "running"]
    assert bridge.split()[:3] == ["tcp", "bridge", "running"]
    assert bridge.endswith(shop.url)


def test_tree_shows_as_many_as_are_wanted(shop: Shop, capsys: Capture) -> None:
    assert main(["tree", _name(shop), "--limit", "1"]) == 0

    assert capsys.readouterr().out.splitlines()[-1] == "and 1 more"


def test_why_of_what_has_not_failed_says_so(shop: Shop, capsys: Capture) -> None:
    assert main(["why", "shop/till", _name(shop)]) == 0

    assert capsys.readouterr().out.startswith("Nothing is known of shop/till: ")


def test_two_services_of_one_name_are_told_apart(
    alone: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, second = Shop(tmp_path), Shop(tmp_path)
    try:
        assert main(["status", "shop"]) == 0
        both = capsys.readouterr().out
        assert main(["status", _name(second)]) == 0
        one = capsys.readouterr().out
        first.process.kill()
        first.process.communicate()
        assert main(["status"]) == 0
        left = capsys.readouterr().out
        assert (alone / f"shop.{first.process.pid}.sock").exists()  # nobody was left to remove it
    finally:
        assert second.stop() == 0
        if first.process.returncode is None:
            first.stop()

    assert sorted(line.split()[0] for line in both.splitlines()) == sorted(
        [_name(first), _name(second)]
    )
    assert one.split()[0] == left.split()[0] == _name(second)
    assert main(["status"]) == 1


def test_a_service_may_have_a_socket_of_its_own_or_none(
    alone: Path, tmp_path: Path, capsys: Capture
) -> None:
    own = alone / "own"
    named, hidden = Shop(tmp_path, "--control", str(own)), Shop(tmp_path, "--control", "off")
    try:
        assert main(["status", str(own)]) == 0
        assert list(alone.iterdir()) == [own]
    finally:
        assert (named.stop(), hidden.stop()) == (0, 0)
    assert list(alone.iterdir()) == []


def test_a_socket_that_is_in_use_refuses_the_second_service(
    alone: Path, tmp_path: Path, shop: Shop
) -> None:
    own = str(alone / "own")
    first = Shop(tmp_path, "--control", own)
    try:
        command = [sys.executable, "-m", "understudy.cli", "run", "shop:tree", "--control", own]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 78
        assert "another service listens there. Stop it, or give this one" in second.stderr
        assert main(["status", own]) == 0
    finally:
        assert first.stop() == 0


def test_a_service_runs_without_a_socket_where_there_can_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNDERSTUDY_CONTROL", str(tmp_path / "file" / "folder"))
    shop = Shop(tmp_path)

    assert shop.stop() == 0
    assert any("`understudy status` will not find it" in line for line in shop.before)


@pytest.fixture
def impostor(alone: Path) -> Iterator[socket.socket]:
    """Listens where a service might, and is none."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(alone / "shop.1.sock"))
        sock.listen()
        yield sock


def test_a_service_that_does_not_answer_is_1(
    impostor: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(services, "DEADLINE", 0.1)

    assert main(["status", "--live"]) == 1
    assert "shop:1 runs, but did not answer within 0.1 s: something blocks" in (
        capsys.readouterr().err
    )


def test_a_frozen_service_is_1_and_well_again_afterwards(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shop.process.send_signal(signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(services, "DEADLINE", 0.2)
            assert main(["status", _name(shop), "--live"]) == 1
    finally:
        shop.process.send_signal(signal.SIGCONT)

    assert "did not answer within 0.2 s" in capsys.readouterr().err
    assert main(["status", _name(shop)]) == 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400\r\n\n", "what listens there is no service of understudy"),
        (b"", "it hung up; perhaps it just ends"),
        (b"\xff\xfe\n", "what listens there is no service of understudy"),
        (b'{"error": "no"}\n', "shop:1: no."),
    ],
    ids=["another protocol", "nothing", "bytes", "an error"],
)
def test_what_answers_nonsense_is_told_of(
    impostor: socket.socket, capsys: Capture, answer: bytes, text: str
) -> None:
    def serve() -> None:
        for _ in range(2):  # to look whether anybody listens takes a connection as well
            peer, _ = impostor.accept()
            with peer:
                if peer.recv(1000):
                    peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    assert main(["tree"]) == 69
    thread.join(20)

    assert text in capsys.readouterr().err


def test_a_stopping_service_is_live_and_not_ready(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "slow.py").write_text(
        "import trio\nfrom understudy import Actor, Supervisor, child\n"
        "class Slow(Actor):\n    async def stopping(self):\n        print('stopping', flush=True)\n"
        "        await trio.sleep(60)\n"
        "tree = Supervisor('slow', [child(Slow, shutdown=30)])\n"
    )
    command = [sys.executable, "-m", "understudy.cli", "run", "slow:tree", "--log-format", "text"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert process.stdout is not None
        assert any("slow is up" in line for line in process.stderr)
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        assert (main(["status", "slow"]), main(["status", "slow", "--live"])) == (1, 0)
    finally:
        process.kill()
        process.communicate()

    assert f"slow:{process.pid} is stopping" in capsys.readouterr().out
