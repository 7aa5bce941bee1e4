"""TCP: NestJS's frames and nestrs's lines, on one port.

Promise: a request that was read is answered, or its connection ends. TCP itself has
no acknowledgement, so an event is at most once up to here; once read it is retried
and kept like any other, and a drain waits for it.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..direct.tls import client_tls, server_tls
from ..options import parse_options, parse_url, shown
from .client import TcpClient
from .options import DEFAULT_PORT, TcpClientOptions, TcpOptions
from .server import TcpBridge

__all__ = ["bridge", "check", "client"]

_SCHEMES: Final = ("tcp", "tcps")


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if not parse_url(url).hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like tcp://127.0.0.1:3001.")
    if serving:
        _served(url, options)
    else:
        _called(url, options)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> TcpBridge:
    """A listener; port 0 takes a free one, the `Started` notice says which."""
    given, tls = _served(url, options)
    return TcpBridge(*_address(url), tls, given, wiring)


def client(url: str, options: Mapping[str, Any]) -> TcpClient:
    """A client, not yet connected."""
    given, tls = _called(url, options)
    return TcpClient(*_address(url), tls, given)


def _served(url: str, options: Mapping[str, Any]) -> tuple[TcpOptions, ssl.SSLContext | None]:
    given = parse_options(TcpOptions, url, options)
    wanted = parse_url(url).scheme == "tcps"
    return given, server_tls(given, shown(url), _SCHEMES, wanted=wanted, ca=given.tls_ca)


def _called(url: str, options: Mapping[str, Any]) -> tuple[TcpClientOptions, ssl.SSLContext | None]:
    given = parse_options(TcpClientOptions, url, options)
    wanted = parse_url(url).scheme == "tcps"
    return given, client_tls(
        given, shown(url), _SCHEMES, wanted=wanted, cert=given.tls_cert, key=given.tls_key
    )


def _address(url: str) -> tuple[str, int]:
    parts = parse_url(url)
    return parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
