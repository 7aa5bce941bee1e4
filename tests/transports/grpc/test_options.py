"""What options mean to gRPC's core, and to protobuf."""

from pathlib import Path

import pytest
import trio

from understudy.supervisors.child import child
from understudy.transports.grpc.library import grpc
from understudy.transports.grpc.options import (
    GrpcClientOptions,
    GrpcOptions,
    client_arguments,
    server_arguments,
)

from ..serving import serving, until
from .orders import Notes, Orders
from .peers import ORDERS, SHOP, calling


def test_lists_are_texts_with_commas_or_lists() -> None:
    assert GrpcOptions(proto="a.proto,b.proto").proto == ("a.proto", "b.proto")
    assert GrpcOptions(proto=["a,b.proto"], package=()).proto == ("a,b.proto",)


@pytest.mark.parametrize(
    ("option", "argument"),
    [
        ("keepalive", "grpc.keepalive_time_ms"),
        ("keepalive_timeout", "grpc.keepalive_timeout_ms"),
        ("max_idle", "grpc.max_connection_idle_ms"),
        ("max_age", "grpc.max_connection_age_ms"),
        ("max_age_grace", "grpc.max_connection_age_grace_ms"),
    ],
)
def test_times_of_a_server_are_given_in_milliseconds(option: str, argument: str) -> None:
    found = dict(server_arguments(GrpcOptions(**{option: 1.5})))  # type: ignore[arg-type]

    assert found[argument] == 1500


def test_what_is_off_is_not_given() -> None:
    server = dict(server_arguments(GrpcOptions(keepalive=0)))
    client = dict(client_arguments(GrpcClientOptions()))

    assert not [name for name in server if "keepalive_time_ms" in name or "max_connection" in name]
    assert not [name for name in client if "keepalive" in name]
    assert dict(client_arguments(GrpcClientOptions(keepalive=2)))["grpc.keepalive_time_ms"] == 2000


async def test_an_idle_connection_is_ended() -> None:
    options = {"proto": SHOP, "max_idle": 0.2}
    async with serving("grpc://127.0.0.1:0", child(Orders, Notes()), **options) as service:
        async with calling(service.url) as stub:
            states: list[object] = []
            stub.watch(states.append)
            await stub.ask(f"{ORDERS}Find", b"")
            await until(lambda: grpc.ChannelConnectivity.IDLE in states[1:])


async def test_a_url_may_name_the_proto(tmp_path: Path) -> None:
    url = f"grpc://127.0.0.1:0?proto={SHOP}&package=shop.v1"
    async with serving(url, child(Orders, Notes())) as service, service.client() as client:
        with trio.fail_after(5):
            assert (await client.send("Orders.Find", {"orderId": 7}))["orderId"] == 7
