"""What becomes of messages when the network is cut, and the broker killed, frozen or odd."""

import itertools
import os
import re
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.errors import ConnectionLost
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.actors.lifecycle import StateChanged
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve
from understudy.transports.client import connect

from ...brokers.broker import Address
from ...brokers.certificates import Certificates
from ...brokers.mosquitto import MosquittoBroker
from ..serving import Service, hosting, serving, until
from .network import proxy, speaking
from .peer import causes, peer

Start = Callable[..., MosquittoBroker]
QUICK: dict[str, Any] = {"heartbeat": 1.0, "reconnect_max": 0.2}

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    return f"failures-{os.getpid()}-{next(_numbers)}"


class Notes:
    def __init__(self) -> None:
        self.began: list[Any] = []
        self.seen: list[tuple[Any, bool]] = []
        self.gate = trio.Event()
        self.gate.set()


class Orders(Actor):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    @event_pattern("placed")
    async def placed(self, item: Any, context: MessageContext) -> None:
        self.notes.began.append(item)
        await self.notes.gate.wait()
        self.notes.seen.append((item, context.redelivered))

    @message_pattern("echo")
    def echo(self, item: Any) -> Any:
        return item


@pytest.fixture
def notes() -> Notes:
    return Notes()


def port_of(broker: Address | MosquittoBroker) -> int:
    return int(broker.url.rpartition(":")[2])


def states(service: Service) -> list[tuple[str, str]]:
    """Collects what the bridge says about its state: `(state, why)`."""
    found: list[tuple[str, str]] = []
    service.system.bus.subscribe(
        lambda n: found.append((n.state, n.why)) if isinstance(n, StateChanged) else None
    )
    return found


# -- the network ------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 311])
async def test_what_is_in_hand_when_the_network_is_cut_runs_once(
    mqtt_broker: Address, notes: Notes, name: str, version: int
) -> None:
    notes.gate = trio.Event()
    many = child(Orders, notes, concurrency=8)
    options = {"client_id": name, "prefix": name, "version": version}
    async with proxy(port_of(mqtt_broker)) as network:
        async with serving(network.url, many, **options, **QUICK) as service:
            with peer(mqtt_broker.url) as stranger:
                for number in range(3):
                    stranger.tell(f"{name}/placed", number, 1)
                await until(lambda: len(notes.began) == 3)
                network.cut()
                await until(lambda: service.statistics().connections == 2)
                stranger.tell(f"{name}/placed", 3, 1)
                await until(lambda: len(notes.began) == 4)
            notes.gate.set()
            await until(lambda: service.statistics().in_flight == 0)
    async with serving(mqtt_broker.url, child(Orders, notes), **options):
        await wait_all_tasks_blocked(0.1)

    assert sorted(notes.seen) == [(number, False) for number in range(4)]


@pytest.mark.parametrize("stalled", [True, False], ids=["told in vain", "not told"])
async def test_what_is_handled_while_the_network_is_away_is_acknowledged_and_not_run_again(
    mqtt_broker: Address, notes: Notes, name: str, stalled: bool
) -> None:
    notes.gate = trio.Event()
    options = {"client_id": name, "prefix": name}
    async with proxy(port_of(mqtt_broker)) as network:
        async with serving(network.url, child(Orders, notes), **options, **QUICK) as service:
            async with connect(mqtt_broker.url, prefix=name) as client:
                await client.emit("placed", 1)
            await until(lambda: notes.began)
            if stalled:
                network.stall()
            else:
                network.is_down = True
                network.cut()
                await until(lambda: not service.statistics().connected)
            notes.gate.set()
            await until(lambda: service.statistics().in_flight == 0)
            network.cut()
            network.is_down = False
            network.go_on()
            await until(lambda: service.statistics().connections >= 2)
            await until(lambda: service.statistics().connected)
            bridge: Any = service.system.offer("bridge")
            await until(lambda: not bridge.ledger)
            await wait_all_tasks_blocked(0.1)
    async with serving(mqtt_broker.url, child(Orders, notes), **options):
        await wait_all_tasks_blocked(0.1)

    assert notes.seen == [(1, False)]


