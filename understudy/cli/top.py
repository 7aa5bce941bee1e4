"""`understudy top`: running services, live in the terminal.

Drawn with rich where that is installed, plainly otherwise. Without a terminal it prints
once and ends. Keys: q ends it, as Ctrl-C does.
"""

import argparse
import json
import os
import select
import shutil
import socket
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

from ..supervisors.control_place import Found
from .services import NoAnswer, add_service, ask, chosen, connected
from .status import UNREACHABLE
from .view import HEAD, heading, rows_of, table

__all__ = ["add_commands"]

NOTICES: Final = 8
"""The last lifecycle notices, below the tables."""

_MOST_ROWS: Final = 200
_COLOURS: Final = {
    "running": "green",
    "ended": "dim",
    "starting": "yellow",
    "restarting": "yellow",
    "waiting": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "suspended": "yellow",
    "sick": "red",
    "down": "red",
}

Paint = Callable[[list[str]], None]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `top`."""
    top = commands.add_parser(
        "top",
        help="running services, live",
        description="Running services, live: children, mailboxes, restarts, what happens. q ends "
        "it. Without a terminal it prints once.",
    )
    add_service(top)
    top.add_argument(
        "--interval", type=_interval, default=1.0, metavar="S", help="seconds between looks (1)"
    )
    top.add_argument("--plain", action="store_true", help="without colours, also where rich is")
    top.set_defaults(run=_top)


def _interval(text: str) -> float:
    with suppress(ValueError):
        if 0.05 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}: seconds expected, from 0.05 to 3600")


def _top(arguments: argparse.Namespace) -> int:
    try:
        screen = _Screen(arguments.service)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            print("\n".join(screen.lines(chosen(arguments.service))))
            return 0
        chosen(arguments.service)  # later on none is no reason to end
        painter = _plain() if arguments.plain else _rich() or _plain()
        with _single_keys(), painter as paint:
            _live(screen, paint, arguments.interval)
    except NoAnswer as error:
        print(f"understudy: {error}", file=sys.stderr)
        return UNREACHABLE
    return 0


def _live(screen: "_Screen", paint: Paint, interval: float) -> None:
    try:
        while True:
            paint(screen.now())
            end = time.monotonic() + interval
            while (left := end - time.monotonic()) > 0:
                watches, keys = screen.watches, sys.stdin.fileno()
                readable = select.select([keys, *watches], [], [], left)[0]
                if keys in readable and os.read(keys, 1) in (b"q", b"Q", b""):
                    return
                screen.read([watch for watch in watches if watch in readable])
    except KeyboardInterrupt:
        pass  # the usual way to leave
    finally:
        screen.close()


class _Screen:
    """What there is to see: the services, and what happened last."""

    def __init__(self, which: str | None) -> None:
        self._which = which
        self._notices: deque[str] = deque(maxlen=NOTICES)
        self._watched: set[Found] = set()
        self._begun: dict[socket.socket, bytes] = {}

    def now(self) -> list[str]:
        """What to show; services that have come meanwhile are watched from now on."""
        try:
            services = chosen(self._which)
        except NoAnswer as error:
            self._watched.clear()
            return [f"{error}", "", *self._notices]
        for service in set(services) - self._watched:
            with suppress(NoAnswer):  # it is told when it is asked for its tree
                watch = connected(service, "watch")
                watch.setblocking(False)
                self._begun[watch] = b""
        self._watched = set(services)
        return [*self.lines(services), "", *self._notices]

    def lines(self, services: list[Found]) -> list[str]:
        """The services and their children."""
        lines: list[str] = []
        for service in services:
            try:
                health = ask(service, "tree", limit=_MOST_ROWS)
            except NoAnswer as error:
                lines.append(str(error))
                continue
            lines += [*heading(health), *table(rows_of(health))]
        return lines

    @property
    def watches(self) -> list[socket.socket]:
        return list(self._begun)

    def read(self, watches: list[socket.socket]) -> None:
        """Take the notices that have come; a connection that has ended is not read again."""
        for watch in watches:
            chunk = b""
            with suppress(OSError):
                chunk = watch.recv(65536)
            if not chunk:
                del self._begun[watch]
                watch.close()
                continue
            *lines, self._begun[watch] = (self._begun[watch] + chunk).split(b"\n")
            self._notices += filter(None, map(_notice, lines))

    def close(self) -> None:
        for watch in self._begun:
            watch.close()


def _notice(line: bytes) -> str | None:
    told: Any = None
    with suppress(ValueError):
        told = json.loads(line)
    if not isinstance(told, dict) or "text" not in told:
        return None
    return f"{time.strftime('%H:%M:%S', time.localtime(told['at']))} {told['text']}"


# -- the terminal ---------------------------------------------------------------------


@contextmanager
def _single_keys() -> Iterator[None]:
    """Keys come without a return, and are not shown; Ctrl-C goes on to interrupt."""
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _fitting(lines: list[str]) -> list[str]:
    width, height = shutil.get_terminal_size()
    return [line[: width - 1] for line in lines[: height - 1]]


@contextmanager
def _plain() -> Iterator[Paint]:
    def paint(lines: list[str]) -> None:
        # Home, each line cleared to its end, then all below: nothing flickers.
        sys.stdout.write(
            "\033[H" + "".join(f"{line}\033[K\n" for line in _fitting(lines)) + "\033[J"
        )
        sys.stdout.flush()

    sys.stdout.write("\033[?1049h\033[?25l")
    try:
        yield paint
    finally:
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()


def _rich() -> AbstractContextManager[Paint] | None:
    """The painter with colours, if rich is installed."""
    try:
        from rich.live import Live  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return None

    @contextmanager
    def painter() -> Iterator[Paint]:
        with Live(screen=True, auto_refresh=False) as live:

            def paint(lines: list[str]) -> None:
                text = Text(no_wrap=True, overflow="ellipsis")
                for line in _fitting(lines):
                    text.append(f"{line}\n", style=_style(line))
                live.update(text, refresh=True)

            yield paint

    return painter()


def _style(line: str) -> str:
    words = line.split()
    if words[:2] == list(HEAD[:2]):
        return "bold"
    state = next((word for word in words[1:4] if word in _COLOURS), "")
    return _COLOURS.get(state, "")
