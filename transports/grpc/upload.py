"""What a caller streams, as its handler sees it: an async iterator of typed messages."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from ...actors.errors import RpcError
from .call import Call
from .library import DecodeError
from .status import CANCELLED, INTERNAL

__all__ = ["CallerLeft", "Upload"]


class CallerLeft(RpcError):
    """The caller left before the end of what it streams. No crash of the handler it ends.

    The iterator does not simply end then: half of a stream must not be taken for all of it.
    """

    def __init__(self) -> None:
        super().__init__({"code": CANCELLED, "message": "the caller left before its stream's end"})


class Upload(AsyncIterator[Any]):
    """The messages of one call; for one task only."""

    def __init__(self, call: Call, read: Callable[[bytes], Any]) -> None:
        self._call = call
        self._read = read

    async def __anext__(self) -> Any:
        """The next message.

        Raises `CallerLeft`, and `PayloadError` for one that does not fit, which is
        answered with INVALID_ARGUMENT unless the handler catches it.
        """
        try:
            body = await self._call.next()
        except EOFError:
            raise CallerLeft from None
        if body is None:
            raise StopAsyncIteration
        try:
            return self._read(body)
        except DecodeError:
            pass  # told below, out of this block
        raise RpcError({"code": INTERNAL, "message": "a message of the stream cannot be read"})
