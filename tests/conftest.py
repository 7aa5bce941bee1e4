"""What tests of every floor share."""

import os
from importlib import import_module

import pytest
from hypothesis import settings
from trio.testing import MockClock

from .brokers.fixtures import (
    certificates,
    kafka_broker,
    mqtt_broker,
    nats_broker,
    own_kafka,
    own_mqtt,
    own_nats,
    own_rabbitmq,
    own_redis,
    rabbitmq_broker,
    redis_broker,
)

__all__ = [
    "certificates",
    "clock",
    "kafka_broker",
    "mqtt_broker",
    "nats_broker",
    "own_kafka",
    "own_mqtt",
    "own_nats",
    "own_rabbitmq",
    "own_redis",
    "rabbitmq_broker",
    "redis_broker",
]


# pytest rewrites modules when they are first imported. If that is in the middle of a test,
# garbage may be collected meanwhile, whose finalizers make CPython 3.11's parser fail
# (github.com/python/cpython/issues/106905).
for _transport in ("grpc", "kafka", "mqtt", "nats", "rabbitmq", "redis", "tcp", "websocket"):
    import_module(f"understudy.transports.{_transport}.transport")


@pytest.fixture
def clock() -> MockClock:
    """Virtual time: when every task waits, the clock jumps to the next deadline."""
    return MockClock(autojump_threshold=0)


settings.register_profile("prove", max_examples=2000, deadline=None)
settings.register_profile("tests", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
