"""Which channels a bridge subscribes to, so that each message comes once.

A broker delivers a message once for every subscription that matches it, while here one
delivery runs all handlers it is for. So what a wildcard covers is not subscribed to
beside it, and of wildcards that overlap in part one owns each channel.
"""

from collections.abc import Iterable

from ...actors.wildcard import Wildcards, is_wildcard

__all__ = ["Channels"]


class Channels:
    """The subscriptions for some routes, wildcards among them."""

    def __init__(self, routes: Iterable[str]) -> None:
        all_routes = list(dict.fromkeys(routes))
        self._wild: Wildcards[str] = Wildcards()
        for route in all_routes:
            if is_wildcard(route):
                self._wild.add(route, route)
        self.subscribed = [route for route in all_routes if not self._is_covered(route)]
        wild = [route for route in self.subscribed if is_wildcard(route)]
        self.overlapping = frozenset(wild if len(wild) > 1 else ())
        """Subscriptions that must ask whether a channel is theirs."""
        if len(wild) < len(self._wild.patterns):
            self._wild = Wildcards()
            for route in wild:
                self._wild.add(route, route)

    def owner(self, channel: str) -> str:
        """The one subscription that takes what comes on a channel."""
        return next(iter(self._wild.matching(channel)), channel)

    def _is_covered(self, route: str) -> bool:
        return any(
            other != route and _reaches(other, route) for other in self._wild.matching(route)
        )


def _reaches(wide: str, narrow: str) -> bool:
    """Whether a wildcard goes as deep as one that it matches as if that were a channel."""
    if narrow[-1:] not in (">", "#"):
        return True
    return wide[-1:] == narrow[-1:] and len(wide.split("/")) <= len(narrow.split("/"))
