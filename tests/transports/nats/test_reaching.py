"""How a server is reached: TLS, logins, clusters, and what is said when it will not have us."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import nkeys
import pytest
import trio

from understudy.actors.errors import (
    ConnectionLost,
    NoResponders,
    RequestTimeout,
    StartFailed,
)
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.certificates import Certificates
from ...brokers.nats import NatsBroker
from ...brokers.ports import free_port
from ..serving import serving
from .notes import Ledger, Orders, causes, eventually, states, until_true


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def works(url: str, **options: Any) -> bool:
    async with serving(url, child(Orders, Ledger()), **options), connect(url, **options) as client:
        return bool(await client.send("find", 7) == 7)


async def refusal(url: str, **options: Any) -> str:
    """Why a service and a client that cannot log in do not start; both must say the same."""
    with pytest.raises(StartFailed) as served:
        async with serving(url, child(Orders, Ledger()), **options):
            pass
    with pytest.raises(ConnectionLost) as connected:
        async with connect(url, **options):
            pass
    assert connected.value.why in causes(served.value)
    return connected.value.why


# -- TLS and logins -------------------------------------------------------------


async def test_tls_with_an_authority_of_ones_own(
    own_nats: Callable[..., NatsBroker], certificates: Certificates
) -> None:
    broker = own_nats(tls=certificates)

    assert broker.url.startswith("tls://")
    assert await works(broker.url, tls_ca=str(certificates.authority))
    assert await works(broker.url, tls=certificates.context())


async def test_a_server_that_nobody_vouches_for_is_refused(
    own_nats: Callable[..., NatsBroker], certificates: Certificates
) -> None:
    why = await refusal(own_nats(tls=certificates).url)

    assert "certificate verify failed" in why


async def test_a_server_can_ask_for_a_certificate(
    own_nats: Callable[..., NatsBroker], certificates: Certificates
) -> None:
    tls = (
        f'tls {{ cert_file: "{certificates.chain}", key_file: "{certificates.key}", '
        f'ca_file: "{certificates.authority}", verify: true }}'
    )
    broker = own_nats(settings=[tls])
    url = broker.url.replace("nats://", "tls://")
    options = {"tls_ca": str(certificates.authority)}
    shown = {"tls_cert": str(certificates.chain), "tls_key": str(certificates.key)}

    assert await works(url, **options, **shown)
    with pytest.raises(ConnectionLost):
        async with connect(url, **options):
            pass


async def test_a_tls_file_that_is_not_there_fails_the_start() -> None:
    with pytest.raises(StartFailed) as caught:
        async with serving("tls://127.0.0.1:1", child(Orders, Ledger()), tls_ca="/nowhere.pem"):
            pass

    assert "TLS cannot be set up: No such file" in causes(caught.value)


async def test_a_user_and_a_password(own_nats: Callable[..., NatsBroker]) -> None:
    broker = own_nats(user="ada", password="t:e@a")
    broker_url = f"nats://ada:t%3Ae%40a@127.0.0.1:{broker.port}"

    assert await works(broker_url)


async def test_a_wrong_password_fails_the_start_and_is_not_shown(
    own_nats: Callable[..., NatsBroker],
) -> None:
    broker = own_nats(user="ada", password="tea")
    why = await refusal(f"nats://ada:milk@127.0.0.1:{broker.port}")

    assert why == "the server refused the connection: nats: 'Authorization Violation'"


async def test_a_token(own_nats: Callable[..., NatsBroker]) -> None:
    broker = own_nats(settings=['authorization { token: "s3cret" }'])

    assert await works(f"nats://s3cret@127.0.0.1:{broker.port}")
    assert "Authorization Violation" in await refusal(f"nats://milk@127.0.0.1:{broker.port}")


async def test_an_nkey(own_nats: Callable[..., NatsBroker], tmp_path: Path) -> None:
    library: Any = nkeys  # its types say less than it does
    raw = library.encode_seed(b"thirty-two letters make one seed", library.PREFIX_BYTE_USER)
    pair = library.from_seed(raw)
    seed = tmp_path / "seed"
    seed.write_bytes(bytes(pair.seed))
    user = pair.public_key.decode()
    broker = own_nats(settings=[f"authorization {{ users: [ {{ nkey: {user} }} ] }}"])

    assert await works(broker.url, nkey=str(seed))
    assert "Authorization Violation" in await refusal(broker.url)


async def test_a_login_that_is_taken_away_later_is_a_state(
    own_nats: Callable[..., NatsBroker],
) -> None:
    broker = own_nats(user="ada", password="tea")
    async with serving(broker.url, child(Orders, Ledger()), reconnect_max=0.2) as service:
        notices = states(service)
        broker.password = "milk"
        await trio.to_thread.run_sync(broker.restart)
        await until_true(lambda: any("refused" in why for _, why in notices))
        broker.password = "tea"
        await trio.to_thread.run_sync(broker.restart)
        await until_true(lambda: notices[-1][0] == "connected")


# -- clusters -------------------------------------------------------------------


@attrs.frozen
class Cluster:
    brokers: list[NatsBroker]

    def urls(self) -> str:
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers[1:])


@pytest.fixture
def start_cluster(own_nats: Callable[..., NatsBroker]) -> Callable[[int], Cluster]:
    def start(size: int, *, jetstream: bool = False) -> Cluster:
        ports = [free_port() for _ in range(size)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        brokers = [
            own_nats(
                jetstream=jetstream,
                settings=[
                    f"server_name: s{number}",
                    f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
                ],
            )
            for number, port in enumerate(ports)
        ]
        return Cluster(brokers)

    return start


async def _answer(client: Any) -> Any:
    try:
        return await client.send("find", 7, timeout=1)
    except (NoResponders, ConnectionLost, RequestTimeout):
        return None


@pytest.mark.parametrize("told", [True, False], ids=["servers named", "servers found out"])
async def test_when_a_server_of_a_cluster_is_killed_another_is_used(
    start_cluster: Callable[..., Cluster], ledger: Ledger, told: bool
) -> None:
    cluster = await trio.to_thread.run_sync(start_cluster, 2)
    first, second = cluster.brokers
    options: dict[str, Any] = {"reconnect_max": 0.2}
    if told:
        options["servers"] = cluster.urls()
    async with serving(first.url, child(Orders, ledger), **options) as service:
        notices = states(service)
        async with connect(first.url, **options) as client, connect(second.url) as other:
            assert await eventually(lambda: _answer(client), bool) == 7
            assert await eventually(lambda: _answer(other), bool) == 7
            await trio.to_thread.run_sync(first.kill)
            assert await eventually(lambda: _answer(client), bool) == 7
            assert await eventually(lambda: _answer(other), bool) == 7

    assert [state for state, _ in notices][:2] == ["waiting", "connected"]


async def test_when_a_server_of_a_cluster_freezes_another_is_used(
    start_cluster: Callable[..., Cluster], ledger: Ledger
) -> None:
    cluster = await trio.to_thread.run_sync(start_cluster, 2)
    first, _ = cluster.brokers
    options = {"servers": cluster.urls(), "heartbeat": 0.5, "connect_timeout": 1.0}
    async with serving(first.url, child(Orders, ledger), **options):
        async with connect(first.url, **options) as client:
            first.freeze()
            assert await eventually(lambda: _answer(client), bool) == 7


async def test_a_stream_in_three_copies_outlives_one_of_its_servers(
    start_cluster: Callable[..., Cluster], ledger: Ledger
) -> None:
    cluster = await trio.to_thread.run_sync(lambda: start_cluster(3, jetstream=True))
    first = cluster.brokers[0]
    options: dict[str, Any] = {"servers": cluster.urls(), "reconnect_max": 0.2, "stream": "ORDERS"}
    orders = child(Orders, ledger, concurrency=16)
    async with serving(first.url, orders, durable="orders", replicas=3, heartbeat=1.0, **options):
        async with connect(first.url, confirm_timeout=30.0, **options) as client:
            for number in range(20):
                await client.emit("placed", number)
            await trio.to_thread.run_sync(first.kill)
            for number in range(20, 40):
                await client.emit("placed", number)
            await until_true(lambda: len(set(ledger.seen)) == 40, within=30)
