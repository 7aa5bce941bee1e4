"""NATS: NestJS's and nestrs's subjects on a server or a cluster, and JetStream.

Promise: core NATS is at most once, see `bridge.py`; a stream at least once, see
`jetstream.py`. Install with `understudy[nats]`.
"""

from collections.abc import Mapping
from typing import Any

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..options import parse_options, parse_url, shown
from .bridge import NatsBridge
from .client import NatsClient
from .options import NatsClientOptions, NatsOptions

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if not parse_url(url).hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like nats://127.0.0.1:4222.")
    parse_options(NatsOptions if serving else NatsClientOptions, url, options)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> NatsBridge:
    """A bridge, not yet connected."""
    return NatsBridge(url, parse_options(NatsOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> NatsClient:
    """A client, not yet connected."""
    return NatsClient(url, parse_options(NatsClientOptions, url, options))
