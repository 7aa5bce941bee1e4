"""Listening sockets: how they are opened, and how connections are taken from them."""

import errno
from typing import Final

import trio

from ..complaints import Complaints

__all__ = ["accepted", "address", "listen"]

_OUT_OF_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


def address(scheme: str, host: str, port: int) -> str:
    """The URL of a host and a port."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def listen(scheme: str, host: str, port: int, backlog: int) -> list[trio.SocketListener]:
    """Open the listeners of an address; port 0 takes a free one.

    Raises `OSError` that names the address and what to do about it.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{address(scheme, host, port)}: cannot listen there: {error.strerror}. "
            "Serve another address or port, or stop what uses this one",
        ) from error
    if port == 0:
        # A name with several addresses has a free port of its own on each: one is told.
        for other in listeners[1:]:
            other.socket.close()
        listeners = listeners[:1]
    return listeners


async def accepted(
    listener: trio.socket.SocketType, complaints: Complaints
) -> tuple[trio.socket.SocketType, str]:
    """The next connection and its peer; waits while there are no files left to open."""
    while True:
        try:
            sock, peer = await listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_FILES:
                raise
            text = f"cannot accept connections for now: {error.strerror}"
            complaints.say("accepts that failed", text)
            await trio.sleep(0.1)
            continue
        return sock, f"{peer[0]}:{peer[1]}"
