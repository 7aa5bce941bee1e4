"""The trio half of every client: calls that wait for gRPC's answer.

A call's deadline is gRPC's own, so that the service knows it too; a call that is cancelled
here is cancelled there. A lost connection fails its calls at once, new calls wait for the
next one within their timeouts.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, suppress
from typing import Any, ClassVar, Final

import msgspec
import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread, asyncio_thread
from ...actors.errors import (
    AsyncioThreadEnded,
    ConnectionLost,
    DeclarationError,
    PayloadError,
    RpcError,
)
from ...actors.pattern import Pattern, route_of
from ...actors.payload import Payload
from ...actors.scopes import background
from ..client import Client, Headers
from .channel import Asked, Channel, Download
from .library import DecodeError
from .messages import EMIT, SEND, EmitRequest, SendRequest
from .nestrs import METHODS
from .options import GrpcClientOptions
from .protos import Protos, Rpc
from .reading import reader
from .status import metadata_of
from .writing import writer

__all__ = ["GrpcClient", "NestrsClient", "TypedClient"]

_AHEAD: Final = 16
"""Messages of a caller's own stream that may wait to be sent."""


class GrpcClient(Client):
    """Calls one service. How messages are written is the dialect's."""

    has_headers: ClassVar[bool] = True

    def __init__(self, host: str, port: int, options: GrpcClientOptions, *, tls: bool) -> None:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.where = f"grpc{'s' if tls else ''}://{address}"
        self.options = options
        self._address, self._tls = address, tls
        self.thread: AsyncioThread
        self._channel: Channel
        self._nursery: trio.Nursery

    async def open(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.thread = asyncio_thread("brokers")
        self._channel = Channel(self.thread, self.where, self._address, self.options, self._tls)
        await self.thread.call(self._channel.open)

    async def aclose(self) -> None:
        with suppress(AsyncioThreadEnded):
            await self.thread.call(self._channel.close)

    def _asked(self, pattern: Pattern, rpc: Rpc, body: bytes, headers: Headers) -> Asked:
        return Asked(pattern, rpc, body, metadata_of(headers))

    async def _answered(self, asked: Asked, upload: "_Upload | None" = None) -> bytes:
        """The one answer of a call."""
        if upload is None:
            return await self._run(asked)
        async with background() as nursery:
            answer = b""
            with trio.CancelScope() as scope:
                nursery.start_soon(upload.run, scope.cancel)
                answer = await self._run(asked)
            if upload.error is not None:
                raise upload.error
            return answer

    async def _run(self, asked: Asked) -> bytes:
        try:
            return await self.thread.call(self._channel.call, asked)
        except AsyncioThreadEnded as error:
            raise ConnectionLost(self.where, "its loop has ended") from error

    async def _items(
        self, asked: Asked, upload: "_Upload | None" = None
    ) -> AsyncGenerator[bytes, None]:
        """The answers of a call, as they come."""
        inlet: Inlet[bytes | Exception | None] = Inlet(self.thread, self.options.credit)
        download = Download(self._channel, asked, inlet)
        scope = trio.CancelScope()
        try:
            self.thread.soon(download.begin)
            if upload is not None:
                self._nursery.start_soon(upload.run_in, scope, self.thread, download)
            while True:
                for item in await inlet.burst():
                    if isinstance(item, bytes):
                        yield item
                    elif upload is not None and upload.error is not None:
                        raise upload.error
                    elif item is not None:
                        raise item
                    else:
                        return
        except AsyncioThreadEnded as error:
            raise ConnectionLost(self.where, "its loop has ended") from error
        finally:
            scope.cancel()
            inlet.close()
            with suppress(AsyncioThreadEnded):
                self.thread.soon(download.cancel)


class _Upload:
    """What a caller streams: its own messages, written as the service reads them."""

    def __init__(
        self, data: AsyncIterable[Any], write: Callable[[Any], bytes], outlet: Outlet[bytes]
    ) -> None:
        self._data, self._write, self._outlet = data, write, outlet
        self.error: Exception | None = None

    async def run(self, failed: Callable[[], object]) -> None:
        """Send all of it; what its iterator raises is kept, and `failed` called."""
        try:
            async for message in self._data:
                self._outlet.send(self._write(message))
                await self._outlet.room(_AHEAD)
        except AsyncioThreadEnded:
            return  # whoever waits for the answer is told so, too
        except Exception as error:  # noqa: BLE001  # raised where the answer is waited for
            self.error = error
            failed()
        finally:
            if isinstance(self._data, AsyncGenerator):
                await self._data.aclose()
        self._outlet.close()

    async def run_in(
        self, scope: trio.CancelScope, thread: AsyncioThread, download: Download
    ) -> None:
        with scope:
            await self.run(lambda: thread.soon(download.cancel))


class TypedClient(GrpcClient):
    """Calls the methods of a `.proto`."""

    def __init__(
        self, host: str, port: int, options: GrpcClientOptions, *, tls: bool, protos: Protos
    ) -> None:
        super().__init__(host, port, options, tls=tls)
        self._protos = protos

    def _encode(self, data: Any) -> Any:
        return data  # written when its message is known

    def _decode(self, answer: Payload, raw: Any) -> Any:
        read = reader(raw.DESCRIPTOR, answer.annotation, self.options.keep_case)
        return answer.structure(read(raw))

    async def _call(self, pattern: Pattern, data: Any, timeout: float, headers: Headers) -> Any:
        rpc = self._protos.find(pattern)
        if rpc.streams_out:
            raise DeclarationError(
                f"{self.where}: {rpc.route} answers with a stream. Iterate over client.stream(...)."
            )
        asked, upload = self._prepared(pattern, rpc, data, headers)
        asked.timeout = timeout
        return self._parsed(rpc, await self._answered(asked, upload))

    async def _emit(self, pattern: Pattern, data: Any, headers: Headers) -> None:
        await self._call(pattern, data, self.options.emit_timeout, headers)

    async def _stream(
        self, pattern: Pattern, data: Any, headers: Headers
    ) -> AsyncGenerator[Any, None]:
        rpc = self._protos.find(pattern)
        if not rpc.streams_out:
            yield await self._call(pattern, data, math.inf, headers)
            return
        asked, upload = self._prepared(pattern, rpc, data, headers)
        async with aclosing(self._items(asked, upload)) as items:
            async for body in items:
                yield self._parsed(rpc, body)

    def _prepared(
        self, pattern: Pattern, rpc: Rpc, data: Any, headers: Headers
    ) -> tuple[Asked, _Upload | None]:
        write = writer(rpc.request.DESCRIPTOR).serialized
        streamed = isinstance(data, AsyncIterable)
        if streamed != rpc.streams_in:
            wanted = "an async iterable of messages" if rpc.streams_in else "one message"
            raise DeclarationError(
                f"{self.where}: {rpc.route} takes {wanted} by the .proto, "
                f"got {type(data).__name__}."
            )
        if not streamed:
            return self._asked(pattern, rpc, write(data), headers), None
        asked = self._asked(pattern, rpc, b"", headers)
        asked.upload = Outlet(self.thread)
        return asked, _Upload(data, write, asked.upload)

    def _parsed(self, rpc: Rpc, body: bytes) -> Any:
        try:
            return rpc.answer.FromString(body)
        except DecodeError:
            pass  # told below, out of this block
        raise PayloadError([("$", f"the answer is no {rpc.answer.DESCRIPTOR.full_name}")])


class NestrsClient(GrpcClient):
    """Calls a service of nestrs, by any pattern."""

    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        request = SendRequest(pattern=route_of(pattern), payload_json=data or b"null")
        asked = self._asked(pattern, METHODS[SEND], request.SerializeToString(), headers)
        asked.timeout = timeout
        return bytes((await self._said(asked)).payload_json)

    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None:
        request = EmitRequest(pattern=route_of(pattern), payload_json=data or b"null")
        asked = self._asked(pattern, METHODS[EMIT], request.SerializeToString(), headers)
        asked.timeout = self.options.emit_timeout
        await self._said(asked)

    async def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]:
        # nestrs has no streams: one call has one answer.
        yield await self._call(pattern, data, math.inf, headers)

    async def _said(self, asked: Asked) -> Any:
        """The answer, if it is no error."""
        body = await self._answered(asked)
        try:
            answer = asked.rpc.answer.FromString(body)
            details = answer.error_details_json if answer.has_error_details else b""
            error = {"message": answer.error_message}
            if details:
                error["details"] = msgspec.json.decode(details)
        except (DecodeError, ValueError, RecursionError):
            pass  # told below, out of this block
        else:
            if answer.ok:
                return answer
            raise RpcError(error)
        raise PayloadError([("$", f"the answer is no {asked.rpc.answer.DESCRIPTOR.full_name}")])
