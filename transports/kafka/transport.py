"""Kafka: NestJS's and nestrs's topics, read in consumer groups.

Promise: at least once, see `bridge.py`. Install with `understudy[kafka]`.
Made for Kafka 2.4 or newer.
"""

from collections.abc import Mapping
from typing import Any

from ...supervisors.child import Wiring
from ..options import parse_options
from .bridge import KafkaBridge
from .client import KafkaClient
from .options import KafkaClientOptions, KafkaOptions, check_place

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if serving:
        check_place(url, parse_options(KafkaOptions, url, options))
    else:
        check_place(url, parse_options(KafkaClientOptions, url, options))


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> KafkaBridge:
    """A bridge, not yet connected."""
    return KafkaBridge(url, parse_options(KafkaOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> KafkaClient:
    """A client, not yet connected."""
    return KafkaClient(url, parse_options(KafkaClientOptions, url, options))
