"""rabbitmq-server as a node of its own: own name, cookie, data, port mapper and settings.

Two processes: the Erlang machine, run without the shell around it so that it leads its
group and takes the signals itself, and `epmd`, Erlang's port mapper. Left alone, Erlang
would start one that outlives it, on a port that other nodes of this machine share; so one
is started first, on a port of its own. No plugin is on, and nothing listens beyond 127.0.0.1.

A start takes about 5 s on an idle machine and up to 15 s on a busy one.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .broker import Broker
from .certificates import Certificates
from .leash import Leash
from .ports import free_port

__all__ = ["RabbitmqBroker"]

# Debian's program on the PATH changes the user and the folder first; this one does not.
DEBIAN: Final = "/usr/lib/rabbitmq/bin/rabbitmq-server"
HEADER: Final = b"AMQP\x00\x00\x09\x01"
START: Final = b"\x00\x0a\x00\x0a"
"""Class 10, method 10: connection.start, the answer to the header."""


class RabbitmqBroker(Broker):
    """A rabbitmq-server with one user, who may do everything, from any host."""

    name = "RabbitMQ"
    program = "rabbitmq-server"
    service = "rabbitmq"
    schemes = ("amqp", "amqps")
    patience = 50

    def __init__(
        self,
        folder: Path,
        *,
        user: str = "guest",
        password: str = "guest",
        tls: Certificates | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, user=user, password=password, tls=tls, settings=settings)
        self.epmd_port, self.cluster_port = free_port(), free_port()
        self._epmd: Leash | None = None

    @classmethod
    def executable(cls) -> str | None:
        return DEBIAN if os.access(DEBIAN, os.X_OK) else super().executable()

    def start(self) -> None:
        if self._epmd is None:
            command = ["epmd", "-port", str(self.epmd_port), "-address", self.host]
            self._epmd = Leash.start(command, log=self.folder / "epmd.log", environment={})
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._end_epmd()

    def kill(self) -> None:
        super().kill()
        self._end_epmd()

    def close(self) -> None:
        super().close()
        self._end_epmd()

    def _end_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd = None

    def _command(self) -> list[str]:
        scheme = "tcp" if self.tls is None else "ssl"
        lines = [
            f"listeners.{scheme}.1 = {self.host}:{self.port}",
            "loopback_users = none",
            f"default_user = {self.user}",
            f"default_pass = {self.password}",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "disk_free_limit.absolute = 50MB",
        ]
        if self.tls is not None:
            lines += [
                "listeners.tcp = none",
                f"ssl_options.cacertfile = {self.tls.authority}",
                f"ssl_options.certfile = {self.tls.chain}",
                f"ssl_options.keyfile = {self.tls.key}",
            ]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, *self.settings, ""]))
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").touch()
        return [self.executable() or self.program, "-noinput"]

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": f"understudy-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.cluster_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
            # With this the start script becomes the Erlang machine instead of its parent;
            # the argument -noinput takes back what else it would mean.
            "RABBITMQ_ALLOW_INPUT": "1",
        }

    def _greets(self, connection: socket.socket) -> bool:
        with self._wrapped(connection) as wrapped:
            wrapped.sendall(HEADER)
            return wrapped.recv(64)[7:11] == START
