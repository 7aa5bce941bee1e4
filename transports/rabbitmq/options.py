"""Options of RabbitMQ bridges and clients, and what can be said about them before a connection."""

from typing import Final, Literal
from urllib.parse import SplitResult, unquote

import attrs
from attrs.validators import ge, gt, in_

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = [
    "NESTRS_QUEUE",
    "ConnectionOptions",
    "RabbitClientOptions",
    "RabbitOptions",
    "check_routes",
    "queue_of",
    "servers",
    "virtual_host",
]

NESTRS_QUEUE: Final = "nestrs.micro"
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_KINDS: Final = ("topic", "fanout", "direct")

Exchange = Literal["topic", "fanout", "direct"]


@attrs.frozen(kw_only=True, slots=False)
class _Route:
    """Where messages are to be found; a client and its service must say the same.

    All patterns share the `queue`, on the default exchange. With an `exchange`, messages
    go there: with `wildcards` their pattern is the routing key, otherwise all have
    the one `routing_key`; an `exchange_type` of `fanout` gives every queue a copy. With
    `declare=False` queue and exchange must be there already, made by somebody else.
    A message of more than `message_limit` bytes is not sent, since the broker would
    end the connection for it. `servers` are more addresses of the same cluster, with
    commas between them.
    """

    queue: str = ""
    exchange: str = ""
    exchange_type: Exchange = attrs.field(default="topic", validator=in_(_KINDS))
    wildcards: bool = False
    routing_key: str = ""
    declare: bool = True
    servers: str = ""
    message_limit: int = attrs.field(default=16 * 1024 * 1024, validator=gt(0))


@attrs.frozen(kw_only=True)
class RabbitOptions(_Route, BrokerOptions):
    """Options of a RabbitMQ bridge. Times in seconds.

    `no_ack` acknowledges messages before they are handled. `quorum` makes a replicated
    queue, which counts deliveries. Zero and empty mean: the broker's own default.
    """

    durable: bool = True
    no_ack: bool = False
    quorum: bool = False
    max_priority: int = attrs.field(default=0, validator=ge(0))
    message_ttl: float = attrs.field(default=0.0, validator=ge(0))
    max_length: int = attrs.field(default=0, validator=ge(0))
    dead_letter_exchange: str = ""
    dead_letter_routing_key: str = ""


@attrs.frozen(kw_only=True)
class RabbitClientOptions(_Route, BrokerClientOptions):
    """Options of a RabbitMQ client.

    Events are `persistent`: they survive the broker's restart in a durable queue. With
    `mandatory`, a message for which there is no queue fails at once with `NoResponders`.
    """

    persistent: bool = True
    mandatory: bool = True


ConnectionOptions = RabbitOptions | RabbitClientOptions


def queue_of(options: ConnectionOptions) -> str:
    """The queue's name; empty for one of the connection's own."""
    return options.queue or (NESTRS_QUEUE if options.dialect == "nestrs" else "")


def check_routes(url: str, options: ConnectionOptions) -> None:
    """Raise `DeclarationError` for options with which nothing could ever arrive."""
    queue, where = queue_of(options), shown(url)
    exchange = options.exchange or (queue if options.wildcards else "")
    if not queue and not exchange:
        raise DeclarationError(
            f"{where}: there is no queue. Name one that the service and its clients share, "
            'as in queue="orders", or an exchange.'
        )
    routed = options.wildcards or options.routing_key or options.exchange_type == "fanout"
    if options.exchange and not routed:
        raise DeclarationError(
            f"{where}: nothing would come by the exchange {exchange!r}. Say wildcards=True, "
            'a routing_key, or exchange_type="fanout".'
        )
    if options.dialect == "nestrs" and exchange:
        raise DeclarationError(f"{where}: nestrs knows no exchanges; name a queue only.")
    if isinstance(options, RabbitOptions):
        _check_quorum(where, options)


def _check_quorum(where: str, options: RabbitOptions) -> None:
    if not options.quorum:
        return
    if not options.durable or not queue_of(options):
        raise DeclarationError(f"{where}: a quorum queue is durable, and has a name.")
    if options.max_priority:
        raise DeclarationError(
            f"{where}: a quorum queue has no max_priority. Leave one of the two out."
        )


def servers(url: str, more: str) -> list[tuple[str, int]]:
    """The hosts and ports of a cluster, the URL's own first."""
    first = parse_url(url)
    found = [_address(first, first.scheme)]
    for other in filter(None, (each.strip() for each in more.split(","))):
        found.append(_address(parse_url(f"amqp://{other.rpartition('://')[2]}"), first.scheme))
    return found


def _address(parts: SplitResult, scheme: str) -> tuple[str, int]:
    return parts.hostname or "", parts.port or _PORTS[scheme]


def virtual_host(url: str) -> str:
    """The virtual host: the URL's path without its slash, and `/` where there is none."""
    return unquote(parse_url(url).path[1:]) or "/"
