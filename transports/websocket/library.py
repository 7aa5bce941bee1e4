"""What is used of trio-websocket; the one place that imports it."""

from ...actors.errors import DeclarationError

try:
    from trio_websocket import (
        ConnectionClosed,
        ConnectionRejected,
        WebSocketConnection,
        WebSocketRequest,
        wrap_client_stream,
        wrap_server_stream,
    )
    from wsproto.utilities import LocalProtocolError
except ImportError as error:
    raise DeclarationError(
        "ws:// needs trio-websocket, which is not installed: pip install 'understudy[websocket]'"
    ) from error

__all__ = [
    "ConnectionClosed",
    "ConnectionRejected",
    "LocalProtocolError",
    "WebSocketConnection",
    "WebSocketRequest",
    "host_of",
    "wrap_client_stream",
    "wrap_server_stream",
]


def host_of(request: WebSocketRequest) -> str:
    """The Host header of a handshake, which the library keeps back from its headers."""
    return request._event.host
