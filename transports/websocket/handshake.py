"""Who may connect: what a handshake says, and what is decided by it.

A page of any site can open a WebSocket to any address that its visitor's browser reaches,
and the browser sends cookies along; the `Origin` header, which pages cannot forge, is all
that tells. Programs send none and may come in: whoever is no browser can forge it anyway.

Source: RFC 6455, sections 4.2 and 10.2; RFC 6454.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import attrs

__all__ = ["Handshake", "Refusal", "chosen", "headers_of", "listed", "refusal"]

_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Handshake:
    """What a peer has asked for; `path` with its query, header names in lower case."""

    host: str
    path: str
    headers: Mapping[str, str]


@attrs.frozen
class Refusal:
    """The status of a refused handshake, and the kind and the text of the log's line."""

    status: int
    kind: str
    why: str


def listed(text: str) -> tuple[str, ...]:
    """What stands between the commas of an option."""
    return tuple(part for part in (each.strip() for each in text.split(",")) if part)


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by name; those that come more than once are joined by commas."""
    found: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def chosen(offered: Sequence[str], ours: Sequence[str]) -> str | None:
    """The first of our subprotocols that the peer offers, too."""
    return next((name for name in ours if name in offered), None)


def refusal(
    handshake: Handshake, *, path: str, origins: Sequence[str], local: bool
) -> Refusal | None:
    """Why a handshake is refused; None if it is not.

    `path` is the only one that is served (empty: any), `local` says that the bridge
    listens on a loopback address. There a page's own host counts only if it is a loopback
    name, too: any site can give its name the address 127.0.0.1.
    """
    asked = handshake.path.partition("?")[0]
    if path and asked != path:
        return Refusal(404, "wrong paths", f"asked for {asked[:100]}, where nothing is")
    origin = handshake.headers.get("origin")
    if origin is None or "*" in origins or origin.lower() in map(str.lower, origins):
        return None
    if _same_host(origin, handshake.host, local):
        return None
    why = f"a page of {origin[:100]} may not connect; origins='...' names those that may"
    return Refusal(403, "origins that may not connect", why)


def _same_host(origin: str, host: str, local: bool) -> bool:
    try:
        page = urlsplit(origin)
        here = urlsplit(f"//{host}")
        default = _PORTS.get(page.scheme)
        same = page.hostname == here.hostname and (page.port or default) == (here.port or default)
    except ValueError:
        return False
    return default is not None and same and (not local or _is_loopback(page.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
