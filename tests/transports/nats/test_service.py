"""What a bridge tells of itself by NATS's service protocol."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from nats.aio.client import Client as NatsConnection
from nats.micro.service import EndpointInfo, EndpointStats, ServiceInfo, ServicePing, ServiceStats

from understudy.actors.errors import RpcError
from understudy.supervisors.child import child
from understudy.transports.client import connect

from ...brokers.broker import Address
from ..serving import serving
from .notes import Ledger, Orders, asking

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    return f"shop-{next(_numbers)}"


@pytest.fixture
def url(nats_broker: Address, name: str) -> str:
    return f"{nats_broker.url}?prefix={name}"


async def _ask(connection: NatsConnection, subject: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await connection.request(subject, timeout=2)).data)
    return found


async def _ask_all(connection: NatsConnection, subject: str) -> list[dict[str, Any]]:
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.publish(subject, b"", inbox)
    found: list[dict[str, Any]] = []
    with suppress(TimeoutError):
        while body := (await answers.next_msg(timeout=0.5)).data:
            found.append(json.loads(body))  # an empty one: nobody is there
    return found


async def test_a_service_is_found_by_its_name(url: str, name: str) -> None:
    orders = child(Orders, Ledger())
    async with serving(url, orders, service=name, version="2.1.0"), asking(url) as on:
        ping = ServicePing.from_dict(await on(_ask, f"$SRV.PING.{name}"))
        same = await on(_ask, f"$SRV.PING.{name}.{ping.id}")
        everybody = await on(_ask_all, "$SRV.PING")

    assert (ping.name, ping.version) == (name, "2.1.0")
    assert same["id"] == ping.id
    assert ping.id in [each["id"] for each in everybody]


async def test_its_endpoints_are_the_patterns_of_its_requests(url: str, name: str) -> None:
    orders = child(Orders, Ledger())
    async with serving(url, orders, service=name, queue="q"), asking(url) as on:
        info = ServiceInfo.from_dict(await on(_ask, f"$SRV.INFO.{name}"))

    assert info.endpoints == [EndpointInfo(f"{name}_find", f"{name}.find", "q", {})]


async def test_it_counts_requests_and_errors_and_measures_some(url: str, name: str) -> None:
    orders = child(Orders, Ledger())
    async with serving(url, orders, service=name), asking(url) as on, connect(url) as client:
        for number in range(10):
            await client.send("find", number)
        with pytest.raises(RpcError):
            await client.send("find", "crash")
        stats = ServiceStats.from_dict(await on(_ask, f"$SRV.STATS.{name}"))

    (endpoint,) = stats.endpoints
    assert isinstance(endpoint, EndpointStats)
    assert (endpoint.num_requests, endpoint.num_errors) == (11, 1)
    assert 0 < endpoint.average_processing_time < 1e9
    assert endpoint.processing_time == endpoint.average_processing_time * 11


async def test_without_a_name_nothing_is_told(url: str, name: str) -> None:
    async with serving(url, child(Orders, Ledger())) as service, asking(url) as on:
        told = await on(_ask_all, "$SRV.INFO")

        assert service.statistics().connected
    assert f"{name}.find" not in [each["subject"] for one in told for each in one["endpoints"]]
