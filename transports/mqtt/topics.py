"""Which topic filters a bridge subscribes to, and which of a tree's routes a topic is.

A route is a topic, under the prefix. One that begins with `$share/group/` is subscribed to
as it is, and what comes for it comes on the topic behind that, as in NestJS; with the option
`share` all filters become such. Patterns with NATS's wildcards are none of MQTT's.
"""

from collections.abc import Iterable

from ...actors.errors import DeclarationError
from ...actors.wildcard import Wildcards, is_wildcard
from ..broker.channels import Channels
from .options import MqttOptions, is_writable

__all__ = ["SHARE", "Topics"]

SHARE = "$share/"


class Topics(Channels):
    """The filters for some routes, and how many messages their mailboxes hold."""

    def __init__(
        self, routes: Iterable[str], options: MqttOptions, where: str, room: int = 0
    ) -> None:
        self.room = room
        self.foreign: list[str] = []
        """Patterns for which nothing comes here."""
        self._prefix = options.topic("")
        self._groups: dict[str, str] = {}
        self._shared: Wildcards[str] = Wildcards()
        topics = [topic for route in routes if (topic := self._topic(route, where))]
        if options.dialect == "nestrs":
            topics, self.foreign = [options.nestrs_topic("requests")], []
        super().__init__(topics)
        self.filters = {topic: self._filter(topic, options.share) for topic in self.subscribed}
        """What is subscribed to, by topic or wildcard."""
        self.identifiers = {topic: n for n, topic in enumerate(sorted(self.overlapping), 1)}
        """The numbers by which MQTT 5 tells apart which subscription brought a message."""
        self.is_wild = any(map(is_wildcard, self.subscribed))

    def route(self, topic: str) -> str:
        """The route that a topic is."""
        name = topic.removeprefix(self._prefix)
        if self._groups:
            if name in self._groups:
                return self._groups[name]
            for pattern in self._shared.matching(name):
                group = self._groups[pattern].removesuffix(pattern)
                return group + name
        return name

    def _topic(self, route: str, where: str) -> str:
        """The topic or wildcard that messages for a route come on, empty for none."""
        name = route
        if route.startswith(SHARE):
            group, _, name = route[len(SHARE) :].partition("/")
            if not (group and name):
                raise DeclarationError(
                    f"{where}: the pattern {route!r} is a shared subscription without a group or a "
                    "topic; one looks like $share/group/topic."
                )
            self._groups[name] = route
            if is_wildcard(name):
                self._shared.add(name, name)
        if _is_of_nats(name):
            self.foreign.append(route)
            return ""
        if not is_filter(name):
            raise DeclarationError(
                f"{where}: the pattern {route!r} cannot be an MQTT topic, in which '+' and '#' "
                "stand alone between slashes, '#' at the end, and which has no control "
                "characters. Give it another name, or serve it elsewhere."
            )
        return self._prefix + name

    def _filter(self, topic: str, share: str) -> str:
        route = self._groups.get(topic.removeprefix(self._prefix), "")
        group = route[len(SHARE) :].partition("/")[0] if route else share
        return f"{SHARE}{group}/{topic}" if group else topic


def is_filter(text: str) -> bool:
    """Whether a broker takes a subscription to it (MQTT 5, section 4.7.1)."""
    levels = text.split("/")
    if not text or not is_writable(text) or "#" in levels[:-1]:
        return False
    return all(level in ("+", "#") or not ("+" in level or "#" in level) for level in levels)


def _is_of_nats(route: str) -> bool:
    if not is_wildcard(route):
        return False
    levels = route.split("/")
    return "+" not in levels and levels[-1] != "#"
