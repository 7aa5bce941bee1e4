"""What the broker benchmarks measure: the tables, who is in them, and the bars of ours.

The counts are such that a reading takes from half a second to two on a quiet machine of
two cores. On NATS itself and Redis pub/sub they also are fewer than the 65,536 messages
that a bridge of ours keeps waiting, since what comes beyond is dropped there.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from benchmarks.broker_meter import IN_HAND
from tests.brokers.broker import Broker
from tests.brokers.kafka import KafkaBroker
from tests.brokers.mosquitto import MosquittoBroker
from tests.brokers.nats import NatsBroker
from tests.brokers.rabbitmq import RabbitmqBroker
from tests.brokers.redis import RedisBroker

__all__ = ["CASES", "SETTINGS", "Case"]

NAMES: Final[Mapping[str, str]] = {"faststream": "FastStream", "nest": "NestJS"}

SETTINGS: Final[dict[type[Broker], tuple[str, ...]]] = {
    NatsBroker: (),
    # The log on disk as Redis has it by default, and no limit for who reads slowly.
    RedisBroker: ("appendfsync everysec", "client-output-buffer-limit pubsub 0 0 0"),
    RabbitmqBroker: (),
    KafkaBroker: (),
    # No limit to what waits for a session, as many messages in flight as ours takes, and in
    # memory only: it would write all of them to its file after every change otherwise.
    MosquittoBroker: (
        "max_queued_messages 0",
        f"max_inflight_messages {IN_HAND}",
        "autosave_on_changes false",
        "autosave_interval 0",
    ),
}


@attrs.frozen
class Case:
    """One table. `counts` says who is measured, and with how many messages.

    Events are counted by who consumes them; requests are answered, 64 in flight. `raw` is
    what the broker's own client is called, `bar` how much of its rate ours must reach. Those
    who are `unbarred` are shown beside ours, which need not be ahead of them.
    """

    title: str
    wire: str
    broker: type[Broker]
    counts: Mapping[str, int]
    raw: str = ""
    bar: float | None = None
    unbarred: tuple[str, ...] = ()

    @property
    def is_events(self) -> bool:
        return self.title.startswith("events")

    def label(self, who: str) -> str:
        """What it is called in the table."""
        return self.raw if who == "raw" else NAMES.get(who, who)


CASES: Final = (
    Case(
        "events on NATS",
        "nats",
        NatsBroker,
        {"understudy": 60_000, "raw": 60_000, "faststream": 6_000, "nest": 50_000},
        raw="nats-py",
        bar=0.6,
    ),
    Case(
        "events on JetStream, acknowledged",
        "jetstream",
        NatsBroker,
        {"understudy": 20_000, "raw": 20_000, "faststream": 4_000},
        raw="nats-py",
    ),
    Case(
        "events on Redis pub/sub",
        "redis",
        RedisBroker,
        {"understudy": 60_000, "raw": 50_000, "faststream": 6_000, "nest": 40_000},
        raw="redis-py",
    ),
    Case(
        "events on Redis Streams, acknowledged",
        "streams",
        RedisBroker,
        {"understudy": 40_000, "raw": 80_000, "faststream": 4_000},
        raw="redis-py",
        bar=0.6,
    ),
    Case(
        "events on RabbitMQ, acknowledged",
        "rabbitmq",
        RabbitmqBroker,
        {"understudy": 20_000, "raw": 8_000, "faststream": 4_000, "nest": 20_000},
        raw="aio-pika",
        bar=0.7,
    ),
    Case(
        "events on Kafka, committed",
        "kafka",
        KafkaBroker,
        {"understudy": 60_000, "raw": 200_000, "faststream": 10_000, "nest": 30_000},
        raw="aiokafka",
        bar=0.6,
    ),
    Case(
        "events on MQTT",
        "mqtt",
        MosquittoBroker,
        {"understudy": 60_000, "raw": 40_000, "aiomqtt": 10_000, "nest": 40_000},
        raw="paho",
        bar=0.7,
    ),
    Case(
        "events on MQTT at QoS 1, acknowledged",
        "mqtt-session",
        MosquittoBroker,
        {"understudy": 40_000, "raw": 20_000, "aiomqtt": 6_000, "nest": 30_000},
        raw="paho",
        bar=0.7,
        unbarred=("nest",),
    ),
    Case(
        "requests on NATS, 64 in flight",
        "nats",
        NatsBroker,
        {"understudy": 20_000, "faststream": 4_000, "nest": 20_000},
    ),
    Case(
        "requests on Redis pub/sub, 64 in flight",
        "redis",
        RedisBroker,
        {"understudy": 20_000, "faststream": 4_000, "nest": 20_000},
    ),
    Case(
        "requests on RabbitMQ, 64 in flight",
        "rabbitmq",
        RabbitmqBroker,
        {"understudy": 10_000, "faststream": 3_000, "nest": 10_000},
    ),
    Case(
        "requests on MQTT, 64 in flight",
        "mqtt",
        MosquittoBroker,
        {"understudy": 20_000, "nest": 20_000},
        unbarred=("nest",),
    ),
)
