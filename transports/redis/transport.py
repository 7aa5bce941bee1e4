"""Redis: NestJS's and nestrs's channels, and streams that keep events until they are handled.

Promise: pub/sub is at most once, see `bridge.py`; streams are at least once, see
`streams.py`. Install with `understudy[redis]`. Redis 6.2 or newer, or Valkey.
"""

from collections.abc import Mapping
from typing import Any

from ...supervisors.child import Wiring
from ..options import parse_options
from .bridge import RedisBridge
from .client import RedisClient, RedisStreamClient
from .options import RedisClientOptions, RedisOptions, check_place

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if serving:
        check_place(url, parse_options(RedisOptions, url, options))
    else:
        check_place(url, parse_options(RedisClientOptions, url, options))


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> RedisBridge:
    """A bridge, not yet connected."""
    return RedisBridge(url, parse_options(RedisOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> RedisClient:
    """A client, not yet connected."""
    parsed = parse_options(RedisClientOptions, url, options)
    return (RedisStreamClient if parsed.stream else RedisClient)(url, parsed)
