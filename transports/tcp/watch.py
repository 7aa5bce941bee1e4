"""The deadlines of peers: a frame's rest, a handshake, a message at all.

One task looks at all connections now and then, so that a deadline costs its connection
nothing. A deadline is never early; it is late by a quarter of itself at most, or by five
seconds where that is less.
"""

from collections.abc import Set
from typing import Final

import trio

from .connection import Connection
from .options import TcpOptions

__all__ = ["watch"]

_PAUSE: Final = 5.0


async def watch(connections: Set[Connection], options: TcpOptions) -> None:
    """End connections whose peers keep the bridge waiting, until cancelled."""
    limits = [options.frame_deadline, options.handshake_deadline, options.idle]
    pause = min([_PAUSE, *(limit / 4 for limit in limits if limit)])
    while True:
        await trio.sleep(pause)
        now = trio.current_time()
        for connection in list(connections):
            readable = connection.readable
            # What waits for a mailbox, or for its turn, does not keep anybody waiting.
            if connection.over or readable is None or not readable.waiting:
                continue
            if _is_late(connection, options, now):
                connection.over = True
                readable.interrupt()


def _is_late(connection: Connection, options: TcpOptions, now: float) -> bool:
    since = connection.unfinished_since
    if since is not None:
        if not connection.agreed:
            kind, why, limit = "TLS that failed", "no handshake", options.handshake_deadline
        else:
            kind, why, limit = (
                "unfinished frames",
                "a frame stopped half-way",
                options.frame_deadline,
            )
        if now < since + limit:
            return False
        connection.refuse(kind, f"{why} within {limit:g} s")
        return True
    if connection.heard or connection.in_flight or connection.out or connection.clogged:
        connection.heard = False
        connection.silent_since = now
        return False
    if not options.idle or now < connection.silent_since + options.idle:
        return False
    connection.refuse("idle peers", f"no message for {options.idle:g} s")
    return True
