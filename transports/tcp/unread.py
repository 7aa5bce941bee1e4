"""Answers that peers have not taken: together they have a bound, whoever they are for.

Only a connection that is clogged is known here. The peer that has most is the one that is
cut off, so that many who are a little slow do not lose their answers to one who reads none.
"""

from typing import Protocol

__all__ = ["Unread"]


class _Clogged(Protocol):
    def cut_off(self, why: str) -> None: ...


class Unread:
    """The answers of one bridge that wait for slow peers, at most about `limit` bytes."""

    __slots__ = ("_limit", "_sizes", "_total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._sizes: dict[_Clogged, int] = {}

    def count(self, connection: _Clogged, size: int) -> None:
        """So many bytes wait for this peer now; 0 when it takes all of them again."""
        self._total += size - self._sizes.pop(connection, 0)
        if size:
            self._sizes[connection] = size
        if self._total > self._limit:
            worst = max(self._sizes, key=self._sizes.__getitem__)
            worst.cut_off(f"has {self._sizes[worst]} bytes of answers waiting")
