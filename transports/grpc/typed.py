"""Services of a `.proto`: a handler for each of its methods, as NestJS has them.

A handler of `Math.Sum` (or `interop.Math.Sum`) handles that method. What the `.proto` says
about it, the handler must be able to do; that is looked at before anything is served.
"""

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
)
from typing import Any, Final, get_args, get_origin

import attrs
from msgspec import UNSET

from ...actors.errors import DeclarationError, MailboxFull, PayloadError, Retry, RpcError
from ...actors.payload import Payload
from ...supervisors.child import Wiring
from ...supervisors.registry import Target
from ..request import INTERNAL
from .bridge import GrpcBridge, GrpcRequest
from .call import Call
from .library import DecodeError
from .options import GrpcOptions
from .protos import Protos, Rpc
from .reading import missing, reader
from .status import UNAVAILABLE, UNKNOWN, Failure, failure_of, misfit, unimplemented
from .upload import Upload
from .writing import writer

__all__ = ["TypedBridge", "item_type", "message_reader"]

_STREAMS: Final = (AsyncIterator, AsyncIterable, AsyncGenerator)
_BUSY: Final = Failure(UNAVAILABLE, "Service unavailable")
_CRASHED: Final = Failure(UNKNOWN, INTERNAL)

_log = logging.getLogger("understudy.transports.grpc")


@attrs.frozen(eq=False)
class _Route:
    """Where calls of one method go, and how their messages are read and written."""

    target: Target
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


class TypedBridge(GrpcBridge):
    """Serves the methods of a `.proto`."""

    def __init__(
        self, host: str, port: int, options: GrpcOptions, wiring: Wiring, protos: Protos
    ) -> None:
        super().__init__(host, port, options, wiring)
        self._protos = protos
        self._path = wiring.path
        self._routes: dict[str, _Route] = {}
        self._version = -1
        self._numbers = 0

    @property
    def pool(self) -> Any:
        return self._protos.pool

    def rpcs(self) -> Mapping[str, Rpc]:
        return self._protos.by_path

    def check(self) -> None:
        for route, target in self.registry.requests.items():
            self._protos.check(route, target.handler.name)
        without: list[str] = []
        for rpc in self.rpcs().values():
            found = self._target(rpc)
            if found is None:
                without.append(rpc.route)
            else:
                self._fit(rpc, found)
        if without:
            text = "%s: nobody handles %s; callers get UNIMPLEMENTED"
            _log.warning(text, self._path, ", ".join(without))

    def begin(self, call: Call) -> Awaitable[None] | None:
        rpc = call.rpc
        if self._version != self.registry.version:
            self._version = self.registry.version
            self._routes.clear()
        route = self._routes.get(rpc.path) or self._find(rpc)
        if route is None:
            text = f"{call.peer} called {rpc.route}, which nobody handles"
            self.complaints.say("calls without a handler", text)
            self.answer(call, failure=unimplemented(rpc.name))
            return None
        handler = route.target.handler
        self._numbers += 1
        request = TypedRequest(
            self, b"", handler, rpc.route, call=call, number=self._numbers, write=route.write
        )
        call.request = request
        try:
            message = Upload(call, route.read) if rpc.streams_in else route.read(call.body)
        except PayloadError as error:
            request.failed(error)
            return None
        except DecodeError:
            raise
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return None
        return self.deliver(call, request, route.target.cell.mailbox, message)

    def _target(self, rpc: Rpc) -> Target | None:
        registry = self.registry
        for route in (rpc.full_route, rpc.route):
            # As in NestJS, a request to an event's pattern runs its (first) handler.
            found = registry.request(route) or next(iter(registry.event(route)), None)
            if found is not None:
                return found
        return None

    def _find(self, rpc: Rpc) -> _Route | None:
        target = self._target(rpc)
        if target is None:
            return None
        try:
            payload = self._fit(rpc, target)
        except DeclarationError as error:  # of an actor that came after the start
            self.complaints.say("handlers that do not fit the .proto", str(error))
            return None
        read = message_reader(rpc.request, payload, self.options.keep_case)
        route = _Route(target, read, writer(rpc.answer.DESCRIPTOR).serialized)
        self._routes[rpc.path] = route
        return route

    def _fit(self, rpc: Rpc, target: Target) -> Payload:
        """The payload of one message. Raises `DeclarationError` if the handler does not fit."""
        handler = target.handler
        what = f"{self.peer}: {handler.name} handles {rpc.route}, which"
        if rpc.streams_out and handler.mode != "stream":
            raise DeclarationError(
                f"{what} answers with a stream by the .proto. Make it an async generator: yield."
            )
        if handler.mode == "stream" and not rpc.streams_out:
            raise DeclarationError(
                f"{what} answers once by the .proto. Return its answer instead of yielding."
            )
        payload = handler.payload
        of = item_type(payload.annotation)
        if rpc.streams_in:
            if of is None and payload.annotation is not Any:
                raise DeclarationError(
                    f"{what} is streamed to by the .proto. Take an AsyncIterator[...] of "
                    f"{payload.describe()}, and iterate over it."
                )
            payload = Payload(Any if of is None else of)
        elif of is not None:
            raise DeclarationError(
                f"{what} gets one message by the .proto. Take {Payload(of).describe()} itself."
            )
        lacking = missing(rpc.request.DESCRIPTOR, payload.annotation)
        if lacking:
            raise DeclarationError(
                f"{what} is given {rpc.request.DESCRIPTOR.full_name}, and that has no "
                f"{', '.join(lacking)}, which {payload.describe()} must have. Name its fields "
                "as the .proto does (order_id or orderId), or give them defaults."
            )
        return payload


