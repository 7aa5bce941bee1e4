"""The TCP bridge beside NestJS on the same wire.

One load generator (load.py, pinned to one core) drives one server at a time, pinned
to the other, with 64 requests in flight; rounds are interleaved and rates are
medians. Our server validates the order it gets against its attrs classes. NestJS is
measured as it comes and with its ValidationPipe; a bare Node `net` server without
any framework shows what the wire itself allows.

Needs Node and npm: `npm ci` is run in tests/peers/nest if it has not been.

    python -m benchmarks.tcp
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import load
from benchmarks.report import Report, interleaved, pin
from benchmarks.results import Bar, Result

HERE = Path(__file__).parent
PEERS = HERE.parent / "tests" / "peers" / "nest"
SERVER_CORE, LOAD_CORE = "0", 1

SERVERS: dict[str, list[str]] = {
    "understudy": [sys.executable, str(HERE / "tcp_server.py")],
    "NestJS": ["node", str(PEERS / "bench" / "nest.mjs")],
    "NestJS, ValidationPipe": ["node", str(PEERS / "bench" / "nest.mjs"), "--validation"],
    "bare Node net": ["node", str(PEERS / "bench" / "net.mjs")],
}
BARS = {8: 3.5, 1: 2.5}
"""By number of connections: how many times NestJS's rate ours must be."""


@contextmanager
def served(command: list[str]) -> Iterator[int]:
    """A server in a process of its own, pinned; yields its port."""
    if shutil.which("taskset"):
        command = ["taskset", "--cpu-list", SERVER_CORE, *command]
    # The peers end when their standard input does, so that none is ever left behind.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if words[:1] != ["ready"]:
            raise SystemExit(f"{' '.join(command)} did not start")
        yield int(words[1])
        process.stdin.close()


def main(rounds: int, requests: int) -> bool:
    if shutil.which("npm") is None:
        raise SystemExit("This benchmark needs Node and npm: apt-get install nodejs npm")
    if not (PEERS / "node_modules").exists():
        subprocess.run(["npm", "ci", "--silent"], cwd=PEERS, check=True)
    report = Report("tcp", __doc__)
    pin(LOAD_CORE)
    with ExitStack() as stack:
        ports = {name: stack.enter_context(served(line)) for name, line in SERVERS.items()}
        for pattern in ("math.sum", "orders.place"):
            for connections, factor in BARS.items():

                def rate(port: int, pattern: str, connections: int) -> Callable[[], float]:
                    def measure() -> float:
                        result = load.run(port, pattern, connections=connections, requests=requests)
                        return float(result["requests_per_second"])

                    return measure

                measures = {n: rate(port, pattern, connections) for n, port in ports.items()}
                rates = interleaved(measures, rounds)
                title = f"{pattern}, {connections} connection(s), 64 in flight"
                bars = (Bar("understudy", "NestJS", factor),)
                report.show(Result(title, "requests/s", rates, bars))
    return report.good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="TCP beside NestJS.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60_000, help="per round and server")
    given = parser.parse_args()
    sys.exit(0 if main(given.rounds, given.requests) else 1)
