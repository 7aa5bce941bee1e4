"""The asyncio half of every client: grpcio's channel, and what its statuses mean.

gRPC connects by itself, and again after a loss. What it does not say is watched here:
whether there is a connection, so that a call knows why it had no answer.

A call ends with bytes, or raises `RpcError`, `RequestTimeout`, `ConnectionLost` or
`NoResponders`. All of it runs on the brokers' loop.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import ConnectionLost, NoResponders, RequestTimeout, RpcError
from ...actors.pattern import Pattern
from .library import aio, grpc
from .options import GrpcClientOptions, client_arguments
from .protos import Rpc
from .server import read_file
from .status import DEADLINE_EXCEEDED, UNAVAILABLE, UNIMPLEMENTED, Metadata, error_of

__all__ = ["Asked", "Channel", "Download", "client_credentials"]

_CLOSED: Final = "the client was closed"
_REFUSED: Final = "Connection refused"
_ASKING: Final = 0.2
"""Seconds in which gRPC must say why there is no connection."""


class Asked:
    """What a call asks for, and how long it may take (seconds)."""

    __slots__ = ("body", "connected", "metadata", "pattern", "rpc", "timeout", "upload")

    def __init__(self, pattern: Pattern, rpc: Rpc, body: bytes, metadata: Metadata) -> None:
        self.pattern, self.rpc, self.body, self.metadata = pattern, rpc, body, metadata
        self.timeout = math.inf
        self.upload: Outlet[bytes] | None = None
        self.connected = False  # when it began


class Channel:
    """Connections to one address; gRPC makes as many as it needs, one as a rule."""

    def __init__(
        self, thread: AsyncioThread, where: str, target: str, options: GrpcClientOptions, tls: bool
    ) -> None:
        self.where = where
        self._thread = thread
        self._options = options
        self._target = target
        self._credentials = client_credentials(where, options, wanted=tls)
        self._closed = False
        self._ready = asyncio.Event()
        self._kinds: dict[tuple[bool, bool], Callable[[str], Any]] = {}
        self._methods: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: Any = None

    # -- its life

    async def open(self) -> None:
        """Make the first connection, for `patience` seconds; raises `ConnectionLost`."""
        arguments = client_arguments(self._options)
        if self._credentials is None:
            channel = aio.insecure_channel(self._target, options=arguments)
        else:
            channel = aio.secure_channel(self._target, self._credentials, options=arguments)
        self._channel = channel
        self._kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }
        try:
            await self._connect()
        except BaseException:
            await channel.close()
            raise
        self.spawn(self._watch())

    async def close(self) -> None:
        """End it; calls that wait fail."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()

    async def _connect(self) -> None:
        limit, patience = self._options.connect_timeout, self._options.patience
        until = self._thread.loop.time() + patience
        try:
            async with asyncio.timeout(limit + patience):
                while (state := self._channel.get_state(True)) is not _STATE.READY:
                    if state is _STATE.TRANSIENT_FAILURE and self._thread.loop.time() >= until:
                        raise ConnectionLost(self.where, await self._reason(), sent=False)
                    await self._next_state(state, within=until - self._thread.loop.time())
        except TimeoutError:
            why = f"no connection within {limit + patience:g} s"
            raise ConnectionLost(self.where, why, sent=False) from None
        self._ready.set()

    async def _next_state(self, state: Any, within: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within if within > 0 else None):
                await self._channel.wait_for_state_change(state)

    async def _watch(self) -> None:
        """Know whether there is a connection, and have a lost one made again at once."""
        while True:
            state = self._channel.get_state(True)
            if state is _STATE.READY:
                self._ready.set()
            else:
                self._ready.clear()
            await self._channel.wait_for_state_change(state)

    def _is_connected(self) -> bool:
        # Not `_ready`: a call that failed may be the first that is heard of a lost connection.
        return self._channel.get_state() is _STATE.READY

    async def _reason(self) -> str:
        """Why there is no connection: only a call that fails for it is told."""
        try:
            await self._channel.unary_unary("/")(b"", timeout=_ASKING)
        except aio.AioRpcError as error:
            return _readable(error)
        return "it was lost"

    # -- calls

    async def call(self, asked: Asked) -> bytes:
        """One call with one answer."""
        call, writing = await self._begin(asked)
        try:
            answer: bytes = await call
        except aio.AioRpcError as error:
            raise await self._meaning(error, asked) from None
        except asyncio.CancelledError:
            if self._closed:
                raise ConnectionLost(self.where, _CLOSED) from None
            raise
        finally:
            if writing is not None:
                writing.cancel()
        return answer

    async def items(self, asked: Asked) -> AsyncGenerator[bytes, None]:
        """One call with a stream of answers."""
        call, writing = await self._begin(asked)
        try:
            async for body in call:
                yield body
        except aio.AioRpcError as error:
            raise await self._meaning(error, asked) from None
        finally:
            call.cancel()
            if writing is not None:
                writing.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the channel."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self, asked: Asked) -> tuple[Any, asyncio.Task[None] | None]:
        """Begin a call; one that may take for ever waits for a connection no longer than usual."""
        if self._closed:
            raise ConnectionLost(self.where, _CLOSED, sent=False)
        timeout: float | None = asked.timeout
        if timeout == math.inf:
            timeout = None
            await self._connected(asked)
        asked.connected = self._is_connected()
        rpc = asked.rpc
        method = self._methods.get(rpc.path)
        if method is None:
            make = self._kinds[rpc.streams_in, rpc.streams_out]
            method = self._methods[rpc.path] = make(rpc.path)
        arguments = {"timeout": timeout, "metadata": asked.metadata, "wait_for_ready": True}
        if asked.upload is None:
            return method(asked.body, **arguments), None
        call = method(**arguments)
        return call, self.spawn(_write(call, asked.upload))

    async def _connected(self, asked: Asked) -> None:
        limit = self._options.connect_timeout
        try:
            async with asyncio.timeout(limit):
                await self._ready.wait()
        except TimeoutError:
            asked.timeout = limit
            raise await self._gave_up(asked) from None

    async def _gave_up(self, asked: Asked) -> ConnectionLost:
        why = f"{await self._reason()}; gave up on {asked.pattern!r} after {asked.timeout:g} s"
        return ConnectionLost(self.where, why, sent=False)

    async def _meaning(self, error: Any, asked: Asked) -> Exception:
        """The error for a status."""
        code, text = error.code().value[0], error.details() or ""
        if code == DEADLINE_EXCEEDED:
            if not asked.connected and not self._is_connected():
                return await self._gave_up(asked)
            return RequestTimeout(self.where, asked.pattern, asked.timeout)
        if code == UNAVAILABLE or self._closed:
            return ConnectionLost(self.where, _CLOSED if self._closed else _readable(error))
        if code == UNIMPLEMENTED:
            return NoResponders(self.where, asked.pattern)
        return RpcError(error_of(code, text, tuple(error.trailing_metadata() or ())))


