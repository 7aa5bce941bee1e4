"""The control socket's server: a running service, told to those who may look after it.

One JSON object a line each way. Questions are `{"ask": "health"}`, `tree`, `statistics`
(these with an optional `limit`), `why` (with `path`) and `watch`, after which a line comes
for every lifecycle notice until the asker hangs up. Answers are `{"ok": ...}` or
`{"error": "what is wrong"}`. All of them read; nothing here changes the service.

Owns no file and decides about no peer (`control_socket.py`).

Invariant: no peer can hurt the service. Peers, the length of a question, the lines that
wait for a watcher and the time that a peer may take are bounded; who is over them is
dropped. A failure in here ends one connection.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from logging import getLevelName
from typing import Any, Final, Protocol, cast

import msgspec
import trio

from ..actors.encoding import encode
from ..actors.lifecycle import Bus, Notice
from .control_socket import ControlSocket, is_owner
from .health import Health
from .log_text import line_of, printable
from .logs import LOGGER
from .story import Story

__all__ = ["Control", "Observed"]

PEERS: Final = 16
"""Connections at the same time."""

QUESTION: Final = 4096
"""Bytes of one question."""

CHILDREN: Final = 10_000
"""Children that one answer tells of, at most."""

WAITING: Final = 1000
"""Notices that may wait for one watcher."""

IDLE: Final = 60.0
"""Seconds a peer may be silent."""

SLOW: Final = 5.0
"""Seconds a peer may take to read what it asked for."""

_PAUSE: Final = 0.5

_Gone = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Observed(Protocol):
    """What can be asked about: a system."""

    name: str
    bus: Bus

    def health(self, *, limit: int = ...) -> Health: ...

    def statistics(self, *, limit: int = ...) -> dict[str, Any]: ...

    def why(self, actor: str) -> Story: ...


class _Question(msgspec.Struct):
    ask: str = ""
    limit: int = 1000
    path: str = ""


class Control:
    """Answers questions about one system."""

    def __init__(self, system: Observed) -> None:
        self._system = system
        self._peers = 0
        self._answers: dict[str, Callable[[_Question], Any]] = {
            "health": lambda question: _without_children(system.health(limit=0)),
            "tree": lambda question: system.health(limit=question.limit),
            "statistics": lambda question: system.statistics(limit=question.limit),
            "why": lambda question: printable(str(system.why(question.path))),
        }

    async def run(self, place: ControlSocket) -> None:
        """Answer until cancelled; raises nothing else."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(place.sock))
        async with listener, trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except OSError:
                    # No files are left to open; whoever asks may wait.
                    await trio.sleep(_PAUSE)
                    continue
                if self._peers >= PEERS or not self._is_owner(stream):
                    await trio.aclose_forcefully(stream)
                    continue
                self._peers += 1
                nursery.start_soon(self._serve, stream)

    def _is_owner(self, stream: trio.SocketStream) -> bool:
        try:
            return is_owner(cast(Any, stream.socket))
        except OSError:
            return False

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except _Gone:
            pass  # its peer left, or was too slow
        except Exception:  # noqa: BLE001  # a defect of ours, which must not end the service
            LOGGER.exception("%s: the control socket failed to answer", self._system.name)
        finally:
            self._peers -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        while True:
            with trio.fail_after(IDLE):
                chunk = await stream.receive_some(QUESTION)
            if not chunk:
                return
            received += chunk
            while (end := received.find(b"\n")) >= 0:
                line = bytes(received[:end])
                del received[: end + 1]
                if not await self._answered(stream, line):
                    return
            if len(received) > QUESTION:
                await _say(stream, {"error": f"a question has at most {QUESTION} bytes"})
                return

    async def _answered(self, stream: trio.SocketStream, line: bytes) -> bool:
        """Answer one question; False if nothing more can come after it."""
        try:
            question = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            await _say(stream, {"error": 'a line of JSON expected, such as {"ask": "health"}'})
            return True
        if question.ask == "watch":
            await self._watch(stream)
            return False
        answer = self._answers.get(question.ask)
        if answer is None:
            known = ", ".join([*self._answers, "watch"])
            await _say(stream, {"error": f"nothing is known of that; there are: {known}"})
            return True
        question.limit = min(max(0, question.limit), CHILDREN)
        await _say(stream, {"ok": answer(question)})
        return True

    async def _watch(self, stream: trio.SocketStream) -> None:
        """Tell of every notice, until the peer leaves or is too slow."""
        lines: deque[bytes] = deque()
        news = trio.Event()
        async with trio.open_nursery() as nursery:

            def take(notice: Notice) -> None:
                if len(lines) >= WAITING:
                    nursery.cancel_scope.cancel()
                    return
                lines.append(_told(notice))
                news.set()

            end = self._system.bus.subscribe(take)
            try:
                await _say(stream, {"ok": "watching"})
                nursery.start_soon(_until_gone, stream, nursery.cancel_scope)
                while True:
                    await news.wait()
                    news = trio.Event()
                    burst = b"".join(lines)
                    lines.clear()
                    with trio.fail_after(SLOW):
                        await stream.send_all(burst)
            except _Gone:
                nursery.cancel_scope.cancel()
            finally:
                end()


_decode: Final = msgspec.json.Decoder(_Question).decode


async def _say(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    with trio.fail_after(SLOW):
        await stream.send_all(encode(answer) + b"\n")


async def _until_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Nothing more is asked after `watch`: whatever comes, or the end, ends it."""
    with suppress(*_Gone):
        await stream.receive_some(1)
    scope.cancel()


def _told(notice: Notice) -> bytes:
    line = line_of(notice)
    said = {
        "at": time.time(),
        "notice": type(notice).__name__,
        "level": getLevelName(line.level).lower(),
        "path": printable(notice.path),
        "incarnation": notice.incarnation,
        "text": line.text,
    }
    return encode(said) + b"\n"


def _without_children(health: Health) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(health)
    del told["children"]
    return told
