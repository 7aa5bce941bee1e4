"""The network under a broker's protocol: opening, waiting for room, and what its errors mean.

For those that are spoken on asyncio's own transports.
"""

import asyncio
import ssl
from typing import Any

from .session import BrokerAway, BrokerRefused

__all__ = ["Drained", "meaning", "open_connection"]


class Drained(asyncio.Protocol):
    """A protocol whose writers can wait while very much waits to be sent."""

    ended: BaseException | None = None
    """What ended the connection."""

    _resumed: asyncio.Future[None] | None = None

    async def drain(self) -> None:
        """Wait while very much waits to be sent. Raises what ended the connection."""
        if self._resumed is not None:
            await asyncio.shield(self._resumed)
        if self.ended is not None:
            raise self.ended

    def pause_writing(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)


async def open_connection(
    protocol: asyncio.Protocol, host: str, port: int, context: ssl.SSLContext | None
) -> None:
    """Connect `protocol`, in TLS if there is a context; cancelled, it leaves no socket behind.

    Raises `OSError`, `ssl.SSLError`.
    """
    loop = asyncio.get_running_loop()
    opening = loop.create_task(loop.create_connection(lambda: protocol, host, port, ssl=context))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        # asyncio loses a socket whose TLS is cancelled just as it begins: let it come to an end.
        opening.add_done_callback(_abandon)
        raise


def _abandon(opening: "asyncio.Task[tuple[Any, asyncio.Protocol]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()


def meaning(error: BaseException) -> BrokerAway:
    """What an error of the network means for a session."""
    if isinstance(error, BrokerAway):
        return error
    if isinstance(error, ssl.SSLError):
        return BrokerRefused(f"TLS failed: {error.reason or error}")
    if isinstance(error, ConnectionRefusedError):
        return BrokerAway("connection refused: nothing listens there")
    if isinstance(error, TimeoutError):
        return BrokerAway("it does not answer")
    if isinstance(error, OSError):
        return BrokerAway(error.strerror or str(error) or type(error).__name__)
    return BrokerAway(str(error) or type(error).__name__)
