"""A real broker of the tests' own, and what tests do to it: kill, freeze, bring it back.

Owns the process, the port (the same for the broker's life) and the waiting until the
broker answers in its own protocol; a subclass says how its program is told all that.
Does not own the folder, which the caller gives and removes, nor any client.

Every call blocks, for milliseconds with NATS and Redis and for seconds with RabbitMQ:
on trio, run them in a thread (`await trio.to_thread.run_sync(broker.restart)`).
"""

import os
import shutil
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import attrs

from .certificates import Certificates
from .leash import Leash
from .ports import free_port

__all__ = ["Address", "Broker"]

LOG_SHOWN: Final = 3000
# Debian's place for servers, which is not on every user's PATH.
SBIN: Final = "/usr/sbin"


@attrs.frozen
class Address:
    """Where a broker is that this test shares with others, and must leave running."""

    url: str


class Broker(ABC):
    """One broker. Nothing runs before `start`, and its data is in `folder` alone.

    `settings` are further lines of its configuration file, in the broker's own words.
    With `tls` it takes connections in TLS and no others.
    """

    name: ClassVar[str]
    """What people call it."""
    program: ClassVar[str]
    """The program that is run, which is the name of the Debian package too."""
    service: ClassVar[str]
    """Its name in compose.yaml."""
    schemes: ClassVar[tuple[str, str]]
    """The scheme of its URLs, without and with TLS."""
    patience: ClassVar[float] = 15
    """Seconds until it must answer, and until an orderly stop must be over."""

    def __init__(
        self,
        folder: Path,
        *,
        user: str | None = None,
        password: str | None = None,
        tls: Certificates | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        if (user is None) != (password is None):
            raise ValueError(f"{self.name}: give both a user and a password, or neither")
        self.folder = folder
        self.user, self.password, self.tls = user, password, tls
        self.settings = tuple(settings)
        self.host, self.port = "127.0.0.1", free_port()
        self.log = folder / "log"
        self._leash: Leash | None = None

    @classmethod
    def executable(cls) -> str | None:
        """The program's path, or `None` where it is not installed."""
        return shutil.which(cls.program, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")

    @classmethod
    def lacking(cls) -> str:
        """What is not there when there is no program, and how to get it."""
        return f"{cls.program} is not installed (Debian: apt-get install {cls.program})"

    @abstractmethod
    def _command(self) -> list[str]:
        """What to run. Writes the configuration first."""

    @abstractmethod
    def _greets(self, connection: socket.socket) -> bool:
        """Whether whoever is at the other end speaks this broker's protocol, and is ready."""

    def _environment(self) -> dict[str, str]:
        return {}

    @property
    def url(self) -> str:
        """Where clients find it, with the user and the password if it asks for them."""
        login = "" if self.user is None else f"{self.user}:{self.password}@"
        return f"{self.schemes[self.tls is not None]}://{login}{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process; `RuntimeError` when it does not run."""
        return self._running().pid

    def answers(self) -> bool:
        """Whether it takes a connection now and says in its protocol that it is ready."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as connection:
                return self._greets(connection)
        except OSError:
            return False

    def start(self) -> None:
        """Run it, and come back when it answers; `RuntimeError` with its log if it does not."""
        if self._leash is not None:
            raise RuntimeError(f"{self} runs already; stop or kill it first")
        leash = Leash.start(self._command(), log=self.log, environment=self._environment())
        self._leash = leash
        deadline = time.monotonic() + self.patience
        while not self.answers():
            if leash.ended is not None:
                self._fail(f"ended with {leash.ended} before it answered")
            if time.monotonic() > deadline:
                self._fail(f"did not answer within {self.patience:g} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """An orderly end: it closes its connections and writes what it has to."""
        leash, self._leash = self._running(), None
        leash.terminate(self.patience)

    def kill(self) -> None:
        """SIGKILL for the process and its group, as if power had failed for it alone."""
        leash, self._leash = self._running(), None
        leash.kill()

    def restart(self) -> None:
        """Start it again on the same port with the same data, stopping it first if it runs."""
        if self._leash is not None:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """It stops in its tracks (SIGSTOP): connections stay, and nobody answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """It goes on where it was frozen."""
        self._running().thaw()

    def close(self) -> None:
        """Kill it if it still runs: what owners do at the end, whatever state it is in."""
        if self._leash is not None:
            self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{self.name} on port {self.port}"

    def _running(self) -> Leash:
        if self._leash is None:
            raise RuntimeError(f"{self} does not run; start it first")
        return self._leash

    def _fail(self, what: str) -> None:
        said = self.log.read_text(errors="replace")[-LOG_SHOWN:]
        self.close()
        raise RuntimeError(f"{self} {what}; it said:\n{said}")

    def _wrapped(self, connection: socket.socket) -> socket.socket | ssl.SSLSocket:
        """The connection as its protocol is spoken on it, in TLS if that is asked for."""
        if self.tls is None:
            return connection
        return self.tls.context().wrap_socket(connection, server_hostname=self.host)
