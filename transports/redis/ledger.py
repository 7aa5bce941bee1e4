"""What one bridge has in hand of its streams, and what it still owes them.

Lives on the asyncio loop and outlives sessions: any connection may acknowledge an entry,
so what was handled while Redis was away is acknowledged afterwards, and not handled twice.

Invariant: an entry is held from the moment it was read until its acknowledgement was sent,
and owed from then until Redis has confirmed that; what is neither may be taken by anybody.
"""

from collections.abc import Iterable, Iterator

__all__ = ["Entry", "Ledger", "Place"]

Place = tuple[str, bytes]
"""A stream and the id of an entry in it."""


class Entry:
    """A message in hand: one entry, or several where its sender has added it more than once."""

    __slots__ = ("identity", "places")

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.places: list[Place] = []


class Ledger:
    """The entries of one bridge."""

    def __init__(self) -> None:
        self.held: dict[Place, Entry] = {}
        self.owed: dict[Place, None] = {}
        self._by_identity: dict[str, Entry] = {}

    def __contains__(self, place: Place) -> bool:
        return place in self.held or place in self.owed

    def take(self, place: Place, identity: str) -> Entry:
        """An entry was read. What settles its message settles it, too."""
        entry = self._by_identity.get(identity)
        if entry is None:
            entry = self._by_identity[identity] = Entry(identity)
        entry.places.append(place)
        self.held[place] = entry
        return entry

    def settle(self, entry: Entry) -> list[Place]:
        """It was handled: it is owed now. Returns what to acknowledge."""
        places = self.release(entry)
        owed = self.owed
        for place in places:
            owed[place] = None
        return places

    def release(self, entry: Entry) -> list[Place]:
        """It is no longer ours. Returns what was."""
        places, entry.places = entry.places, []
        if self._by_identity.get(entry.identity) is entry:
            del self._by_identity[entry.identity]
        held = self.held
        for place in places:
            held.pop(place, None)
        return places

    def drop(self, place: Place) -> None:
        """It was taken, but could not be handed over."""
        entry = self.held.pop(place, None)
        if entry is not None:
            entry.places.remove(place)
            if not entry.places:
                self.release(entry)

    def confirmed(self, places: Iterable[Place]) -> None:
        """Redis has taken the acknowledgement."""
        for place in places:
            self.owed.pop(place, None)

    def held_of(self, stream: str) -> Iterator[bytes]:
        """The ids of what is in hand of one stream."""
        return (id for name, id in self.held if name == stream)
