"""Patterns with wildcards, and the table that finds them by a concrete route.

Two notations, told apart by the separator, as the brokers have them. NATS:
tokens parted by dots, `*` for exactly one token, `>` at the end for one or more.
MQTT: levels parted by slashes, `+` for exactly one level, `#` at the end for the
level above it and all below. A pattern in which none of these stands as a whole
token is no wildcard: it means itself.

A route that begins with `$` is only matched by a pattern that begins with the
same token (MQTT 5, section 4.7.2): a `#` must not see a broker's own topics.

Matching walks a tree of tokens. No regular expression, and its cost does not
depend on how many patterns there are, but on the length of the route.
"""

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

__all__ = ["Wildcards", "is_wildcard", "matches"]

T = TypeVar("T")

_NOTATIONS: Final = ((".", "*", ">"), ("/", "+", "#"))
"""Separator, one token, and all the rest."""


def is_wildcard(route: str) -> bool:
    """Whether `route` stands for more than one concrete route."""
    return _notation(route) is not None


def matches(pattern: str, route: str) -> bool:
    """Whether `route` is one of those that `pattern` stands for."""
    table: Wildcards[bool] = Wildcards()
    if is_wildcard(pattern):
        table.add(pattern, True)
        return bool(table.matching(route))
    return pattern == route


class Wildcards(Generic[T]):
    """Values by wildcard pattern, found by the routes they match."""

    def __init__(self) -> None:
        self._roots = {separator: _Node[T]() for separator, _, _ in _NOTATIONS}
        self._patterns: dict[str, list[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def at(self, pattern: str) -> list[T]:
        """The values of exactly this pattern, in the order in which they were added."""
        return list(self._patterns.get(pattern, ()))

    @property
    def patterns(self) -> list[str]:
        """Every pattern that has a value."""
        return list(self._patterns)

    def add(self, pattern: str, value: T) -> None:
        """Raises `ValueError` for a pattern that is no wildcard."""
        notation = _notation(pattern)
        if notation is None:
            raise ValueError(f"{pattern!r} is no wildcard pattern")
        self._patterns.setdefault(pattern, []).append(value)
        self._node(pattern, notation).values.append(value)

    def remove(self, value: T) -> None:
        """Forget `value` wherever it stands; nothing happens if it stands nowhere."""
        for pattern, values in list(self._patterns.items()):
            if value not in values:
                continue
            values.remove(value)
            notation = _notation(pattern)
            if notation is not None:
                self._node(pattern, notation).values.remove(value)
            if not values:
                del self._patterns[pattern]

    def matching(self, route: str) -> list[T]:
        """The values of all patterns that match `route`, the most specific pattern first.

        One pattern is more specific than another if, at the first token in which they
        differ, it has the token itself against a wildcard, or one token against the rest.
        """
        if not self._patterns:
            return []
        found: list[T] = []
        for separator, one, rest in _NOTATIONS:
            tokens = route.split(separator)
            for node in _walk(self._roots[separator], tokens, 0, one, rest):
                found.extend(node.values)
        return found

    def _node(self, pattern: str, notation: "tuple[str, str, str]") -> "_Node[T]":
        separator = notation[0]
        node = self._roots[separator]
        for token in pattern.split(separator):
            node = node.below.setdefault(token, _Node())
        return node


class _Node(Generic[T]):
    __slots__ = ("below", "values")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.values: list[T] = []


def _notation(route: str) -> tuple[str, str, str] | None:
    if route.startswith(("{", "[")):
        return None  # the route of an object: its text is a name, no matter what is in it
    for notation in _NOTATIONS:
        separator, one, rest = notation
        tokens = route.split(separator)
        if one in tokens or tokens[-1] == rest:
            return notation
    return None


def _walk(node: _Node[T], tokens: list[str], at: int, one: str, rest: str) -> Iterator[_Node[Any]]:
    if at == len(tokens):
        yield node
        if rest == "#" and rest in node.below:
            yield node.below[rest]  # MQTT: `a/#` is also `a` itself
        return
    token = tokens[at]
    # What a concrete route holds is never read as a wildcard.
    if token in node.below and token not in (one, rest):
        yield from _walk(node.below[token], tokens, at + 1, one, rest)
    if at == 0 and token.startswith("$"):
        return
    if one in node.below:
        yield from _walk(node.below[one], tokens, at + 1, one, rest)
    if rest in node.below:
        yield node.below[rest]
