"""A short slice of the campaign on Redis streams; see `redis_streams.py` for the whole."""

from collections.abc import Callable
from pathlib import Path

from ..brokers.redis import RedisBroker
from .redis_streams import campaign


async def test_no_event_is_lost_when_redis_and_the_service_are_killed(
    own_redis: Callable[..., RedisBroker], tmp_path: Path
) -> None:
    tally = await campaign(own_redis(), tmp_path, events=500, kills=1, seed=7).run()

    assert (tally.sent, tally.lost) == (500, 0)
    assert tally.flagged <= tally.duplicates < 500
