"""A short slice of the campaign on JetStream; see `jetstream.py` for the whole."""

from collections.abc import Callable
from pathlib import Path

from ..brokers.nats import NatsBroker
from .jetstream import campaign


async def test_no_event_is_lost_when_the_server_and_the_service_are_killed(
    own_nats: Callable[..., NatsBroker], tmp_path: Path
) -> None:
    tally = await campaign(own_nats(), tmp_path, events=500, kills=1, seed=7).run()

    assert (tally.sent, tally.lost) == (500, 0)
    assert tally.flagged <= tally.duplicates < 500
