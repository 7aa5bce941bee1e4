"""Messages to connected clients that did not ask.

A `Clients` is made by the program and given to both: to the actors that send, and to the
bridge, whose connections it then reaches. Before the bridge has started, and after it has
ended, it reaches nobody.
"""

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from ...actors.encoding import encode
from ...actors.pattern import Pattern

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Clients"]


class Clients:
    """The clients that are connected to one WebSocket bridge.

        clients = Clients()
        tree = Supervisor("chat", [child(Room, clients), serve("ws://...", clients=clients)])

    At most once: what is sent while a connection breaks is lost with it.
    """

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def emit(self, pattern: Pattern, data: Any = UNSET, *, to: str | None = None) -> int:
        """Send an event to every client, or to the one that is the `context.source` `to`.

        Never waits. Returns how many clients it is on its way to; one that does not read,
        and has `write_limit` bytes waiting already, is cut off instead.

        Raises `TypeError` for data that JSON cannot say.
        """
        if to is None:
            found = list(self._connections.values())
        else:
            one = self._connections.get(to)
            found = [] if one is None else [one]
        if not found:
            return 0
        dialect = found[0].dialect
        json = b"" if data is UNSET else encode(data)
        body = dialect.event(dialect.pattern_json(pattern, event=True), json)
        return sum(connection.push(body) for connection in found)

    def join(self, connection: "Connection") -> None:
        """For the bridge: a client has connected."""
        self._connections[connection.peer] = connection

    def part(self, connection: "Connection") -> None:
        """For the bridge: a client has gone."""
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
