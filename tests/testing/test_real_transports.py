"""What the kit says of a service is the same on every transport, with real brokers."""

import pytest

from understudy.actors.errors import RpcError
from understudy.testing import Injected, advance, crash_on, inject, service

from .shop import Orders, shop

BROKERS = ["nats_broker", "redis_broker", "rabbitmq_broker", "mqtt_broker", "kafka_broker"]


@pytest.mark.parametrize("fixture", BROKERS)
async def test_a_service_is_called_broken_and_seen_through_a_broker(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    broker = request.getfixturevalue(fixture)
    async with service(shop(), url=broker.url) as running:
        assert await running.client.send(Orders.find, 7) == "order 7"

        inject(running.ref(Orders), crash_on(1))
        with pytest.raises(RpcError, match="Internal server error"):
            await running.client.send(Orders.find, 7)
        await running.expect_crash("orders", Injected, within=10)
        await running.expect_restart("orders")

        await running.client.emit("orders.created", "one")
        letter = await running.expect_dead_letter(Orders.on_created, reason="does not fit")
        assert (letter.body, running.restarts("orders")) == (b'"one"', 1)


async def test_two_services_on_one_broker_do_not_meet(request: pytest.FixtureRequest) -> None:
    broker = request.getfixturevalue("nats_broker")
    async with service(shop(), url=broker.url) as one, service(shop(), url=broker.url) as two:
        await one.client.emit("orders.created", "one")
        await one.expect_dead_letter(Orders.on_created)
        await two.client.send(Orders.find, 7)
        await advance(0)
        assert await two.dead_letters() == []
