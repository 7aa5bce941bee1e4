"""The control socket: what it answers, and that nobody can hurt the service with it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError
from understudy.actors.lifecycle import StateChanged
from understudy.supervisors import control, control_place
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.control import Control
from understudy.supervisors.control_socket import ControlSocket, is_owner
from understudy.supervisors.system import System, running


class Till(Actor[str]):
    async def receive(self, message: str) -> None:
        raise ValueError("out of coins\033[2J")


TREE = Supervisor("shop", [child(Till)])


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for control sockets: one whose path is short enough for them."""
    with tempfile.TemporaryDirectory(prefix="ctl") as made:
        path = Path(made) / "control"
        monkeypatch.setenv(control_place.VARIABLE, str(path))
        yield path


@pytest.fixture
def place(folder: Path) -> Iterator[ControlSocket]:
    made = ControlSocket.of("shop")
    yield made
    made.close()


@asynccontextmanager
async def _controlled(place: ControlSocket) -> AsyncIterator[System]:
    async with running(TREE) as system, trio.open_nursery() as nursery:
        nursery.start_soon(Control(system).run, place)
        yield system
        nursery.cancel_scope.cancel()


class Peer:
    """One connection to a control socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def line(self) -> Any:
        """The next line; None when the connection has ended."""
        with trio.fail_after(20):
            while b"\n" not in self._received:
                try:
                    chunk = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    return None
                if not chunk:
                    return None
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    async def ask(self, question: bytes) -> Any:
        await self.stream.send_all(question + b"\n")
        return await self.line()


@asynccontextmanager
async def _peer(place: ControlSocket) -> AsyncIterator[Peer]:
    async with await trio.open_unix_socket(place.path) as stream:
        yield Peer(stream)


# -- questions and answers --------------------------------------------------------------


async def test_questions_are_answered_one_after_the_other(place: ControlSocket) -> None:
    async with _controlled(place), _peer(place) as peer:
        health = (await peer.ask(b'{"ask": "health"}'))["ok"]
        tree = (await peer.ask(b'{"ask": "tree"}'))["ok"]
        numbers = (await peer.ask(b'{"ask": "statistics"}'))["ok"]

    assert (health["name"], health["pid"], health["ready"]) == ("shop", os.getpid(), True)
    assert "children" not in health
    assert [one["path"] for one in tree["children"]] == ["shop/till"]
    assert numbers["shop/till"]["mailbox"]["capacity"] == 1024


async def test_questions_may_come_in_pieces_or_together(place: ControlSocket) -> None:
    async with _controlled(place), _peer(place) as peer:
        await peer.stream.send_all(b'{"ask"')
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.send_all(b': "health"}\n{"ask": "tree", "limit": 0}\n')
        answers = [await peer.line(), await peer.line()]

    assert [answer["ok"]["name"] for answer in answers] == ["shop", "shop"]
    assert answers[1]["ok"]["children"] == []


GARBAGE = {
    "words": b"hello",
    "nothing": b"",
    "a list": b"[1]",
    "a number": b'{"ask": 7}',
    "a wrong limit": b'{"ask": "tree", "limit": "x"}',
    "bytes": b"\xff\x00" * 50,
    "brackets": b"[" * 4000,
    "infinity": b'{"ask": "tree", "limit": 1e400}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_answered_with_an_error(place: ControlSocket, garbage: bytes) -> None:
    async with _controlled(place) as system, _peer(place) as peer:
        answer = await peer.ask(garbage)
        after = await peer.ask(b'{"ask": "health"}')

        assert system.healthy
    assert answer == {"error": 'a line of JSON expected, such as {"ask": "health"}'}
    assert after["ok"]["ready"]


async def test_an_unknown_question_is_told_what_there_is(place: ControlSocket) -> None:
    async with _controlled(place), _peer(place) as peer:
        answer = await peer.ask(b'{"ask": "stop"}')

    known = "health, tree, statistics, why, watch"
    assert answer == {"error": f"nothing is known of that; there are: {known}"}


async def test_why_tells_of_a_restart_without_what_could_steer_a_terminal(
    place: ControlSocket,
) -> None:
    async with _controlled(place) as system, _peer(place) as peer:
        system.ref(Till).tell("crash")
        await trio.testing.wait_all_tasks_blocked()
        story = (await peer.ask(b'{"ask": "why", "path": "shop/till"}'))["ok"]

    assert "ValueError: out of coins\\x1b[2J" in story
    assert "\033" not in story


async def test_a_watcher_is_told_of_every_notice_as_the_log_says_it(place: ControlSocket) -> None:
    async with _controlled(place) as system, _peer(place) as peer:
        assert await peer.ask(b'{"ask": "watch"}') == {"ok": "watching"}
        system.ref(Till).tell("crash")
        told = [await peer.line() for _ in range(4)]

    kinds = sorted(one["notice"] for one in told)
    assert kinds == ["Crashed", "DeadLettered", "Restarting", "Started"]
    assert told[0]["text"].startswith("shop/till crashed (incarnation 1) on str: ValueError: ")
    assert (told[0]["level"], told[0]["path"]) == ("warning", "shop/till")


# -- who must not hurt the service --------------------------------------------------------


def _notice(number: int) -> StateChanged:
    return StateChanged(path="shop/noise", state=f"state {number}", why="x" * 200)


async def test_a_watcher_that_reads_nothing_is_dropped(
    place: ControlSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SLOW", 0.2)
    async with _controlled(place) as system, _peer(place) as peer:
        await peer.ask(b'{"ask": "watch"}')
        for number in range(20_000):
            system.bus.publish(_notice(number))
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        lines = 0
        while await peer.line() is not None:
            lines += 1

        assert system.healthy
    assert 0 < lines < 20_000


async def test_a_burst_beyond_what_may_wait_drops_the_watcher(place: ControlSocket) -> None:
    async with _controlled(place) as system, _peer(place) as peer:
        await peer.ask(b'{"ask": "watch"}')
        for number in range(control.WAITING + 1):
            system.bus.publish(_notice(number))  # in one go: nobody can read meanwhile

        assert await peer.line() is None


async def test_a_peer_that_does_not_read_its_answers_is_dropped(
    place: ControlSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SLOW", 0.1)
    monkeypatch.setattr(control, "_without_children", lambda health: "x" * 1_000_000)
    async with _controlled(place) as system, _peer(place) as slow, _peer(place) as other:
        await slow.stream.send_all(b'{"ask": "health"}\n')
        await trio.sleep(0.3)

        assert await slow.line() is None
        assert (await other.ask(b'{"ask": "tree"}'))["ok"]["ready"]
        assert system.healthy


async def test_a_silent_peer_is_dropped(
    place: ControlSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "IDLE", 0.1)
    async with _controlled(place), _peer(place) as peer:
        assert await peer.line() is None


async def test_an_endless_question_is_cut(place: ControlSocket) -> None:
    async with _controlled(place) as system, _peer(place) as peer:
        await peer.stream.send_all(b"x" * 5000)

        assert await peer.line() == {"error": "a question has at most 4096 bytes"}
        assert await peer.line() is None
        assert system.healthy


async def test_of_many_peers_only_some_are_let_in_until_they_leave(place: ControlSocket) -> None:
    async with _controlled(place), trio.open_nursery() as nursery:
        streams = [await trio.open_unix_socket(place.path) for _ in range(control.PEERS)]
        peers = [Peer(stream) for stream in streams]
        for peer in peers:
            assert "ok" in await peer.ask(b'{"ask": "health"}')
        async with _peer(place) as late:
            assert await late.line() is None
        for stream in streams:
            nursery.start_soon(stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        async with _peer(place) as next_one:
            assert "ok" in await next_one.ask(b'{"ask": "health"}')


async def test_a_defect_in_an_answer_ends_one_connection_only(
    place: ControlSocket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with _controlled(place) as system, _peer(place) as peer, _peer(place) as other:
        monkeypatch.setattr(system, "why", lambda path: 1 // 0)

        assert await peer.ask(b'{"ask": "why"}') is None
        assert "ok" in await other.ask(b'{"ask": "health"}')
    assert "the control socket failed to answer" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_turned_away_by_the_kernel_s_word(place: ControlSocket) -> None:
    place.path.chmod(0o666)  # as if somebody had opened the doors
    for above in (place.path.parent, place.path.parent.parent):
        above.chmod(0o755)
    program = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); os.setgid(65534); os.setuid(65534)\n"
        "sock.connect(sys.argv[1])\n"
        "try:\n"
        '    sock.sendall(b\'{"ask": "health"}\\n\'); print(sock.recv(100))\n'
        "except ConnectionError: print(b'')"
    )
    async with _controlled(place):
        command = [sys.executable, "-c", program, str(place.path)]
        ended = await trio.run_process(command, capture_stdout=True)

    assert ended.stdout == b"b''\n"


def test_this_user_is_the_owner() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert is_owner(ours)


# -- the place ----------------------------------------------------------------------------


def test_only_the_owner_may_see_and_open_it(place: ControlSocket, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert place.path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in folder.iterdir()] == [f"shop.{os.getpid()}.sock"]


def test_it_is_gone_when_it_is_closed(place: ControlSocket) -> None:
    place.close()

    assert not place.path.exists()
    assert control_place.find() == []


def test_closing_removes_only_its_own_file(place: ControlSocket) -> None:
    place.path.unlink()
    place.path.write_text("somebody else's")
    place.close()

    assert place.path.read_text() == "somebody else's"


def test_services_are_found_by_name_and_process(place: ControlSocket, folder: Path) -> None:
    other = ControlSocket.at(folder / "shop.999999.sock")
    try:
        both = control_place.find("shop")
        assert [one.pid for one in both] == sorted([os.getpid(), 999999])
        assert [one.pid for one in control_place.find("shop", 999999)] == [999999]
        assert control_place.find("bar") == []
    finally:
        other.close()


def _killed(path: Path) -> None:
    """Leave a socket behind, as a killed process does."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from understudy.supervisors.control_socket import ControlSocket\n"
        "ControlSocket.at(Path(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert path.is_socket()


