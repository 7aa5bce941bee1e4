"""Processes of their own, with real signals: `run` owns the process it is called in."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from understudy.actors.errors import DeclarationError
from understudy.supervisors.child import Supervisor
from understudy.supervisors.run import run

_SERVICE = """
import sys, time, trio
from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError
from understudy.supervisors import run as module
from understudy.supervisors.child import Supervisor, child, needs
from understudy.supervisors.run import run

class Till(Actor[str]):
    what = "nothing"

    def __init__(self, *_):
        pass

    async def started(self):
        if self.what == "mistaken":
            raise DeclarationError("a till needs a drawer.")
        self.ref.tell(self.what)

    async def stopping(self):
        if self.what == "linger":
            print("stopping", flush=True)
            await trio.sleep(60)

    async def receive(self, message):
        print("ready", flush=True)
        match message:
            case "crash":
                raise ValueError("boom")
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case "block":
                time.sleep(60)
            case "nap":
                time.sleep(0.5)
                await trio.sleep(0.1)
                raise SystemExit(3)
            case "shield":
                with trio.CancelScope(shield=True):
                    await trio.sleep(60)

def tree(what, **options):
    Till.what = what
    tills = Supervisor("tills", [child(Till, shutdown=60)], max_restarts=1)
    return Supervisor("shop", [tills], max_restarts=0)

"""


class Service:
    """A process that runs a tree."""

    def __init__(self, folder: Path, body: str) -> None:
        file = folder / "shop.py"
        file.write_text(_SERVICE + body)
        self.process = subprocess.Popen(
            [sys.executable, str(file)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self, line: str) -> None:
        """Wait until it has printed this line."""
        assert self.process.stdout is not None
        assert any(printed == f"{line}\n" for printed in self.process.stdout), self.ended()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it wrote to stderr."""
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log


