"""How a broker is reached: TLS, logins, several servers, and what is said when it refuses."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from understudy.actors.errors import ConnectionLost, StartFailed
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.certificates import Certificates
from ...brokers.kafka import KafkaBroker
from ...brokers.ports import free_port
from ..serving import serving
from ..shop import Notes
from .test_bridge import Desk

LOGIN = {"user": "ada", "password": "tea"}


async def works(url: str, **options: Any) -> bool:
    service = serving(url, child(Desk, Notes()), group="g", **options)
    async with service, connect(url, **options) as client:
        return bool(await client.send("twice", 4, returns=int, timeout=20) == 8)


async def refusal(url: str, **options: Any) -> str:
    """Why a service and a client that cannot log in do not start; both must say the same."""
    with pytest.raises(StartFailed) as served:
        async with serving(url, child(Desk, Notes()), group="g", **options):
            pass
    with pytest.raises(ConnectionLost) as connected:
        async with connect(url, **options):
            pass
    assert isinstance(served.value.__cause__, ConnectionLost)
    assert served.value.__cause__.why == connected.value.why
    return connected.value.why


def unsecured_token() -> str:
    """A token in the form that a broker without a key of its own takes."""
    now = int(time.time())
    parts = [{"alg": "none"}, {"sub": "ada", "iat": now, "exp": now + 600}]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(text.rstrip("=") for text in texts) + "."


@pytest.mark.parametrize("sasl", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_tls_and_scram_together(
    own_kafka: Callable[..., KafkaBroker], certificates: Certificates, sasl: str
) -> None:
    broker = own_kafka(tls=certificates, sasl=sasl, **LOGIN)
    trusted = {"tls_ca": str(certificates.authority), "sasl": sasl}

    assert broker.url.startswith("kafkas://")
    assert await works(broker.url, **trusted)
    assert "certificate verify failed" in await refusal(broker.url, sasl=sasl)
    wrong = await refusal(broker.url.replace("tea", "milk"), **trusted)
    assert wrong.startswith("the broker refused the connection: ")
    assert "milk" not in wrong


async def test_a_token_is_asked_for_and_shown(own_kafka: Callable[..., KafkaBroker]) -> None:
    broker = own_kafka(sasl="OAUTHBEARER")
    asked: list[int] = []

    async def token() -> str:
        asked.append(1)
        return unsecured_token()

    assert await works(broker.url, sasl="OAUTHBEARER", token=token)
    assert await works(broker.url, sasl="OAUTHBEARER", token=unsecured_token)
    assert asked
    assert "refused" in await refusal(broker.url, sasl="OAUTHBEARER", token=lambda: "nonsense")


async def test_the_next_server_is_tried_when_one_is_away(url: str, name: str) -> None:
    here = url.rpartition("/")[2]
    nobody = f"kafka://127.0.0.1:{free_port()}"

    assert await works(nobody, servers=f"127.0.0.1:{free_port()},{here}", prefix=name)


async def test_a_tls_file_that_is_not_there_fails_the_start() -> None:
    with pytest.raises(StartFailed) as caught:
        async with serving(
            "kafka://127.0.0.1:1", child(Desk, Notes()), group="g", tls_ca="/no.pem"
        ):
            pass

    assert "TLS cannot be set up: No such file" in str(caught.value.__cause__)
