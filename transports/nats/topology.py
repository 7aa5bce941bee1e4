"""What a NATS bridge subscribes to, and what it reads from a stream: decisions, no network.

Without a stream all patterns are subjects of core NATS. With one, requests stay there
while events come from the stream, and from nowhere else: a subject that is both would run
an event twice, and a stream answers a request that it stores with a confirmation of its
own, before its handler can. So a stream must not hold what is asked for.
"""

from collections.abc import Iterable

from ...actors.errors import DeclarationError
from ..broker.channels import Channels

__all__ = ["Topology", "covered_by", "covers", "minimal", "overlap"]


class Topology(Channels):
    """The subscriptions of a bridge, and the subjects that it reads from its stream.

    `room` is how many events the mailboxes behind it can hold.
    """

    def __init__(
        self, subscribed: Iterable[str], events: Iterable[str] = (), held: Iterable[str] = ()
    ) -> None:
        super().__init__(subscribed)
        self.events = minimal(events)
        self.held = minimal(held or self.events)
        """What the stream has to hold: it may be more than is read."""
        self.room = 0

    def check(self, requests: Iterable[str], where: str, stream: str) -> None:
        """Raise `DeclarationError` for a request on a subject that the stream holds."""
        for request in requests:
            for subject in self.held:
                if overlap(request, subject):
                    raise DeclarationError(
                        f"{where}: requests for {request!r} would be stored in the stream "
                        f"{stream}, which holds {subject!r}, and answered by the stream. Give "
                        "requests and events different subjects, or name what the stream is to "
                        "hold: subjects='orders.events.>'."
                    )
        for event in self.events:
            if not any(covers(subject, event) for subject in self.held):
                raise DeclarationError(
                    f"{where}: events for {event!r} are not among the subjects that the stream "
                    f"{stream} is to hold: {', '.join(self.held)}. Add them to subjects='...'."
                )


def covers(wide: str, narrow: str) -> bool:
    """Whether each subject that `narrow` stands for is one of those of `wide`."""
    left, right = wide.split("."), narrow.split(".")
    for index, token in enumerate(left):
        if token == ">":
            return len(right) > index
        if index >= len(right) or right[index] == ">":
            return False
        if token not in ("*", right[index]):
            return False
    return len(left) == len(right)


def overlap(one: str, other: str) -> bool:
    """Whether some subject is one of both."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def covered_by(wide: Iterable[str], narrow: Iterable[str]) -> bool:
    """Whether each of `narrow` is covered by one of `wide`."""
    wide = list(wide)
    return all(any(covers(one, each) for one in wide) for each in narrow)


def minimal(subjects: Iterable[str]) -> list[str]:
    """The same subjects, without those that another of them covers."""
    unique = list(dict.fromkeys(subjects))
    return [each for each in unique if not any(covers(one, each) for one in unique if one != each)]
