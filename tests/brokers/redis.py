"""redis-server with an append-only file that is synced at every write.

With a user and a password the user named `default`, whom everybody is before a login,
is off: nothing works without the login then.
"""

import socket

from .broker import Broker

__all__ = ["RedisBroker"]


class RedisBroker(Broker):
    """A redis-server."""

    name = "Redis"
    program = "redis-server"
    service = "redis"
    schemes = ("redis", "rediss")

    def _command(self) -> list[str]:
        lines = [
            f"bind {self.host}",
            f'dir "{self.folder}"',
            "appendonly yes",
            "appendfsync always",
            'save ""',
        ]
        if self.user is not None:
            lines += [f"user {self.user} on >{self.password} ~* &* +@all", "user default off"]
        if self.tls is None:
            lines.append(f"port {self.port}")
        else:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f'tls-cert-file "{self.tls.chain}"',
                f'tls-key-file "{self.tls.key}"',
                f'tls-ca-cert-file "{self.tls.authority}"',
                "tls-auth-clients no",
            ]
        config = self.folder / "redis.conf"
        config.write_text("\n".join([*lines, *self.settings, ""]))
        return [self.executable() or self.program, str(config)]

    def _greets(self, connection: socket.socket) -> bool:
        # Before it has read its file it answers -LOADING; without a login, -NOAUTH.
        with self._wrapped(connection) as wrapped:
            wrapped.sendall(b"PING\r\n")
            return wrapped.recv(64).startswith((b"+PONG", b"-NOAUTH"))
