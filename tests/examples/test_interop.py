"""examples/interop.py against itself, in both dialects.

TCP and WebSocket only: on the others it is tried with peers (tests/interop).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import interop
from understudy.supervisors.child import Supervisor
from understudy.supervisors.system import running
from understudy.transports.bridge import serve

from ..interop.processes import INTEROP, call, free_port, started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the program serves; it must say that it is ready, and end with 0."""
    address = f"tcp://127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("interop") / "log"
    with started([*INTEROP, "serve", "tcp", address], log) as service:
        assert service.said == []
        yield address


@pytest.mark.parametrize(("dialect", "count"), [("nest", 15), ("nestrs", 14)])
def test_every_case_holds_against_its_own_service(url: str, dialect: str, count: int) -> None:
    code, cases = call([*INTEROP, "call", "tcp", url, "--dialect", dialect])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, count)


@pytest.mark.parametrize(("dialect", "count"), [("nest", 15), ("nestrs", 14)])
def test_every_case_holds_on_websocket(dialect: str, count: int, tmp_path: Path) -> None:
    words = ["ws", f"ws://127.0.0.1:{free_port()}", "--dialect", dialect]
    with started([*INTEROP, "serve", *words], tmp_path / "log"):
        code, cases = call([*INTEROP, "call", *words])

    assert [case for case in cases if not case["ok"]] == []
    assert (code, len(cases)) == (0, count)


async def test_cases_that_fail_are_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running(Supervisor("nobody", [serve("tcp://127.0.0.1:0")])) as system:
        code = await interop.call("tcp", system.addresses()["nobody/tcp"], {})

    cases = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [case["case"] for case in cases if case["ok"]] == ["nobody.home"]
