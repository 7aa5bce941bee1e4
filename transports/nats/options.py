"""Options of NATS bridges and clients, and what can be said about them before a connection."""

import attrs
from attrs.validators import gt

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = ["DEFAULT_PORT", "NatsClientOptions", "NatsOptions", "check_subject", "servers"]

DEFAULT_PORT = 4222


@attrs.frozen(kw_only=True, slots=False)
class _Login:
    """How to reach a cluster and log in.

    `servers` are more addresses of the same cluster, with commas between them.
    `credentials` is a file as `nsc` writes it, `nkey` one with a seed; a user and a
    password, or a token, stand in the URL.
    """

    servers: str = ""
    credentials: str = attrs.field(default="", repr=False)
    nkey: str = attrs.field(default="", repr=False)
    prefix: str = ""


@attrs.frozen(kw_only=True)
class NatsOptions(_Login, BrokerOptions):
    """Options of a NATS bridge.

    Of all bridges with the same `queue` one gets a message. `prefix` stands before every
    subject, with a dot. Up to `backlog` messages wait for mailboxes with room; what comes
    then is dropped.
    """

    queue: str = ""
    backlog: int = attrs.field(default=65536, validator=gt(0))


@attrs.frozen(kw_only=True)
class NatsClientOptions(_Login, BrokerClientOptions):
    """Options of a NATS client. `prefix` stands before every subject, with a dot."""


def servers(url: str, more: str) -> list[str]:
    """The addresses of a cluster, in the form that nats-py wants, without logins."""
    parts = parse_url(url)
    scheme = "tls" if parts.scheme == "tls" else "nats"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    found = [f"{scheme}://{host}:{parts.port or DEFAULT_PORT}"]
    for other in filter(None, (each.strip() for each in more.split(","))):
        found.append(other if "://" in other else f"{scheme}://{other}")
    return found


def check_subject(route: str, where: str) -> str:
    """The route, if it can be a subject. Raises `DeclarationError` if it cannot."""
    tokens = route.split(".")
    if (
        not all(tokens)
        or any(character.isspace() for character in route)
        or not route.isprintable()
    ):
        raise DeclarationError(
            f"{shown(where)}: the pattern {route!r} cannot be a NATS subject, which has no spaces "
            "and no empty part between dots. Give it another name, or serve it elsewhere."
        )
    return route
