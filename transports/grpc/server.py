"""The asyncio half of the bridge: grpcio's server, from its port to its last answer.

All of it runs on the brokers' loop. Calls go to trio through an inlet, and answers come
through an outlet. gRPC itself has limits for messages and calls, deadlines, flow control
and keepalive; a call that waits for its turn waits here, in its own task.

Health (grpc.health.v1) says NOT_SERVING before anything else of a stop happens, so that
balancers look away while calls in hand are finished.

Not owned here: what a call means, and what it is answered (`bridge.py`).
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import DeclarationError
from .call import Call, Outgoing
from .library import (
    STATUS,
    HealthServicer,
    aio,
    descriptor_pool,
    grpc,
    health_pb2,
    health_pb2_grpc,
    reflection,
)
from .options import GrpcOptions, server_arguments
from .protos import Rpc
from .status import UNAVAILABLE, Failure, unimplemented

__all__ = ["Server"]

_FOR_EVER: Final = 1e9
_LAST: Final = 1.0
"""Seconds in which the last answers must have left, when all calls are finished."""

_TURNS: Final = 8
_MANY: Final = 32
"""Calls are handed over together: so many, or those of so many turns of the loop without another.

gRPC gives one call in about five turns, and waking the other thread for each would halve
what it can do (benchmarks/grpc_unary.py). A call that is alone does not wait.
"""

_STOPPING: Final = Failure(UNAVAILABLE, "the service is stopping")

_Handler = Callable[[Any, Any], Awaitable[bytes | None]]


class Server:
    """One listening server."""

    def __init__(
        self,
        thread: AsyncioThread,
        inlet: Inlet[Call],
        outlet: Outlet[Outgoing],
        options: GrpcOptions,
        rpcs: Mapping[str, Rpc],
        pool: Any,
        unknown: Callable[[str], object],
    ) -> None:
        self._thread, self._inlet, self._outlet = thread, inlet, outlet
        self._options = options
        self._rpcs = rpcs
        self._pool = pool
        self._unknown = unknown
        self._live = 0
        self._turns = 0
        self._gathered: list[Call] = []
        self._health: _Health | None = None
        self._server: Any = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self, host: str, port: int, ready: Callable[[int], object]) -> None:
        """Serve until the outlet is closed; `ready` gets the port, in trio.

        Raises `OSError` if it cannot listen there.
        """
        server = self._server = aio.server(
            options=server_arguments(self._options),
            maximum_concurrent_rpcs=self._options.max_calls,
        )
        grace: float | None = None
        try:
            await self._add_services(server)
            port = self._listen(server, f"[{host}]" if ":" in host else host, port)
            await server.start()
            self._thread.back(ready, port)
            while burst := await self._outlet.burst():
                for outgoing in burst:
                    outgoing.call.take(outgoing)
            grace = _LAST
        finally:
            if self._health is not None:
                self._health.end()
            await server.stop(grace)
            if self._stopping is not None:
                await self._stopping

    async def stop_taking(self) -> None:
        """Take no more calls, and say so; those that have come may be finished."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        self._stopping = asyncio.create_task(self._server.stop(_FOR_EVER))
        await asyncio.sleep(0)
        self._hand_over_all()

    async def _add_services(self, server: Any) -> None:
        services = sorted({rpc.service for rpc in self._rpcs.values()})
        server.add_generic_rpc_handlers((self._handlers(),))
        described = list(services)
        if self._options.health:
            self._health = _Health()
            for name in services:
                await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._options.reflection:
            described.append(reflection.SERVICE_NAME)
            if self._options.health:
                described.append("grpc.health.v1.Health")
            pools: Any = _Pools(self._pool)
            reflection.enable_server_reflection(described, server, pool=pools)

    def _listen(self, server: Any, host: str, port: int) -> int:
        address = f"{host}:{port}"
        credentials = server_credentials(address, self._options)
        try:
            if credentials is None:
                found: int = server.add_insecure_port(address)
            else:
                found = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise _why_not(host.strip("[]"), port) from error
        return found

    def _handlers(self) -> Any:
        kinds = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._answering),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._answering),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._reading),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._reading),
        }
        handlers = {}
        for path, rpc in self._rpcs.items():
            as_handler, made = kinds[rpc.streams_in, rpc.streams_out]
            handlers[path] = as_handler(made(rpc))
        return _Handlers(handlers, self._unknown_method)

    def _answering(self, rpc: Rpc) -> _Handler:
        """What runs calls of one method whose callers send one message."""
        thread = self._thread

        async def respond(body: bytes, context: Any) -> bytes | None:
            call = Call(thread, rpc, context, body)
            with _watched(call):
                answer, failure = await self._ended(call)
            if failure is not None:
                await _abort(context, failure)
            return None if rpc.streams_out else answer

        return respond

    def _reading(self, rpc: Rpc) -> _Handler:
        """What runs calls of one method whose callers stream."""

        async def respond(_: Any, context: Any) -> bytes | None:
            call = Call(self._thread, rpc, context)
            reading = asyncio.create_task(call.read())
            with _watched(call):
                try:
                    answer, failure = await self._ended(call)
                finally:
                    reading.cancel()
                    await asyncio.wait([reading])
            if failure is not None:
                await _abort(context, failure)
            return None if rpc.streams_out else answer

        return respond

    async def _ended(self, call: Call) -> tuple[bytes, Failure | None]:
        """Hand a call over to trio, and wait for its end."""
        self._live += 1
        try:
            self._gathered.append(call)
            if self._live == 1:
                self._hand_over_all()
            elif len(self._gathered) == 1:
                self._turns = 0
                self._thread.loop.call_soon(self._look_again)
            else:
                self._turns = 0
            return await call.end()
        finally:
            self._live -= 1

    def _look_again(self) -> None:
        self._turns += 1
        if self._turns < _TURNS and len(self._gathered) < _MANY:
            self._thread.loop.call_soon(self._look_again)
        elif self._gathered:
            self._hand_over_all()

    def _hand_over_all(self) -> None:
        gathered, self._gathered = self._gathered, []
        for call in gathered:
            if not self._inlet.offer(call):
                call.take(Outgoing(call, "end", failure=_STOPPING))

    def _unknown_method(self, path: str) -> Any:
        async def refuse(_: Any, context: Any) -> None:
            self._thread.back(self._unknown, path)
            await _abort(context, unimplemented(path))

        return grpc.stream_stream_rpc_method_handler(refuse)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the handler of a method by its path."""

    def __init__(self, handlers: dict[str, Any], unknown: Callable[[str], Any]) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        found = self._handlers.get(path)
        if found is None and not path.startswith("/grpc."):  # health, reflection
            return self._unknown(path)
        return found


@contextmanager
def _watched(call: Call) -> Iterator[None]:
    """Tell trio when the caller leaves: gRPC cancels this task, or cannot send any more."""
    try:
        yield
    except asyncio.CancelledError:
        call.thread.back(call.left)
        raise
    except aio.BaseError as error:
        call.thread.back(call.left)
        raise asyncio.CancelledError from error


async def _abort(context: Any, failure: Failure) -> None:
    await context.abort(STATUS[failure.code], failure.text, failure.metadata)


class _Health(HealthServicer):  # type: ignore[misc]
    """grpc.health.v1, whose watchers are let go: they would hold up the server's stop."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()

    async def Watch(self, request: Any, context: Any) -> None:
        watch = asyncio.create_task(super().Watch(request, context))
        self._watches.add(watch)
        try:
            await asyncio.wait([watch])
        finally:
            watch.cancel()
            self._watches.discard(watch)
        if not watch.cancelled():
            watch.result()

    def end(self) -> None:
        for watch in self._watches:
            watch.cancel()


