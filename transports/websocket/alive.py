"""Whether the other end is still there: pings to who is silent."""

from typing import Final

import trio

from .library import ConnectionClosed, LocalProtocolError, WebSocketConnection
from .wire import Wire

__all__ = ["until_dead"]

_PAYLOAD: Final = b"?"
"""Always the same: the library keeps every ping that was never answered, and refuses twins."""


async def until_dead(
    socket: WebSocketConnection, wire: Wire, interval: float, timeout: float
) -> bool:
    """Return True once the peer answers nothing any more, False when its bytes have ended.

    A peer that is silent for `interval` seconds is sent a ping, and has `timeout` for any
    byte at all. Nothing counts while it is not being read, since its pong would wait unread,
    nor while it has to take what was sent before: the write deadline sees to that.
    """
    async with trio.open_nursery() as pinging:
        while not wire.ended.is_set():
            silent = trio.current_time() - wire.heard
            if silent < interval or wire.sending:
                await trio.sleep(max(interval - silent, interval / 4))
                continue
            asked = trio.current_time()
            # Not within a timeout: half a frame would be worse than none.
            pinging.start_soon(_ping, socket)
            await trio.sleep(timeout)
            if wire.heard < asked and wire.receiving and not wire.sending:
                break
        pinging.cancel_scope.cancel()
    return not wire.ended.is_set()


async def _ping(socket: WebSocketConnection) -> None:
    try:
        await socket.ping(_PAYLOAD)
    except (ValueError, ConnectionClosed, LocalProtocolError):
        return  # one is on its way already, or the connection ends
