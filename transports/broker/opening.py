"""How an asyncio connection is opened so that no cancellation leaves its socket behind."""

import asyncio
import ssl
from typing import Any

__all__ = ["open_connection"]


async def open_connection(
    protocol: asyncio.Protocol, host: str, port: int, context: ssl.SSLContext | None
) -> None:
    """Connect `protocol`, in TLS if there is a context. Raises `OSError`, `ssl.SSLError`."""
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