class _Pools:
    """Descriptors of the service, and of what gRPC itself serves beside it."""

    def __init__(self, own: Any) -> None:
        self._pools = (own, descriptor_pool.Default())

    def __getattr__(self, name: str) -> Any:
        def find(*arguments: Any) -> Any:
            own, default = (getattr(pool, name) for pool in self._pools)
            try:
                return own(*arguments)
            except KeyError:
                return default(*arguments)

        return find


def server_credentials(where: str, options: GrpcOptions) -> Any:
    """TLS as the options ask for it; None without. Raises `DeclarationError`."""
    if not (options.tls_cert or options.tls_key or options.tls_ca):
        return None
    pair: Any = (read_file(where, options.tls_key), read_file(where, options.tls_cert))
    authorities = read_file(where, options.tls_ca)
    return grpc.ssl_server_credentials([pair], authorities, authorities is not None)


def read_file(where: str, name: str) -> bytes | None:
    """A file in PEM; None for an empty name. Raises `DeclarationError` if it cannot be read."""
    if not name:
        return None
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise DeclarationError(
            f"{where}: TLS cannot be set up: {name}: {error.strerror}. tls_ca, tls_cert and "
            "tls_key name files in PEM."
        ) from error


def _why_not(host: str, port: int) -> OSError:
    """gRPC does not say why it cannot listen somewhere; a socket does."""
    shown = f"grpc://[{host}]:{port}" if ":" in host else f"grpc://{host}:{port}"
    number, why = errno.EADDRNOTAVAIL, "gRPC's log on stderr says why"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number, why = error.errno or number, error.strerror or str(error)
    return OSError(
        number,
        f"{shown}: cannot listen there: {why}. Serve another address or port, or stop what "
        "uses this one; with TLS, see whether its files fit together",
    )
