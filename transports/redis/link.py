"""One socket to Redis: commands out, replies in their order, and what is pushed between them.

The protocol is RESP3, so that one connection takes subscriptions and commands alike, and
hiredis reads and writes it. No redis-py: it would send a command again whose reply it
missed, and subscribe again without a word after it missed messages. This knows neither:
a socket that ends has ended, with everything that waits on it.

Not owned here: who to connect to and how to log in (`connection.py`), and what is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from ...actors.errors import DeclarationError
from ..broker.session import BrokerAway

try:
    from hiredis import ProtocolError, PushNotification, Reader, ReplyError, pack_command
except ImportError as error:
    raise DeclarationError(
        "redis:// needs hiredis, which is not installed: pip install 'understudy[redis]'"
    ) from error

__all__ = ["Command", "Link", "ReplyError"]

Command = tuple[str | bytes | int, ...]
"""A command and its arguments."""

_NOT_YET: Final = object()


class Link(asyncio.Protocol):
    """A connection. `pushed(message)` is called with what is pushed, `lose(error)` at its end.

    Each command has a function for its reply, which is data or a `ReplyError`. What is sent
    and not answered when the link ends is never answered: who waits asks `lost`.
    """

    def __init__(self, pushed: Callable[[list[Any]], object]) -> None:
        self.id = 0  # the server's number for it
        self.lost: BrokerAway | None = None
        self.lose: Callable[[BaseException], object] = _ignore
        self._pushed = pushed
        self._expected: deque[Callable[[Any], object]] = deque()
        self._reader = Reader(notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport
        self._room: asyncio.Future[None] | None = None
        self._calls: set[asyncio.Future[Any]] = set()

    # -- as asyncio sees it ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, expected = self._reader, self._expected
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOT_YET:
                if type(reply) is PushNotification:
                    self._pushed(reply)
                elif expected:
                    expected.popleft()(reply)
                else:  # as it says good-bye: too many clients, a protected server
                    self.end(BrokerAway(f"the server says: {reply}"))
        except ProtocolError as error:
            self.end(BrokerAway(f"what listens there does not speak Redis' protocol: {error}"))
        except Exception as error:  # noqa: BLE001  # raised by the session's owner, as itself
            self.lose(error)
            self.end(BrokerAway(f"a reply could not be taken: {error!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the connection broke: {exc}" if exc else "the server closed the connection"
        self.end(BrokerAway(why))

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # -- for sessions ---------------------------------------------------------------

    def send(self, commands: Iterable[tuple[Command, Callable[[Any], object]]]) -> None:
        """Send commands in one write; each one's function gets its reply, in this order.

        Raises `BrokerAway` if the link has ended.
        """
        if self.lost is not None:
            raise self.lost
        packed = []
        for command, then in commands:
            packed.append(pack_command(command))  # type: ignore[arg-type]  # a tuple of any length
            self._expected.append(then)
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    def subscribe(
        self, verb: str, channels: Iterable[str], refused: Callable[[ReplyError], object]
    ) -> None:
        """(P)SUBSCRIBE or the contrary: in force for whatever is sent after it."""
        # It is answered by pushes if it succeeds and by a reply if it does not, so what is
        # expected is the reply of a PING behind it, perhaps with an error before.

        def then(reply: Any) -> None:
            if isinstance(reply, ReplyError):
                self._expected.appendleft(_ignore)
                refused(reply)

        if self.lost is not None:
            raise self.lost
        command: Command = (verb, *channels)
        if len(command) > 1:
            self._transport.write(pack_command(command) + pack_command(("PING",)))  # type: ignore[arg-type]
            self._expected.append(then)

    async def call(self, *command: str | bytes | int, within: float) -> Any:
        """One command and its reply. Raises `ReplyError`.

        Without a reply in time the link ends, and `BrokerAway` is raised.
        """
        reply = asyncio.get_running_loop().create_future()

        def then(result: Any) -> None:
            if reply.done():
                return
            if isinstance(result, ReplyError):
                reply.set_exception(result)
            else:
                reply.set_result(result)

        self.send([(command, then)])
        self._calls.add(reply)
        try:
            async with asyncio.timeout(within):
                return await reply
        except TimeoutError as error:
            silent = BrokerAway(f"no answer to {command[0]!s} within {within:g} s")
            self.end(silent)
            raise silent from error
        finally:
            self._calls.discard(reply)

    async def drained(self) -> None:
        """Wait while the server takes less than is sent."""
        while self._room is not None and self.lost is None:
            await asyncio.shield(self._room)

    def pause(self) -> None:
        """Read nothing for now: what comes waits at the server."""
        if self.lost is None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.lost is None:
            self._transport.resume_reading()

    def end(self, why: BrokerAway) -> None:
        """It is of no use any more, or no longer wanted."""
        if self.lost is not None:
            return
        self.lost = why
        self._transport.abort()
        self.resume_writing()
        for reply in self._calls:
            if not reply.done():
                reply.set_exception(BrokerAway(why.why))
        self.lose(why)


def _ignore(_: Any) -> None:
    """Nobody minds."""
