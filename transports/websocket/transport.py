"""WebSocket: NestJS's packets, nestrs's lines or a gateway's messages, one in each message.

Promise: a request that was read is answered, or its connection ends. As on TCP there is no
acknowledgement, so an event is at most once up to here; once read it is retried and kept
like any other, and a drain waits for it. Install with `understudy[websocket]`.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..direct.tls import client_tls, server_tls
from ..options import parse_options, parse_url, shown
from .bridge import WebSocketBridge
from .client import Place, WebSocketClient
from .clients import Clients
from .options import WebSocketClientOptions, WebSocketOptions

__all__ = ["Clients", "bridge", "check", "client"]

_SCHEMES: Final = ("ws", "wss")


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if not parse_url(url).hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like ws://127.0.0.1:3001.")
    if serving:
        _served(url, options)
    else:
        _called(url, options)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> WebSocketBridge:
    """A listener; port 0 takes a free one, the `Started` notice says which."""
    given, tls = _served(url, options)
    host, port, path = _address(url)
    return WebSocketBridge(host, port, path, tls, given, wiring)


def client(url: str, options: Mapping[str, Any]) -> WebSocketClient:
    """A client, not yet connected."""
    given, tls = _called(url, options)
    host, port, path = _address(url)
    return WebSocketClient(Place(shown(url), host, port, path or "/", tls), given)


def _served(url: str, options: Mapping[str, Any]) -> tuple[WebSocketOptions, ssl.SSLContext | None]:
    given = parse_options(WebSocketOptions, url, options)
    return given, server_tls(given, shown(url), _SCHEMES, wanted=parse_url(url).scheme == "wss")


def _called(
    url: str, options: Mapping[str, Any]
) -> tuple[WebSocketClientOptions, ssl.SSLContext | None]:
    given = parse_options(WebSocketClientOptions, url, options)
    return given, client_tls(given, shown(url), _SCHEMES, wanted=parse_url(url).scheme == "wss")


def _address(url: str) -> tuple[str, int, str]:
    """The host, the port and the path, which is empty where there is none to speak of."""
    parts = parse_url(url)
    port = parts.port if parts.port is not None else 443 if parts.scheme == "wss" else 80
    return parts.hostname or "", port, parts.path if parts.path != "/" else ""
