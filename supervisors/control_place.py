"""Where control sockets are: the one answer for the service and for the command line.

A service `shop` with the process id 4711 has the socket `shop.4711.sock` in a folder that
only its user may enter: `$XDG_RUNTIME_DIR/understudy` or `/tmp/understudy-UID`, or the
folder that `UNDERSTUDY_CONTROL` names. A folder or a socket of somebody else is never used.

A socket takes its name only once it listens, so that one which refuses is one that a dead
process has left behind.
"""

import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["VARIABLE", "Found", "answers", "find", "folder", "folders", "sweep"]

VARIABLE: Final = "UNDERSTUDY_CONTROL"
"""The environment variable that names another folder."""

_SOCKET: Final = re.compile(r"(.+)\.(\d+)\.sock")
_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME: Final = 40


class Found(NamedTuple):
    """A socket: the name of its tree, as far as a file's name has it, and the process."""

    name: str
    pid: int
    path: Path

    def __str__(self) -> str:
        return f"{self.name}:{self.pid}"


def folders() -> list[Path]:
    """Where sockets may be, the preferred place first."""
    named = os.environ.get(VARIABLE)
    if named:
        return [Path(named)]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    shared = Path(f"/tmp/understudy-{os.geteuid()}")
    return [Path(runtime) / "understudy", shared] if runtime else [shared]


def folder() -> Path:
    """The first of them that can be used, made if it is not there. Raises `OSError`."""
    *preferred, last = folders()
    for path in preferred:
        with suppress(OSError):
            return _ours(path)
    return _ours(last)


def name_of(tree: str) -> str:
    """The name of a tree as a file's name may have it."""
    return _UNUSUAL.sub("_", tree)[:_LONGEST_NAME]


def find(name: str | None = None, pid: int | None = None) -> list[Found]:
    """The services that answer; of one tree, or with one process id, if that is said."""
    wanted = None if name is None else name_of(name)
    every = (found for path in folders() if _is_ours(path) for found in _sockets(path))
    meant = (one for one in every if wanted in (None, one.name) and pid in (None, one.pid))
    return sorted(found for found in meant if _can_be_asked(found.path))


def answers(path: Path) -> bool:
    """Whether somebody listens there. Raises `OSError` for what cannot be asked."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0)  # a full backlog is an answer as well
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def _can_be_asked(path: Path) -> bool:
    try:
        return answers(path)
    except OSError:
        return False


def sweep(path: Path) -> None:
    """Remove the sockets in a folder that dead processes have left behind."""
    for found in _sockets(path):
        with suppress(OSError):  # somebody else was quicker, or it is none to be asked
            if not answers(found.path):
                found.path.unlink()


def _sockets(path: Path) -> Iterator[Found]:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return
    for name in names:
        parts = _SOCKET.fullmatch(name)
        if parts is not None and (path / name).is_socket():
            yield Found(parts[1], int(parts[2]), path / name)


def _ours(path: Path) -> Path:
    """The folder, which nobody but its user may enter; made if it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(path):
        raise PermissionError(
            f"{path} is not a folder of this user alone (mode 0700); remove it, or name "
            f"another by {VARIABLE}"
        )
    return path


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    alone = not status.st_mode & 0o077
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and alone
