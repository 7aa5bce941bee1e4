"""Where a test serves: in memory, or at the URL of a real transport, apart from other tests.

Owns how tests on one broker are kept apart: by the option each transport has for that,
with a value of its own for every service.
"""

import itertools
import os
import secrets
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from ..transports.options import parse_url

__all__ = ["MEMORY", "found_at", "is_virtual", "place"]

MEMORY: Final = "memory://test"

_LISTENING: Final = frozenset({"tcp", "ws", "wss", "grpc", "grpcs"})
"""Transports on which a service has an address of its own, which is told when it listens."""

_APART: Final = {
    "amqp": "queue",
    "amqps": "queue",
    "kafka": "prefix",
    "kafkas": "prefix",
    "mqtt": "prefix",
    "mqtts": "prefix",
    "nats": "prefix",
    "tls": "prefix",
    "redis": "prefix",
    "rediss": "prefix",
}
"""The option that gives a service a part of its broker of its own."""

_RUN: Final = f"{os.getpid()}-{secrets.token_hex(3)}"
_numbers: Final = itertools.count(1)


def place(url: str, name: str) -> str:
    """A URL for one service called `name`, which no other test serves at.

    What the URL says already of a queue or a prefix is kept in front.
    """
    scheme = parse_url(url).scheme
    base, _, query = url.partition("?")
    if scheme == "memory":
        return f"memory://{quote(name, safe='')}-{next(_numbers)}" + (f"?{query}" if query else "")
    option = _APART.get(scheme)
    if option is None:
        return url
    options = dict(parse_qsl(query, keep_blank_values=True))
    own = f"test-{_RUN}-{next(_numbers)}"
    options[option] = f"{options[option]}-{own}" if options.get(option) else own
    return f"{base}?{urlencode(options)}"


def is_virtual(url: str) -> bool:
    """Whether what is served there can live in virtual time."""
    return parse_url(url).scheme == "memory"


def found_at(url: str, address: str | None) -> str:
    """Where clients find a service that was told to serve at `url`."""
    if address is None or parse_url(url).scheme not in _LISTENING:
        return url
    _, mark, query = url.partition("?")
    return f"{address}{mark}{query}"
