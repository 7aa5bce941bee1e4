"""What the broker has delivered at QoS 1 and was not told the end of.

MQTT wants acknowledgements in the order in which the messages came (MQTT 5, section 4.6), so
what is handled out of order waits for those before it. The broker keeps the packet id of
a message until it is acknowledged, and sends it again under the same id when its session is
resumed; so what comes again is known here, and is not run twice, as long as the process lives.
An acknowledgement may be lost with its connection; what comes again for that is known by its
identity too, if its sender has given it one.

A message has a number of its own, which is what it is settled by, whatever became of the
connection it came on. Lives on the brokers' loop, as long as an incarnation of its bridge.
"""

from ..broker.message import Received

__all__ = ["Entry", "Ledger"]


class Entry:
    """A message that is not acknowledged. `mid` is its packet id."""

    __slots__ = ("done", "mid", "number", "qos", "received")

    def __init__(self, number: int, mid: int, qos: int, received: Received) -> None:
        self.number, self.mid, self.qos, self.received = number, mid, qos, received
        self.done = False


class Ledger:
    """The unacknowledged messages of one bridge, across its connections."""

    __slots__ = ("_acknowledged", "_before", "_entries", "_last", "_order")

    def __init__(self) -> None:
        self._last = 0
        self._entries: dict[int, Entry] = {}
        self._order: dict[int, Entry] = {}
        # By packet id: what came on connections that are lost, and did not come again yet.
        self._before: dict[int, Entry] = {}
        # Identities by packet id, of which there are 65,535.
        self._acknowledged: dict[int, str] = {}

    def __len__(self) -> int:
        """How many have come on this connection and are not acknowledged."""
        return len(self._order)

    def resume(self, *, present: bool) -> None:
        """A connection begins; without its session, the broker knows none of these any more."""
        if present:
            self._before.update((entry.mid, entry) for entry in self._order.values())
        else:
            self._before.clear()
            self._entries.clear()
            self._acknowledged.clear()
        self._order.clear()

    def add(self, mid: int, qos: int, received: Received) -> bool:
        """A message came: False if it is one that came before, and need not be run.

        Its `token` is set to what settles it.
        """
        if self._before:
            entry = self._before.pop(mid, None)
            if entry is not None:
                if received.redelivered and _is_same(entry.received, received):
                    self._order[entry.number] = entry
                    return False
                del self._entries[entry.number]  # the broker has given its id to another one
        self._last = number = self._last + 1
        received.token = (number,)
        entry = self._entries[number] = self._order[number] = Entry(number, mid, qos, received)
        if received.redelivered and received.message_id:
            entry.done = self._acknowledged.get(mid) == received.message_id
        return not entry.done

    def settle(self, token: tuple[int, ...]) -> None:
        """Messages are finished; those of a session that the broker has forgotten are nobody's."""
        for number in token:
            entry = self._entries.get(number)
            if entry is not None:
                entry.done = True

    def take_due(self) -> list[Entry]:
        """What is to be acknowledged now: all before the first that is not finished."""
        due: list[Entry] = []
        for entry in self._order.values():
            if not entry.done:
                break
            due.append(entry)
        for entry in due:
            del self._order[entry.number], self._entries[entry.number]
            self._acknowledged[entry.mid] = entry.received.message_id
        return due


def _is_same(one: Received, other: Received) -> bool:
    return one.channel == other.channel and one.body == other.body
