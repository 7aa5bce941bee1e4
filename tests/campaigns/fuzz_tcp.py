"""Random bytes, guided by what they reach: `python -m tests.campaigns.fuzz_tcp [--seconds N]`.

Two targets, one after the other, each for half of the time. `codecs`: the frames, packets and
answers of every dialect that a listener speaks; no bytes may raise anything but `CodecError`,
nor be read differently when they come in other pieces. `bridge`: a whole service, in this
process; whatever a peer sends, the next one is answered.

Needs Atheris, which there is for some platforms only (`pip install 'understudy[prove]'`);
without it this says so and ends with 0.
"""

import argparse
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio

__all__ = ["TARGETS", "codecs"]


def codecs(data: bytes) -> None:
    """Read bytes as each dialect does, in one piece and in two."""
    from understudy.supervisors.registry import Registry
    from understudy.transports.codec import nest, nestrs
    from understudy.transports.codec.errors import CodecError
    from understudy.transports.websocket.gateway import GatewayDialect

    cut, rest = (data[0], data[1:]) if data else (0, b"")
    for dialect in (nest, nestrs):
        whole, pieces = dialect.frames(1000), dialect.frames(1000)
        bodies = whole.feed(rest)
        again = pieces.feed(rest[:cut]) + pieces.feed(rest[cut:])
        # An error is found a piece sooner or later, the good frames before it are the same.
        if bodies != again or (whole.error is None) != (pieces.error is None):
            raise AssertionError(f"read differently in two pieces: {bodies} and {again}")
        if any(len(body) > 1000 for body in bodies):
            raise AssertionError("a body is over the limit")
        for body in [*bodies, rest]:
            _read(dialect, body, CodecError)
    _read(GatewayDialect(Registry()), rest, CodecError)


def _read(dialect: Any, body: bytes, refused: type[Exception]) -> None:
    try:
        packet = dialect.decode_packet(body)
    except refused:
        packet = None
    if packet is not None and packet.pattern:
        dialect.route(bytes(packet.pattern))
        dialect.no_handler(bytes(packet.id), bytes(packet.pattern))
    try:
        dialect.decode_answer(body)
    except (refused, NotImplementedError):
        return


class Bridge:
    """A service in a thread of its own, which a peer talks to."""

    def __init__(self) -> None:
        ready: Queue[int] = Queue()
        threading.Thread(target=trio.run, args=(self._serve, ready), daemon=True).start()
        self._port = ready.get(timeout=30)
        self._good = self._connected()

    async def _serve(self, ready: "Queue[int]") -> None:
        from understudy.supervisors.child import Supervisor
        from understudy.supervisors.system import running
        from understudy.transports.bridge import serve

        from ..transports.tcp.desk import Scene

        tree = Supervisor("fuzzed", [Scene().desk(), serve("tcp://127.0.0.1:0", name="bridge")])
        async with running(tree) as system:
            ready.put(int(system.addresses()["fuzzed/bridge"].rpartition(":")[2]))
            await trio.sleep_forever()

    def __call__(self, data: bytes) -> None:
        """Send it as it comes, or (first byte odd) its lines, each in a frame of its own."""
        from understudy.transports.codec import nest

        from ..transports.tcp.wire import PROBE

        if data and data[0] % 2:
            data = b"".join(map(nest.frame, data[1:].split(b"\n")))
        with self._connected() as bad:
            try:
                bad.sendall(data)
                bad.shutdown(socket.SHUT_WR)
                while bad.recv(65_536):
                    pass
            except ConnectionError:
                pass  # it was closed before it had sent all: an answer, too
        self._good.sendall(PROBE)
        answer = b""
        while not answer.endswith(b'"id":"probe"}'):
            piece = self._good.recv(4096)
            if not piece:
                raise AssertionError("a peer that has done no harm was hung up on")
            answer += piece

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=10)


TARGETS: Final[dict[str, Callable[[], Callable[[bytes], None]]]] = {
    "codecs": lambda: codecs,
    "bridge": Bridge,
}

SEEDS: Final = [
    b'\x05{"id":"7","kind":"send","pattern":"echo","payload":1}\n',
    b'\x0946#{"pattern":"echo","data":"probe","id":"probe"}2#{}',
    b'\x0321#{"data":[1],"id":1.5}',
    b'\x01{"pattern":"sum","data":[1],"id":"1"}\n{"pattern":{"cmd":"sum"},"id":2}',
    b'{"event":"echo","data":1}',
]


def _fuzz(target: str, seconds: int) -> None:
    atheris: Any = import_module("atheris")  # not everywhere to be had, nor typed
    with atheris.instrument_imports(include=["understudy.transports", "understudy.actors"]):
        import understudy.transports.codec.nest
        import understudy.transports.codec.nestrs
        import understudy.transports.tcp.server
        import understudy.transports.websocket.gateway  # noqa: F401
    logging.disable()  # a line for each connection that is closed, as it should be
    function = TARGETS[target]()
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            function(seed)
            Path(corpus, str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=4096", "-print_pcs=0", corpus]
        atheris.Setup([sys.argv[0], *options], function)
        atheris.Fuzz()


def main(seconds: int) -> int:
    if find_spec("atheris") is None:
        sys.stdout.write("Atheris is not installed, so that nothing is fuzzed with it here.\n")
        return 0
    for target in TARGETS:
        command = [sys.executable, "-m", "tests.campaigns.fuzz_tcp", "--target", target]
        done = subprocess.run([*command, "--seconds", str(max(1, seconds // len(TARGETS)))])
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Random bytes for the TCP bridge.")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--target", choices=TARGETS)
    given = parser.parse_args()
    if given.target:
        _fuzz(given.target, given.seconds)
    else:
        sys.exit(main(given.seconds))
