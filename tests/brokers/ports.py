"""Ports for brokers that are stopped and started again on the same one.

They lie below the range from which the system takes the local ports of connections.
A client that keeps trying to reach a port inside that range while nobody listens there
can be given that very port and connect to itself; then the broker cannot come back.
"""

import random
import socket
from typing import Final

__all__ = ["free_port"]

# Without the ports that brokers have by default (1883 ... 15672, 25672).
RANGE: Final = range(16_000, 25_000)
# Of its own: tests and Hypothesis seed the module's generator.
_random: Final = random.SystemRandom()


def free_port() -> int:
    """A port of this machine that nothing listens on just now."""
    for port in _random.sample(RANGE, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port among a hundred of {RANGE.start} to {RANGE.stop - 1}")
