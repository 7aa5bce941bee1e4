"""The bytes under a WebSocket: collected, given up, and read by one only."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from understudy.transports.websocket.wire import Wire

Ends = tuple[Wire, trio.socket.SocketType]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ours, theirs = trio.socket.socketpair()
    wire = Wire(ours, write_deadline=0.1)
    yield wire, theirs
    wire.close()
    theirs.close()


async def test_what_is_corked_leaves_with_one_send(ends: Ends) -> None:
    wire, peer = ends
    wire.cork()
    for piece in (b"a", b"b", b"c"):
        await wire.send_all(piece)
    with trio.move_on_after(0.01) as nothing:
        await peer.recv(10)
    assert nothing.cancelled_caught
    await wire.uncork()

    assert await peer.recv(10) == b"abc"


async def test_what_nobody_takes_breaks_the_wire_and_is_said(ends: Ends) -> None:
    wire, _ = ends
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await wire.send_all(bytes(10_000_000))

    assert (wire.stuck, wire.ended.is_set()) == (True, True)


async def test_who_lingers_is_the_only_reader(ends: Ends) -> None:
    wire, peer = ends
    read: list[bytes] = []

    async def receive() -> None:
        read.append(await wire.receive_some())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            nursery.start_soon(wire.linger)
            await wait_all_tasks_blocked()
            await peer.send(b"for the reader")
            await wait_all_tasks_blocked()
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await peer.send(b"for nobody")
            await wait_all_tasks_blocked()
            peer.close()

    assert read == [b"for the reader", b""]
