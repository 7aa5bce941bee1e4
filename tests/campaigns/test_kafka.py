"""A short slice of the campaign on Kafka; see `kafka.py` for the whole."""

from collections.abc import Callable
from pathlib import Path

import trio

from ..brokers.kafka import KafkaBroker
from .kafka import campaign


async def test_no_event_is_lost_when_kafka_and_members_of_the_group_are_killed(
    own_kafka: Callable[..., KafkaBroker], tmp_path: Path
) -> None:
    broker = await trio.to_thread.run_sync(own_kafka)
    whole = campaign(broker, tmp_path, events=480, kills=1, seed=7, pause=1.0)

    tally = await whole.run()

    assert (tally.sent, tally.lost, whole.out_of_order()) == (480, 0, 0)
    assert tally.flagged <= tally.duplicates < 480
