"""MQTT: NestJS's and nestrs's topics on any broker of MQTT 5 or 3.1.1.

Promise: at QoS 1 at least once, see `bridge.py`. Install with `understudy[mqtt]`.
"""

from collections.abc import Mapping
from typing import Any

from ...supervisors.child import Wiring
from ..options import parse_options
from .bridge import MqttBridge
from .client import MqttClient
from .options import MqttClientOptions, MqttOptions, check_place

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work."""
    if serving:
        check_place(url, parse_options(MqttOptions, url, options))
    else:
        check_place(url, parse_options(MqttClientOptions, url, options))


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> MqttBridge:
    """A bridge, not yet connected."""
    return MqttBridge(url, parse_options(MqttOptions, url, options), wiring)


def client(url: str, options: Mapping[str, Any]) -> MqttClient:
    """A client, not yet connected."""
    return MqttClient(url, parse_options(MqttClientOptions, url, options))
