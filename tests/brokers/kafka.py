"""Apache Kafka's own broker: one node of KRaft, run from its jars.

`python -m tests.brokers.kafka` fetches the jars with Maven, once, into the folder that
`UNDERSTUDY_KAFKA_JARS` names (`~/.cache/understudy/kafka`), and has Java keep the classes
in an archive beside them, with which a broker starts in two seconds instead of five.

Kafka writes to files at once and leaves it to the system to bring them to the disk, as it
does by default: what it confirmed survives a SIGKILL, and would not survive a failure of the
machine. Groups may have short sessions, and their members do not wait for others to join.
"""

import base64
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives import serialization

from .broker import Broker
from .certificates import Certificates
from .ports import free_port

__all__ = ["KafkaBroker"]

JARS: Final = Path(
    os.environ.get("UNDERSTUDY_KAFKA_JARS") or Path.home() / ".cache" / "understudy" / "kafka"
)
POM: Final = Path(__file__).parents[1] / "peers" / "kafka" / "pom.xml"
ARCHIVE: Final = JARS / "classes.jsa"
API_VERSIONS: Final = struct.pack(">hhih", 18, 0, 7, -1)
"""The request of that name: its key, version 0, number 7, from nobody in particular."""

MODULES: Final = {
    "PLAIN": "plain.PlainLoginModule",
    "SCRAM-SHA-256": "scram.ScramLoginModule",
    "SCRAM-SHA-512": "scram.ScramLoginModule",
    "OAUTHBEARER": "oauthbearer.OAuthBearerLoginModule",
}

Sasl = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaBroker(Broker):
    """A Kafka broker that is its own controller.

    Topics that are used are made, with `partitions`. With a user it asks for a login by
    the mechanism `sasl`; OAUTHBEARER takes any token of the right form, without a user.
    """

    name = "Kafka"
    program = "java"
    service = "kafka"
    schemes = ("kafka", "kafkas")
    patience = 60

    def __init__(
        self,
        folder: Path,
        *,
        partitions: int = 1,
        sasl: Sasl | None = None,
        user: str | None = None,
        password: str | None = None,
        tls: Certificates | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, user=user, password=password, tls=tls, settings=settings)
        self.partitions = partitions
        self.sasl: Sasl | None = sasl or ("PLAIN" if user is not None else None)
        self.inside_port, self.controller_port = free_port(), free_port()
        self.data = folder / "data"

    @classmethod
    def executable(cls) -> str | None:
        return super().executable() if any(JARS.glob("kafka_2*.jar")) else None

    @classmethod
    def lacking(cls) -> str:
        return (
            f"Java is not installed, or Kafka's jars are not in {JARS} (Debian: apt-get install "
            "default-jre-headless maven, then python -m tests.brokers.kafka)"
        )

    def _command(self) -> list[str]:
        security = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@{self.host}:{self.controller_port}",
            f"listeners=CLIENT://{self.host}:{self.port},INSIDE://{self.host}:{self.inside_port},"
            f"CONTROLLER://{self.host}:{self.controller_port}",
            f"advertised.listeners=CLIENT://{self.host}:{self.port},"
            f"INSIDE://{self.host}:{self.inside_port}",
            "listener.security.protocol.map="
            f"CLIENT:{security},INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=INSIDE",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.data}",
            f"num.partitions={self.partitions}",
            "num.network.threads=1",
            "num.io.threads=2",
            "offsets.topic.num.partitions=1",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=500",
            # A broker that was killed is not let in again before its session has ended.
            "broker.session.timeout.ms=1500",
            "broker.heartbeat.interval.ms=200",
            "log.cleaner.dedupe.buffer.size=4194304",
            *self._login_lines(),
            *self._tls_lines(),
        ]
        config = self.folder / "server.properties"
        config.write_text("\n".join([*lines, *self.settings, ""]))
        self._format(config)
        return [*_java(), "kafka.Kafka", str(config)]

    def _login_lines(self) -> list[str]:
        if self.sasl is None:
            return []
        login = f'user_{self.user}="{self.password}"' if self.sasl == "PLAIN" else ""
        if self.sasl == "OAUTHBEARER":
            login = 'unsecuredLoginStringClaim_sub="nobody"'
        module = f"org.apache.kafka.common.security.{MODULES[self.sasl]}"
        return [
            f"sasl.enabled.mechanisms={self.sasl}",
            f"listener.name.client.{self.sasl.lower()}.sasl.jaas.config={module} required {login};",
        ]

    def _tls_lines(self) -> list[str]:
        if self.tls is None:
            return []
        # Java reads no key but one in PKCS #8, in one file with its certificates.
        key = serialization.load_pem_private_key(self.tls.key.read_bytes(), None)
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, *form)
        store = self.folder / "server.pem"
        store.write_bytes(pem + self.tls.chain.read_bytes())
        return ["ssl.keystore.type=PEM", f"ssl.keystore.location={store}"]

    def _format(self, config: Path) -> None:
        """Prepare the data's folder, if it is new, as `kafka-storage format` does."""
        if self.data.exists():
            return
        cluster, directory = _random_id(), _random_id()
        if self.sasl is not None and self.sasl.startswith("SCRAM"):
            user = f"{self.sasl}=[name={self.user},password={self.password}]"
            tool = [*_java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)]
            subprocess.run([*tool, "--add-scram", user], check=True, stdout=subprocess.DEVNULL)
            return
        self.data.mkdir()
        (self.data / "meta.properties").write_text(
            f"version=1\ncluster.id={cluster}\nnode.id=1\ndirectory.id={directory}\n"
        )

    def _greets(self, connection: socket.socket) -> bool:
        with self._wrapped(connection) as wrapped:
            wrapped.sendall(struct.pack(">i", len(API_VERSIONS)) + API_VERSIONS)
            return wrapped.recv(64)[4:8] == API_VERSIONS[4:8]


def _java() -> list[str]:
    """Java, told to be small and quick to start rather than fast in the end."""
    archive = [f"-XX:SharedArchiveFile={ARCHIVE}"] if ARCHIVE.exists() else []
    return [
        "java",
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        *archive,
        "-cp",
        f"{JARS}/*",
    ]


def _random_id() -> str:
    # Its first byte is not one that would make it begin with a hyphen, like an option.
    return base64.urlsafe_b64encode(b"k" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def _fetch() -> None:
    """Have the jars there, and the archive of classes."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed (Debian: default-jre-headless and maven)")
    if KafkaBroker.executable() is None:
        JARS.mkdir(parents=True, exist_ok=True)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        maven = ["mvn", "-q", "-B", "-f", str(POM), *goal, f"-DoutputDirectory={JARS}"]
        subprocess.run(maven, check=True)
    if not ARCHIVE.exists():
        with tempfile.TemporaryDirectory() as folder:
            broker = _Archiving(Path(folder))
            broker.start()
            broker.stop()
            broker.archive.replace(ARCHIVE)


class _Archiving(KafkaBroker):
    """Keeps the classes that it has loaded, at its end."""

    @property
    def archive(self) -> Path:
        return JARS / f"classes-{os.getpid()}"

    def _command(self) -> list[str]:
        java, *arguments = super()._command()
        return [java, f"-XX:ArchiveClassesAtExit={self.archive}", "-Xlog:cds=off", *arguments]


if __name__ == "__main__":
    _fetch()
