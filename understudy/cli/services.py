"""Running services, found and asked through their control sockets.

Plain blocking sockets and nothing of trio, so that a command which only asks is quick.
What is believed: an answer is one line of JSON of bounded length, come in time.
"""

import argparse
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..supervisors.control_place import Found, find, folders

__all__ = ["NoAnswer", "add_service", "ask", "chosen", "connected"]

DEADLINE: Final = 5.0
"""Seconds a service has for its answer."""

_LONGEST: Final = 64 * 1024 * 1024
_CHUNK: Final = 65536


class NoAnswer(Exception):
    """There is no such service, or it does not answer; the text says what to do."""


def add_service(command: argparse.ArgumentParser) -> None:
    """Add the argument that says which service is meant."""
    command.add_argument(
        "service",
        metavar="SERVICE",
        nargs="?",
        help="the tree's name, name:pid, or the path of a control socket; all if not given",
    )


def chosen(which: str | None) -> list[Found]:
    """The running services that are meant. Raises `NoAnswer` if there are none."""
    if which is not None and "/" in which:
        return [Found(Path(which).name, 0, Path(which))]
    name, _, pid = (which or "").partition(":")
    if pid and not pid.isdecimal():
        raise NoAnswer(f"{which!r}: a name, name:pid or the path of a socket expected.")
    found = find(name or None, int(pid) if pid else None)
    if found:
        return found
    others = find()
    if others:
        raise NoAnswer(f"no service {which!r} runs. There are: {', '.join(map(str, others))}.")
    looked = " and ".join(map(str, folders()))
    raise NoAnswer(
        f"no service of this user runs here (looked in {looked}). Start one with "
        "`understudy run module:tree`."
    )


def ask(service: Found, question: str, **details: Any) -> Any:
    """The answer of a service. Raises `NoAnswer`."""
    with connected(service, question, **details) as sock:
        return _answer(service, sock)


def connected(service: Found, question: str, **details: Any) -> socket.socket:
    """A connection on which a question has been asked. Raises `NoAnswer`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    try:
        sock.connect(os.fspath(service.path))
        sock.sendall(json.dumps({"ask": question, **details}).encode() + b"\n")
    except OSError as error:
        sock.close()
        raise _gone(service, error) from error
    return sock


def _answer(service: Found, sock: socket.socket) -> Any:
    end = time.monotonic() + DEADLINE
    received = bytearray()
    try:
        while not received.endswith(b"\n"):
            sock.settimeout(max(0.001, end - time.monotonic()))
            chunk = sock.recv(_CHUNK)
            if not chunk or len(received) > _LONGEST:
                raise NoAnswer(f"{service}: it hung up; perhaps it just ends. Try again.")
            received += chunk
    except OSError as error:
        raise _gone(service, error) from error
    answer: Any = None
    with suppress(ValueError):
        answer = json.loads(received)
    if isinstance(answer, dict) and "ok" in answer:
        return answer["ok"]
    said = answer.get("error") if isinstance(answer, dict) else None
    raise NoAnswer(f"{service}: {said or 'what listens there is no service of understudy'}.")


def _gone(service: Found, error: OSError) -> NoAnswer:
    if isinstance(error, TimeoutError):
        return NoAnswer(
            f"{service} runs, but did not answer within {DEADLINE:g} s: something blocks its "
            "event loop, and its log names the handler."
        )
    return NoAnswer(f"{service}: {error.strerror or error} ({service.path}).")
