"""The smallest example: an actor counts, crashes, and is back with a clean state."""

import trio
from attrs import frozen

from understudy import Actor, Request, Supervisor, child, running


@frozen
class Increment:
    by: int


class Get(Request[int]):
    """What is the count?"""


class Counter(Actor[Increment | Get]):
    count = 0

    def receive(self, message: Increment | Get) -> int:
        if isinstance(message, Increment):
            if message.by < 0:
                raise ValueError("this counter only counts up")
            self.count += message.by
        return self.count


async def main() -> None:
    async with running(Supervisor("example", [child(Counter)])) as system:
        counter = system.ref(Counter)
        counter.tell(Increment(2))
        counter.tell(Increment(3))
        print("the count is", await counter.ask(Get()))
        counter.tell(Increment(-1))  # a crash; what waits behind it is for the next incarnation
        print("after a crash:", await counter.ask(Get()), "in life", system.tree()[1].incarnation)


if __name__ == "__main__":
    trio.run(main)
