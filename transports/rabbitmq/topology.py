"""What has to be on the broker before messages come: the queue, the exchange, the bindings.

All of it is declared anew with every connection, so that nothing only seems to be there.
What is there already and differs is left alone, and said.

Between our patterns and AMQP's routing keys: words parted by dots, `*` for one of them,
`#` for any number. `>` is one or more words, so `*.#`; in MQTT's notation the levels become
words, and `#` means the same there.
"""

import math
from typing import Any, Final

from pamqp import commands

from ...actors.wildcard import is_wildcard
from ..broker.channels import Channels
from ..broker.session import BrokerAway
from .channel import Channel, ChannelEnded
from .connection import meaning
from .options import ConnectionOptions, RabbitOptions, queue_of

__all__ = ["Topology", "bind", "binding_keys", "declare", "exchange_of", "routing_key"]

_MARGIN: Final = 10
"""Deliveries that the broker allows beyond ours: it only ends what we could not."""


class Topology(Channels):
    """The routes of a tree, and how many messages its mailboxes hold."""

    def __init__(self, routes: list[str], room: int) -> None:
        super().__init__(())
        self.routes = routes
        self.room = room


def exchange_of(options: ConnectionOptions) -> str:
    """The exchange that messages go to; empty for the default one."""
    return options.exchange or (queue_of(options) if options.wildcards else "")


def routing_key(route: str) -> str:
    """Under which key a message with this pattern is sent: levels are words."""
    return route if route.startswith(("{", "[")) else route.replace("/", ".")


def binding_keys(route: str) -> list[str]:
    """The keys that bring what a handler's pattern is for."""
    if not is_wildcard(route):
        # NestJS's clients send the pattern itself, ours its words.
        return list(dict.fromkeys((route, routing_key(route))))
    if "/" in route and not _is_dotted(route):
        levels = ["*" if level == "+" else level for level in route.split("/")]
        return [".".join(levels)]
    words = route.split(".")
    if words[-1] == ">":
        words[-1:] = ["*", "#"]
    return [".".join(words)]


def _is_dotted(route: str) -> bool:
    words = route.split(".")
    return "*" in words or words[-1] == ">"


async def declare(channel: Channel, options: ConnectionOptions, *, serving: bool) -> str:
    """Declare the exchange and, for a service, the queue; returns the queue's name.

    Raises `BrokerRefused` for what is there already and differs.
    """
    exchange = exchange_of(options)
    if exchange:
        # A client only asks for a fanout or topic exchange that may not be there yet.
        await _asked(
            channel,
            commands.Exchange.Declare(
                exchange=exchange,
                exchange_type=options.exchange_type,
                durable=True,
                passive=not options.declare,
            ),
            f"the exchange {exchange!r}",
        )
    if not isinstance(options, RabbitOptions) or not serving:
        return queue_of(options)
    queue = await _declare_queue(channel, options)
    if exchange and (options.routing_key or options.exchange_type == "fanout"):
        await bind(channel, queue, exchange, options.routing_key)
    return queue


async def _declare_queue(channel: Channel, options: RabbitOptions) -> str:
    name = queue_of(options)
    own = not name
    answer = await _asked(
        channel,
        commands.Queue.Declare(
            queue=name,
            passive=not (options.declare or own),
            durable=options.durable and not own,
            exclusive=own,
            auto_delete=own,
            arguments=_arguments(options),
        ),
        f"the queue {name!r}",
    )
    return str(answer.queue)


def _arguments(options: RabbitOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.quorum:
        found["x-queue-type"] = "quorum"
        found["x-delivery-limit"] = options.max_deliveries + _MARGIN
    if options.dead_letter_exchange:
        found["x-dead-letter-exchange"] = options.dead_letter_exchange
    if options.dead_letter_routing_key:
        found["x-dead-letter-routing-key"] = options.dead_letter_routing_key
    if options.message_ttl:
        found["x-message-ttl"] = math.ceil(options.message_ttl * 1000)
    if options.max_length:
        found["x-max-length"] = options.max_length
        # Else the broker drops the oldest messages and tells nobody.
        found["x-overflow"] = "reject-publish"
    if options.max_priority:
        found["x-max-priority"] = options.max_priority
    return found


async def bind(
    channel: Channel, queue: str, exchange: str, key: str, *, undo: bool = False
) -> None:
    """Bind the queue to the exchange, or take the binding away."""
    kind = commands.Queue.Unbind if undo else commands.Queue.Bind
    method = kind(queue=queue, exchange=exchange, routing_key=key)
    await _asked(channel, method, f"the binding of {queue!r} to {exchange!r}")


async def _asked(channel: Channel, method: Any, what: str) -> Any:
    try:
        return await channel.call(method)
    except ChannelEnded as error:
        raise _objection(error, what) from error


def _objection(error: ChannelEnded, what: str) -> BrokerAway:
    if error.code == 406:
        what = (
            f"{what} is there with other settings. Make the options agree with it, or delete it; "
            "the broker says"
        )
    elif error.code == 404:
        what = f"{what} is not there, or what it needs; the broker says"
    return meaning(error, what)
