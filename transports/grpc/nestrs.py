"""nestrs's one service for all patterns: JSON in protobuf, `Send` for requests, `Emit` for events.

Any pattern that is text goes, and there are no streams. An event is answered when it is in
its mailbox (nestrs answers when it was handled): what becomes of it then is the same as
on any transport, retries and dead letters among it.

Source: nestrs-microservices 0.3.8 (src/grpc.rs).
"""

import time
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ...actors.encoding import encode
from ...actors.errors import PayloadError
from ...actors.incarnation import Incarnation
from ...supervisors.child import Wiring
from ...supervisors.delivery.intake import Inbound
from ...supervisors.registry import Target
from ..codec import nestrs_wire
from .bridge import GrpcBridge, GrpcRequest
from .call import Call
from .messages import EMIT, SEND, EmitRequest, EmitResponse, SendRequest, SendResponse
from .options import GrpcOptions
from .protos import Rpc
from .status import INVALID_ARGUMENT, Failure, headers_of

__all__ = ["METHODS", "NestrsBridge"]

_SERVICE: Final = "nestrs.microservices.Microservice"
METHODS: Final = {
    SEND: Rpc(SEND, _SERVICE, "Send", SendRequest, SendResponse, False, False),
    EMIT: Rpc(EMIT, _SERVICE, "Emit", EmitRequest, EmitResponse, False, False),
}
_EMITTED: Final = EmitResponse(ok=True).SerializeToString()
_INVALID: Final = Failure(INVALID_ARGUMENT, "invalid json payload")
_valid: Final = msgspec.json.Decoder(Raw).decode


class NestrsBridge(GrpcBridge):
    """Serves all patterns of the tree to nestrs's clients."""

    def __init__(self, host: str, port: int, options: GrpcOptions, wiring: Wiring) -> None:
        super().__init__(host, port, options, wiring)
        self._intake = wiring.services.intake
        self._numbers = 0

    @property
    def pool(self) -> Any:
        return SendRequest.DESCRIPTOR.file.pool

    def rpcs(self) -> Mapping[str, Rpc]:
        return METHODS

    def check(self) -> None:
        """Any handler will do: patterns are known when somebody calls."""

    def begin(self, call: Call) -> Awaitable[None] | None:
        message = call.rpc.request.FromString(call.body)
        self._numbers += 1
        if call.rpc.path == EMIT:
            return self._emit(call, message.pattern, message.payload_json)
        return self._send_to(call, message.pattern, message.payload_json)

    def _send_to(self, call: Call, pattern: str, data: bytes) -> Awaitable[None] | None:
        target = self._target(pattern)
        if target is None:
            text = f"{call.peer} asked for {pattern[:100]}, which nobody handles"
            self.complaints.say("requests without a handler", text)
            nobody = nestrs_wire.no_handler(b"", encode(pattern))
            self.answer(call, response(nobody))
            return None
        handler = target.handler
        request = NestrsRequest(self, b"", handler, pattern, call=call, number=self._numbers)
        call.request = request
        try:
            message = handler.payload.decode(data)
        except PayloadError as error:
            if is_json(data):
                request.failed(error)
            else:
                self.answer(call, failure=_INVALID)
            return None
        except Exception as error:  # noqa: BLE001  # a bug in the payload's class, not in the bridge
            request.undecodable(error)
            return None
        return self.deliver(call, request, target.cell.mailbox, message)

    def _target(self, pattern: str) -> Target | None:
        # As in NestJS, a request to an event's pattern runs its (first) handler.
        registry = self.registry
        return registry.request(pattern) or next(iter(registry.event(pattern)), None)

    def _emit(self, call: Call, pattern: str, data: bytes) -> Awaitable[None] | None:
        if not is_json(data):
            self.answer(call, failure=_INVALID)
            return None
        inbound = Inbound(
            transport=self.scheme,
            source=call.peer,
            pattern=pattern,
            data=data,
            message_id=f"{self.prefix}{self._numbers}",
            headers=headers_of(call.metadata),
            first_at=time.time(),
        )
        self.more()
        settlement = _EventSettlement(self, self.incarnation)
        way = self._intake.way(pattern)
        if way is None or not way.offer(inbound, settlement):
            return self._wait(call, inbound, settlement)
        self.answer(call, _EMITTED)
        return None

    async def _wait(self, call: Call, inbound: Inbound, settlement: "_EventSettlement") -> None:
        await self._intake.event(inbound, settlement)
        self.answer(call, _EMITTED)


def is_json(data: bytes) -> bool:
    """Whether bytes are one JSON text."""
    try:
        _valid(data)
    except (ValueError, RecursionError):
        return False
    return True


def response(body: bytes) -> bytes:
    """A `SendResponse` that says what a `WireResponse` says."""
    answer = nestrs_wire.decode_answer(body)
    if answer.error is UNSET:
        value = b"" if isinstance(answer.value, UnsetType) else bytes(answer.value)
        return bytes(SendResponse(ok=True, payload_json=value).SerializeToString())
    has_details = "details" in answer.error
    details = encode(answer.error["details"]) if has_details else b""
    found = SendResponse(
        ok=False,
        error_message=answer.error["message"],
        error_details_json=details,
        has_error_details=has_details,
    )
    return bytes(found.SerializeToString())


class NestrsRequest(GrpcRequest, gc=False):
    """A request that nestrs's client sends."""

    def _answer(self, body: bytes) -> None:
        self.connection.answer(self.call, response(body))


class _EventSettlement:
    """Emit has no acknowledgement of its own; a settled event is one less in flight."""

    __slots__ = ("_bridge", "_life")

    def __init__(self, bridge: NestrsBridge, life: Incarnation) -> None:
        self._bridge, self._life = bridge, life

    def acknowledge(self) -> None:
        if self._bridge.incarnation is self._life:
            self._bridge.less()

    def give_back(self) -> bool:
        return False
