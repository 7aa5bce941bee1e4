"""Options of Redis bridges and clients, and what can be said about them before a connection."""

from binascii import crc_hqx

import attrs
from attrs.validators import ge, gt

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "RedisClientOptions",
    "RedisOptions",
    "addresses",
    "check_place",
    "check_text",
    "database",
    "glob_of",
    "slot_of",
    "streams_of",
]

DEFAULT_PORT = 6379

Address = tuple[str, int]


@attrs.frozen(kw_only=True, slots=False)
class _Place:
    """Where Redis is.

    `servers` are more addresses, with commas between them: of the same data, of the same
    `cluster`, or, with `sentinel`, the name of a master, of the sentinels that watch it.
    `prefix` stands before every channel, with a dot. `stream` is a stream, or several with
    commas between them.
    """

    servers: str = ""
    sentinel: str = ""
    cluster: bool = False
    prefix: str = ""
    stream: str = ""


@attrs.frozen(kw_only=True)
class RedisOptions(_Place, BrokerOptions):
    """Options of a Redis bridge. Times in seconds.

    Up to `backlog` messages of pub/sub wait for mailboxes with room; what comes then is
    dropped. `pubsub` serves the tree's patterns as channels. With a `stream`, its events
    are shared among all bridges of the same `group`; `consumer` is the name of one of
    them, the same after a restart. What such a one has had for `claim_after` without a
    sign of life is taken over by the others.
    """

    backlog: int = attrs.field(default=65536, validator=gt(0))
    pubsub: bool = True
    group: str = ""
    consumer: str = ""
    claim_after: float = attrs.field(default=30.0, validator=ge(0.1))


@attrs.frozen(kw_only=True)
class RedisClientOptions(_Place, BrokerClientOptions):
    """Options of a Redis client.

    With a `stream`, events are added to it and confirmed; `max_length` is about how many
    entries it keeps then, 0 for all.
    """

    max_length: int = attrs.field(default=0, validator=ge(0))


def addresses(url: str, more: str) -> list[Address]:
    """All hosts and ports that are named. Raises `DeclarationError` for what is none."""
    parts = parse_url(url)
    found = [(parts.hostname or "", parts.port or DEFAULT_PORT)]
    for other in filter(None, (each.strip() for each in more.split(","))):
        each = parse_url(other if "://" in other else f"redis://{other}")
        if not each.hostname:
            raise DeclarationError(f"{shown(url)}: {shown(other)!r} in `servers` is no host:port.")
        found.append((each.hostname, each.port or DEFAULT_PORT))
    return found


def database(url: str) -> int:
    """The number of the database, which is the URL's path. Raises `DeclarationError`."""
    path = parse_url(url).path.strip("/")
    if not path:
        return 0
    if not (path.isascii() and path.isdigit()):
        raise DeclarationError(
            f"{shown(url)}: the path of a Redis URL is the number of a database, "
            "as in redis://127.0.0.1:6379/2."
        )
    return int(path)


def streams_of(stream: str) -> list[str]:
    """The names in the option `stream`."""
    return list(dict.fromkeys(filter(None, (each.strip() for each in stream.split(",")))))


def check_place(url: str, options: RedisOptions | RedisClientOptions) -> None:
    """Raise `DeclarationError` for a place that can never work."""
    where = shown(url)
    if not parse_url(url).hostname:
        raise DeclarationError(f"{where} has no host; one looks like redis://127.0.0.1:6379.")
    addresses(url, options.servers)
    number, streams = database(url), streams_of(options.stream)
    if options.cluster and (number or options.sentinel):
        raise DeclarationError(
            f"{where}: a cluster has neither databases nor sentinels; leave them out."
        )
    if options.cluster and len({slot_of(stream) for stream in streams}) > 1:
        raise DeclarationError(
            f"{where}: these streams may live on different nodes of the cluster. Give their names "
            "the same part in braces, as in {shop}.orders, or one bridge each."
        )
    if isinstance(options, RedisClientOptions):
        if len(streams) > 1:
            raise DeclarationError(f"{where}: a client adds to one stream only.")
    elif bool(streams) != bool(options.group):
        raise DeclarationError(
            f"{where}: a stream is read by a group: give both, "
            'as in stream="orders", group="billing".'
        )
    elif not (streams or options.pubsub):
        raise DeclarationError(f"{where}: without pub/sub and without a stream nothing can come.")


def slot_of(key: str) -> int:
    """The slot of a cluster that a key belongs to (Redis cluster specification)."""
    begin = key.find("{")
    end = key.find("}", begin + 1)
    tagged = key[begin + 1 : end] if begin >= 0 and end > begin + 1 else key
    return crc_hqx(tagged.encode(), 0) % 16384


def check_text(text: str, where: str) -> str:
    """The text, if it can be sent. Raises `DeclarationError` if it cannot."""
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise DeclarationError(
            f"{where}: {text!r} is no text that can be sent, as a pattern or a header has to be."
        ) from error
    return text


def glob_of(route: str) -> str:
    """A glob of Redis that matches at least what a wildcard route does.

    The `*` of Redis knows no tokens, so what matches is to be looked at once more.
    """
    tokens = route.split(".")
    if "*" in tokens or tokens[-1] == ">":
        return ".".join("*" if token in ("*", ">") else _literal(token) for token in tokens)
    levels = ["*" if level == "+" else _literal(level) for level in route.split("/")]
    if levels[-1] != "#":
        return "/".join(levels)
    return "/".join(levels[:-1]) + "*"  # `a/#` is `a` itself, too


def _literal(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
