"""A nursery for background tasks that belong to a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["background"]


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Tasks started in this nursery end with the block, and its exceptions come out bare.

    A plain nursery would wrap every exception of the block's body in a group, which
    its author, who sees no nursery, does not expect.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001  # raised below, out of the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
