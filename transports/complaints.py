"""Log lines about what peers do wrong: clear, and bounded in number.

A peer decides how often these are written, and some of what they say: each kind gets a
few lines per period and then a count, and a line stays one line. Counts are exact; the
log is a sample.
"""

import logging
from collections import Counter
from typing import Final

import trio

__all__ = ["Complaints"]

LINES: Final = 5
PERIOD: Final = 10.0
"""At most so many lines of one kind in so many seconds."""


class Complaints:
    """The log of one bridge or client."""

    def __init__(self, logger: str, where: str) -> None:
        self.counts: Counter[str] = Counter()
        self._log = logging.getLogger(logger)
        self.where = where
        self._written: dict[str, tuple[float, int, int]] = {}

    def say(self, kind: str, text: str) -> None:
        """Log `text`, unless this kind has had its lines for now."""
        self.counts[kind] += 1
        now = trio.current_time()
        since, lines, kept_back = self._written.get(kind, (now, 0, 0))
        if now - since >= PERIOD:
            self._count(kind, kept_back)
            since, lines, kept_back = now, 0, 0
        if lines < LINES:
            self._log.warning("%s: %s", self.where, _printable(text))
            lines += 1
        else:
            kept_back += 1
        self._written[kind] = (since, lines, kept_back)

    def close(self) -> None:
        """Log the counts of what was kept back: nothing more will come."""
        for kind, (_, _, kept_back) in self._written.items():
            self._count(kind, kept_back)
        self._written.clear()

    def _count(self, kind: str, kept_back: int) -> None:
        if kept_back:
            self._log.warning("%s: %s more: %s", self.where, kept_back, kind)


def _printable(text: str) -> str:
    """On one line, whatever a peer put into it: nobody but us writes lines of the log."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