async def test_what_waits_for_room_when_the_network_is_cut_is_not_forgotten(
    mqtt_broker: Address, notes: Notes, name: str
) -> None:
    """mosquitto sends a resumed session all that waits for it, whatever its credit is."""
    options: dict[str, Any] = {"client_id": name, "prefix": name, "in_flight": 4, "backlog": 1}
    async with hosting(mqtt_broker.url, child(Orders, notes), **options):
        pass
    with peer(mqtt_broker.url) as stranger:
        for number in range(100):
            stranger.tell(f"{name}/placed", number, 1)
    notes.gate = trio.Event()
    async with proxy(port_of(mqtt_broker)) as network:
        async with serving(network.url, child(Orders, notes), **options, **QUICK) as service:
            await until(lambda: notes.began)
            network.cut()
            await until(lambda: service.statistics().connections == 2)
            await until(lambda: service.statistics().connected)
            notes.gate.set()
            await until(lambda: len(notes.seen) == 100)
            await until(lambda: service.statistics().in_flight == 0)

    assert [item for item, _ in notes.seen] == list(range(100))


async def test_a_network_that_stalls_is_noticed_and_left(
    mqtt_broker: Address, notes: Notes, name: str
) -> None:
    async with proxy(port_of(mqtt_broker)) as network:
        async with serving(network.url, child(Orders, notes), prefix=name, **QUICK) as service:
            told = states(service)
            network.stall()
            await until(lambda: told, within=10)
            network.go_on()
            await until(lambda: ("connected", "") in told, within=10)
            async with connect(f"{network.url}?prefix={name}") as client:
                assert await client.send("echo", 1) == 1

    assert told[0][0] == "waiting"
    assert "the broker has said nothing for 2 s" in told[0][1]


async def test_an_event_that_was_cut_off_is_sent_again_and_known(
    mqtt_broker: Address, notes: Notes, name: str
) -> None:
    """The broker has it, and its confirmation is lost."""
    url = f"{mqtt_broker.url}?prefix={name}"
    async with proxy(port_of(mqtt_broker)) as network:
        async with serving(url, child(Orders, notes), client_id=name) as service:
            through = f"{network.url}?prefix={name}"
            async with (
                connect(through, reconnect_max=0.2) as client,
                trio.open_nursery() as nursery,
            ):
                await client.emit("placed", 0)
                with peer(mqtt_broker.url, f"{name}/placed") as stranger:
                    network.stall_answers()
                    nursery.start_soon(client.emit, "placed", 1)
                    await until(lambda: stranger.got)
                    network.cut()
                    network.go_on()
            await until(lambda: len(notes.seen) == 3)
            assert service.statistics().duplicates == 1

    assert notes.seen == [(0, False), (1, False), (1, True)]


# -- the broker -------------------------------------------------------------------


async def test_an_orderly_restart_of_the_broker_loses_nothing(
    own_mqtt: Start, notes: Notes
) -> None:
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(autosave=1800))
    options: dict[str, Any] = {"client_id": "orders"}
    async with hosting(broker.url, child(Orders, notes), **options):
        pass
    async with connect(broker.url, **QUICK) as client:
        for number in range(20):
            await client.emit("placed", number)
        await trio.to_thread.run_sync(broker.restart)
        async with serving(broker.url, child(Orders, notes), **options):
            await until(lambda: len(notes.seen) == 20, within=10)
            await client.emit("placed", 20)
            await until(lambda: len(notes.seen) == 21, within=10)

    assert [item for item, _ in notes.seen] == list(range(21))


