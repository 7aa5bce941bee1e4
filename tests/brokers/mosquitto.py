"""mosquitto, which writes all it has to its file after every change.

mosquitto has its messages and sessions in memory and writes them to a file every half hour
by default, so that it forgets more in a SIGKILL than any test could bear. `autosave` tells
it to write every so many seconds instead, as people run it. It writes after it has
confirmed: what it must not forget, a test follows with one more question to the broker.
"""

import base64
import hashlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .broker import Broker
from .certificates import Certificates

__all__ = ["MosquittoBroker"]

_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
_CONNACK: Final = b"\x20"
_ROUNDS: Final = 101


class MosquittoBroker(Broker):
    """A mosquitto; `autosave` in seconds, and 0 for every change."""

    name = "mosquitto"
    program = "mosquitto"
    service = "mosquitto"
    schemes = ("mqtt", "mqtts")

    def __init__(
        self,
        folder: Path,
        *,
        autosave: int = 0,
        user: str | None = None,
        password: str | None = None,
        tls: Certificates | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, user=user, password=password, tls=tls, settings=settings)
        self.autosave = autosave

    def _command(self) -> list[str]:
        lines = [
            # It would become another user, who may not write here, when root runs the tests.
            "user root",
            f"listener {self.port} {self.host}",
            "persistence true",
            f"persistence_location {self.folder}/",
            f"autosave_on_changes {'false' if self.autosave else 'true'}",
            f"autosave_interval {self.autosave or 1}",
            "log_dest stderr",
            f"allow_anonymous {'true' if self.user is None else 'false'}",
        ]
        if self.user is not None:
            logins = self.folder / "logins"
            logins.write_text(f"{self.user}:{_hashed(self.password or '')}\n")
            lines.append(f"password_file {logins}")
        if self.tls is not None:
            lines += [f"certfile {self.tls.chain}", f"keyfile {self.tls.key}"]
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([*lines, *self.settings, ""]))
        return [self.executable() or self.program, "-c", str(config)]

    def _greets(self, connection: socket.socket) -> bool:
        # Without a login it greets as well, to say that one is wanted.
        with self._wrapped(connection) as wrapped:
            wrapped.sendall(_CONNECT)
            return wrapped.recv(1) == _CONNACK


def _hashed(password: str) -> str:
    """A password as mosquitto_passwd writes it."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return "$".join(
        ["", "7", str(_ROUNDS), base64.b64encode(salt).decode(), base64.b64encode(digest).decode()]
    )
