"""One link to Redis: commands out, replies in their order, and what is pushed between them.

It speaks RESP3, so that subscriptions and commands share a connection. A link that ends has
ended, with everything that waits on it: nothing is sent again, nobody subscribed again.

Invariant: one task reads and one writes; a lost connection is never opened again, which
redis-py would do to send.
Not owned here: how redis-py is set up (`library.py`), who to connect to and as whom
(`connection.py`), and what is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..broker.session import BrokerAway
from .library import (
    Connection,
    PushNotification,
    RedisConnectionError,
    RedisError,
    ReplyError,
    broken,
    pack_command,
)

__all__ = ["Command", "Link", "ReplyError"]

Command = tuple[str | bytes | int, ...]
"""A command and its arguments."""

_MUCH: Final = 64 * 1024
"""Unsent bytes above which `drained` waits."""


class Link:
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
        self._calls: set[asyncio.Future[Any]] = set()
        self._connection: Connection
        self._transport: asyncio.WriteTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._outbox: list[bytes] = []
        self._unsent = 0
        self._filled, self._room, self._reads = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._reads.set()

    async def open(self, connection: Connection, within: float) -> None:
        """Connect and log in with a connection that calls this link's `connected`.

        Raises what redis-py does, or `TimeoutError`.
        """
        self._connection = connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]
            for task in self._tasks:
                task.add_done_callback(self._task_ended)
            await asyncio.sleep(0)  # a task that is cancelled before it began closes nothing
        except BaseException:
            self.end(BrokerAway("given up"))
            await connection.disconnect(nowait=True)
            raise

    async def connected(self, connection: Connection) -> None:
        """Called by redis-py when there is a socket, to log in."""
        if self._transport is not None:
            raise RedisConnectionError("a lost connection is not to be opened again")
        # Its public ways to close wait for a server that reads nothing to take what is
        # unsent, or to say good-bye in TLS: the socket would outlive the session by far.
        writer = getattr(connection, "_writer", None)
        self._transport = getattr(writer, "transport", None)
        await connection.on_connect()

    # -- its two tasks --------------------------------------------------------------

    async def _read(self) -> None:
        read, expected = self._connection.read_response, self._expected
        try:
            while self.lost is None:
                if not self._reads.is_set():
                    await self._reads.wait()
                    continue
                try:
                    # What is parsed already comes without a wait.
                    reply = await read(push_request=True, disconnect_on_error=False)
                except ReplyError as error:
                    reply = error
                except (RedisError, OSError) as error:
                    self.end(broken(error))
                    break
                if type(reply) is PushNotification:
                    self._pushed(reply)
                elif expected:
                    expected.popleft()(reply)
                else:  # as it says good-bye
                    self.end(BrokerAway(f"the server says: {reply}"))
        finally:
            await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        while self.lost is None:
            self._filled.clear()
            packed, size = self._outbox, self._unsent
            self._outbox = []
            if packed:
                try:
                    await self._connection.send_packed_command(packed, check_health=False)
                except (RedisError, OSError) as error:
                    self.end(broken(error))
                    break
            self._unsent -= size
            self._room.set()
            await self._filled.wait()

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:  # raised by the session's owner, as itself
            self.lose(error)
            self.end(BrokerAway(f"a reply could not be taken: {error!r}"))

    # -- for sessions ---------------------------------------------------------------

    def send(self, commands: Iterable[tuple[Command, Callable[[Any], object]]]) -> None:
        """Send commands in one write; each one's function gets its reply, in this order.

        Raises `BrokerAway` if the link has ended.
        """
        listed = list(commands)
        self._put([command for command, _ in listed])
        self._expected.extend(then for _, then in listed)

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

        command: Command = (verb, *channels)
        if len(command) > 1:
            self._put([command, ("PING",)])
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
        while self._unsent > _MUCH and self.lost is None:
            self._room.clear()
            await self._room.wait()

    def pause(self) -> None:
        """Read nothing for now: what comes waits at the server."""
        if self.lost is None:
            self._reads.clear()

    def resume(self) -> None:
        self._reads.set()

    def end(self, why: BrokerAway) -> None:
        """It is of no use any more, or no longer wanted."""
        if self.lost is not None:
            return
        self.lost = why
        if self._transport is not None:
            self._transport.abort()
        for task in self._tasks:
            if task is not asyncio.current_task():  # that one ends by itself, having seen `lost`
                task.cancel()
        self._room.set()
        for reply in self._calls:
            if not reply.done():
                reply.set_exception(BrokerAway(why.why))
        self.lose(why)

    def _put(self, commands: Sequence[Command]) -> None:
        if self.lost is not None:
            raise self.lost
        # As redis-py's blocking connection does; its asyncio one packs in Python.
        packed = b"".join(map(pack_command, commands))  # type: ignore[arg-type]  # of any length
        self._outbox.append(packed)
        self._unsent += len(packed)
        self._filled.set()


def _ignore(_: Any) -> None:
    """Nobody minds."""
