"""trio-websocket's reading tasks, each behind a wall of its own.

The library reads in a task that it starts in a nursery of ours. What a strange peer makes
it raise ends that peer's connection; it is said once, and goes no further. It waits for a
handshake for ever when the bytes end before one: here such a wait ends with the bytes.
"""

from http import HTTPStatus
from typing import Any, Final, cast

import trio

from ..complaints import Complaints
from .library import (
    ConnectionClosed,
    ConnectionRejected,
    LocalProtocolError,
    WebSocketConnection,
    WebSocketRequest,
    wrap_client_stream,
    wrap_server_stream,
)
from .wire import Wire

__all__ = ["Proposal", "connected", "proposed"]

_QUEUE: Final = 1
"""Messages that are read ahead of their handling: each may be as big as one may be."""

_CHUNK: Final = 64 * 1024


class Proposal:
    """A handshake that waits for an answer; failing to give one is the peer's loss only."""

    def __init__(self, request: WebSocketRequest, wire: Wire) -> None:
        self.request = request
        self._wire = wire

    async def accept(self, subprotocol: str | None) -> WebSocketConnection | None:
        try:
            return await self.request.accept(subprotocol=subprotocol)
        except (ConnectionClosed, LocalProtocolError):
            return None  # it has gone meanwhile

    async def reject(self, status: int) -> None:
        # With a body, so that its length is told: some clients wait for ever otherwise.
        body = HTTPStatus(status).phrase.encode()
        try:
            await self.request.reject(status, body=body)
        except (ConnectionClosed, LocalProtocolError):
            return
        with trio.move_on_after(1):
            await self._wire.linger()


async def proposed(
    wire: Wire,
    peer: str,
    max_message: int,
    complaints: Complaints,
    task_status: trio.TaskStatus[Proposal | None],
) -> None:
    """Read what a peer sends, until it ends; starts with its handshake, None if there is none."""
    proposal: Proposal | None = None
    try:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as race:
                race.start_soon(_stop_at_end, wire, race.cancel_scope)
                request = await wrap_server_stream(nursery, wire, _QUEUE, max_message, _CHUNK)
                proposal = Proposal(request, wire)
                race.cancel_scope.cancel()
            if proposal is not None:
                task_status.started(proposal)
    except* Exception as errors:  # noqa: BLE001  # whatever a stranger makes the library raise
        complaints.say("protocol errors", f"{peer}: {_first(errors)!r}; closed")
        wire.close()
    else:
        if proposal is None:
            complaints.say("handshakes that failed", f"{peer} sent no WebSocket handshake; closed")
    if proposal is None:
        task_status.started(None)


async def connected(
    wire: Wire,
    host: str,
    resource: str,
    options: dict[str, Any],
    task_status: trio.TaskStatus[WebSocketConnection],
) -> None:
    """Read what a service sends, until it ends; starts when it has accepted the handshake.

    Before that it raises what went wrong, `ConnectionRejected` or an `OSError`.
    """
    socket: WebSocketConnection | None = None
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as race:
                race.start_soon(_stop_at_end, wire, race.cancel_scope)
                stream = cast(trio.SocketStream, wire)  # the library takes any stream
                socket = await wrap_client_stream(
                    nursery,
                    stream,
                    host,
                    resource,
                    message_queue_size=_QUEUE,
                    receive_buffer_size=_CHUNK,
                    **options,
                )
                race.cancel_scope.cancel()
            if socket is None:
                raise ConnectionResetError("the service ended the handshake")
            task_status.started(socket)
    except* Exception as errors:  # noqa: BLE001  # whatever the service makes the library raise
        failure = _first(errors)
    finally:
        wire.close()
    if socket is None and failure is not None:
        if isinstance(failure, ConnectionRejected | OSError):
            raise failure
        # The library's own words are about its insides.
        raise ConnectionResetError("what the service answered is no handshake") from None


async def _stop_at_end(wire: Wire, scope: trio.CancelScope) -> None:
    await wire.ended.wait()
    scope.cancel()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
