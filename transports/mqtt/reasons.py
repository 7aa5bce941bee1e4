"""What a broker's reason codes mean for a session, in words.

paho translates the codes of MQTT 3.1.1 to those of MQTT 5, whose numbers stand here. Source:
MQTT 5, section 2.4.
"""

from typing import Any, Final

from ..broker.session import BrokerAway, BrokerRefused

__all__ = ["UNHEARD", "Closed", "TakenOver", "ended", "refused"]

UNHEARD: Final = 0x10
"""A message was taken, and nobody subscribes to its topic."""

_PAUSE: Final = 30.0
_TAKEN_OVER: Final = 0x8E
_KEPT_WAITING: Final = "Keep alive timeout"
_LOGIN: Final = (0x86, 0x87, 0x8C)
_VERSION: Final = 0x84
_CLIENT_ID: Final = 0x85
_LATER: Final = frozenset((0x80, 0x83, 0x88, 0x89, 0x8B, 0x8D, 0x93, 0x97, 0x98, 0x9F, 0xA0))
"""Codes for which waiting may help: the server is busy, shutting down, full, or too slow."""


class Closed(BrokerAway):
    """The broker has closed the connection and said nothing."""

    def __init__(self) -> None:
        super().__init__("the broker closed the connection")


class TakenOver(BrokerAway):
    """Somebody else has connected with the same client id."""

    pause = _PAUSE

    def __init__(self, client_id: str, doubt: str = "") -> None:
        super().__init__(
            f"{doubt}somebody else has connected with the client id {client_id!r}; each process "
            "needs one of its own"
        )


def refused(reason: Any, properties: Any, *, five: bool, client_id: str) -> BrokerAway:
    """What a broker's own words mean, at the beginning of a connection or at its end."""
    code, text = reason.value, str(reason)
    more = getattr(properties, "ReasonString", "")
    if more:
        text = f"{text} ({more})"
    if code == _TAKEN_OVER:
        return TakenOver(client_id)
    if code in _LOGIN:
        return BrokerRefused(f"the login was refused: see the user and the password ({text})")
    if code == _VERSION:
        spoken, other = ("5", "311") if five else ("3.1.1", "5")
        return BrokerRefused(f"the broker does not speak MQTT {spoken}; try version={other}")
    if code == _CLIENT_ID:
        return BrokerRefused(f"the broker refused the client id {client_id!r}: {text}")
    server = getattr(properties, "ServerReference", "")
    if server:
        return BrokerRefused(f"the broker refused the connection: {text}, to {server}")
    if code in _LATER or code < 0x80:
        return BrokerAway(f"the broker closed the connection: {text}")
    return BrokerRefused(f"the broker refused the connection: {text}")


def ended(reason: Any, heartbeat: int, *, five: bool, begun: bool) -> BrokerAway:
    """What it means that paho has ended a connection."""
    if str(reason) == _KEPT_WAITING:
        return BrokerAway(f"the broker has said nothing for {2 * heartbeat} s")
    if begun:
        return BrokerAway(f"the broker sent what is no MQTT: {reason}")
    spoken = "5" if five else "3.1.1"
    return BrokerRefused(f"what listens there does not speak MQTT {spoken}; see `version`")
