"""Record what a real nestrs client and service say to each other, byte for byte.

    python -m tests.peers.nestrs.record tcp|nats|redis|rmq PROGRAM [BROKER_URL] > FILE

Both peers talk through a proxy, to each other (TCP) or to a broker, and the proxy cuts
the streams into packets. Each case of the client runs in a process of its own, so that
its numbers start anew and its packets can be told from those of other cases.

Invariant: what is written are the bytes as they went, never written anew. Left out are
logins and keep-alives after the first case, the service's own search for whether it is
ready, packets over 3,000 bytes, and the cases that are long or only repeat others.
"""

import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from .protocols import LOGINS, PROTOCOLS, SETUP, Cut

LIMIT = 3000
LEFT_OUT = {"concurrent", "sequential", "echo.100kB", "echo.100k-emoji"}
PROBE = (b"_INBOX", b"nestrs.reply")


@attrs.define
class Recorder:
    """The packets so far, in the order in which the proxy got them."""

    transport: str
    case: str = "start"
    first: bool = True
    recording: bool = True
    vectors: list[dict[str, Any]] = attrs.Factory(list)

    def add(self, conn: str, direction: str, raw: bytes) -> None:
        if len(raw) > LIMIT or not self.recording:
            return
        what, decoded = PROTOCOLS[self.transport][1](raw)
        if what in LOGINS and not self.first:
            return
        if self.case == "start" and (what not in SETUP or any(map(raw.__contains__, PROBE))):
            return
        head = {"seq": len(self.vectors), "case": self.case, "conn": conn}
        head |= {"direction": direction, "what": what}
        coded = {"raw_b64": base64.b64encode(raw).decode()}
        exact = coded if self.transport == "rmq" else {"raw_text": raw.decode()}
        self.vectors.append({**head, **exact, "decoded": decoded})


async def pump(
    source: trio.SocketStream, sink: trio.SocketStream, cut: Cut, add: Callable[[bytes], None]
) -> None:
    held = b""
    try:
        async for chunk in source:
            held += chunk
            while size := cut(held):
                add(held[:size])
                held = held[size:]
            await sink.send_all(chunk)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await sink.aclose()  # one side has gone: the other learns of it


@asynccontextmanager
async def proxy(
    recorder: Recorder, who: str, far: str, target: tuple[str, int]
) -> AsyncIterator[int]:
    """A port that leads to the target; `who` connects to it, and `far` is what is there."""
    count = 0
    cut = PROTOCOLS[recorder.transport][0]

    async def serve(near: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        name = f"{who}#{count}"
        async with near, await trio.open_tcp_stream(*target) as other, trio.open_nursery() as both:
            there = partial(recorder.add, name, f"{who} -> {far}")
            back = partial(recorder.add, name, f"{far} -> {who}")
            both.start_soon(pump, near, other, cut, there)
            both.start_soon(pump, other, near, cut, back)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def ends(url: str) -> tuple[str, str, int]:
    """Everything before the host, the host, and the port."""
    before, _, place = url.rpartition("@") if "@" in url else url.partition("://")
    mark = "@" if "@" in url else "://"
    host, _, port = place.partition("/")[0].partition(":")
    return before + mark, host, int(port)


async def run(program: str, *words: str) -> list[str]:
    """The names of the cases that a client ran."""
    done = await trio.run_process([program, "call", *words], capture_stdout=True)
    return [json.loads(found)["case"] for found in done.stdout.decode().split("\n") if found]


async def record(transport: str, program: str, broker: str) -> dict[str, Any]:
    recorder = Recorder(transport)
    before, host, port = ends(broker)
    over_broker = transport != "tcp"
    far = "broker" if over_broker else "nestrs-service"
    async with (
        proxy(recorder, "nestrs-service", far, (host, port)) as inner,
        proxy(recorder, "nestrs-client", far, (host, port)) as outer,
        trio.open_nursery() as nursery,
    ):
        place = f"{before}127.0.0.1:{inner}" if over_broker else broker
        serving = await nursery.start(
            partial(
                trio.run_process,
                [program, "serve", transport, place],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert (await serving.stdout.receive_some()) == b"ready\n"
        recorder.recording = False
        names = await run(program, transport, broker)
        recorder.recording = True
        for name in names:
            if name not in LEFT_OUT:
                recorder.case = name
                await run(program, transport, f"{before}127.0.0.1:{outer}", "--only", name)
                recorder.first = False
        await serving.stdin.aclose()
    version = {"transport": transport, "nestrs_microservices": "0.3.8"}
    note = f"exact bytes through a proxy; messages over {LIMIT} bytes left out"
    return {**version, "note": note, "vectors": recorder.vectors}


if __name__ == "__main__":
    where = sys.argv[3] if len(sys.argv) > 3 else "tcp://127.0.0.1:28411"
    found = trio.run(record, sys.argv[1], sys.argv[2], where)
    sys.stdout.write(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
