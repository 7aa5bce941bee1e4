"""One AMQP channel: methods that are answered, and messages put together from their frames.

Calls may be made while others wait: a broker answers them in order. A channel ends for
itself when the broker objects to something (a queue declared otherwise, one that is
gone), with `ChannelEnded`; all its calls end with that.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pamqp import commands, frame

from .frames import Properties, read_confirm, read_deliver, read_header, read_return

__all__ = ["Channel", "ChannelEnded", "Delivered", "Returned", "method_of"]

_DELIVER: Final = b"\x00\x3c\x00\x3c"
_RETURN: Final = b"\x00\x3c\x00\x32"
_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"

Delivered = Callable[[str, int, bool, str, Properties, bytes], None]
"""Consumer tag, delivery tag, redelivered, routing key, properties, body."""
Returned = Callable[[str, Properties], None]
"""Why, and whose."""


class ChannelEnded(Exception):
    """The broker closed the channel: `code` and `text` are its words."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(f"{code} {text}")


class Channel:
    """One channel of a connection. The callbacks are set by who uses it."""

    def __init__(self, number: int, write: Callable[[bytes], None]) -> None:
        self.number = number
        self.ended: BaseException | None = None
        self.on_deliver: Delivered = _nobody
        self.on_return: Returned = _nobody
        self.on_confirm: Callable[[int, bool, bool], None] = _nobody
        self.on_cancel: Callable[[str], None] = _nobody
        self.on_end: Callable[[BaseException], None] = _nobody
        self._write = write
        self._calls: deque[asyncio.Future[Any]] = deque()
        # A message that is not complete: what brought it, its properties, its body so far.
        self._bringer = b""
        self._properties = Properties()
        self._missing = 0
        self._parts: list[bytes] = []

    async def call(self, method: Any) -> Any:
        """Send a method and wait for its answer. Raises `ChannelEnded`, or as the connection."""
        if self.ended is not None:
            raise self.ended
        answer = self.expect()
        self._write(frame.marshal(method, self.number))
        return await answer

    def expect(self) -> "asyncio.Future[Any]":
        """The next method that comes and is not a message."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.append(answer)
        return answer

    def end(self, error: BaseException) -> None:
        """There is no channel any more."""
        if self.ended is not None:
            return
        self.ended = error
        calls, self._calls = self._calls, deque()
        for answer in calls:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # who waits may have been cancelled meanwhile
        self.on_end(error)

    # -- what comes -----------------------------------------------------------------

    def take_method(self, payload: bytes) -> None:
        """A method came; `payload` is its frame without head and end."""
        kind = payload[:4]
        if kind in (_DELIVER, _RETURN):
            self._bringer = payload
        elif kind == _ACK:
            self.on_confirm(*read_confirm(payload), True)
        elif kind == _NACK:
            self.on_confirm(*read_confirm(payload), False)
        else:
            self.take_other(method_of(payload))

    def take_other(self, method: Any) -> None:
        """A method came that brings no message."""
        if isinstance(method, commands.Channel.Close):
            self._write(frame.marshal(commands.Channel.CloseOk(), self.number))
            self.end(ChannelEnded(method.reply_code or 0, method.reply_text or ""))
        elif isinstance(method, commands.Basic.Cancel):
            self.on_cancel(method.consumer_tag or "")
        elif isinstance(method, commands.Channel.Flow):
            self._write(frame.marshal(commands.Channel.FlowOk(method.active), self.number))
        elif self._calls:
            answer = self._calls.popleft()
            if not answer.done():
                answer.set_result(method)

    def take_header(self, payload: bytes) -> None:
        """The head of a message came."""
        self._missing, self._properties = read_header(payload)
        if not self._missing:
            self._complete(b"")

    def take_body(self, payload: bytes) -> None:
        """A part of a message's body came."""
        self._missing -= len(payload)
        if self._missing > 0 or self._parts:
            self._parts.append(payload)
            if self._missing > 0:
                return
            payload = b"".join(self._parts)
            self._parts = []
        self._complete(payload)

    def _complete(self, body: bytes) -> None:
        bringer, properties = self._bringer, self._properties
        if bringer[:4] == _DELIVER:
            self.on_deliver(*read_deliver(bringer), properties, body)
        else:
            self.on_return(read_return(bringer), properties)


def _nobody(*_: Any) -> None:
    """Nobody listens."""


def method_of(payload: bytes) -> Any:
    """The method in a frame without head and end."""
    head = b"\x01\x00\x00" + len(payload).to_bytes(4)
    return frame.unmarshal(head + payload + b"\xce")[2]
