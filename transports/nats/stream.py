"""The stream and the consumer that a bridge reads: found, or made, or said why not.

What is missing is made if the options allow it, and what was made here says so in its
description. A stream that somebody else made is read and never changed. A consumer that
has to be made again begins after the last event that was acknowledged.

nats-server before 2.10 has consumers of one filter at most: several patterns are then
read without one, and what is nobody's is acknowledged unseen.
"""

from datetime import datetime
from typing import Any, Final

import attrs
from nats.errors import Error, NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from ..broker.session import BrokerAway, BrokerRefused
from .connection import Connection, meaning
from .options import NatsOptions
from .topology import Topology, covered_by, minimal, overlap

__all__ = ["MADE", "Found", "Memory", "declare"]

MADE: Final = "made by understudy"

_EXISTS: Final = (10058, 10148, 10105)
"""JetStream's codes for a stream or a consumer that is there already."""


@attrs.define
class Memory:
    """What a bridge knows of its stream from one session to the next."""

    made: bool = False
    """The stream was made here, so it may be made again."""
    stream: datetime | None = None
    """When the stream was made: a later one of the same name counts from 1 again."""
    consumer: datetime | None = None
    """Likewise of the consumer."""
    floor: int = 0
    """Every event up to this number was acknowledged."""

    def is_same_stream(self, made: datetime | None) -> bool:
        return _is_same(self.stream, made, 0.001)

    def is_same_consumer(self, made: datetime | None) -> bool:
        # A server that was started again tells a slightly other time than before.
        return _is_same(self.consumer, made, 1.0)


@attrs.frozen
class Found:
    """The stream and the consumer as they are now."""

    js: JetStreamContext
    name: str
    durable: str
    stream_made: datetime | None
    consumer_made: datetime | None
    unfiltered: bool
    """The consumer gives what nobody here handles, too."""
    troubles: list[str]


async def declare(
    connection: Connection, options: NatsOptions, topology: Topology, memory: Memory
) -> Found:
    """Find or make stream and consumer. Raises `BrokerAway` or `BrokerRefused`."""
    # A part of the time for a connection, so that who is late can be named.
    js = connection.jetstream(timeout=options.connect_timeout * 0.6)
    version = connection.connected_server_version
    several = (version.major, version.minor) >= (2, 10)
    troubles: list[str] = []
    try:
        stream = await _stream(js, options, topology, memory, troubles)
        consumer, unfiltered = await _consumer(js, options, topology, memory, stream, several)
    except (NoRespondersError, ServiceUnavailableError) as error:
        raise BrokerAway("JetStream is not ready, or not enabled on the server") from error
    except APIError as error:
        raise BrokerRefused(f"JetStream refused: {error.description}") from error
    except TimeoutError as error:
        raise BrokerAway("JetStream does not answer; perhaps it is still starting") from error
    except (Error, OSError) as error:
        raise meaning(error) from error
    return Found(
        js,
        options.stream,
        options.durable,
        stream.created,
        consumer.created,
        unfiltered,
        troubles,
    )


async def _stream(
    js: JetStreamContext,
    options: NatsOptions,
    topology: Topology,
    memory: Memory,
    troubles: list[str],
) -> StreamInfo:
    name = options.stream
    try:
        info = await js.stream_info(name)
    except NotFoundError as error:
        return await _new_stream(js, options, topology, memory, error)
    memory.made = MADE in (info.config.description or "")
    subjects = info.config.subjects or []
    missing = [each for each in topology.held if not covered_by(subjects, [each])]
    if missing and memory.made and options.create:
        info.config.subjects = minimal([*subjects, *missing])
        info = await js.update_stream(info.config)
        subjects = info.config.subjects or []
    for event in topology.events:
        if not covered_by(subjects, [event]):
            troubles.append(f"the stream {name} does not hold {event!r}: no such event will come")
    for request in topology.subscribed:
        for subject in subjects:
            if overlap(request, subject):
                text = f"requests for {request!r} are answered by the stream {name} as well"
                troubles.append(f"{text}, which holds {subject!r}")
    return info


