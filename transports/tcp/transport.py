"""TCP: NestJS's frames and nestrs's lines, on one port.

Promise: a request that was read is answered, or its connection ends. TCP itself has
no acknowledgement, so an event is at most once up to here; once read it is retried
and kept like any other, and a drain waits for it.
"""

from collections.abc import Mapping
from typing import Any

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..options import parse_options, parse_url, shown
from .client import TcpClient
from .options import DEFAULT_PORT, TcpClientOptions, TcpOptions
from .server import TcpBridge

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    parts = parse_url(url)
    if not parts.hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like tcp://127.0.0.1:3001.")
    parse_options(TcpOptions if serving else TcpClientOptions, url, options)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> TcpBridge:
    """A listener; port 0 takes a free one, the `Started` notice says which."""
    host, port = _address(url)
    return TcpBridge(host, port, parse_options(TcpOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> TcpClient:
    """A client, not yet connected."""
    host, port = _address(url)
    return TcpClient(host, port, parse_options(TcpClientOptions, url, options))


def _address(url: str) -> tuple[str, int]:
    parts = parse_url(url)
    return parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
