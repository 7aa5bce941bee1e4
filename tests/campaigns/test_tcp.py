"""Short slices of the campaigns on TCP; see `hostile_tcp.py`, `drain.py` and `fuzz_tcp.py`."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..brokers.certificates import Certificates
from ..missing import missing
from .drain import drained
from .fuzz_tcp import SEEDS, codecs
from .hostile_tcp import bytes_per_idle, files, outcome, served

MANY = 3_000
"""Idle connections of the short slice; the campaign has ten thousand."""


async def test_nothing_that_was_read_is_lost_when_a_busy_service_is_told_to_stop() -> None:
    assert await drained(rounds=5, seed=11) == []


@pytest.mark.parametrize("attack", ["tiny frames", "invalid JSON"])
def test_an_attack_does_not_keep_a_harmless_peer_out(tmp_path: Path, attack: str) -> None:
    """Far from what the campaign asks for, so that a busy machine does not fail it."""
    with served(tmp_path) as service:
        found = outcome(service, attack, seconds=0.5)

    assert found.under < 50 * found.quiet + 0.05
    assert found.grown < 100 * 1024 * 1024
    assert found.lines <= 20


def test_thousands_of_idle_connections_cost_little_and_keep_nobody_out(tmp_path: Path) -> None:
    if files() < MANY + 500:
        missing(f"this process may open {files()} files, and {MANY + 500} are needed")
    with served(tmp_path) as service:
        assert bytes_per_idle(service, MANY) < 16 * 1024


def test_idle_connections_with_tls_cost_a_little_more(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}
    with served(tmp_path, "tcps", **tls) as service:
        assert bytes_per_idle(service, 200, certificates.context()) < 128 * 1024


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from(SEEDS))
def test_no_bytes_make_a_dialect_raise_or_are_read_differently_in_pieces(data: bytes) -> None:
    codecs(data)