async def test_a_killed_broker_forgets_what_it_has_not_written_and_the_session_with_it(
    own_mqtt: Start, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is with mosquitto's own settings, in which it writes every half hour."""
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(autosave=1800))
    notes.gate = trio.Event()
    async with serving(broker.url, child(Orders, notes), client_id="orders", **QUICK) as service:
        async with connect(broker.url, **QUICK) as client:
            for number in range(3):
                await client.emit("placed", number)
            await until(lambda: len(notes.began) == 1)
            told = states(service)
            await trio.to_thread.run_sync(broker.kill)
            await until(lambda: told)
            await trio.to_thread.run_sync(broker.start)
            await until(lambda: ("connected", "") in told, within=10)
            notes.gate.set()
            await client.emit("placed", 3)
            await until(lambda: (3, False) in notes.seen)

    assert sorted(notes.seen) == [(number, False) for number in range(4)]
    assert any("the broker has forgotten our session" in each.message for each in caplog.records)


async def test_a_client_that_waits_for_a_killed_broker_goes_on(
    own_mqtt: Start, notes: Notes
) -> None:
    broker = await trio.to_thread.run_sync(own_mqtt)
    async with serving(broker.url, child(Orders, notes), **QUICK):
        async with connect(broker.url, **QUICK) as client, trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(broker.kill)
            nursery.start_soon(client.emit, "placed", 1)
            await trio.to_thread.run_sync(broker.start)


# -- who may come in ----------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 311])
async def test_a_wrong_login_is_refused_in_words_in_both_versions(
    own_mqtt: Start, notes: Notes, version: int
) -> None:
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(user="ada", password="tea"))
    async with serving(broker.url, child(Orders, notes), version=version):
        async with connect(broker.url, version=version) as client:
            assert await client.send("echo", 1) == 1
    for url in (broker.url.replace("tea", "milk"), f"mqtt://127.0.0.1:{broker.port}"):
        with pytest.raises(ConnectionLost, match="the login was refused: see the user") as caught:
            async with connect(url, version=version):
                pass
        assert "milk" not in str(caught.value)


async def test_tls_is_spoken_and_a_stranger_is_not_trusted(
    own_mqtt: Start, certificates: Certificates, notes: Notes
) -> None:
    broker = await trio.to_thread.run_sync(lambda: own_mqtt(tls=certificates))
    trusting: dict[str, Any] = {"tls_ca": str(certificates.authority)}
    async with serving(broker.url, child(Orders, notes), **trusting):
        async with connect(broker.url, **trusting) as client:
            big = "x" * 1_000_000
            assert await client.send("echo", big) == big
            for number in range(100):
                await client.emit("placed", number)
        with pytest.raises(ConnectionLost, match="TLS failed: CERTIFICATE_VERIFY_FAILED"):
            async with connect(broker.url, tls=ssl.create_default_context()):
                pass
        with pytest.raises(ConnectionLost, match="is TLS or another version wanted"):
            async with connect(f"mqtt://127.0.0.1:{broker.port}"):
                pass


@pytest.mark.parametrize("version", [5, 311])
async def test_two_services_with_one_client_id_are_told_so_and_do_not_fight_for_it(
    mqtt_broker: Address, notes: Notes, name: str, version: int
) -> None:
    options: dict[str, Any] = {"client_id": name, "prefix": name, "version": version, **QUICK}
    async with serving(mqtt_broker.url, child(Orders, notes), **options) as first:
        told = states(first)
        async with serving(mqtt_broker.url, child(Orders, Notes()), **options) as second:
            told_second = states(second)
            await until(lambda: _left_alone(told) or _left_alone(told_second), within=10)
            before = first.statistics().connections + second.statistics().connections
            await trio.sleep(1.0)
            assert first.statistics().connections + second.statistics().connections <= before + 1

    why = (_left_alone(told) or _left_alone(told_second))[0]
    assert f"perhaps somebody else has connected with the client id {name!r}" in why


def _left_alone(told: list[tuple[str, str]]) -> list[str]:
    return [why for _, why in told if "tried again in 30.0 s" in why]


# -- what is odd ----------------------------------------------------------------------