Start = Callable[[str], Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services; what is left of them ends with the test."""
    services: list[Service] = []

    def one(body: str) -> Service:
        services.append(Service(tmp_path, body))
        return services[-1]

    yield one
    for service in services:
        service.process.kill()
        service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_drains_and_the_exit_code_is_0(start: Start, number: signal.Signals) -> None:
    service = start('run(tree("nothing"))\nprint("after")')
    service.said("ready")
    service.signal(number)
    service.said("after")

    code, log = service.ended()
    assert code == 0
    assert f"shop is stopping: {number.name}, at most 30 s to drain" in log


def test_a_root_that_gives_up_gives_70_and_the_chain_of_causes(start: Start) -> None:
    code, log = start('run(tree("crash"), logs="text")').ended()

    line = 1 + _SERVICE.splitlines().index('                raise ValueError("boom")')
    assert code == 70
    assert log.endswith(
        "CRITICAL shop has failed (exit code 70), because\n"
        "    shop (incarnation 1) gave up: restarting shop/tills would have been more than "
        "0 restarts within 5 s\n"
        "    shop/tills (incarnation 1) gave up: restarting shop/tills/till would have been "
        "more than 1 restarts within 5 s; escalated to shop\n"
        "    shop/tills/till (incarnation 2) crashed on 'str': ValueError: boom "
        f"(shop.py:{line} in receive)\n"
    )


def test_a_handler_that_blocks_the_loop_is_named_in_the_log(start: Start) -> None:
    code, log = start('run(tree("nap"), blocked_after=0.05, logs="text")').ended()

    line = 1 + _SERVICE.splitlines().index("                time.sleep(0.5)")
    assert code == 3
    assert "WARNING shop/tills/till: Till.receive blocked the event loop for at least" in log
    assert f"shop.py:{line} in receive. Nothing else ran meanwhile: give a plain def" in log


def test_a_drain_over_its_deadline_is_cancelled_and_gives_75(start: Start) -> None:
    service = start('run(tree("linger"), drain=0.1, logs="text")')
    service.said("ready")
    service.signal(signal.SIGTERM)

    code, log = service.ended()
    assert code == 75
    assert "shop did not drain in 100 ms, what is still running is cancelled" in log


def test_a_second_signal_cancels_and_gives_75(start: Start) -> None:
    service = start('run(tree("linger"), logs="text")')
    service.said("ready")
    service.signal(signal.SIGINT)
    service.said("stopping")
    service.signal(signal.SIGINT)

    code, log = service.ended()
    assert code == 75
    assert "shop: SIGINT again, what is still running is cancelled" in log


def test_further_signals_end_the_process_though_its_loop_is_blocked(start: Start) -> None:
    service = start('run(tree("block"))')
    service.said("ready")
    while service.process.poll() is None:  # signals that come too close together are merged
        service.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(0.05)

    assert service.ended()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("what", ["block", "shield"], ids=["a blocked loop", "a shielded task"])
def test_a_tree_that_survives_its_cancellation_is_left_behind(start: Start, what: str) -> None:
    service = start(f'module.LAST_GRACE = 0.3\nrun(tree("{what}"), drain=0.1)')
    service.said("ready")
    service.signal(signal.SIGTERM)

    code, log = service.ended()
    assert code == 75
    assert "the tree has not ended; the process ends without it, exit code 75" in log


@pytest.mark.parametrize(("what", "expected"), [("exit", 3), ("interrupt", 130)])
def test_a_handler_may_end_the_process_with_its_own_code(
    start: Start, what: str, expected: int
) -> None:
    code, log = start(f'run(tree("{what}"), logs="text")').ended()

    assert code == expected
    assert log.count("Traceback") == 0
    assert "shop has ended: a handler ended the process" in log


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("run([])", "run() takes a Supervisor, got list"),
        ('run(tree("nothing"), drain=-1)', "drain=-1: zero or more seconds expected"),
        ('run(tree("nothing"), blocked_after=0)', "blocked_after=0: seconds expected, or None"),
        ('run(tree("nothing"), logs="xml")', "log format 'xml': 'auto', 'text' or 'json' expected"),
        (
            'run(tree("nothing"), dead_letters="no/such/folder/letters.sqlite")',
            "the folder no/such/folder does not exist",
        ),
        (
            'run(Supervisor("shop", [child(Till, needs("pool"))]))',
            "needs 'pool', but no sibling of it or of a supervisor above it has that name",
        ),
        (
            'run(tree("mistaken"))',
            "shop/tills/till (incarnation 1) could not be started: a till needs a drawer",
        ),
    ],
    ids=[
        "type",
        "drain",
        "blocked after",
        "log format",
        "folder",
        "missing need",
        "found at the start",
    ],
)
def test_a_wrong_declaration_gives_78_and_one_sentence(
    start: Start, tmp_path: Path, body: str, reason: str
) -> None:
    code, log = start(body).ended()

    assert code == 78
    assert reason in log.replace(f"{tmp_path}/", "")
    assert "Traceback" not in log


def test_without_a_terminal_every_line_of_the_log_is_json(start: Start) -> None:
    _, log = start('run(tree("crash"), dead_letters=None)').ended()

    lines = [json.loads(line) for line in log.splitlines()]
    crash = next(line for line in lines if line.get("notice") == "Crashed")
    assert crash["event"] == "shop/tills/till crashed (incarnation 1) on str: ValueError: boom"
    assert (crash["level"], crash["path"], crash["error"]) == ("warning", "shop/tills/till", "boom")
    assert "Traceback" in crash["exception"]


@pytest.mark.parametrize("plain", [False, True], ids=["colour", "NO_COLOR"])
def test_on_a_terminal_the_log_is_text(tmp_path: Path, plain: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm"} | ({"NO_COLOR": "1"} if plain else {})
    (tmp_path / "shop.py").write_text(f'{_SERVICE}run(tree("exit"), dead_letters=None)')
    ours, theirs = pty.openpty()
    command = [sys.executable, str(tmp_path / "shop.py")]
    subprocess.run(command, stderr=theirs, env=environment, check=False, timeout=20)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)

    assert "shop/tills/till started" in text
    assert ("\033[" not in text) if plain else ("\033[32mINFO\033[0m" in text)


def test_dead_letters_are_kept_where_the_environment_says(start: Start, tmp_path: Path) -> None:
    body = 'import os; os.environ["UNDERSTUDY_DEAD_LETTERS"] = "kept.sqlite"\nrun(tree("exit"))'

    start(body).ended()

    assert (tmp_path / "kept.sqlite").exists()


def test_a_log_that_the_program_has_configured_is_left_alone(start: Start) -> None:
    body = 'import logging; logging.basicConfig(format="mine %(message)s")\nrun(tree("crash"))'

    _, log = start(body).ended()

    assert log.startswith("mine shop/tills/till crashed (incarnation 1) on str: ValueError: boom")


def test_run_outside_of_the_main_thread_is_refused() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(run, Supervisor("shop"))

    with pytest.raises(DeclarationError, match="must be called in the main thread"):
        called.result()