def test_what_a_killed_service_left_is_not_found_and_swept_by_the_next(
    place: ControlSocket, folder: Path
) -> None:
    left = folder / "shop.999998.sock"
    _killed(left)

    assert [one.pid for one in control_place.find()] == [os.getpid()]
    ControlSocket.of("bar").close()
    assert not left.exists()
    assert place.path.exists()


def test_a_socket_left_at_a_place_of_one_s_own_is_taken_over(folder: Path) -> None:
    folder.mkdir()
    path = folder / "own"
    _killed(path)
    place = ControlSocket.at(path)

    assert control_place.answers(path)
    place.close()


@pytest.mark.parametrize("name", ["a b/..", "ünï", "x" * 300, "..", "a\nb"])
def test_any_name_of_a_tree_makes_a_file_in_the_folder(folder: Path, name: str) -> None:
    place = ControlSocket.of(name)
    try:
        assert place.path.parent == folder
        assert [one.path for one in control_place.find(name)] == [place.path]
    finally:
        place.close()


def _open(path: Path) -> None:
    path.mkdir(mode=0o755)


def _link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("prepare", [_open, _link], ids=["open to others", "a link"])
def test_a_folder_that_is_not_of_this_user_alone_is_refused(folder: Path, prepare: Any) -> None:
    prepare(folder)

    with pytest.raises(PermissionError, match=r"not a folder of this user alone \(mode 0700\)"):
        ControlSocket.of("shop")
    assert control_place.find() == []


def test_the_users_runtime_folder_is_preferred_if_it_can_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(control_place.VARIABLE)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    shared = Path(f"/tmp/understudy-{os.geteuid()}")

    assert control_place.folders() == [folder / "understudy", shared]
    assert control_place.folder() == folder / "understudy"
    (folder / "understudy").chmod(0o777)
    assert control_place.folder() == shared


def test_a_place_of_one_s_own_that_cannot_be_is_a_wrong_declaration(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").write_text("")
    place = ControlSocket.at(folder / "taken")
    try:
        for name, text in [
            ("taken", "another service listens there"),
            ("file", "something that is no socket"),
            ("no/folder", "No such file or directory"),
            ("x" * 120, "longer than the 103 bytes that a socket's path may have"),
        ]:
            with pytest.raises(DeclarationError, match=text):
                ControlSocket.at(folder / name)
        assert control_place.answers(place.path)
    finally:
        place.close()
