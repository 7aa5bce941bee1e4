"""The dead-letter office: takes what cannot be handled, keeps it, sends it again.

The synchronous face of a dead-letter store for receipts, which may not wait: a
letter goes to a backlog at once, and `then` is called when it is durable. The
backlog is bounded by `room`: intake of events waits there while the store cannot
write, so that nothing is acknowledged, dropped or piled up in memory meanwhile.

Also looks for letters that somebody asked to replay, here or from the command
line, and hands them to `deliver`, one at a time and with their old identity.
"""

import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

import trio

from ...actors.lifecycle import Bus, DeadLettered, StateChanged, Undelivered
from .record import DeadLetter, new_id
from .store import DeadLetterStore

__all__ = ["BACKLOG", "REPLAY_POLL", "DeadLetterOffice", "describe_error"]

BACKLOG: Final = 1024
"""Letters that may wait for the store before intake does."""

REPLAY_POLL: Final = 0.5
"""Seconds between two looks for letters to replay: the command line only marks them."""

STORE_PAUSE: Final = 1.0
"""Seconds before the end of a replay that could not be written is tried again."""

Replayer = Callable[[DeadLetter], Awaitable[None]]


class DeadLetterOffice:
    """One per system."""

    def __init__(
        self,
        store: DeadLetterStore,
        bus: Bus,
        random: Random,
        tree: str,
        *,
        backlog: int = BACKLOG,
    ) -> None:
        self.store = store
        self._bus = bus
        self._random = random
        self._tree = tree
        self._most = backlog
        self._backlog: deque[tuple[DeadLetter, Callable[[], object] | None]] = deque()
        self._finished: deque[tuple[str, bool, str]] = deque()
        self._mail = trio.Event()
        self.full = False
        """Whether no more letters may come for now. Not computed: it is looked at per event."""
        self._room = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._look = trio.Event()
        self._trouble: str | None = None

    def new_id(self) -> str:
        return new_id(time.time(), self._random)

    def take(self, letter: DeadLetter, then: Callable[[], object] | None = None) -> None:
        """Keep a letter; `then` is called once it is durable, never before."""
        self._backlog.append((letter, then))
        self.full = len(self._backlog) >= self._most
        self._busy()

    def take_local(self, letter: DeadLetter) -> None:
        """Keep a letter for which nobody waits; counted as undelivered when the backlog is full."""
        if len(self._backlog) >= self._most:
            why = "dead letters cannot be stored and the backlog is full"
            self._bus.publish(Undelivered(path=letter.actor, why=why, message=letter.pattern))
        else:
            self.take(letter)

    async def room(self) -> None:
        """Wait while the backlog is full; intake of events calls this before it takes more."""
        while self.full:
            if self._room.is_set():
                self._room = trio.Event()  # never replaced while somebody waits for it
            await self._room.wait()

    def finish(self, id: str, *, replayed: bool, note: str) -> None:
        """Write how a replay ended into its row."""
        self._finished.append((id, replayed, note))
        self._busy()

    async def run(self) -> None:
        """Move letters from the backlog to the store until cancelled."""
        while True:
            while self._backlog or self._finished:
                if self._finished:
                    await self._write_finished()
                if self._backlog:
                    letter, then = self._backlog[0]
                    await self.store.put(letter, then=self._after(letter, then))
                    self._backlog.popleft()
                    self.full = len(self._backlog) >= self._most
                    self._room.set()
            self._idle.set()
            self._mail = trio.Event()
            await self._mail.wait()

    async def _write_finished(self) -> None:
        id, replayed, note = self._finished[0]
        try:
            await self.store.finish_replay(id, replayed=replayed, note=note)
        except OSError as error:
            self._trouble_with_replays(str(error))
            await trio.sleep(STORE_PAUSE)
        else:
            self._trouble_with_replays(None)
            self._finished.popleft()

    async def flush(self) -> None:
        """Wait until every letter that was taken is durable."""
        while self._backlog or self._finished:
            await self._idle.wait()
        await self.store.flush()

    def alarmed(self, alarm: str | None) -> None:
        """The store cannot write, or can again: say so."""
        state, why = ("ready", "") if alarm is None else ("failing", alarm)
        self._bus.publish(StateChanged(path=f"{self._tree}/dead-letters", state=state, why=why))

    async def run_replays(self, deliver: Replayer, *, poll: float = REPLAY_POLL) -> None:
        """Deliver letters that were asked to be replayed until cancelled."""
        while True:
            try:
                letters = await self.store.take_replays()
            except OSError as error:  # a locked file, a failing disk: the next look may do
                letters = ()
                self._trouble_with_replays(str(error))
            else:
                self._trouble_with_replays(None)
            for letter in letters:
                await deliver(letter)
            with trio.move_on_after(poll):
                await self._look.wait()
            self._look = trio.Event()

    async def replay(self, *ids: str) -> int:
        """Ask for letters to be delivered again; returns how many there were."""
        count = await self.store.request_replay(ids)
        self._look.set()
        return count

    def _trouble_with_replays(self, trouble: str | None) -> None:
        if (trouble is None) is not (self._trouble is None):
            self.alarmed(trouble)
        self._trouble = trouble

    def _busy(self) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()
        self._mail.set()

    def _after(self, letter: DeadLetter, then: Callable[[], object] | None) -> Callable[[], object]:
        def durable() -> None:
            notice = DeadLettered(
                path=letter.actor,
                incarnation=letter.incarnation,
                id=letter.id,
                pattern=letter.pattern,
                reason=letter.reason,
                attempts=letter.attempts,
            )
            self._bus.publish(notice)
            if then is not None:
                then()

        return durable


def describe_error(error: BaseException) -> tuple[str, str]:
    """An exception as a letter keeps it: one line, and the whole traceback."""
    text = str(error)
    name = type(error).__name__
    return (f"{name}: {text}" if text else name), "".join(traceback.format_exception(error))
