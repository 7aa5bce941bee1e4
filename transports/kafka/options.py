"""Options of Kafka bridges and clients, and what can be said about them before a connection."""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import attrs
from attrs.validators import ge, gt, in_

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = [
    "ConnectionOptions",
    "KafkaClientOptions",
    "KafkaOptions",
    "check_place",
    "check_topic",
    "filled",
    "group_of",
    "servers",
]

DEFAULT_PORT: Final = 9092
_LEGAL: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ITSELF: Final = "{topic}"
_SASL: Final = ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_COMPRESSIONS: Final = ("", "gzip", "snappy", "lz4", "zstd")

Token = Callable[[], str | Awaitable[str]]


@attrs.frozen(kw_only=True, slots=False)
class _Cluster:
    """Where Kafka is, and what records look like there; a client and its service agree on it.

    `servers` are more addresses of the same cluster, with commas between them. A user and a
    password in the URL are shown by the mechanism `sasl`, PLAIN unless it is named; for
    OAUTHBEARER, `token` is called for a token, and called again when that is used up.
    `prefix` stands before every topic, with a dot; in the nestrs dialect it takes the place
    of its `nestrs`.

    `values` are written as NestJS writes them, or all as JSON. With `records`, data that is
    an object with a `key` or a `value` is the record itself, as NestJS takes it. A group's
    name gets `-server` or `-client` appended, as NestJS does it, unless `postfix` is off.
    A missing topic is made with so many `partitions` and replicas (`replication`; 0: as the
    broker thinks best), if `create_topics` is on. What is sent is compressed if that is
    wanted, and refused when it has more than `message_limit` bytes.
    """

    servers: str = ""
    sasl: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = attrs.field(
        default="", validator=in_(_SASL)
    )
    token: Token | None = attrs.field(default=None, repr=False)
    prefix: str = ""
    group: str = ""
    postfix: bool = True
    values: Literal["nest", "json"] = attrs.field(default="nest", validator=in_(("nest", "json")))
    records: bool = False
    create_topics: bool = True
    partitions: int = attrs.field(default=0, validator=ge(0))
    replication: int = attrs.field(default=0, validator=ge(0))
    compression: Literal["", "gzip", "snappy", "lz4", "zstd"] = attrs.field(
        default="", validator=in_(_COMPRESSIONS)
    )
    message_limit: int = attrs.field(default=1_000_000, validator=gt(0))


@attrs.frozen(kw_only=True)
class KafkaOptions(_Cluster, BrokerOptions):
    """Options of a Kafka bridge. Times in seconds.

    All bridges of one `group` share the records. A `member` with a name is a static one: its
    partitions wait for it over a restart, for `session_timeout`, after which a member of
    which nothing was heard is given up. A group without offsets begins with what comes
    after its `start`, or with the `earliest` record there is.

    Records with the same key are handled in `order`, or all of a partition, or none. What
    was handled is committed every `commit_interval`. Before a rebalance, what is in hand
    may take `rebalance_grace`. At most `ahead` records of a partition are taken beyond
    what is committed.

    A dead letter is written to `dead_letter_topic`, too, and an event that has to wait for
    longer than `retry_in_place` waits in `retry_topic`; `{topic}` stands for its own. Without
    them, neither happens.
    """

    in_flight: int = attrs.field(default=1024, validator=gt(0))
    member: str = ""
    start: Literal["latest", "earliest"] = attrs.field(
        default="latest", validator=in_(("latest", "earliest"))
    )
    order: Literal["key", "partition", "none"] = attrs.field(
        default="key", validator=in_(("key", "partition", "none"))
    )
    commit_interval: float = attrs.field(default=1.0, validator=gt(0))
    session_timeout: float = attrs.field(default=10.0, validator=gt(0))
    max_poll_interval: float = attrs.field(default=300.0, validator=gt(0))
    rebalance_grace: float = attrs.field(default=5.0, validator=ge(0))
    ahead: int = attrs.field(default=10_000, validator=gt(1))
    dead_letter_topic: str = ""
    retry_topic: str = ""
    retry_in_place: float = attrs.field(default=1.0, validator=ge(0))


@attrs.frozen(kw_only=True)
class KafkaClientOptions(_Cluster, BrokerClientOptions):
    """Options of a Kafka client. Times in seconds.

    Without a `group` the client reads a partition of each reply topic by itself; with one
    it takes part in the group of NestJS's clients, and has a partition of its own.
    """


ConnectionOptions = KafkaOptions | KafkaClientOptions


def group_of(options: ConnectionOptions) -> str:
    """The name of the consumer group, empty for none."""
    name = options.group or (options.prefix if isinstance(options, KafkaOptions) else "")
    if not name or not options.postfix or options.dialect == "nestrs":
        return name
    return f"{name}-server" if isinstance(options, KafkaOptions) else f"{name}-client"


def check_place(url: str, options: ConnectionOptions) -> None:
    """Raise `DeclarationError` for a place where nothing could ever arrive."""
    where, parts = shown(url), parse_url(url)
    if not parts.hostname:
        raise DeclarationError(f"{where} has no host; one looks like kafka://127.0.0.1:9092.")
    servers(url, options.servers)
    if isinstance(options, KafkaOptions) and not group_of(options):
        raise DeclarationError(
            f"{where}: there is no consumer group. Name one that all replicas of the service "
            'share, as in group="orders".'
        )
    if options.prefix:
        check_topic(options.prefix, where)
    if isinstance(options, KafkaOptions):
        _check_templates(options, where)
    if (options.sasl == "OAUTHBEARER") != (options.token is not None):
        raise DeclarationError(
            f'{where}: sasl="OAUTHBEARER" and a token=... that is called for one belong together.'
        )
    if options.sasl not in ("", "OAUTHBEARER") and not parts.username:
        raise DeclarationError(f"{where}: sasl={options.sasl!r} needs a user in the URL.")


def _is_legal(name: str) -> bool:
    return _LEGAL.fullmatch(name) is not None and name not in (".", "..")


def check_topic(name: str, where: str) -> str:
    """The name, if it can be a topic's. Raises `DeclarationError` if it cannot."""
    if not _is_legal(name):
        raise DeclarationError(
            f"{shown(where)}: the pattern {name!r} cannot be a Kafka topic, which has letters, "
            "digits, '.', '_' and '-' only, at most 249 of them. Give it another name, or serve "
            "it elsewhere."
        )
    return name


def _check_templates(options: KafkaOptions, where: str) -> None:
    for option in ("dead_letter_topic", "retry_topic"):
        template = getattr(options, option)
        if template == _ITSELF:
            raise DeclarationError(f"{where}: {option}={template!r} is the topic itself.")
        if template:
            filled(template, "orders", where)


def filled(template: str, topic: str, where: str) -> str:
    """The name that a template makes of a topic's. Raises `DeclarationError` if it is not legal."""
    name = template.replace(_ITSELF, topic)
    if not _is_legal(name):
        raise DeclarationError(
            f"{where}: {template!r} makes {name!r} of the topic {topic!r}, which cannot be one's "
            "name: letters, digits, '.', '_' and '-' only, at most 249 of them. A template looks "
            "like '{topic}.retry'."
        )
    return name


def servers(url: str, more: str) -> list[tuple[str, int]]:
    """The hosts and ports of a cluster, the URL's own first."""
    parts = parse_url(url)
    found = [(parts.hostname or "", parts.port or DEFAULT_PORT)]
    for other in filter(None, (each.strip() for each in more.split(","))):
        address = parse_url(f"kafka://{other.rpartition('://')[2]}")
        found.append((address.hostname or "", address.port or DEFAULT_PORT))
    return found
