"""The services that benchmarks/websocket.py measures: `websocket_server.py ours|bare`.

`ours` is an actor that is given a validated order; `bare` an echo on trio-websocket
alone, which decodes each packet as plain JSON and answers with the data. Both print
`ready PORT` and end when their standard input closes.
"""

import sys

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, WebSocketServer, serve_websocket

from benchmarks.tcp_server import Service
from understudy import Supervisor, child, running, serve

__all__: list[str] = []


async def ours() -> None:
    tree = Supervisor("benchmark", [child(Service), serve("ws://127.0.0.1:0")])
    async with running(tree) as system:
        await _until_parent_ends(system.addresses()["benchmark/ws"].rpartition(":")[2])


async def bare() -> None:
    async with trio.open_nursery() as nursery:
        server: WebSocketServer = await nursery.start(serve_websocket, _echo, "127.0.0.1", 0, None)
        await _until_parent_ends(str(server.port))
        nursery.cancel_scope.cancel()


async def _echo(request: WebSocketRequest) -> None:
    socket = await request.accept()
    decode, encode = msgspec.json.decode, msgspec.json.encode
    try:
        while True:
            packet = decode(await socket.get_message())
            answer = {"response": packet["data"], "isDisposed": True, "id": packet["id"]}
            await socket.send_message(encode(answer).decode())
    except ConnectionClosed:
        return


async def _until_parent_ends(port: str) -> None:
    print("ready", port, flush=True)
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run({"ours": ours, "bare": bare}[sys.argv[1]])
