"""paho-mqtt without a socket: what asyncio has received it reads, what it writes asyncio sends.

It reads the bytes that have come as if they were its socket: so its reading a byte at a time
costs no system calls, what it writes goes out in bursts, and what TLS holds back cannot be
overlooked. paho takes no ready socket, so `_create_socket` is overridden, and the handling of
what `packets.py` reads instead of it.
"""

from collections.abc import Callable
from typing import Any

from ...actors.errors import DeclarationError

try:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ImportError as error:
    raise DeclarationError(
        "mqtt:// needs paho-mqtt, which is not installed: pip install 'understudy[mqtt]'"
    ) from error

__all__ = [
    "Client",
    "ConnectFlags",
    "DisconnectFlags",
    "MQTTErrorCode",
    "PacketTypes",
    "Paho",
    "Properties",
    "ReasonCode",
    "SubscribeOptions",
    "Taker",
    "Wire",
]

Taker = Callable[[int, bytearray], None]
"""What is called with the first byte and the rest of each PUBLISH."""


class Wire:
    """What paho takes for its socket: the bytes that have come, and those that are to go."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self._held = b""
        self._at = 0

    def __bool__(self) -> bool:
        return True

    def feed(self, data: bytes) -> None:
        """Bytes have come; all that came before was read."""
        self._held, self._at = data, 0

    @property
    def unread(self) -> int:
        return len(self._held) - self._at

    def recv(self, size: int) -> bytes:
        at = self._at
        found = self._held[at : at + size]
        if not found:
            raise BlockingIOError
        self._at = at + len(found)
        return found

    def send(self, data: bytes | bytearray) -> int:
        self.waiting.append(bytes(data))
        return len(data)

    def take_waiting(self) -> bytes:
        data = b"".join(self.waiting)
        self.waiting.clear()
        return data

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def close(self) -> None:
        """The connection is asyncio's to close: what was sent may still be on its way."""


class Paho(Client):
    """paho's client on a `Wire`, with `taken` for each PUBLISH."""

    def __init__(
        self, wire: Wire, taken: Taker, client_id: str, *, five: bool, durable: bool
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if five else not durable,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._wire = wire
        self._taken = taken

    def _create_socket(self) -> Any:
        return self._wire

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        self._taken(packet["command"], packet["packet"])
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubrel(self) -> MQTTErrorCode:
        # At QoS 2 comes only what a session of old has left. It was handled before PUBREC.
        return self._send_pubcomp(int.from_bytes(self._in_packet["packet"][:2], "big"))

    def allow(self, most: int) -> None:
        """So many messages may be on their way to the broker without its answer."""
        self._max_inflight_messages = most

    def ping(self) -> None:
        """Give a sign of life, and do not wait for an answer."""
        self._send_pingreq()
        self._ping_t = 0.0

    def received(self, mid: int, qos: int) -> None:
        """Acknowledge a message."""
        if qos == 1:
            self._send_puback(mid)
        else:
            self._send_pubrec(mid)
