"""Options of MQTT bridges and clients, and what can be said about them before a connection."""

import math
from typing import Final, Literal
from urllib.parse import unquote

import attrs
from attrs.validators import ge, gt, in_

from ...actors.errors import DeclarationError
from ..broker.options import BrokerClientOptions, BrokerOptions
from ..options import parse_url, shown

__all__ = [
    "ConnectionOptions",
    "MqttClientOptions",
    "MqttOptions",
    "address",
    "check_place",
    "is_topic",
    "is_writable",
    "login",
]

FOR_EVER: Final = 0xFFFFFFFF
"""What a session's expiry is in MQTT 5 if it has none."""

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_LONGEST: Final = 65535
_NONCHARACTERS: Final = range(0xFDD0, 0xFDF0)


@attrs.frozen(kw_only=True, slots=False)
class _Place:
    """How a broker is spoken to; a client and its service need the same `prefix`.

    `version` is 5, or 311 for MQTT 3.1.1. `prefix` stands before every topic, with a slash;
    in the nestrs dialect it is that of nestrs's own topics. A message of more than
    `message_limit` bytes is not sent, and in MQTT 5 not accepted.
    """

    version: int = attrs.field(default=5, validator=in_((5, 311)))
    prefix: str = ""
    client_id: str = ""
    message_limit: int = attrs.field(default=16 * 1024 * 1024, validator=[gt(0), ge(1024)])

    @property
    def five(self) -> bool:
        return self.version == 5

    def topic(self, name: str) -> str:
        """A topic under the prefix."""
        return f"{self.prefix.rstrip('/')}/{name}" if self.prefix else name

    def nestrs_topic(self, name: str) -> str:
        """A topic of nestrs's protocol."""
        return f"{self.prefix.strip('/') or 'nestrs'}/rpc/{name}"


@attrs.frozen(kw_only=True)
class MqttOptions(_Place, BrokerOptions):
    """Options of an MQTT bridge. Times in seconds.

    Patterns are subscribed to at `qos` 0 or 1, answers sent at `reply_qos`. With a
    `client_id` the broker keeps the session, and what comes for it, for `session_expiry`
    after a connection has ended; without one nothing outlives the connection. Of all bridges
    with the same `share` one gets a message. Up to `backlog` messages at QoS 0 wait for
    room in the mailboxes; what comes then is dropped.

    With a `will_topic` the broker sends `will_payload` there when the connection is lost.
    """

    qos: int = attrs.field(default=1, validator=in_((0, 1, 2)))
    reply_qos: int = attrs.field(default=0, validator=in_((0, 1, 2)))
    session_expiry: float = attrs.field(default=86400.0, validator=ge(0))
    share: str = ""
    backlog: int = attrs.field(default=8192, validator=gt(0))
    will_topic: str = ""
    will_payload: str = ""
    will_qos: int = attrs.field(default=0, validator=in_((0, 1, 2)))
    will_retain: bool = False

    @property
    def durable(self) -> bool:
        """Whether the broker keeps the session when the connection ends."""
        return bool(self.client_id and self.session_expiry)

    @property
    def expiry(self) -> int:
        """`session_expiry` as MQTT 5 writes it."""
        return min(math.ceil(min(self.session_expiry, FOR_EVER)), FOR_EVER) if self.durable else 0

    @property
    def subscribed_qos(self) -> Literal[0, 1]:
        return 1 if self.qos else 0


@attrs.frozen(kw_only=True)
class MqttClientOptions(_Place, BrokerClientOptions):
    """Options of an MQTT client. Events are sent at `qos`."""

    qos: int = attrs.field(default=1, validator=in_((0, 1, 2)))


ConnectionOptions = MqttOptions | MqttClientOptions


def check_place(url: str, options: ConnectionOptions) -> None:
    """Raise `DeclarationError` for a place that can never work."""
    where = shown(url)
    if not parse_url(url).hostname:
        raise DeclarationError(f"{where} has no host; one looks like mqtt://127.0.0.1:1883.")
    _check("prefix", options.prefix, where)
    if not is_writable(options.client_id):
        raise DeclarationError(f"{where}: client_id={options.client_id!r} cannot be sent.")
    if isinstance(options, MqttOptions):
        _check("share", options.share, where)
        _check("will_topic", options.will_topic, where)
        if "/" in options.share:
            raise DeclarationError(f"{where}: a share has no slash in its name.")
        if options.will_payload and not options.will_topic:
            raise DeclarationError(f"{where}: a will needs its will_topic.")


def _check(option: str, text: str, where: str) -> None:
    if text and not is_topic(text):
        raise DeclarationError(
            f"{where}: {option}={text!r} cannot be part of a topic, which has no '+', no '#' and "
            "no control characters."
        )


def is_topic(text: str) -> bool:
    """Whether messages can be published there: a broker closes the connection otherwise."""
    return bool(text) and "+" not in text and "#" not in text and is_writable(text)


def is_writable(text: str) -> bool:
    """Whether it can be sent as a text (MQTT 5, section 1.5.4, with all that it advises)."""
    if len(text) > _LONGEST // 4 and len(text.encode(errors="replace")) > _LONGEST:
        return False
    return text.isprintable() or all(map(_is_fine, text))


def _is_fine(character: str) -> bool:
    code = ord(character)
    return not (
        code < 0x20
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or code & 0xFFFE == 0xFFFE
        or code in _NONCHARACTERS
    )


def address(url: str) -> tuple[str, int]:
    """The broker's host and port."""
    parts = parse_url(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def login(url: str) -> tuple[str, str]:
    """The user and the password; empty where there is none."""
    parts = parse_url(url)
    return unquote(parts.username or ""), unquote(parts.password or "")