GREETED = b"\x20\x03\x00\x00\x00"
"""CONNACK of MQTT 5."""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x20\x03\x00\x84\x00", "does not speak MQTT 5; try version=311"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 5; try version=311"),
        (b"\x20\x03\x00\x85\x00", "refused the client id"),
        (b"\x20\x03\x00\x8a\x00", "refused the connection: Banned"),
        (b"\x20\x03\x00\x88\x00", "closed the connection: Server unavailable"),
        (b"\x20\x08\x00\x9c\x05\x1c\x00\x02ab", "Use another server, to ab"),
        (b"\x20\x07\x00\x87\x04\x1f\x00\x01x", r"login was refused: .*Not authorized \(x\)"),
        (b"\x00" * 10, "does not speak MQTT 5"),
        (b"\x20\x01\x00", "does not speak MQTT 5"),
    ],
    ids=[
        "version",
        "a broker of 3.1.1",
        "client id",
        "banned",
        "unavailable",
        "elsewhere",
        "with a reason",
        "zeros",
        "half a greeting",
    ],
)
async def test_a_refusal_is_told_in_words(answer: bytes, why: str) -> None:
    async with speaking(answer) as url:
        with pytest.raises(ConnectionLost, match=why):
            async with connect(url):
                pass


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x20\x02\x00\x01", "does not speak MQTT 3.1.1"),
        (b"\x20\x02\x00\x02", "refused the client id"),
        (b"\x20\x02\x00\x03", "closed the connection: Server unavailable"),
        (b"\x20\x02\x00\x04", "login was refused"),
        (b"\x20\x02\x00\x05", "login was refused"),
    ],
    ids=["version", "client id", "unavailable", "password", "rights"],
)
async def test_a_refusal_of_mqtt_311_is_told_in_words(answer: bytes, why: str) -> None:
    async with speaking(answer) as url:
        with pytest.raises(ConnectionLost, match=why):
            async with connect(url, version=311, client_id="me"):
                pass


async def test_a_subscription_that_is_refused_fails_the_start(notes: Notes) -> None:
    async with speaking(GREETED, b"\x90\x05%m\x00\x87\x87") as url:
        with pytest.raises(Exception) as caught:
            async with running(Supervisor("shop", [child(Orders, notes), serve(url)])):
                pass

    assert " may not be subscribed to: Not authorized" in causes(caught.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\xe0\x02\x8b\x00", "closed the connection: Server shutting down"),
        (b"\xe0\x02\x8e\x00", "somebody else has connected with .* tried again in 30.0 s"),
        (b"\xe0\x02\x93\x00", "closed the connection: Receive maximum exceeded"),
        (b"\x00\x00", "sent what is no MQTT"),
        (b"\x30\x02\x00\xff", "before its body"),
        (b"\x32\x05\x00\x01a\x00\x01", "before its body"),
        (b"\x30\xff\xff\xff\xff\xff", "sent what is no MQTT"),
    ],
    ids=["good-bye", "taken over", "too much", "zeros", "no topic", "no properties", "no length"],
)
async def test_a_connection_that_the_broker_spoils_is_left_for_another_one(
    notes: Notes, caplog: pytest.LogCaptureFixture, said: bytes, why: str
) -> None:
    async with speaking(GREETED, b"\x90\x05%m\x00\x01\x01" + said) as url:
        tree = Supervisor("shop", [child(Orders, notes), serve(url, name="bridge", **QUICK)])
        async with running(tree) as system:
            # From the log: it may be spoiled before anybody here can subscribe to notices.
            await until(lambda: re.search(f"shop/bridge is waiting: .*{why}", caplog.text))
            if "30.0" not in why:
                await until(lambda: Service(url, system).statistics().connections > 1)


async def test_a_broker_that_never_answers_is_given_up() -> None:
    async with speaking() as url:
        with pytest.raises(ConnectionLost, match=r"no connection within 0\.2 s"):
            async with connect(url, connect_timeout=0.2):
                pass