def item_type(annotation: Any) -> Any:
    """The type of the items of a stream of messages; None if it is no such type."""
    if get_origin(annotation) in _STREAMS:
        return get_args(annotation)[0]
    return Any if annotation in _STREAMS else None


def message_reader(kind: Any, payload: Payload, keep_case: bool) -> Callable[[bytes], Any]:
    """What reads messages of a class of protobuf's as the type of a payload.

    Raises `PayloadError`, and `DecodeError` for bytes that are no such message.
    """
    parse, structure = kind.FromString, payload.structure
    read = reader(kind.DESCRIPTOR, payload.annotation, keep_case)
    return lambda body: structure(read(parse(body)))


class TypedRequest(GrpcRequest, gc=False):
    """A request for a method of a `.proto`."""

    write: Callable[[Any], bytes] = bytes

    def item(self, value: Any, *, last: bool) -> None:
        if not self.open:
            return
        try:
            self._write(self.write(value))
        except TypeError as error:
            self._unwritable(error)
            return
        if last:
            self.succeeded(UNSET)

    def succeeded(self, value: Any) -> None:
        if not self.open:
            return
        if self.call.rpc.streams_out:
            self._end()
            return
        try:
            body = self.write(value)
        except TypeError as error:
            self._unwritable(error)
            return
        self.open = False
        self._answer(body)

    def failed(self, error: Exception) -> None:
        if isinstance(error, PayloadError):
            text = f"{self.call.peer} {self.pattern}: {error}"
            self.connection.complaints.say("requests that do not fit", text)
            self._end(misfit(error))
        elif isinstance(error, RpcError):
            try:
                failure = failure_of(error.error)
            except TypeError as unfit:
                self._unwritable(unfit)
                return
            self._end(failure)
        else:
            self._end(_BUSY if isinstance(error, Retry | MailboxFull) else _CRASHED)

    def released(self, why: str) -> None:
        self._end(_BUSY)

    def _fail(self, error: Any) -> None:
        self._end(_CRASHED)

    def _unwritable(self, error: Exception) -> None:
        text = f"{self.handler.name} answered what the .proto does not allow: {error}"
        self.connection.complaints.say("answers that cannot be written", text)
        self._end(_CRASHED)

    def _end(self, failure: Failure | None = None) -> None:
        if self.open:
            self.open = False
            self._end_stream()
            self.connection.answer(self.call, failure=failure)
