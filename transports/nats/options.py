"""Options of NATS bridges and clients, and what can be said about them before a connection."""

import re
from typing import Final, Literal

import attrs
from attrs.validators import ge, gt, in_

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = ["DEFAULT_PORT", "NatsClientOptions", "NatsOptions", "check_subject", "servers"]

DEFAULT_PORT = 4222

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")


@attrs.frozen(kw_only=True, slots=False)
class _Login:
    """How to reach a cluster and log in.

    `servers` are more addresses of the same cluster, with commas between them; those that
    the servers themselves tell of are tried, too. `credentials` is a file as `nsc` writes
    it, `nkey` one with a seed; a user and a password, or a token, stand in the URL.
    """

    servers: str = ""
    credentials: str = attrs.field(default="", repr=False)
    nkey: str = attrs.field(default="", repr=False)
    prefix: str = ""


@attrs.frozen(kw_only=True)
class NatsOptions(_Login, BrokerOptions):
    """Options of a NATS bridge. Times in seconds.

    Of all bridges with the same `queue` one gets a message. `prefix` stands before every
    subject, with a dot. Up to `backlog` messages wait for mailboxes with room; what comes
    then is dropped.

    With a `stream` events come from JetStream, through the consumer named `durable`, which
    all bridges with that name share. `subjects` (with commas) are what the stream is to
    hold, the tree's event patterns if nothing is said. With `create` a missing stream is
    made, kept in `replicas` copies in `storage`, its messages for `max_age` (0: for ever),
    and so is a missing consumer. A message that is not heard of for `ack_wait` is sent to
    another bridge. All bridges together have `max_ack_pending` messages in hand (0: eight
    times `in_flight`). With `confirm_acks` an acknowledgement is repeated until it is
    confirmed.

    A `service` name makes the bridge answer the questions of NATS's service protocol.
    """

    queue: str = ""
    backlog: int = attrs.field(default=65536, validator=gt(0))
    stream: str = ""
    durable: str = ""
    subjects: str = ""
    ack_wait: float = attrs.field(default=30.0, validator=ge(0.5))
    max_ack_pending: int = attrs.field(default=0, validator=ge(0))
    confirm_acks: bool = False
    create: bool = True
    max_age: float = attrs.field(default=0.0, validator=ge(0))
    replicas: int = attrs.field(default=1, validator=gt(0))
    storage: Literal["file", "memory"] = attrs.field(
        default="file", validator=in_(("file", "memory"))
    )
    service: str = ""
    version: str = "1.0.0"

    def __attrs_post_init__(self) -> None:
        if bool(self.stream) != bool(self.durable):
            raise ValueError(
                "events from JetStream need both stream='...', which holds them, and "
                "durable='...', the name under which this service reads them"
            )
        for option in ("stream", "durable", "service"):
            _check_name(option, getattr(self, option))
        if self.subjects and not self.stream:
            raise ValueError("subjects are what a stream holds; name it: stream='...'")
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version is one like '1.2.3', got {self.version!r}")

    @property
    def most_unacknowledged(self) -> int:
        """How many messages the server lets all bridges together have in hand."""
        return self.max_ack_pending or 8 * self.in_flight

    @property
    def stream_subjects(self) -> list[str]:
        """What `subjects` names, without the prefix."""
        return [part for part in (each.strip() for each in self.subjects.split(",")) if part]


@attrs.frozen(kw_only=True)
class NatsClientOptions(_Login, BrokerClientOptions):
    """Options of a NATS client. `prefix` stands before every subject, with a dot.

    With a `stream` an event is sent to JetStream, and again until the stream has
    confirmed that it is stored, for `confirm_timeout` seconds.
    """

    stream: str = ""
    confirm_timeout: float = attrs.field(default=10.0, validator=gt(0))

    def __attrs_post_init__(self) -> None:
        _check_name("stream", self.stream)


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


def _check_name(option: str, name: str) -> None:
    if name and not _NAME.fullmatch(name):
        raise ValueError(
            f"the name in {option}={name!r} may have letters, digits, '-' and '_' only"
        )
