"""How much is going on in one bridge, and who waits for it to be less.

One connection's messages are bounded by its own limit; ten thousand connections' only
here. A connection that waits is not read and costs nothing: its turn comes in the order in
which they began to wait, when messages of any connection are finished.
"""

from .poller import Readiness

__all__ = ["Quota"]


class Quota:
    """The messages of one bridge that are not finished, at most about `limit` of them."""

    __slots__ = ("in_flight", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.waiting: dict[Readiness, None] = {}

    def wait(self, readable: Readiness) -> None:
        """Read no further until there is room."""
        readable.pause()
        self.waiting[readable] = None

    def forget(self, readable: Readiness) -> None:
        """It has ended."""
        self.waiting.pop(readable, None)

    def resume(self) -> None:
        """Let those read on for whom there is room."""
        while self.waiting and self.in_flight < self.limit:
            readable = next(iter(self.waiting))
            del self.waiting[readable]
            # It reads at once, so that the count is right for the next.
            readable.resume()
