"""RabbitMQ: NestJS's and nestrs's work queues, exchanges, and quorum queues.

Promise: at least once, see `bridge.py`. Install with `understudy[rabbitmq]`.
"""

from collections.abc import Mapping
from typing import Any

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..options import parse_options, parse_url, shown
from .bridge import RabbitBridge
from .client import RabbitClient
from .options import RabbitClientOptions, RabbitOptions, check_routes

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if not parse_url(url).hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like amqp://127.0.0.1:5672.")
    if serving:
        check_routes(url, parse_options(RabbitOptions, url, options))
    else:
        check_routes(url, parse_options(RabbitClientOptions, url, options))


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> RabbitBridge:
    """A bridge, not yet connected."""
    return RabbitBridge(url, parse_options(RabbitOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> RabbitClient:
    """A client, not yet connected."""
    return RabbitClient(url, parse_options(RabbitClientOptions, url, options))
