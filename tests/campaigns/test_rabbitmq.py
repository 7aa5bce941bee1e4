"""A short slice of the campaign on RabbitMQ; see `rabbitmq.py` for the whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from ..brokers.rabbitmq import RabbitmqBroker
from .rabbitmq import campaign, declare


@pytest.mark.timeout(180)
@pytest.mark.parametrize("quorum", [True, False], ids=["quorum", "classic"])
async def test_no_event_is_lost_when_the_broker_and_the_service_are_killed(
    own_rabbitmq: Callable[..., RabbitmqBroker], tmp_path: Path, quorum: bool
) -> None:
    broker = await trio.to_thread.run_sync(own_rabbitmq)
    await declare(broker.url, quorum=quorum)
    start = partial(campaign, broker, tmp_path, events=500, kills=1, seed=7)
    tally = await start(quorum=quorum).run()

    assert (tally.sent, tally.lost) == (500, 0)
    assert tally.flagged <= tally.duplicates < 500