async def _new_stream(
    js: JetStreamContext,
    options: NatsOptions,
    topology: Topology,
    memory: Memory,
    missing: NotFoundError,
) -> StreamInfo:
    name = options.stream
    if memory.stream and not memory.made:
        raise BrokerAway(
            f"the stream {name} was deleted; it was not made here, so it is not made again"
        ) from missing
    if not options.create:
        raise BrokerAway(f"there is no stream {name}, and create=False") from missing
    if not topology.held:
        raise BrokerRefused(
            f"there is no stream {name}, and nothing to say what it would hold: no actor "
            "handles events; name its subjects='...'"
        ) from missing
    config = StreamConfig(
        name=name,
        description=f"{MADE} for {options.durable}",
        subjects=topology.held,
        max_age=options.max_age,
        num_replicas=options.replicas,
        storage=StorageType(options.storage),
    )
    try:
        info = await js.add_stream(config)
    except APIError as error:
        if error.err_code not in _EXISTS:
            raise
        info = await js.stream_info(name)  # somebody was quicker
    memory.made = True
    return info


async def _consumer(
    js: JetStreamContext,
    options: NatsOptions,
    topology: Topology,
    memory: Memory,
    stream: StreamInfo,
    several: bool,
) -> tuple[ConsumerInfo, bool]:
    filters = _filters(topology.events, stream)
    if len(filters) > 1 and not several:
        if stream.config.retention not in (None, RetentionPolicy.LIMITS):
            raise BrokerRefused(
                f"the stream {options.stream} deletes what was acknowledged, and this server can "
                f"give no consumer just {', '.join(filters)}; nats-server 2.10 can"
            )
        filters = []
    wanted: dict[str, Any] = {
        "ack_wait": options.ack_wait,
        "max_ack_pending": options.most_unacknowledged,
        "filter_subject": filters[0] if len(filters) == 1 else None,
        "filter_subjects": filters if len(filters) > 1 else None,
    }
    unfiltered = not filters and not covered_by(topology.events, stream.config.subjects or [])
    try:
        info = await js.consumer_info(options.stream, options.durable)
    except NotFoundError as error:
        return await _new_consumer(js, options, memory, stream, wanted, error), unfiltered
    return await _same_consumer(js, options, info, wanted), unfiltered


def _filters(events: list[str], stream: StreamInfo) -> list[str]:
    """What the consumer must leave through; nothing if that is all there is."""
    return [] if covered_by(events, stream.config.subjects or []) else events


async def _new_consumer(
    js: JetStreamContext,
    options: NatsOptions,
    memory: Memory,
    stream: StreamInfo,
    wanted: dict[str, Any],
    missing: NotFoundError,
) -> ConsumerInfo:
    if not options.create:
        why = f"the stream {options.stream} has no consumer {options.durable}, and create=False"
        raise BrokerAway(why) from missing
    config = ConsumerConfig(
        durable_name=options.durable,
        description=MADE,
        ack_policy=AckPolicy.EXPLICIT,
        max_deliver=-1,
        **wanted,
    )
    if memory.floor and memory.is_same_stream(stream.created):
        config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = memory.floor + 1
    try:
        return await js.add_consumer(options.stream, config)
    except APIError as error:
        if error.err_code not in _EXISTS:
            raise
        found: ConsumerInfo = await js.consumer_info(options.stream, options.durable)
        return found  # somebody was quicker


async def _same_consumer(
    js: JetStreamContext, options: NatsOptions, info: ConsumerInfo, wanted: dict[str, Any]
) -> ConsumerInfo:
    """The consumer that is there, brought up to date if it was made here."""
    config, name = info.config, options.durable
    if config is None:
        raise BrokerAway(f"JetStream tells nothing of the consumer {name}")
    if config.deliver_subject or config.ack_policy != AckPolicy.EXPLICIT:
        raise BrokerRefused(
            f"the consumer {name} of the stream {options.stream} is none that is pulled from and "
            "acknowledged message by message; choose another name with durable='...'"
        )
    same = all((getattr(config, key) or None) == (value or None) for key, value in wanted.items())
    if same or config.description != MADE or not options.create:
        return info
    for key, value in wanted.items():
        setattr(config, key, value)
    config.name = None  # nats-py would take the call of newer servers otherwise
    return await js.add_consumer(options.stream, config)


def _is_same(one: datetime | None, other: datetime | None, seconds: float) -> bool:
    return one is not None and other is not None and abs((one - other).total_seconds()) < seconds
