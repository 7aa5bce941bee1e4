"""One control socket, from its making to its removal, and whom it lets in.

Only its owner gets in: the file has mode 0600, stands in a folder of mode 0700, and the
kernel is asked for the user of every peer (`SO_PEERCRED`, where there is such a thing).

The file appears under its name when it listens already, and is removed by the process that
made it. What a killed process left behind is removed by the next service.
"""

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from ..actors.errors import DeclarationError
from . import control_place

__all__ = ["ControlSocket", "is_owner"]

_BACKLOG: Final = 16
_LONGEST: Final = 103  # on Linux 107; this one holds everywhere
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class ControlSocket:
    """A socket that listens; `close` takes it away."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self.path = path
        self._inode = path.stat().st_ino

    @classmethod
    def of(cls, tree: str) -> Self:
        """The socket of a tree at its usual place. Raises `OSError` if there can be none."""
        folder = control_place.folder()
        control_place.sweep(folder)
        name = f"{control_place.name_of(tree)}.{os.getpid()}"
        path = folder / f"{name}.sock"
        # Another container may have the same process id and share the folder.
        if path.exists() and control_place.answers(path):
            raise OSError(
                f"{path} is the socket of another service; name another folder by "
                f"{control_place.VARIABLE}"
            )
        return cls(_listening(path), path)

    @classmethod
    def at(cls, path: Path) -> Self:
        """The socket at a place of one's own. Raises `DeclarationError` if it cannot be there."""
        try:
            if path.is_socket():
                if control_place.answers(path):
                    raise DeclarationError(
                        f"control={str(path)!r}: another service listens there. Stop it, or give "
                        "this one another path."
                    )
            elif path.exists():
                raise DeclarationError(
                    f"control={str(path)!r}: there is something that is no socket. Give another "
                    "path, or remove it."
                )
            return cls(_listening(path), path)
        except OSError as error:
            raise DeclarationError(
                f"control={str(path)!r}: no socket can be made there: {error}. Give another path; "
                "with control=False there is none."
            ) from error

    def close(self) -> None:
        """Listen no more, and remove the file unless it is another's by now."""
        self.sock.close()
        with suppress(OSError):  # it is gone already
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


class _Asked(Protocol):
    """A socket, trio's or the standard library's."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def is_owner(sock: _Asked) -> bool:
    """Whether the peer is this user, or root; where the kernel does not say, the modes decide."""
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return user in (0, os.geteuid())


def _listening(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _LONGEST:
        raise OSError(f"{path} is longer than the {_LONGEST} bytes that a socket's path may have")
    sock = socket.socket(socket.AF_UNIX)
    hidden = path.with_name(f".{os.getpid()}")
    try:
        with suppress(OSError):
            os.fchmod(sock.fileno(), 0o600)  # Linux makes the file with the mode of the socket
        hidden.unlink(missing_ok=True)
        sock.bind(str(hidden))
        try:
            os.chmod(hidden, 0o600)
            sock.listen(_BACKLOG)
            os.rename(hidden, path)
        except OSError:
            hidden.unlink(missing_ok=True)
            raise
    except OSError:
        sock.close()
        raise
    return sock
