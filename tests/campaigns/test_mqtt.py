"""A short slice of the campaign on MQTT; see `mqtt.py` for the whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ..brokers.mosquitto import MosquittoBroker
from .mqtt import begin, campaign


@pytest.mark.timeout(180)
async def test_no_event_is_lost_when_the_network_is_cut_and_the_service_is_killed(
    own_mqtt: Callable[..., MosquittoBroker], tmp_path: Path
) -> None:
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(autosave=1800))
    async with begin("network", broker) as victim:
        tally = await campaign(victim, tmp_path, events=500, kills=2, seed=7).run()

    assert (tally.sent, tally.lost) == (500, 0)
    assert tally.flagged == tally.duplicates < 500
