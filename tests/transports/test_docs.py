"""The options in docs/ are those of the code, with the same defaults."""

import re
from pathlib import Path

import attrs
import pytest

from understudy.transports.grpc.options import GrpcClientOptions, GrpcOptions
from understudy.transports.kafka.options import KafkaClientOptions, KafkaOptions
from understudy.transports.memory import MemoryClientOptions, MemoryOptions
from understudy.transports.mqtt.options import MqttClientOptions, MqttOptions
from understudy.transports.nats.options import NatsClientOptions, NatsOptions
from understudy.transports.rabbitmq.options import RabbitClientOptions, RabbitOptions
from understudy.transports.redis.options import RedisClientOptions, RedisOptions
from understudy.transports.tcp.options import TcpClientOptions, TcpOptions
from understudy.transports.websocket.options import WebSocketClientOptions, WebSocketOptions

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "heading", "options"),
    [
        ("tcp.md", "serve", TcpOptions()),
        ("tcp.md", "connect", TcpClientOptions()),
        ("websocket.md", "serve", WebSocketOptions()),
        ("websocket.md", "connect", WebSocketClientOptions()),
        ("kafka.md", "serve", KafkaOptions()),
        ("kafka.md", "connect", KafkaClientOptions()),
        ("memory.md", "serve", MemoryOptions()),
        ("memory.md", "connect", MemoryClientOptions()),
        ("mqtt.md", "serve", MqttOptions()),
        ("mqtt.md", "connect", MqttClientOptions()),
        ("nats.md", "serve", NatsOptions()),
        ("nats.md", "connect", NatsClientOptions()),
        ("redis.md", "serve", RedisOptions()),
        ("redis.md", "connect", RedisClientOptions()),
        ("grpc.md", "serve", GrpcOptions()),
        ("grpc.md", "connect", GrpcClientOptions()),
        ("rabbitmq.md", "serve", RabbitOptions()),
        ("rabbitmq.md", "connect", RabbitClientOptions()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_option_is_documented_with_its_default(
    page: str, heading: str, options: attrs.AttrsInstance
) -> None:
    section = (DOCS / page).read_text().split(f"### `{heading}`")[1].split("#")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))

    assert documented == {name: str(value) or "``" for name, value in attrs.asdict(options).items()}


@pytest.mark.parametrize(
    "page",
    [
        "brokers.md",
        "grpc.md",
        "kafka.md",
        "memory.md",
        "mqtt.md",
        "nats.md",
        "rabbitmq.md",
        "redis.md",
        "tcp.md",
        "websocket.md",
    ],
)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (DOCS / page).read_text())

    assert links
    ours = [link for link in links if not link.startswith("https://")]
    assert [link for link in ours if not (DOCS / link).exists()] == []
