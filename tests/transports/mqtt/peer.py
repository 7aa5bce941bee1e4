"""A stranger on the broker: paho-mqtt as it comes, with a thread of its own."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from understudy.transports.options import shown

__all__ = ["Got", "Peer", "causes", "peer", "properties"]

_Properties: Any = Properties  # which has no types


@attrs.frozen
class Got:
    """What came to a peer."""

    topic: str
    body: bytes
    qos: int
    retained: bool
    properties: Mapping[str, Any]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def properties(headers: Mapping[str, str], **others: Any) -> Any:
    """The properties of a message of MQTT 5."""
    found = _Properties(PacketTypes.PUBLISH)
    for pair in headers.items():
        found.UserProperty = pair
    for name, value in others.items():
        setattr(found, name, value)
    return found


class Peer:
    """Its connection; `got` is all that came to it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.got: list[Got] = []
        client.on_message = self._take

    def publish(self, topic: str, body: Any, qos: int = 0, **options: Any) -> None:
        """Publish bytes, or something as JSON; at QoS 1 and 2 until the broker has it."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.client.publish(topic, data, qos, **options).wait_for_publish(10)

    def ask(self, topic: str, data: Any, id: str = "1", qos: int = 0) -> None:
        """Send a request as NestJS does."""
        self.publish(topic, {"pattern": topic, "data": data, "id": id}, qos)

    def tell(self, topic: str, data: Any, qos: int = 0, **options: Any) -> None:
        """Send an event as NestJS does."""
        self.publish(topic, {"pattern": topic, "data": data}, qos, **options)

    def _take(self, _: Any, __: Any, message: MQTTMessage) -> None:
        properties: Any = message.properties
        extra = properties.json() if properties is not None else {}
        self.got.append(
            Got(message.topic, bytes(message.payload), message.qos, message.retain, extra)
        )


@contextmanager
def peer(url: str, *filters: str, version: int = 5, qos: int = 1, **options: Any) -> Iterator[Peer]:
    """A connection that subscribes to `filters`; `options` are those of paho's client."""
    five = version == 5
    protocol = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
    client = Client(CallbackAPIVersion.VERSION2, protocol=protocol, **options)
    found = Peer(client)
    subscribed: list[int] = []
    client.on_subscribe = lambda *_: subscribed.append(1)
    parts = urlsplit(shown(url))
    client.connect(parts.hostname or "", parts.port or 0)
    client.loop_start()
    try:
        _await(client.is_connected)
        for each in filters:
            client.subscribe(each, qos)
        _await(lambda: len(subscribed) == len(filters))
        yield found
    finally:
        client.disconnect()
        client.loop_stop()


def _await(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the broker does not answer"
        time.sleep(0.001)


def causes(error: BaseException) -> str:
    """The texts of an error and of what it came from."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    return " <- ".join(texts)
