"""Order within a key, concurrency across keys.

An actor with `concurrency=N` and a `key` handles N messages side by side, but never
two of the same key, and those of one key in the order in which they came. A message
whose key is busy is put into that key's line and comes to the front of the mailbox
when its turn is there. A message that waits for another attempt keeps its key: only
that key waits with it. A key of None is no key: such messages wait for no other.
Where neither handler nor actor say what the key is, a broker may have one (Kafka has).

Lines take places in the mailbox, so that they are bounded with it, and they outlive
incarnations. When no more may wait in lines, messages of busy keys stay in the mailbox
and those of free keys overtake them.

Invariant: a key is owned by at most one message, from `begin` to the `done` that says
that it does not come again, whatever its handler makes of the payload meanwhile.
"""

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from .context import is_outside
from .envelope import Envelope
from .errors import DeclarationError
from .mailbox import Mailbox
from .watching import Exited, Terminated

__all__ = ["KeyOf", "Keys", "key_function"]

KeyOf = Callable[[Any], Hashable]

_NO_LINE: Final[deque[Envelope]] = deque(maxlen=0)


class Keys:
    """Which keys are busy, and who waits for them; one per cell that has a key."""

    def __init__(self, mailbox: Mailbox, key: KeyOf | None) -> None:
        self._mailbox = mailbox
        self._key = key
        self._owners: dict[Hashable, object] = {}
        # By the id of the owner: asked again, the key function need not say the same.
        self._owned: dict[int, Hashable] = {}
        self._away: set[int] = set()  # ids of owners that are to come again
        self._lines: dict[Hashable, deque[Envelope]] = {}
        self.full = False

    def __len__(self) -> int:
        """How many messages wait in lines."""
        return sum(map(len, self._lines.values()))

    def begin(self, envelope: Envelope) -> bool:
        """Whether `envelope` may run now; if not, it waits in its key's line.

        When no more may wait in lines it goes back to the front of the mailbox, with the
        first that may run before it; `full` says that there is none of these. Raises what
        the key function raises.
        """
        self.full = False
        identity = id(_identity(envelope))
        if identity in self._owned:
            self._away.discard(identity)
            return True
        key = self._key_of(envelope)
        if key is None:
            return True
        if self._is_free(key):
            self._own(key, envelope)
            return True
        if self._mailbox.reserve():
            self._lines.setdefault(key, deque()).append(envelope)
        else:
            # Not `readmit`, which wakes another lane for what cannot run.
            self._mailbox.queue.appendleft(envelope)
            self.full = not self._let_one_overtake()
        return False

    def owns(self, envelope: Envelope) -> bool:
        """Whether it is, in another attempt, the message that owns its key here."""
        return id(_identity(envelope)) in self._owned

    def done(self, envelope: Envelope, *, again: bool) -> None:
        """`envelope` has run; with `again` it comes back, and its key waits for it."""
        identity = id(_identity(envelope))
        key = self._owned.get(identity)
        if key is None:
            return
        if again:
            self._away.add(identity)
        else:
            self._next(key)

    def release(self, release: Callable[[Envelope], None]) -> None:
        """The actor has ended for good: give up what waits."""
        lines, self._lines = self._lines, {}
        self._owners.clear()
        self._owned.clear()
        self._away.clear()
        for line in lines.values():
            for envelope in line:
                self._mailbox.free()
                release(envelope)

    def _let_one_overtake(self) -> bool:
        """Bring the first message that may run to the front; False if there is none."""
        queue = self._mailbox.queue
        for position, envelope in enumerate(queue):
            if self._may_run(envelope):
                del queue[position]
                queue.appendleft(envelope)
                return True
        return False

    def _may_run(self, envelope: Envelope) -> bool:
        if id(_identity(envelope)) in self._owned:
            return True
        try:
            key = self._key_of(envelope)
            owner = None if key is None else self._owners.get(key)
            return owner is None or self._is_lost(owner)
        except Exception:  # noqa: BLE001  # it fails once more when its turn is there
            return True

    def _is_free(self, key: Hashable) -> bool:
        owner = self._owners.get(key)
        if owner is not None and self._is_lost(owner):
            self._next(key)
            owner = self._owners.get(key)
        return owner is None

    def _is_lost(self, owner: object) -> bool:
        """What was to come again may have become a dead letter on its way."""
        # Not asked of one in hand: to look at an event is to look at its age.
        return id(owner) in self._away and not getattr(owner, "open", True)

    def _own(self, key: Hashable, envelope: Envelope) -> None:
        identity = _identity(envelope)
        self._owners[key] = identity
        self._owned[id(identity)] = key

    def _next(self, key: Hashable) -> None:
        """The key's owner is done: the first of its line is the owner now."""
        owner = id(self._owners.pop(key))
        del self._owned[owner]
        self._away.discard(owner)
        line = self._lines.get(key, _NO_LINE)
        if not line:
            self._lines.pop(key, None)
            return
        following = line.popleft()
        self._own(key, following)
        self._mailbox.free()
        self._mailbox.readmit(following, first=True)

    def _key_of(self, envelope: Envelope) -> Hashable | None:
        if isinstance(envelope.message, Terminated | Exited):
            return None  # signals come before all mail
        handler = envelope.handler
        if handler is not None and handler.batch:
            return None  # batches run one after the other anyway
        key = handler.key if handler is not None and handler.key is not None else self._key
        if key is not None:
            return key(envelope.message)
        return envelope.origin.order_key if envelope.origin and is_outside(envelope) else None


def key_function(key: str | KeyOf | None, where: str = "") -> KeyOf | None:
    """A function for the `key=` of `where`: the name of a field, or the function itself.

    Raises `DeclarationError` for anything else.
    """
    if key is None or callable(key):
        return key
    if not isinstance(key, str) or not key:
        at = f"{where}: " if where else ""
        raise DeclarationError(
            f"{at}key={key!r} is no key. Name a field of the payload, or give a function of it."
        )

    def field(message: Any, name: str = key) -> Hashable:
        found: Hashable = message[name] if isinstance(message, Mapping) else getattr(message, name)
        return found

    return field


def _identity(envelope: Envelope) -> object:
    """The same for every attempt: a delivery is one receipt in ever new envelopes."""
    return envelope.receipt if envelope.receipt is not None else envelope
