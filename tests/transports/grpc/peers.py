"""The other end: grpcio's synchronous stubs and servers, which share no code with ours but gRPC.

Messages are bytes here, so that nothing of ours reads or writes them.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import trio

from understudy.transports.grpc.library import grpc
from understudy.transports.grpc.options import GrpcOptions
from understudy.transports.grpc.protos import Protos, load

__all__ = ["ORDERS", "PEER", "SHOP", "Answer", "Stub", "answering", "calling", "finished", "shop"]

HERE: Final = Path(__file__).parent
PEER: Final = str(HERE / "peer.proto")
SHOP: Final = str(HERE / "shop.proto")
ORDERS: Final = "/shop.v1.Orders/"
_LIMIT: Final = 10.0
"""Seconds that any call may take here."""


def shop() -> Protos:
    """The messages of the shop, as protobuf's own classes."""
    return load("the tests", GrpcOptions(proto=SHOP))


@attrs.frozen
class Answer:
    """What came of a call."""

    code: int
    text: str
    messages: list[bytes]
    trailers: dict[str, str | bytes]


class Stub:
    """A caller of any method, with bytes."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def call(
        self,
        path: str,
        *messages: bytes,
        timeout: float = _LIMIT,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        until: Event | None = None,
    ) -> Any:
        """Begin a call; its own stream does not end before `until`."""
        sent = iter(messages) if until is None else _and_wait(messages, until)
        return self.streaming(path, sent, timeout=timeout, metadata=metadata)

    def streaming(self, path: str, messages: Iterator[bytes], **options: Any) -> Any:
        """Begin a call that streams both ways, whatever its method does: gRPC cannot tell."""
        method = self._channel.stream_stream(path)
        return method(messages, wait_for_ready=True, **options)

    def watch(self, told: Callable[[object], None]) -> None:
        """Have the states of the connection told, the present one first."""
        self._channel.subscribe(told)

    async def ask(self, path: str, *messages: bytes, **options: Any) -> Answer:
        """Call and wait for all that comes of it."""
        call = self.call(path, *messages, **options)
        return await trio.to_thread.run_sync(finished, call)


def _and_wait(messages: Iterable[bytes], until: Event) -> Iterator[bytes]:
    yield from messages
    until.wait(_LIMIT)


def finished(call: Any) -> Answer:
    """All that comes of a call; in a thread."""
    found: list[bytes] = []
    with suppress(grpc.RpcError):  # its status stands in the call
        found.extend(call)
    trailers = dict(call.trailing_metadata() or ())
    return Answer(call.code().value[0], call.details(), found, trailers)


@asynccontextmanager
async def calling(url: str, credentials: Any = None, **options: Any) -> AsyncIterator[Stub]:
    """A connection to a service, with channel arguments of gRPC's core."""
    target = urlsplit(url).netloc
    arguments = [("grpc.use_local_subchannel_pool", 1), *options.items()]
    if credentials is None:
        channel = grpc.insecure_channel(target, options=arguments)
    else:
        channel = grpc.secure_channel(target, credentials, options=arguments)
    try:
        yield Stub(channel)
    finally:
        await trio.to_thread.run_sync(channel.close)


class _Generic(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def __init__(self, methods: dict[str, Callable[[Iterator[bytes], Any], Iterator[bytes]]]):
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        found = self._methods.get(handler_call_details.method)
        return found and grpc.stream_stream_rpc_method_handler(found)


@asynccontextmanager
async def answering(
    methods: dict[str, Callable[[Iterator[bytes], Any], Iterator[bytes]]], port: int = 0
) -> AsyncIterator[str]:
    """A server that answers with bytes; yields its URL."""
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, [_Generic(methods)], options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            await trio.to_thread.run_sync(server.stop(None).wait)
