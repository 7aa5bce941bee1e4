"""Records that must get to Kafka, however often that is tried and however many sessions it takes.

A post is kept until the broker has confirmed it; only then its owner in trio is told. What
was on its way when a session ended is sent again by the next one, so it may be there twice.
The first time, all that come together are sent as one batch; what failed goes alone from
then on, so that one that is refused stops nobody.

Touched on the brokers' loop only; outlives sessions, as the bridge does that owns it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from .writer import Sent, Writer

__all__ = ["Post", "Posts"]

_FIRST_PAUSE: Final = 0.1
"""Seconds before a post is tried again; twice as long each time."""


@attrs.define(eq=False)
class Post:
    """A record for a topic; `then` is called in trio once it is confirmed.

    `kind` is what it is, in the plural, as the log says it.
    """

    kind: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    then: Callable[[], object]
    failures: int = 0

    @property
    def size(self) -> int:
        """Bytes, at most."""
        return self.sent(_nobody).size

    def sent(self, then: Callable[[Exception | None], object]) -> Sent:
        return Sent(self.topic, self.value, then, self.key, self.headers)


class Posts:
    """All posts of a bridge that are not confirmed."""

    def __init__(self, longest_pause: float) -> None:
        self._longest_pause = longest_pause
        self._pending: dict[Post, None] = {}
        self._queue: deque[Post] = deque()
        self._mail: asyncio.Event | None = None

    def add(self, post: Post) -> None:
        """Take a post; it is sent at once, or by the next session."""
        self._pending[post] = None
        self._enqueue(self._queue, post)

    async def keep_sending(
        self,
        writer: Writer,
        tell: Callable[[Callable[[], object]], None],
        say: Callable[[str, str], object],
    ) -> None:
        """Send what there is, and what comes, as long as a session lives.

        `tell` calls a function in trio, `say` is the session's complaints.
        """
        # A queue of this session's own: what an earlier one has still to tell goes nowhere.
        queue = self._queue = deque(self._pending)
        self._mail = mail = asyncio.Event()
        while True:
            batch: list[Sent] = []
            while queue:
                post = queue.popleft()
                ended = partial(self._ended, post, queue, tell, say)
                if post.failures:
                    await writer.send([post.sent(ended)])
                else:
                    batch.append(post.sent(ended))
            await writer.send(batch)
            if not queue:
                mail.clear()
                await mail.wait()

    def _ended(
        self,
        post: Post,
        queue: deque[Post],
        tell: Callable[[Callable[[], object]], None],
        say: Callable[[str, str], object],
        error: Exception | None,
    ) -> None:
        if post not in self._pending:
            return  # an earlier session has told it already
        if error is None:
            del self._pending[post]
            tell(post.then)
            return
        pause = min(self._longest_pause, _FIRST_PAUSE * 2**post.failures)
        post.failures = min(post.failures + 1, 16)
        say(
            f"{post.kind} that cannot be written",
            f"{post.kind} cannot be written to the topic {post.topic}: {error}; the offset is not "
            f"committed, and it is tried again in {pause:.1f} s",
        )
        asyncio.get_running_loop().call_later(pause, self._enqueue, queue, post)

    def _enqueue(self, queue: deque[Post], post: Post) -> None:
        queue.append(post)
        if self._mail is not None:
            self._mail.set()


def _nobody(error: Exception | None) -> None:
    """Whom a record's size concerns."""
