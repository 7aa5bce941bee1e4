"""examples/interop.py against itself, in both dialects."""

from collections.abc import Iterator

import pytest

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


def test_a_case_that_fails_is_told_by_the_exit_code(url: str) -> None:
    # A service that speaks JSON lines to a client of frames cannot be understood.
    code, cases = call([*INTEROP, "call", "tcp", f"{url}?frame_limit=1"])

    assert code == 1
    assert cases[0]["ok"] is False
