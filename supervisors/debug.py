"""Looking into one running actor: its status, its state, its messages; stopping it a while.

`system.debug(ref)` gives a `Debug`. Reading changes nothing; `suspend` holds the actor
between two messages while its mail waits. State is shown as shortened reprs, values of
secret names masked; contents of messages are never shown.

Concept: Erlang/OTP's `sys` module (get_status, get_state, suspend, resume, trace).
"""

import re
import reprlib
from collections.abc import Iterator
from typing import Any, Final

import attrs

from ..actors.actor import Actor
from ..actors.belongings import Belongings
from ..actors.cell import Cell
from ..actors.context import NOTHING, TAKEN, Hand
from ..actors.mailbox import MailboxStatistics
from .delivery.record import masked
from .log_text import one_line, without_logins
from .running_child import Child
from .trace import BUFFER, Trace

__all__ = ["Debug", "InHand", "Status", "shown"]

_TEXT: Final = 500
_SHOWN: Final = 120


@attrs.frozen
class InHand:
    """A message that is being handled: its type, its pattern, and whom it waits for.

    `origin` is the id of the outside message it belongs to, `waits_for` the path of the
    actor that its handler asked and that has not answered yet.
    """

    message: str
    pattern: str | None
    origin: str | None
    waits_for: str | None


@attrs.frozen(kw_only=True)
class Status:
    """A reading of one actor. `since` is the trio time at which it came to its `state`.

    `held` events wait because it is sick; `stashed` and `replies` are messages it put
    aside or will answer later; `timers` are planned messages to itself. `watches`,
    `links` and `children` are paths and names.
    """

    path: str
    actor: str
    state: str
    since: float
    incarnation: int
    passive: bool
    suspended: bool
    sick: bool
    held: int
    mailbox: MailboxStatistics
    in_hand: tuple[InHand, ...]
    timers: int
    stashed: int
    replies: int
    watches: tuple[str, ...]
    links: tuple[str, ...]
    children: tuple[str, ...]


class Debug:
    """A look into one actor, whichever incarnation is alive."""

    def __init__(self, child: Child) -> None:
        """Raises `LookupError` if the child is no actor."""
        if not isinstance(child.runnable, Cell):
            raise LookupError(
                f"{child.path} is no actor but a {type(child.spec).__name__}: "
                "only actors can be looked into. See system.tree() for the others."
            )
        self._child = child
        self._cell = child.runnable

    def __repr__(self) -> str:
        return f"<Debug {self._cell.path}>"

    def status(self) -> Status:
        """How it is just now."""
        cell, child = self._cell, self._child
        own = self._belongings()
        return Status(
            path=cell.path,
            actor=cell.actor.__qualname__,
            state=child.state,
            since=child.since,
            incarnation=child.number,
            passive=cell.instance is None and child.state == "running",
            suspended=cell.suspended,
            sick=cell.sickness.sick,
            held=len(cell.sickness.held),
            mailbox=cell.mailbox.statistics(),
            in_hand=tuple(_in_hand(cell.mailbox.hands)),
            timers=len(own.schedule) if own else 0,
            stashed=len(own.stash) if own else 0,
            replies=len(own.replies) if own else 0,
            watches=tuple(own.watches.paths()) if own else (),
            links=tuple(own.links.paths()) if own else (),
            children=tuple(own.offspring.children) if own and own.offspring else (),
        )

    def state(self) -> dict[str, str]:
        """The attributes of its instance, each as it may be shown; empty if it has none now."""
        instance = self._cell.instance
        if instance is None:
            return {}
        return {name: shown(name, value) for name, value in _attributes(instance)}

    def suspend(self) -> None:
        """Handle no further message until `resume`; the one in hand goes on, mail waits.

        Askers wait as well, up to their timeouts. A stop ends a suspended actor at once,
        without handling what waits.
        """
        self._cell.suspend()

    def resume(self) -> None:
        """Go on with what waits."""
        self._cell.resume()

    def trace(self, buffer: int = BUFFER) -> Trace:
        """A record of every message from now on: `with debug.trace() as trace:`.

        At most `buffer` records wait for their reader. Raises `UnderstudyError` on entry
        if the actor is traced already.
        """
        return Trace(self._cell, buffer)

    def _belongings(self) -> Belongings | None:
        # Asking for them makes them; an actor without anything must stay without.
        life = self._cell.life
        if life is None or life.ending is not None or not self._cell.occupied:
            return None
        return self._cell.belongings(life)


