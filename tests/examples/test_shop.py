"""The shop: its demo tells what happened and nothing else, and it serves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from understudy import connect

ROOT: Final = Path(__file__).parents[2]
SHOP: Final = [sys.executable, "-W", "error", "examples/shop.py"]
DEMO: Final = [sys.executable, "-W", "error", "-m", "examples.shop_demo"]
TOLD: Final = {
    "a healthy tree": r"It is healthy and listens at tcp://127\.0\.0\.1:\d+",
    "an answer": r"order 1 of ada@example\.org: 2 tea, 1 cup, 21\.00",
    "a refusal": r'Five more pots are refused: \{"status": 409, "message": "not enough pot',
    "a field of the wrong type": r"customer expected a string, got null",
    "a missing field": r"items\[0\]\.quantity is missing",
    "a field against its rule": r"items\[1\]\.quantity was refused by its rule \(x >= 1\)",
    "blame on the message": r"shop/orders restarts at once .* not counted, a message from outside",
    "an answer without details": r"The caller has 'Internal server error' after [\d.]+ ms",
    "a clean state": r"2 orders counted in that life, 0 in this one",
    "a restart that counts": r"payments restarts at once as incarnation 2, together with .*"
    r"2 restarts left within 10 s",
    "a back-off": r"payments restarts in 2\d\d ms as incarnation 3",
    "a longer back-off": r"payments restarts in 4\d\d ms as incarnation 4.* no restarts left",
    "giving up": r"shop/back-office gives up: more than 3 restarts within 10 s",
    "an escalation": r"shop/back-office has failed; shop restarts it",
    "a rebuilt subtree": r"back-office restarts at once as incarnation 2, together with shop/tcp",
    "a connection made again": r"The client is connected again: order 1 is paid",
    "the last attempt": r"mail crashed \(incarnation 8\) on orders\.shipped: KeyError: 'custmer'",
    "a dead letter": r"orders\.shipped became dead letter [-0-9a-f]+ \(crashed after 4 attempts\)",
    "the list": r"dead event orders\.shipped -> Mail\.on_shipped crashed after 4 attempts",
    "a replay": r"[-0-9a-f]{36} replayed: handled",
    "what came of it": r"'Order 1 is on its way to ada@example\.org\.'",
    "the lives of mail": r"mail actor running incarnation 9",
    "the end": r"It is healthy again\. All this took \d\.\d s\.",
}


@attrs.frozen
class Told:
    """One run of the demo; `text` is its output with all space made one blank."""

    code: int
    output: str
    errors: str
    seconds: float

    @property
    def text(self) -> str:
        return " ".join(self.output.split())


def tell(*command: str) -> Told:
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False
    )
    return Told(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@pytest.fixture(scope="module")
def demo() -> Told:
    return tell(*DEMO)


# -- the demo -----------------------------------------------------------------


def test_the_demo_ends_well_and_soon(demo: Told) -> None:
    assert (demo.code, demo.errors) == (0, "")
    assert demo.seconds < 15


def test_the_demo_has_nine_chapters(demo: Told) -> None:
    assert re.findall(r"^(\d+)\. ", demo.output, re.MULTILINE) == list("123456789")


@pytest.mark.parametrize("fact", TOLD.values(), ids=TOLD)
def test_the_demo_tells(demo: Told, fact: str) -> None:
    assert re.search(fact, demo.text)


def test_the_demo_shows_no_traceback_and_no_colour_in_a_pipe(demo: Told) -> None:
    assert "Traceback" not in demo.output
    assert "\033" not in demo.output
    assert max(map(len, demo.output.splitlines())) <= 100


def test_the_demo_fails_when_something_does_not_happen_as_told() -> None:
    program = """
from examples import shop, shop_demo
shop.STOCK["pot"] = 9  # enough for the order that is to be refused
shop_demo.main()
"""
    told = tell(sys.executable, "-c", program)

    assert told.code == 1
    assert told.errors == "This did not happen: the call is answered with an error\n"
    assert "3. " not in told.output


def test_the_demo_keeps_its_log_and_dead_letters_where_it_is_told_to(tmp_path: Path) -> None:
    told = tell(*DEMO, "--keep", str(tmp_path / "kept"))

    assert told.code == 0
    assert {"shop.log", "dead-letters.sqlite"} <= {p.name for p in (tmp_path / "kept").iterdir()}
    assert "Traceback" in (tmp_path / "kept" / "shop.log").read_text()


# -- the service --------------------------------------------------------------


class Service:
    """The shop in a process of its own."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "UNDERSTUDY_DEAD_LETTERS": str(folder / "letters.sqlite")}
        self.process = subprocess.Popen(
            [*SHOP, "tcp://127.0.0.1:0"],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._address()

    def _address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            address = json.loads(line).get("address")
            if address is not None:
                return str(address)
        raise AssertionError("the service ended without saying where it listens")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


async def test_the_service_answers_and_streams(service: Service) -> None:
    wish = {"customer": "ada@example.org", "items": [{"sku": "cup", "quantity": 2}]}
    async with connect(service.url) as client:
        order = await client.send("orders.place", wish)
        listed = [one async for one in client.stream("orders.all")]

    assert order == {"id": 1, **wish, "total": 2400, "state": "placed"}
    assert listed == [order]


def test_the_service_ends_with_0_when_it_is_told_to(service: Service) -> None:
    service.process.send_signal(signal.SIGTERM)
    _, errors = service.process.communicate(timeout=20)

    assert service.process.returncode == 0
    assert json.loads(errors.splitlines()[-1])["event"] == "shop has stopped"
