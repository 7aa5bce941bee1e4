"""nats-server, with JetStream if asked for.

JetStream writes to files at once but leaves it to the system to bring them to the disk
(nats-server 2.9 has no setting for that; `sync_interval` came with 2.10). The data
survives a SIGKILL all the same: only a failure of the machine could lose it.
"""

import json
import socket
from collections.abc import Sequence
from pathlib import Path

from .broker import Broker
from .certificates import Certificates

__all__ = ["NatsBroker"]


class NatsBroker(Broker):
    """A nats-server."""

    name = "NATS"
    program = "nats-server"
    service = "nats"
    schemes = ("nats", "tls")

    def __init__(
        self,
        folder: Path,
        *,
        jetstream: bool = True,
        user: str | None = None,
        password: str | None = None,
        tls: Certificates | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, user=user, password=password, tls=tls, settings=settings)
        self.jetstream = jetstream

    def _command(self) -> list[str]:
        lines = [f"host: {self.host}", f"port: {self.port}"]
        if self.jetstream:
            lines.append(f"jetstream {{ store_dir: {_quoted(self.folder / 'jetstream')} }}")
        if self.user is not None:
            login = f"user: {_quoted(self.user)}, password: {_quoted(self.password)}"
            lines.append(f"authorization {{ {login} }}")
        if self.tls is not None:
            files = f"cert_file: {_quoted(self.tls.chain)}, key_file: {_quoted(self.tls.key)}"
            lines.append(f"tls {{ {files} }}")
        config = self.folder / "nats.conf"
        config.write_text("\n".join([*lines, *self.settings, ""]))
        return [self.executable() or self.program, "-c", str(config)]

    def _greets(self, connection: socket.socket) -> bool:
        # In the clear, with TLS as well: that begins after the greeting.
        return connection.recv(5) == b"INFO "


def _quoted(value: object) -> str:
    return json.dumps(str(value))