def _in_hand(hands: Any) -> Iterator[InHand]:
    hand: Hand
    for hand in hands:
        envelope = hand.envelope
        if envelope is NOTHING or hand.fenced or envelope.message is TAKEN:
            continue
        handler, origin, asked = envelope.handler, envelope.origin, hand.waits_for
        yield InHand(
            type(envelope.message).__name__,
            handler.route if handler is not None else None,
            origin.message_id if origin is not None else None,
            asked.path if asked is not None else None,
        )


# -- state as it may be shown ---------------------------------------------------------


def shown(name: str, value: Any) -> str:
    """The value of an attribute as a short repr, masked if its name is that of a secret."""
    if _is_secret(name):
        return _MASK
    return one_line(_SHORT.repr(value))


def _attributes(instance: Actor[Any]) -> Iterator[tuple[str, Any]]:
    slots = (one for kind in type(instance).__mro__ for one in _slots(kind))
    names = dict.fromkeys((*slots, *getattr(instance, "__dict__", ())))
    for name in names:
        if name not in _OURS and hasattr(instance, name):
            yield name, getattr(instance, name)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(one for one in names if not one.startswith("__"))


class _Short(reprlib.Repr):
    """Shortened reprs without secrets.

    Texts are masked before they are cut, and cut at their end only: the rest of a secret
    whose name was cut away could not be known as one.
    """

    maxlevel, maxdict, maxlist, maxtuple, maxset, maxdeque = 3, 8, 8, 8, 8, 8

    def repr_str(self, x: str, level: int) -> str:
        return _cut(repr(_without_secrets(x[:_TEXT])))

    def repr_bytes(self, x: bytes, level: int) -> str:
        return f"<{len(x)} bytes>"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        shown_items = [
            f"{self.repr1(key, level - 1)}: "
            + (_MASK if _is_secret(str(key)) else self.repr1(value, level - 1))
            for key, value in list(x.items())[: self.maxdict]
        ]
        more = ["..."] if len(x) > self.maxdict else []
        return "{" + ", ".join(shown_items + more) + "}"

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            text = repr(x)
        except Exception as error:  # noqa: BLE001  # a repr of somebody else's; told below
            return f"<{type(x).__name__}, its repr raised {type(error).__name__}>"
        return _cut(_without_secrets(text[: 4 * _TEXT]))


_OURS: Final = frozenset({"_incarnation", "_ref", "_cell"})
_MASK: Final = "***"
_SHORT: Final = _Short()
_NAME: Final = re.compile(r"""(\w{1,64})["']?\s{0,2}[=:]\s{0,2}""")


def _without_secrets(text: str) -> str:
    """Text with what follows a secret's name and `=` or `:` masked; linear in its length."""
    parts: list[str] = []
    at = 0
    while member := _NAME.search(text, at):
        end = member.end()
        parts.append(text[at:end])
        if _is_secret(member[1]):
            parts.append(_MASK)
            end = _end_of_value(text, end)
        at = end
    return without_logins("".join(parts) + text[at:])


def _end_of_value(text: str, start: int) -> int:
    """Where a value ends: at a separator that is in no brackets and no quotes."""
    depth, quote, escaped = 0, "", False
    for index in range(start, len(text)):
        char = text[index]
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif depth == 0 and (char in ")]},;&" or char.isspace()):
            return index
        elif char in ")]}":
            depth -= 1
    return len(text)


def _is_secret(name: str) -> bool:
    return masked({name: ""})[name] == _MASK


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
