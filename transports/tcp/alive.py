"""Peers that are gone without a word: the system finds out, by TCP's own keepalive.

A machine that lost its power, or a router that forgot a connection, sends no end of it.
Source: tcp(7) of Linux; what another system does not have is left at its default.
"""

import socket
from typing import Final

__all__ = ["keep_alive"]

_QUESTIONS: Final = 3
"""How often a silent peer is asked before it is given up."""


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Ask the peer after so many seconds of silence, three times in as long again; 0: never."""
    if not seconds:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    times = {
        "TCP_KEEPIDLE": seconds,
        "TCP_KEEPINTVL": seconds / _QUESTIONS,
        "TCP_KEEPCNT": _QUESTIONS,
    }
    for name, value in times.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, min(round(value), 32_767)))
