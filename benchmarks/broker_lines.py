"""Brokers spoken to on bare sockets: enough of NATS, Redis, AMQP and MQTT for the benchmarks.

What drives the measured processes must be faster than they are, so no client library
stands between: requests and events are written as bytes that are made once.

Not owned here: what is sent (broker_wires.py, broker_load.py). Whatever a broker refuses, and
a connection that ends, is `Failed`; a silence is the socket's `TimeoutError`.
"""

import json
import socket
import struct
from typing import Any, Final
from urllib.parse import urlsplit

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader

__all__ = ["PATIENCE", "AmqpLine", "Failed", "MqttLine", "NatsLine", "dial", "redis_command"]

PATIENCE: Final = 20.0
"""Seconds without a word from a broker."""


class Failed(Exception):
    """A reading that was none: something ended too early, or took too long."""


def dial(url: str) -> socket.socket:
    """A connection to a broker."""
    parts = urlsplit(url)
    line = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def redis_command(*words: str | bytes) -> bytes:
    """A command as Redis reads it."""
    texts = [word.encode() if isinstance(word, str) else word for word in words]
    parts = [b"*%d\r\n" % len(texts), *(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)]
    return b"".join(parts)


class NatsLine:
    """NATS on a bare socket."""

    def __init__(self, url: str) -> None:
        self.socket = dial(url)
        self._read = self.socket.makefile("rb")
        self._read.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB answers 1\r\n')
        self.flush()

    def flush(self) -> None:
        """Wait until the server has taken everything."""
        self.socket.sendall(b"PING\r\n")
        while (line := self._read.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise Failed(f"NATS: {line.decode() or 'the connection ended'}")

    def ask(self, subject: str, body: object = None) -> dict[str, Any]:
        """A request of JetStream's."""
        text = json.dumps(body).encode() if body is not None else b""
        self.socket.sendall(b"PUB %b answers %d\r\n%b\r\n" % (subject.encode(), len(text), text))
        while not (line := self._read.readline()).startswith(b"MSG "):
            if not line:
                raise Failed("NATS: the connection ended")
        answer = self._read.read(int(line.split()[-1]))
        self._read.readline()
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise Failed(f"{subject}: {found['error']}")
        return found

    def close(self) -> None:
        self._read.close()
        self.socket.close()


class AmqpLine:
    """AMQP on a bare socket, on one channel."""

    def __init__(self, url: str) -> None:
        self.socket = dial(url)
        self._buffer = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self.answer()
        parts = urlsplit(url)
        login = f"\0{parts.username or 'guest'}\0{parts.password or 'guest'}"
        tune = self.call(commands.Connection.StartOk(mechanism="PLAIN", response=login))
        self.send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        self.call(commands.Connection.Open())
        self.call(commands.Channel.Open(), 1)

    def send(self, method: Any, channel: int = 0) -> None:
        self.socket.sendall(frame.marshal(method, channel))

    def call(self, method: Any, channel: int = 0) -> Any:
        """Send a method and return its answer."""
        self.send(method, channel)
        return self.answer()

    def answer(self) -> Any:
        """What comes next."""
        while True:
            try:
                used, _, found = frame.unmarshal(self._buffer)
            except UnmarshalingException:
                data = self.socket.recv(65536)
                if not data:
                    raise Failed("RabbitMQ ended the connection") from None
                self._buffer += data
                continue
            self._buffer = self._buffer[used:]
            if isinstance(found, (commands.Channel.Close, commands.Connection.Close)):
                raise Failed(f"RabbitMQ: {found.reply_text}")
            return found

    def close(self) -> None:
        self.call(commands.Connection.Close(reply_code=200, class_id=0, method_id=0))
        self.socket.close()

    @staticmethod
    def publish(queue: str, body: bytes, **properties: Any) -> bytes:
        """The bytes that bring one message to a queue."""
        head = ContentHeader(
            body_size=len(body), properties=commands.Basic.Properties(**properties)
        )
        parts = (commands.Basic.Publish(routing_key=queue), head, ContentBody(body))
        return b"".join(frame.marshal(part, 1) for part in parts)


class MqttLine:
    """MQTT 3.1.1 on a bare socket; with a name, in the session of that client."""

    def __init__(self, url: str, client: str = "", *, forget: bool = True) -> None:
        self.socket = dial(url)
        self._read = self.socket.makefile("rb")
        head = _text(b"MQTT") + bytes((4, 2 if forget else 0)) + b"\0\0"
        self.ask(0x10, head + _text(client.encode()))

    @staticmethod
    def packet(kind: int, body: bytes) -> bytes:
        """A packet: its kind with its flags, and its length in groups of seven bits."""
        size, length = len(body), b""
        while size > 127:
            length, size = length + bytes((size & 127 | 128,)), size >> 7
        return bytes((kind,)) + length + bytes((size,)) + body

    @classmethod
    def publish(cls, topic: str, body: bytes, number: int = 0) -> bytes:
        """The bytes that bring one message: at QoS 1 with a number, at 0 without."""
        head = _text(topic.encode()) + (struct.pack(">H", number) if number else b"")
        return cls.packet(0x32 if number else 0x30, head + body)

    def ask(self, kind: int, body: bytes = b"") -> bytes:
        """Send a packet and return the body of what comes next."""
        self.socket.sendall(self.packet(kind, body))
        return self.answer()

    def answer(self) -> bytes:
        """The body of what comes next."""
        head = self._read.read(2)
        if len(head) < 2:
            raise Failed("MQTT: the connection ended")
        size, shift = head[1] & 127, 7
        more = head[1] & 128
        while more:
            (byte,) = self._read.read(1)
            size, shift, more = size | (byte & 127) << shift, shift + 7, byte & 128
        return self._read.read(size)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic's messages, at QoS 1 at most."""
        self.ask(0x82, b"\0\1" + _text(topic.encode()) + b"\1")

    def flush(self) -> None:
        """Wait until the broker has taken everything."""
        self.ask(0xC0)

    def close(self) -> None:
        self.socket.sendall(self.packet(0xE0, b""))
        self._read.close()
        self.socket.close()


def _text(words: bytes) -> bytes:
    return struct.pack(">H", len(words)) + words
