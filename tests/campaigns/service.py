"""The service of a campaign, a process of its own: writes down every event, before it is done.

`python -m tests.campaigns.service URL JOURNAL OPTIONS`, the options of its bridge as JSON.
"""

import json
import os
import signal
import sys

import attrs
import trio

from understudy.actors.actor import Actor
from understudy.actors.context import MessageContext
from understudy.actors.handlers import event_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.system import running
from understudy.transports.bridge import serve

from .frame import line_of


@attrs.frozen
class Event:
    number: int


class Numbered(Actor):
    def __init__(self, journal: int) -> None:
        self.journal = journal

    @event_pattern("numbered")
    async def numbered(self, event: Event, context: MessageContext) -> None:
        # One write, so that a kill leaves whole lines only.
        os.write(self.journal, line_of(event.number, context.redelivered))
        await trio.sleep(0.01)


async def main() -> None:
    url, path, options = sys.argv[1:]
    journal = os.open(path, os.O_WRONLY | os.O_APPEND)
    numbered = child(Numbered, journal, concurrency=64)
    tree = Supervisor("counting", [numbered, serve(url, **json.loads(options))])
    async with running(tree) as system:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                system.stop()


if __name__ == "__main__":
    trio.run(main)
