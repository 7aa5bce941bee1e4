"""Log lines about what peers do: bounded in number, one line each."""

import pytest
import trio
from trio.testing import MockClock

from understudy.transports.complaints import LINES, PERIOD, Complaints


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def complaints() -> Complaints:
    return Complaints("understudy.transports.test", "shop/tcp")


async def test_a_kind_of_complaint_is_written_a_few_times_and_then_counted(
    caplog: pytest.LogCaptureFixture, clock: MockClock, complaints: Complaints
) -> None:
    for number in range(LINES + 3):
        complaints.say("bad frames", f"frame {number}")
    await trio.sleep(PERIOD)
    complaints.say("bad frames", "again")

    assert lines(caplog)[LINES - 1 :] == [
        f"shop/tcp: frame {LINES - 1}",
        "shop/tcp: 3 more: bad frames",
        "shop/tcp: again",
    ]
    assert complaints.counts == {"bad frames": LINES + 4}


async def test_one_kind_does_not_silence_another(
    caplog: pytest.LogCaptureFixture, complaints: Complaints
) -> None:
    for _ in range(LINES + 1):
        complaints.say("bad frames", "a frame")
    complaints.say("slow peers", "a peer")

    assert lines(caplog) == ["shop/tcp: a frame"] * LINES + ["shop/tcp: a peer"]


async def test_what_was_only_counted_is_told_at_the_end(
    caplog: pytest.LogCaptureFixture, complaints: Complaints
) -> None:
    for _ in range(LINES + 2):
        complaints.say("bad frames", "a frame")
    complaints.close()
    complaints.close()

    assert lines(caplog)[LINES:] == ["shop/tcp: 2 more: bad frames"]


async def test_a_peer_cannot_write_lines_of_its_own(
    caplog: pytest.LogCaptureFixture, complaints: Complaints
) -> None:
    complaints.say("requests", 'asked for {"é":\n"shop/tcp: all is well\x1b[0m"}')

    assert lines(caplog) == ['shop/tcp: asked for {"é":\\n"shop/tcp: all is well\\x1b[0m"}']
