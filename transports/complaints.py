"""Log lines about what peers do wrong: clear, and bounded in number.

A peer decides how often these are written, so each kind gets a few lines per period
and then a count. Counts are exact; the log is a sample.
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
        self._where = where
        self._written: dict[str, tuple[float, int, int]] = {}

    def say(self, kind: str, text: str, level: int = logging.WARNING) -> None:
        """Log `text`, unless this kind has had its lines for now."""
        self.counts[kind] += 1
        now = trio.current_time()
        since, lines, kept_back = self._written.get(kind, (now, 0, 0))
        if now - since >= PERIOD:
            if kept_back:
                self._log.log(level, "%s: %s more: %s", self._where, kept_back, kind)
            since, lines, kept_back = now, 0, 0
        if lines < LINES:
            self._log.log(level, "%s: %s", self._where, text)
            lines += 1
        else:
            kept_back += 1
        self._written[kind] = (since, lines, kept_back)
