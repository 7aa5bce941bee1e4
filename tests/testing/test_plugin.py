"""The pytest plugin: what it gives, what it costs, and what it leaves alone."""

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from ..brokers.broker import Broker

PLUGIN = "understudy.testing.plugin"

SERVICE = """
import pytest
from understudy import Actor, child, message_pattern


class Greeter(Actor):
    @message_pattern("greet")
    async def greet(self, name: str) -> str:
        return f"hello {name}"


async def test_it_greets(service, virtual_time):
    async with service([child(Greeter)]) as running:
        assert await running.client.send(Greeter.greet, "ada") == "hello ada"
        print("SERVED AT", running.url.partition("?")[0])
"""


@attrs.frozen
class Outcome:
    code: int
    text: str


def run(folder: Path, test: str, *arguments: str, trio_mode: bool = True) -> Outcome:
    """Run pytest on one file, in a project of its own."""
    ini = "[pytest]\naddopts = --import-mode=importlib\nfilterwarnings = error\n"
    ini += f"trio_mode = {trio_mode}\n"
    folder.joinpath("pytest.ini").write_text(ini)
    folder.joinpath("test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout + done.stderr)


def test_a_service_is_in_memory_unless_it_is_said(tmp_path: Path) -> None:
    outcome = run(tmp_path, SERVICE, "-rP")
    assert "SERVED AT memory://" in outcome.text
    assert "1 passed" in outcome.text, outcome.text


def test_the_same_tests_run_on_every_transport_that_is_named(
    tmp_path: Path, nats_broker: Broker
) -> None:
    outcome = run(
        tmp_path,
        SERVICE,
        "-v",
        "-rP",
        "--transport=memory://any",
        "--transport=tcp://127.0.0.1:0",
        f"--transport={nats_broker.url}",
    )
    assert "3 passed" in outcome.text, outcome.text
    for scheme, place in (("memory", "memory://"), ("tcp", "tcp://127"), ("nats", "nats://127")):
        assert f"test_it_greets[{scheme}]" in outcome.text
        assert f"SERVED AT {place}" in outcome.text


def test_tests_without_a_service_are_the_same_for_every_transport(tmp_path: Path) -> None:
    test = """
from understudy.testing import advance

async def test_it(virtual_time):
    await advance(3600)
    assert virtual_time.current_time() == 3600
"""
    outcome = run(tmp_path, test, "-v", "--transport=tcp://127.0.0.1:0", "--transport=nats://x")
    assert "test_it PASSED" in outcome.text, outcome.text
    assert "1 passed" in outcome.text


def test_what_is_no_url_is_said_before_any_test_runs(tmp_path: Path) -> None:
    outcome = run(tmp_path, SERVICE, "--transport=nats")
    assert outcome.code == 4
    assert "--transport nats: a URL is expected, such as nats://127.0.0.1:4222." in outcome.text


def test_a_failing_test_shows_its_own_assertion_and_no_group(tmp_path: Path) -> None:
    test = SERVICE.replace('"hello ada"', '"hello bob"')
    alone = """
from understudy.testing import isolated

async def test_alone(virtual_time):
    async with isolated(Greeter) as greeter:
        assert await greeter.ask("greet", "ada") == "hello eve"
"""
    outcome = run(tmp_path, test + alone)
    assert "2 failed" in outcome.text
    assert "Group" not in outcome.text, outcome.text
    for name in ("bob", "eve"):
        assert f"AssertionError: assert 'hello ada' == 'hello {name}'\n" in outcome.text


def test_a_failed_expectation_ends_at_the_line_of_the_test(tmp_path: Path) -> None:
    test = """
from understudy.testing import Probe, isolated_sync
from understudy import Actor, message_pattern

class Greeter(Actor):
    @message_pattern("greet")
    async def greet(self, name: str) -> str:
        return f"hello {name}"

def test_it():
    probe = Probe(name="mail")
    with isolated_sync(Greeter) as greeter:
        greeter.wait(probe.expect("mail.send"))
"""
    outcome = run(tmp_path, test)
    shown = re.findall(r"^[>E] .*", outcome.text, re.MULTILINE)
    assert [" ".join(line.split()) for line in shown] == [
        '> greeter.wait(probe.expect("mail.send"))',
        "E AssertionError: mail: expected 'mail.send' within 1 s; "
        "what came and was not expected yet: nothing.",
    ], outcome.text


def test_groups_of_other_tests_are_left_alone(tmp_path: Path) -> None:
    test = """
import pytest, trio

@pytest.mark.xfail(raises=ExceptionGroup, strict=True)
async def test_it():
    async with trio.open_nursery():
        raise ValueError("mine")
"""
    assert "1 xfailed" in run(tmp_path, test).text


def test_it_loads_next_to_nothing_until_it_is_used() -> None:
    program = """
import sys, pytest
before = set(sys.modules)
import understudy.testing.plugin
print(*sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["understudy", "understudy.testing", PLUGIN]


def test_a_project_without_trio_mode_is_as_without_it(tmp_path: Path) -> None:
    test = """
import pytest

@pytest.fixture
def service():
    return "its own"

def test_it(service, request):
    assert service == "its own"
    assert "understudy_transport" not in request.fixturenames
"""
    outcome = run(tmp_path, test, "--transport=tcp://127.0.0.1:0", trio_mode=False)
    assert "1 passed" in outcome.text, outcome.text


def test_an_option_of_the_project_s_own_goes_first(tmp_path: Path) -> None:
    tmp_path.joinpath("conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--transport', default='bus')\n"
    )
    test = """
def test_it(request, service):
    assert request.config.getoption("--transport") == "train"
    assert service.keywords["url"].startswith("memory://")
"""
    outcome = run(tmp_path, test, "--transport", "train")
    assert "1 passed" in outcome.text, outcome.text


def test_the_option_may_stand_apart_from_its_url(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    tests.joinpath("conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--mine', action='store_true')\n"
    )
    tests.joinpath("test_it.py").write_text(SERVICE)
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\ntrio_mode = true\ntestpaths = tests\n")
    command = [sys.executable, "-m", "pytest", "--mine", "--transport", "ws://127.0.0.1:0", "-rP"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "SERVED AT ws://127.0.0.1" in done.stdout, done.stdout + done.stderr


def test_it_is_found_by_its_entry_point(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "--transport=URL" in done.stdout


@pytest.mark.parametrize("scheme", ["memory://shop?queue=3", "tcp://127.0.0.1:0?dialect=nest"])
def test_what_a_url_says_of_options_stays(scheme: str) -> None:
    from understudy.testing.places import place

    assert place(scheme, "shop").partition("?")[2] == scheme.partition("?")[2]


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("nats://ada:secret@127.0.0.1:4222?queue=q", "prefix=test-"),
        ("redis://127.0.0.1:6379", "prefix=test-"),
        ("amqp://127.0.0.1", "queue=test-"),
        ("mqtt://127.0.0.1?prefix=mine", "prefix=mine-test-"),
        ("kafka://127.0.0.1?group=mine", "prefix=test-"),
    ],
)
def test_every_service_has_a_part_of_its_broker_of_its_own(url: str, option: str) -> None:
    from understudy.testing.places import place

    one, two = place(url, "shop"), place(url, "shop")
    assert one != two
    assert option in one
    assert one.startswith(url.partition("?")[0])
