"""Where answers come: RabbitMQ's direct reply-to, and for nestrs a queue per request.

A nestrs service sends nothing with its answer that would tell whose it is, so that each
request needs a queue of its own. A queue whose answer has come is used again; one whose
answer has not is not, since it may come late.
"""

from collections import deque
from typing import Final
from uuid import uuid4

from pamqp import commands

from .channel import Channel

__all__ = ["DIRECT", "ReplyQueues"]

DIRECT: Final = "amq.rabbitmq.reply-to"
_MOST: Final = 1024
"""Queues that may wait for an answer; the one that waits longest is given up beyond it."""


class ReplyQueues:
    """The reply queues of one connection to nestrs services."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._free: deque[str] = deque()
        self._waiting: dict[str, str] = {}

    async def queue_for(self, id: str) -> str:
        """The queue that the answer to the call `id` will come on."""
        if self._free:
            name = self._free.pop()
        else:
            name = await self._new()
        self._waiting[name] = id
        if len(self._waiting) > _MOST:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            await self._channel.call(commands.Queue.Delete(queue=oldest))
        return name

    async def _new(self) -> str:
        name = f"nestrs.reply.{uuid4()}"
        declare = commands.Queue.Declare(queue=name, exclusive=True, auto_delete=True)
        await self._channel.call(declare)
        await self._channel.call(commands.Basic.Consume(queue=name, no_ack=True))
        return name

    def answered(self, queue: str) -> str:
        """The call whose answer came on this queue; empty for one that was given up."""
        id = self._waiting.pop(queue, "")
        if id:
            self._free.append(queue)
        return id