class Download:
    """The answers of one streaming call; made in trio, `begin` and `cancel` are for the loop."""

    def __init__(
        self, channel: Channel, asked: Asked, inlet: "Inlet[bytes | Exception | None]"
    ) -> None:
        self._channel, self._asked, self._inlet = channel, asked, inlet
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def begin(self) -> None:
        if not self._over:
            self._task = self._channel.spawn(self._run())
            # Not at the end of `_run`, which never begins if it is cancelled before.
            self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        async with aclosing(self._channel.items(self._asked)) as items:
            async for body in items:
                if not await self._inlet.put(body):
                    return

    def _ended(self, task: "asyncio.Task[None]") -> None:
        end: Any = ConnectionLost(self._channel.where, _CLOSED)
        if not task.cancelled():
            end = task.exception()
        # What waits in the inlet is bounded by its reader; the end finds room beside it.
        self._inlet.capacity += 1
        self._inlet.offer(end)


async def _write(call: Any, upload: Outlet[bytes]) -> None:
    """Send what a caller streams, as fast as gRPC's flow control lets it go."""
    try:
        while burst := await upload.burst():
            for body in burst:
                await call.write(body)
        await call.done_writing()
    except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError):
        pass  # the call has ended; its status says how, and is raised there


def client_credentials(where: str, options: GrpcClientOptions, *, wanted: bool) -> Any:
    """TLS as the options ask for it; None without. Raises `DeclarationError`."""
    if not wanted:
        return None
    return grpc.ssl_channel_credentials(
        read_file(where, options.tls_ca),
        read_file(where, options.tls_key),
        read_file(where, options.tls_cert),
    )


def _readable(error: aio.AioRpcError) -> str:
    """What went wrong with a connection, in few words."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no connection yet"
    details = error.details() or ""
    if _REFUSED in details:
        return "connection refused: nothing listens there"
    return details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ") or "it was lost"


_STATE: Final = grpc.ChannelConnectivity
