"""Order within a key, concurrency across keys.

An actor with `concurrency=N` and a `key` handles N messages side by side, but never
two of the same key, and those of one key in the order in which they came. A message
whose key is busy is put into that key's line and comes to the front of the mailbox
when its turn is there. A message that waits for another attempt keeps its key: only
that key waits with it.

Lines take places in the mailbox, so that they are bounded with it, and they outlive
incarnations.
"""

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from .envelope import Envelope
from .mailbox import Mailbox

__all__ = ["KeyOf", "Keys", "key_function"]

KeyOf = Callable[[Any], Hashable]

_NO_LINE: Final[deque[Envelope]] = deque(maxlen=0)


class Keys:
    """Which keys are busy, and who waits for them; one per cell that has a key."""

    def __init__(self, mailbox: Mailbox, key: KeyOf | None) -> None:
        self._mailbox = mailbox
        self._key = key
        self._owners: dict[Hashable, object] = {}
        self._lines: dict[Hashable, deque[Envelope]] = {}
        self._shorter = trio.Event()
        self.full = False

    def __len__(self) -> int:
        """How many messages wait in lines."""
        return sum(map(len, self._lines.values()))

    def begin(self, envelope: Envelope) -> bool:
        """Whether `envelope` may run now; if not, it waits in its key's line.

        When no more may wait in lines it goes back to the front of the mailbox, and
        `full` says so. Raises what the key function raises.
        """
        key = self._key_of(envelope)
        if key is None:
            return True
        owner = self._owner_of(key)
        if owner is None or owner is _identity(envelope):
            self._owners[key] = _identity(envelope)
            return True
        self.full = not self._mailbox.reserve()
        if self.full:
            self._mailbox.readmit(envelope, first=True)
        else:
            self._lines.setdefault(key, deque()).append(envelope)
        return False

    def done(self, envelope: Envelope, *, again: bool) -> None:
        """`envelope` has run; with `again` it comes back, and its key waits for it."""
        if again:
            return
        # A key function that fails has crashed its message already, in `begin`.
        with suppress(Exception):
            key = self._key_of(envelope)
            if key is not None and self._owners.get(key) is _identity(envelope):
                self._next(key)

    async def room(self) -> None:
        """Wait until one message less waits in lines."""
        if self._shorter.is_set():
            self._shorter = trio.Event()
        await self._shorter.wait()

    def release(self, release: Callable[[Envelope], None]) -> None:
        """The actor has ended for good: give up what waits."""
        lines, self._lines = self._lines, {}
        self._owners.clear()
        self._shorter.set()
        for line in lines.values():
            for envelope in line:
                self._mailbox.free()
                release(envelope)

    def _owner_of(self, key: Hashable) -> object | None:
        owner = self._owners.get(key)
        # What was to come again may have become a dead letter on its way.
        if owner is not None and not getattr(owner, "open", True):
            self._next(key)
            return self._owners.get(key)
        return owner

    def _next(self, key: Hashable) -> None:
        line = self._lines.get(key, _NO_LINE)
        if not line:
            self._owners.pop(key, None)
            self._lines.pop(key, None)
            return
        following = line.popleft()
        self.full = False
        self._shorter.set()
        self._owners[key] = _identity(following)
        self._mailbox.free()
        self._mailbox.readmit(following, first=True)

    def _key_of(self, envelope: Envelope) -> Hashable | None:
        handler = envelope.handler
        key = handler.key if handler is not None and handler.key is not None else self._key
        return None if key is None else key(envelope.message)


def key_function(key: str | KeyOf | None) -> KeyOf | None:
    """A function for `key=`: the name of a field, or the function itself."""
    if key is None or callable(key):
        return key

    def field(message: Any, name: str = key) -> Hashable:
        found: Hashable = message[name] if isinstance(message, Mapping) else getattr(message, name)
        return found

    return field


def _identity(envelope: Envelope) -> object:
    """The same for every attempt: a delivery is one receipt in ever new envelopes."""
    return envelope.receipt if envelope.receipt is not None else envelope
