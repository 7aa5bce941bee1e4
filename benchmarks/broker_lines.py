"""Brokers spoken to on bare sockets: enough of NATS, Redis and AMQP for the broker benchmarks.

What drives the measured processes must be faster than they are, so no client library
stands between: requests and events are written as bytes that are made once.

Not owned here: what is sent (broker_wires.py, broker_load.py). Whatever a broker refuses, and
a connection that ends, is `Failed`; a silence is the socket's `TimeoutError`.
"""

import json
import socket
from typing import Any, Final
from urllib.parse import urlsplit

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader

__all__ = ["PATIENCE", "AmqpLine", "Failed", "NatsLine", "dial", "redis_command"]

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
