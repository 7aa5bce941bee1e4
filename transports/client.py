"""Clients: how messages go out. The contract, and `connect`.

A client sends to whatever listens at the other end, ours or a NestJS service, with
the same three calls on every transport. A method of an actor class may stand for
its pattern; its annotations then type the answer.
"""

import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import cache
from typing import Any, ClassVar, Final, TypeVar, overload

import trio
from msgspec import UNSET

from ..actors.context import MessageContext, time_left
from ..actors.encoding import encode
from ..actors.errors import DeclarationError
from ..actors.handlers import marks_of
from ..actors.pattern import Pattern
from ..actors.payload import Payload
from ..actors.scopes import background
from .bridge import transport_of

__all__ = ["DEFAULT_TIMEOUT", "NO_HEADERS", "Client", "Headers", "connect"]

S = TypeVar("S")
P = TypeVar("P")
R = TypeVar("R")

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds a call waits for its answer unless told otherwise."""


Headers = Mapping[str, str]

NO_HEADERS: Final[Headers] = {}


class Client(ABC):
    """A connection to a service; made by `connect`."""

    where: str
    has_headers: ClassVar[bool] = False
    """Whether the transport carries headers beside a message."""

    @overload
    async def send(
        self,
        pattern: Callable[[S, P], Awaitable[R]] | Callable[[S, P, MessageContext], Awaitable[R]],
        data: P,
        *,
        timeout: float = ...,
        headers: Headers = ...,
    ) -> R: ...
    @overload
    async def send(
        self,
        pattern: Callable[[S, P], R] | Callable[[S, P, MessageContext], R],
        data: P,
        *,
        timeout: float = ...,
        headers: Headers = ...,
    ) -> R: ...
    @overload
    async def send(
        self,
        pattern: Callable[[S], Awaitable[R]],
        data: None = ...,
        *,
        timeout: float = ...,
        headers: Headers = ...,
    ) -> R: ...
    @overload
    async def send(
        self,
        pattern: Callable[[S], R],
        data: None = ...,
        *,
        timeout: float = ...,
        headers: Headers = ...,
    ) -> R: ...
    @overload
    async def send(
        self,
        pattern: Pattern,
        data: object = ...,
        *,
        returns: type[R],
        timeout: float = ...,
        headers: Headers = ...,
    ) -> R: ...
    @overload
    async def send(
        self,
        pattern: Pattern,
        data: object = ...,
        *,
        timeout: float = ...,
        headers: Headers = ...,
    ) -> Any: ...
    async def send(
        self,
        pattern: Any,
        data: Any = UNSET,
        *,
        returns: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
        headers: Headers = NO_HEADERS,
    ) -> Any:
        """Send a request and wait for its answer, at most `timeout` seconds.

        In a handler whose own message is being waited for, not longer than that wait.
        The answer is decoded as `returns`, or as the method's return type; without
        either it is plain JSON data. None stands for "no value" too.

        `headers` go along where the transport has such a thing.

        Raises `RpcError` with what the service answered, `RequestTimeout`, `NoResponders`
        where a broker can tell that nobody listens, `ConnectionLost` (`sent` tells whether
        the service may have got it), and `PayloadError` when the answer does not fit.
        """
        pattern, answer = _resolve(pattern, returns)
        self._check_headers(headers)
        raw = await self._call(pattern, self._encode(data), time_left(timeout), headers)
        return self._decode(answer, raw) if raw else None

    @overload
    async def emit(
        self,
        pattern: Callable[[S, P], object] | Callable[[S, P, MessageContext], object],
        data: P,
        *,
        headers: Headers = ...,
    ) -> None: ...
    @overload
    async def emit(
        self, pattern: Callable[[S], object], data: None = ..., *, headers: Headers = ...
    ) -> None: ...
    @overload
    async def emit(
        self, pattern: Pattern, data: object = ..., *, headers: Headers = ...
    ) -> None: ...
    async def emit(self, pattern: Any, data: Any = UNSET, *, headers: Headers = NO_HEADERS) -> None:
        """Send an event: returns when it is handed to the connection or confirmed by a broker.

        Raises `ConnectionLost`.
        """
        pattern, _ = _resolve(pattern, None)
        self._check_headers(headers)
        await self._emit(pattern, self._encode(data), headers)

    @overload
    def stream(
        self,
        pattern: Callable[[S, P], AsyncIterator[R]]
        | Callable[[S, P, MessageContext], AsyncIterator[R]],
        data: P,
        *,
        headers: Headers = ...,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def stream(
        self,
        pattern: Callable[[S], AsyncIterator[R]],
        data: None = ...,
        *,
        headers: Headers = ...,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def stream(
        self,
        pattern: Pattern,
        data: object = ...,
        *,
        returns: type[R],
        headers: Headers = ...,
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def stream(
        self, pattern: Pattern, data: object = ..., *, headers: Headers = ...
    ) -> AsyncGenerator[Any, None]: ...
    def stream(
        self,
        pattern: Any,
        data: Any = UNSET,
        *,
        returns: Any = None,
        headers: Headers = NO_HEADERS,
    ) -> Any:
        """Iterate over a streamed answer; errors are those of `send`, without a timeout.

        Use `contextlib.aclosing` around it if you may leave before its end.
        """
        pattern, answer = _resolve(pattern, returns, streamed=True)
        self._check_headers(headers)
        return self._decoded(pattern, self._encode(data), headers, answer)

    async def _decoded(
        self, pattern: Pattern, data: bytes, headers: Headers, answer: Payload
    ) -> AsyncGenerator[Any, None]:
        async with aclosing(self._stream(pattern, data, headers)) as items:
            async for raw in items:
                yield self._decode(answer, raw)

    @abstractmethod
    async def open(self, nursery: trio.Nursery) -> None:
        """Connect; background tasks go into `nursery`. Raises `ConnectionLost`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what waits to be sent, then end the connections."""

    def _encode(self, data: Any) -> Any:
        """What `_call`, `_emit` and `_stream` get: JSON, where a transport speaks nothing else."""
        return b"" if data is UNSET else encode(data)

    def _decode(self, answer: Payload, raw: Any) -> Any:
        """The typed value of what `_call` or `_stream` gave."""
        return answer.decode(raw)

    def _check_headers(self, headers: Headers) -> None:
        if headers and not self.has_headers:
            raise DeclarationError(
                f"{self.where}: messages have no headers there; put what they say into the data."
            )

    @abstractmethod
    async def _call(self, pattern: Pattern, data: bytes, timeout: float, headers: Headers) -> bytes:
        """The JSON of the answer; empty for "no value"."""

    @abstractmethod
    async def _emit(self, pattern: Pattern, data: bytes, headers: Headers) -> None: ...

    @abstractmethod
    def _stream(
        self, pattern: Pattern, data: bytes, headers: Headers
    ) -> AsyncGenerator[bytes, None]: ...


def connect(url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
    """Connect to a service: `async with connect("tcp://127.0.0.1:3001") as client`.

    Options are those of the transport, here or in the URL's query. A first connection
    that cannot be made raises `ConnectionLost`; one that is lost later is made again in
    the background, while calls wait for it within their timeouts.

    Raises `DeclarationError` for a URL or an option that can never work.
    """
    transport = transport_of(url)
    transport.check(url, options, serving=False)
    return _connected(transport.client(url, options))


@asynccontextmanager
async def _connected(client: Client) -> AsyncIterator[Client]:
    async with background() as nursery:
        await client.open(nursery)
        try:
            yield client
        finally:
            with trio.move_on_after(1, shield=True):
                await client.aclose()


_PLAIN: Final = Payload(Any)


def _resolve(pattern: Any, returns: Any, *, streamed: bool = False) -> tuple[Pattern, Payload]:
    if callable(pattern):
        declared, annotation = _declared(pattern, streamed)
        return declared, _payload(annotation)
    return pattern, _PLAIN if returns is None else _payload(returns)


@cache
def _payload(annotation: Any) -> Payload:
    return Payload(annotation)


@cache
def _declared(method: Callable[..., Any], streamed: bool) -> tuple[Pattern, Any]:
    """The pattern of a handler method, and the type of its answer or of its items."""
    marks = marks_of(method)
    if not marks:
        name = getattr(method, "__qualname__", repr(method))
        raise DeclarationError(
            f"{name} handles no pattern. Send to a method with @message_pattern or "
            "@event_pattern, or name the pattern itself."
        )
    annotation = typing.get_type_hints(method, include_extras=True).get("return", Any)
    if streamed and typing.get_args(annotation):
        annotation = typing.get_args(annotation)[0]
    # The decorator applied last stands first in the source.
    return marks[-1].pattern, annotation
