"""A link by itself: what redis-py would do in silence is not done, and nothing is left behind.

The peer is a server of a few lines where a real one would be too well-behaved.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from understudy.actors.asyncio_thread import asyncio_thread
from understudy.transports.broker.session import BrokerAway
from understudy.transports.redis.library import RedisConnectionError, unconnected
from understudy.transports.redis.link import Link, ReplyError

from ...brokers.broker import Address

MEGABYTE = 1024 * 1024

Peer = Callable[[trio.SocketStream], Awaitable[object]]


@asynccontextmanager
async def listening(peer: Peer) -> AsyncIterator[int]:
    """A server that answers the login and leaves the rest to `peer`; its port."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        await peer(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def opened(port: int, pushed: Callable[[list[Any]], object] = print) -> Link:
    link = Link(pushed)
    await link.open(unconnected("127.0.0.1", port, connected=link.connected, within=5), 5)
    return link


def port_of(broker: Address) -> int:
    return int(broker.url.rpartition(":")[2])


async def on_the_loop(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    with trio.fail_after(20):
        return await asyncio_thread("brokers").call(function, *arguments)


async def test_a_connection_that_is_lost_is_not_opened_again(redis_broker: Address) -> None:
    async def lose_it() -> str:
        link = await opened(port_of(redis_broker))
        connection = link._connection
        await connection.disconnect()
        with pytest.raises(RedisConnectionError, match="not to be opened again"):
            await connection.send_command("PING")  # opens it again, if it may
        with pytest.raises(BrokerAway) as lost:
            await link.call("PING", within=5)
        return lost.value.why

    assert await on_the_loop(lose_it) == "the server closed the connection"


async def test_a_server_that_reads_nothing_does_not_keep_the_socket_open() -> None:
    """To close it, with what is unsent, would last as long as the server likes."""
    ended = trio.Event()
    received: list[int] = []

    async def unreading(stream: trio.SocketStream) -> None:
        await ended.wait()
        try:
            async for data in stream:
                received.append(len(data))
        except trio.BrokenResourceError:
            pass
        received.append(0)

    async def send_and_end(port: int) -> None:
        link = await opened(port)
        link.send([(("PUBLISH", "a", bytes(64 * MEGABYTE)), print)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await link.drained()
        link.end(BrokerAway("enough"))

    async with listening(unreading) as port:
        await on_the_loop(send_and_end, port)
        ended.set()
        with trio.fail_after(10):
            while 0 not in received:  # noqa: ASYNC110  # the peer tells nobody
                await trio.sleep(0.01)
    assert sum(received) < 64 * MEGABYTE


@pytest.mark.parametrize(
    "text",
    ["LOADING Redis is loading", "NOAUTH Authentication required.", "ERR max number of clients"],
)
async def test_an_error_that_is_a_reply_ends_no_link_and_keeps_its_words(text: str) -> None:
    async def refusing(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(f"-{text}\r\n".encode())

    async def ask_twice(port: int) -> list[str]:
        link = await opened(port)
        said = []
        for _ in range(2):
            with pytest.raises(ReplyError) as error:
                await link.call("PING", within=5)
            said.append(str(error.value))
        link.end(BrokerAway("closed"))
        return said

    async with listening(refusing) as port:
        assert await on_the_loop(ask_twice, port) == [text, text]


async def test_what_is_pushed_is_told_from_replies_in_one_packet() -> None:
    push = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"
    pushed: list[list[bytes]] = []

    async def pushing(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(push + b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n" + push)
        await trio.sleep_forever()

    async def ask(port: int) -> Any:
        link = await opened(port, pushed.append)
        reply = await link.call("LRANGE", "a", 0, -1, within=5)
        await asyncio.sleep(0)
        link.end(BrokerAway("closed"))
        return reply

    async with listening(pushing) as port:
        assert await on_the_loop(ask, port) == [b"message", b"a", b"x"]
    assert pushed == [[b"message", b"a", b"x"]] * 2


async def test_a_mistake_of_our_own_comes_out_as_itself() -> None:
    def mistaken(_: Any) -> None:
        raise KeyError("mine")

    lost: list[BaseException] = []

    async def answering(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(b"+PONG\r\n")

    async def ask(port: int) -> None:
        link = await opened(port)
        link.lose = lost.append
        link.send([(("PING",), mistaken)])
        with pytest.raises(BrokerAway, match="'mine'"):
            await link.call("PING", within=5)

    async with listening(answering) as port:
        await on_the_loop(ask, port)
    assert isinstance(lost[0], KeyError)
    assert isinstance(lost[1], BrokerAway)


async def test_nothing_is_left_on_the_loop_when_a_link_has_ended(redis_broker: Address) -> None:
    async def live() -> int:
        before = asyncio.all_tasks()
        link = await opened(port_of(redis_broker))
        assert len(asyncio.all_tasks() - before) == 2
        link.pause()
        link.end(BrokerAway("closed"))
        for _ in range(5):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks() - before)

    assert await on_the_loop(live) == 0


async def test_a_paused_link_reads_nothing_until_it_is_resumed() -> None:
    push = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"
    pushed: list[list[bytes]] = []

    async def pushing(stream: trio.SocketStream) -> None:
        await stream.send_all(push * 9)
        await trio.sleep_forever()

    async def live(port: int) -> list[int]:
        seen, ninth = [], asyncio.Event()

        def take(message: list[bytes]) -> None:
            pushed.append(message)
            if len(pushed) == 4:
                link.pause()
                asyncio.get_running_loop().call_soon(later)
            elif len(pushed) == 9:
                ninth.set()

        def later() -> None:
            seen.append(len(pushed))
            link.resume()

        link = Link(take)
        await link.open(unconnected("127.0.0.1", port, connected=link.connected, within=5), 5)
        await ninth.wait()
        link.end(BrokerAway("closed"))
        return [*seen, len(pushed)]

    async with listening(pushing) as port:
        assert await on_the_loop(live, port) == [4, 9]
