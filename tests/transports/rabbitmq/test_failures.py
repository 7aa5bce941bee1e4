"""A broker that is killed, frozen, out of memory or choosy about TLS, each the test's own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from pamqp import commands

from understudy.actors.errors import ConnectionLost
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.certificates import Certificates
from ...brokers.rabbitmq import RabbitmqBroker
from ..serving import serving, until
from ..shop import Notes, Shop
from .peer import peer_of

pytestmark = pytest.mark.timeout(120)

Start = Callable[..., RabbitmqBroker]
QUICK: dict[str, Any] = {"queue": "orders", "heartbeat": 1.0, "reconnect_max": 0.5}


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(partial(function, *arguments))


@pytest.fixture
def notes() -> Notes:
    found = Notes()
    found.gate.set()
    return found


async def test_nothing_that_was_confirmed_is_lost_when_the_broker_is_killed(
    own_rabbitmq: Start, notes: Notes
) -> None:
    broker = await in_thread(own_rabbitmq)
    notes.gate = trio.Event()
    async with serving(broker.url, child(Shop, notes), **QUICK) as shop:
        async with shop.client(**QUICK) as client:
            for number in range(20):
                await client.emit("sold", number)
            await in_thread(broker.kill)
            await until(lambda: not shop.statistics().connected)
            with pytest.raises(ConnectionLost, match="nothing listens there; gave up on 'echo'"):
                await client.send("echo", 1, timeout=1)
            await in_thread(broker.start)
            await until(lambda: shop.statistics().connected, within=30)
            notes.gate.set()
            await client.emit("sold", 20)
            await until(lambda: 20 in notes.seen, within=30)

    assert sorted(set(notes.seen)) == list(range(21))


async def test_a_frozen_broker_is_found_out_and_taken_up_again(
    own_rabbitmq: Start, notes: Notes
) -> None:
    broker = await in_thread(own_rabbitmq)
    async with serving(broker.url, child(Shop, notes), **QUICK) as shop:
        async with shop.client(**QUICK) as client:
            await client.emit("sold", 1)
            await in_thread(broker.freeze)
            with trio.fail_after(5), pytest.raises(ConnectionLost, match="said nothing for"):
                await client.send("echo", 1, timeout=30)
            await until(lambda: not shop.statistics().connected)
            await in_thread(broker.thaw)
            await until(lambda: shop.statistics().connected, within=15)
            await client.emit("sold", 2)
            assert await client.send("echo", 3) == 3
            await until(lambda: 2 in notes.seen)


async def test_an_event_waits_for_a_broker_that_comes_back_in_time(
    own_rabbitmq: Start, notes: Notes
) -> None:
    broker = await in_thread(own_rabbitmq)
    async with serving(broker.url, child(Shop, notes), **QUICK) as shop:
        async with shop.client(**QUICK, connect_timeout=40.0) as client:
            await in_thread(broker.kill)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.emit, "sold", 1)
                await in_thread(broker.start)
            await until(lambda: notes.seen == [1], within=20)


async def test_a_broker_without_memory_is_named_to_those_who_wait(
    own_rabbitmq: Start, notes: Notes
) -> None:
    settings = ["vm_memory_high_watermark.absolute = 1"]
    broker = await in_thread(partial(own_rabbitmq, settings=settings))
    async with peer_of(broker.url) as peer:
        await peer.call(commands.Queue.Declare(queue="orders", durable=True))
        async with connect(broker.url, queue="orders", connect_timeout=3.0) as client:
            for _ in range(2):
                with pytest.raises(
                    ConnectionLost, match=r"blocked the connection \(low on memory\)"
                ):
                    await client.emit("sold", 1)
            with pytest.raises(ConnectionLost, match="has blocked the connection"):
                await client.send("echo", 1, timeout=0.5)


async def test_tls_is_spoken_and_a_certificate_of_strangers_is_refused(
    own_rabbitmq: Start, certificates: Certificates, notes: Notes
) -> None:
    broker = await in_thread(partial(own_rabbitmq, tls=certificates))
    trusted: dict[str, Any] = {"queue": "orders", "tls_ca": str(certificates.authority)}
    async with serving(broker.url, child(Shop, notes), **trusted) as shop:
        async with shop.client(**trusted) as client:
            assert await client.send("echo", 1) == 1
            await client.emit("sold", 1)
        with pytest.raises(ConnectionLost, match=r"TLS failed: CERTIFICATE_VERIFY_FAILED"):
            async with connect(broker.url, queue="orders", patience=20):
                pass
        plain = broker.url.replace("amqps", "amqp")
        with pytest.raises(ConnectionLost, match="before it began; is TLS wanted there"):
            async with connect(plain, queue="orders"):
                pass


@pytest.mark.parametrize("reply", ["nobody-has-it", "amq.rabbitmq.reply-to.nonsense", "x" * 255])
async def test_an_answer_that_nobody_waits_for_hurts_nobody(
    url: str, queue: str, notes: Notes, reply: str
) -> None:
    from understudy.transports.rabbitmq.frames import Properties

    async with serving(url, child(Shop, notes), queue=queue) as shop, peer_of(url) as peer:
        body = b'{"pattern":"echo","data":1,"id":"i"}'
        await peer.publish(queue, body, Properties(reply_to=reply))
        async with shop.client(queue=queue) as client:
            assert await client.send("echo", 1) == 1
        assert shop.statistics().connections == 1
