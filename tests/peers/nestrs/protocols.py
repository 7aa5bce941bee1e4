"""The four protocols that nestrs's packets travel in: where a packet ends, what it shows.

Owns reading, for whoever records or compares; nothing is written here.

Invariant: cutting never loses a byte, so that the packets together are the stream.
Sources: the NATS client protocol, RESP 2, AMQP 0-9-1 section 4.2, nestrs's src/tcp.rs.
"""

import json
import struct
from collections.abc import Callable
from typing import Any, Final

__all__ = ["LOGINS", "PROTOCOLS", "SETUP", "Cut", "Packet"]

Packet = tuple[str, dict[str, Any]]
"""What it is, and the parts that a reader wants to see."""
Cut = Callable[[bytes], int]
"""The length of the first whole packet of a stream; 0 when more must come."""


def line(data: bytes) -> int:
    return data.find(b"\n") + 1


def nats(data: bytes) -> int:
    end = line(data)
    words = data[:end].split()
    size = int(words[-1]) + 2 if words and words[0] in (b"PUB", b"MSG", b"HPUB", b"HMSG") else 0
    return end + size if end and len(data) >= end + size else 0


def resp(data: bytes) -> int:
    end = line(data)
    if not end:
        return 0
    kind, number = data[:1], data[1 : end - 2]
    if kind == b"*":
        for _ in range(int(number)):
            size = resp(data[end:])
            if not size:
                return 0
            end += size
    elif kind == b"$" and int(number) >= 0:
        end += int(number) + 2
    return end if len(data) >= end else 0


def amqp(data: bytes) -> int:
    if data[:4] == b"AMQP":
        return 8 if len(data) >= 8 else 0
    size = 8 + struct.unpack(">I", data[3:7])[0] if len(data) >= 7 else 0
    return size if len(data) >= size else 0


def shown_line(raw: bytes) -> Packet:
    packet = json.loads(raw)
    return (packet.get("kind") or "answer", {"json": packet})


def shown_nats(raw: bytes) -> Packet:
    head, _, body = raw.partition(b"\r\n")
    words = head.decode().split()
    if words[0] not in ("PUB", "MSG"):
        return (words[0], {"line": head.decode()})
    # PUB subject [reply] size; MSG subject sid [reply] size
    rest = words[1:-1] if words[0] == "PUB" else [words[1], *words[3:-1]]
    parts = {"subject": rest[0], "body": body[:-2].decode()}
    return (words[0], parts | ({"reply": rest[1]} if len(rest) > 1 else {}))


def shown_redis(raw: bytes) -> Packet:
    if raw[:1] != b"*":
        return ("reply", {"text": raw.decode(errors="replace")})
    words = [piece.decode() for piece in _bulks(raw)]
    what = words[0].upper() if words else "reply"
    parts: dict[str, Any] = {"words": words}
    if what in ("PUBLISH", "MESSAGE", "PMESSAGE"):
        parts = {"channel": words[-2], "body": words[-1]}
    return (what, parts)


def _bulks(raw: bytes) -> list[bytes]:
    found, at = [], line(raw)
    while at < len(raw):
        size = resp(raw[at:])
        if raw[at : at + 1] == b"$":
            found.append(raw[at:][line(raw[at:]) : size - 2])
        at += size
    return found


METHODS: Final = {
    (10, 10): "connection.start",
    (10, 11): "connection.start-ok",
    (10, 30): "connection.tune",
    (10, 31): "connection.tune-ok",
    (10, 40): "connection.open",
    (10, 41): "connection.open-ok",
    (10, 50): "connection.close",
    (10, 51): "connection.close-ok",
    (20, 10): "channel.open",
    (20, 11): "channel.open-ok",
    (20, 40): "channel.close",
    (20, 41): "channel.close-ok",
    (50, 10): "queue.declare",
    (50, 11): "queue.declare-ok",
    (60, 10): "basic.qos",
    (60, 11): "basic.qos-ok",
    (60, 20): "basic.consume",
    (60, 21): "basic.consume-ok",
    (60, 30): "basic.cancel",
    (60, 31): "basic.cancel-ok",
    (60, 40): "basic.publish",
    (60, 60): "basic.deliver",
    (60, 80): "basic.ack",
    (60, 120): "basic.nack",
}
BITS: Final = {
    "queue.declare": ("passive", "durable", "exclusive", "auto_delete", "no_wait"),
    "basic.consume": ("no_local", "no_ack", "exclusive", "no_wait"),
}


def shown_amqp(raw: bytes) -> Packet:
    if raw[:4] == b"AMQP":
        return ("protocol header", {})
    kind, channel, body = raw[0], struct.unpack(">H", raw[1:3])[0], raw[7:-1]
    if kind == 8:
        return ("heartbeat", {})
    if kind == 2:
        return ("header", {"channel": channel, "flags": struct.unpack(">H", body[12:14])[0]})
    if kind == 3:
        return ("body", {"channel": channel, "body": body.decode()})
    what = METHODS.get(struct.unpack(">HH", body[:4]), "another method")
    texts: dict[str, Any] = {}
    if what in BITS:
        texts["queue"], at = _short(body, 6)
        if what == "basic.consume":
            texts["consumer_tag"], at = _short(body, at)
        texts["set"] = [name for bit, name in enumerate(BITS[what]) if body[at] >> bit & 1]
    elif what == "basic.qos":
        texts["prefetch"] = struct.unpack(">H", body[8:10])[0]
    elif what == "basic.publish":
        texts["exchange"], at = _short(body, 6)
        texts["routing_key"] = _short(body, at)[0]
    elif what == "basic.deliver":
        texts["consumer_tag"], at = _short(body, 4)
        texts["exchange"], at = _short(body, at + 9)
        texts["routing_key"] = _short(body, at)[0]
    return (what, {"channel": channel, **texts})


def _short(body: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + body[at]
    return body[at + 1 : end].decode(), end


PROTOCOLS: Final[dict[str, tuple[Cut, Callable[[bytes], Packet]]]] = {
    "tcp": (line, shown_line),
    "nats": (nats, shown_nats),
    "redis": (resp, shown_redis),
    "rmq": (amqp, shown_amqp),
}

LOGINS: Final = {
    *("INFO", "CONNECT", "PING", "PONG", "CLIENT", "reply", "heartbeat", "protocol header"),
    *(name for name in METHODS.values() if name.startswith(("connection.", "channel."))),
}
"""What says nothing of nestrs: connecting, and staying connected."""
SETUP: Final = {"SUB", "PSUBSCRIBE", "queue.declare", "basic.qos", "basic.consume"}
"""What a service says before the first message."""
