"""What a bridge puts aside, in topics of its own: dead letters, and events that wait for long.

A dead letter is in the local store first, then in its topic, and only then its offset may be
committed. An event that is tried again later is in the retry topic before its offset may be.
Both are confirmed by the broker; both may be there twice, when that was not learnt.

Not owned here: how they get there (`posts.py`), how retries are read (`retrying.py`).
Trio's, but for `posts`.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from ...actors.asyncio_thread import AsyncioThread
from ...actors.errors import AsyncioThreadEnded, DeclarationError
from ...supervisors.delivery.intake import Inbound
from ...supervisors.delivery.record import DeadLetter
from ..codec.errors import CodecError
from ..complaints import Complaints
from .message import KafkaReceived
from .options import KafkaOptions, filled, group_of
from .posts import Post, Posts
from .retrying import LONGEST
from .trail import Trail, dead_headers, retry_headers, without_trail

__all__ = ["Aside"]

_LATEST: Final = 1e11
"""Unix seconds: a record says itself when it was written, and may say anything."""


class Aside:
    """Dead-letter and retry topics of one bridge, for as long as the bridge lives."""

    def __init__(self, options: KafkaOptions, where: str, complaints: Complaints) -> None:
        self._options = options
        self._where = where
        self._complaints = complaints
        self._group = group_of(options)
        self._read: frozenset[str] = frozenset()
        self.posts = Posts(options.reconnect_max)
        self.thread: AsyncioThread
        self.retries: frozenset[str] = frozenset()
        """The retry topics, which the group reads, too."""
        self.dead: frozenset[str] = frozenset()
        """The dead-letter topics, which it does not."""

    def name_topics(self, topics: Iterable[str]) -> list[str]:
        """The topics to read: these, and those that their retries are in.

        Raises `DeclarationError` for names that cannot be, or that mean two things at once.
        """
        read = frozenset(topics)
        retries = self._filled(self._options.retry_topic, read)
        dead = self._filled(self._options.dead_letter_topic, read)
        # Made only when a stranger has written to a retry topic, but possible it must be.
        self._filled(self._options.dead_letter_topic, retries)
        for twice in (retries & read) | (dead & (read | retries)):
            raise DeclarationError(
                f"{self._where}: {twice} is a topic that is read, and cannot be where retries or "
                "dead letters of one go. Give those another name."
            )
        self._read, self.retries, self.dead = read, retries, dead
        return sorted(read | retries)

    def _filled(self, template: str, topics: Iterable[str]) -> frozenset[str]:
        return frozenset(filled(template, topic, self._where) for topic in topics if template)

    def trail_of(self, received: KafkaReceived) -> Trail | None:
        """What a record of a retry topic came from; None if it is another group's.

        Raises `CodecError` if it does not say, or names a topic that is not read.
        """
        trail = Trail.of(received.raw_headers)
        if trail.group != self._group:
            return None
        if trail.topic not in self._read:
            raise CodecError("it is in a retry topic, from a topic that is not read")
        return trail

    def bury(self, received: KafkaReceived, letter: DeadLetter, then: Callable[[], object]) -> None:
        """Write a dead letter, which the store has, to its topic; then call `then`."""
        if not self._options.dead_letter_topic:
            then()
            return
        topic = filled(self._options.dead_letter_topic, received.channel, self._where)
        headers = dead_headers(
            _trail(received, letter.message_id, letter.first_at),
            reason=letter.reason,
            error=letter.error,
            attempts=letter.attempts,
            actor=letter.actor,
        )
        post = _post("dead letters", topic, received, headers, then)
        if post.size > self._options.message_limit:
            text = f"{post.size} bytes to {topic}; {self._options.message_limit} may be sent"
            kind = "dead letters that are too long for their topic"
            self._complaints.say(kind, f"{kind}: {text}; it is in the local store only")
            then()
            return
        with suppress(AsyncioThreadEnded):  # it is delivered again, to the next life
            self.thread.soon(self.posts.add, post)

    def postpone(
        self, received: KafkaReceived, inbound: Inbound, delay: float, then: Callable[[], object]
    ) -> bool:
        """Write an event that is to be tried again later to its retry topic; then call `then`.

        False if it had better wait here.
        """
        if not self._options.retry_topic or not self._options.retry_in_place < delay <= LONGEST:
            return False
        topic = filled(self._options.retry_topic, received.channel, self._where)
        trail = _trail(received, inbound.message_id, inbound.first_at, inbound.attempt, self._group)
        headers = retry_headers(trail, time.time() + delay)
        post = _post("retries", topic, received, headers, then)
        if post.size > self._options.message_limit:
            return False
        try:
            self.thread.soon(self.posts.add, post)
        except AsyncioThreadEnded:
            return False
        return True


def _trail(
    received: KafkaReceived, id: str, first_at: float, attempt: int = 1, group: str = ""
) -> Trail:
    return Trail(*received.came_from, id, min(max(0.0, first_at), _LATEST), attempt, group)


def _post(
    kind: str,
    topic: str,
    received: KafkaReceived,
    headers: list[Any],
    then: Callable[[], object],
) -> Post:
    value = None if received.is_null else received.body
    headers = [*without_trail(received.raw_headers), *headers]
    return Post(kind, topic, received.key, value, headers, then)
