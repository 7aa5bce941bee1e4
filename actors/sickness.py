"""When outside messages keep crashing an actor: back-off, and the sick actor.

A crash on an outside message is blamed on the message, not on the actor, so it
spends nothing of the supervisor's restart window. What keeps that from becoming
a loop is here: restarts after consecutive such crashes come with a small,
growing delay, and after `sick_after` *different* messages in a row the actor is
sick. Its events are then held back and tried one at a time until one succeeds;
requests go on being answered.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from .context import is_outside
from .envelope import Envelope, Origin
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .timers import Timer, Timers

__all__ = ["WELL", "Sickness", "Well", "outside_delay"]

FIRST_PROBE = 1.0
LAST_PROBE = 60.0
"""Seconds between two tries of a held event: doubled from the first to the last."""


def outside_delay(crashes: int) -> float:
    """Seconds before the restart after so many crashes in a row on outside messages.

    None the first time; then 1 ms, doubled up to 16 ms. Small on purpose: its only
    task is to leave the processor to others while a peer sends nothing but poison.
    """
    return 0.0 if crashes < 2 else min(0.001 * 2.0 ** min(crashes - 2, 10), 0.016)


class Well:
    """Stands for the record of an actor that no outside message has crashed: nearly all."""

    crashes: Final = 0
    sick: Final = False
    held: Final[tuple[Envelope, ...]] = ()

    def holds(self, envelope: Envelope) -> bool:
        return False

    def release(self, release: Callable[[Envelope], None]) -> None:
        """There is nothing to release."""


WELL: Final = Well()


class Sickness:
    """Counts one actor's crashes on outside messages, and holds its events when sick."""

    def __init__(
        self,
        mailbox: Mailbox,
        timers: "Timers",
        sick_after: int,
        overflow: Callable[[Envelope], None],
    ) -> None:
        self.crashes = 0
        self.sick = False
        self.held: deque[Envelope] = deque()
        self._mailbox = mailbox
        self._timers = timers
        self._sick_after = sick_after
        self._overflow = overflow
        self._seen: set[str] = set()
        self._probe: Timer | None = None
        self._pause = FIRST_PROBE

    @property
    def different(self) -> int:
        """How many different messages crashed it in a row."""
        return len(self._seen)

    def crashed(self, origin: Origin) -> bool:
        """Count a crash; True if it makes the actor sick just now."""
        self.crashes += 1
        if self.sick:
            return False
        self._seen.add(origin.message_id)
        self.sick = len(self._seen) >= self._sick_after
        if self.sick:
            self._pause = FIRST_PROBE
            self._plan_probe()
        return self.sick

    def succeeded(self, envelope: Envelope) -> bool:
        """A message from outside was handled; True if that ends the sickness."""
        if not self.sick:
            self.crashes = 0
            self._seen.clear()
            return False
        # Requests succeed beside events that cannot; only an event proves it well.
        if self.held and not envelope.probing:
            return False
        self.cure()
        return True

    def holds(self, envelope: Envelope) -> bool:
        """Whether a sick actor must wait with this message, an event from outside: it is held."""
        handler = envelope.handler
        if handler is None or handler.kind != "event" or envelope.probing:
            return False
        if not is_outside(envelope):
            return False
        if self._mailbox.reserve():
            self.held.append(envelope)
        else:
            self._overflow(envelope)
        return True

    def cure(self) -> None:
        """Let everything that was held go on, oldest first."""
        self.sick = False
        self.crashes = 0
        self._seen.clear()
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        while self.held:
            self._mailbox.free()
            self._mailbox.readmit(self.held.pop(), first=True)

    def release(self, release: Callable[[Envelope], None]) -> None:
        """The actor has ended for good: give up what is held."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        self.sick = False
        self.crashes = 0
        self._seen.clear()
        while self.held:
            self._mailbox.free()
            release(self.held.popleft())

    def _plan_probe(self) -> None:
        self._probe = self._timers.call_at(trio.current_time() + self._pause, self._try_one)
        self._pause = min(self._pause * 2, LAST_PROBE)

    def _try_one(self) -> None:
        if self.held:
            envelope = self.held.popleft()
            envelope.probing = True
            self._mailbox.free()
            self._mailbox.readmit(envelope, first=True)
        self._plan_probe()
