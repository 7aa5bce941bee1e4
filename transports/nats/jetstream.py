"""A durable consumer of JetStream, read as fast as events are handled and no faster.

Promise: at least once. An event is acknowledged once it is handled, kept as a dead letter
or dropped by who asked for that; until then the server is told again and again that it is
in hand, and delivers it anew when it hears nothing for `ack_wait`.

The server is asked for as many messages as there is credit for, a few seconds at a time:
a request that got lost with a server is simply asked again. An acknowledgement names its
stream, consumer and message, not its connection, so what was handled while the server was
away is acknowledged when it is back; and so is again what had been shortly before, since a
server that was killed has forgotten the last ones.

Invariant: `held` and `asked` together are never more than the credit.
Not owned here: what stream and consumer are like (`stream.py`).
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
from nats.js.errors import NotFoundError

from ...actors.asyncio_queues import Inlet
from ...actors.wildcard import Wildcards, is_wildcard
from ..broker.message import NO_HEADERS, Outgoing, Received
from ..broker.session import BrokerAway
from .connection import Connection, Error
from .options import NatsOptions
from .stream import Found, Memory
from .topology import Topology

__all__ = ["Ledger", "StreamReader"]

_REMEMBERED: Final = 8192
"""Acknowledgements that are sent again after a connection was lost."""

_PROGRESS: Final = b"+WPI"
_NAK: Final = b"-NAK"
_LONG_AGO: Final = 1.0
"""Seconds after which a request that has run out at the server is over here, too."""


@attrs.define
class Ledger:
    """What is owed to the server, from one session to the next; touched on the loop only."""

    epoch: int = 0
    """Counts consumers: what is due to one is not due to the next of the same name."""
    held: dict[int, str] = attrs.field(factory=dict)
    """In hand here: message number and where to acknowledge."""
    recent: deque[tuple[int, str]] = attrs.field(factory=lambda: deque(maxlen=_REMEMBERED))
    """The last acknowledgements, newest last."""
    unconfirmed: dict[int, str] = attrs.field(factory=dict)
    """Acknowledged, but the server has not said that it knows."""

    def begin_anew(self) -> None:
        self.epoch += 1
        self.held.clear()
        self.recent.clear()
        self.unconfirmed.clear()


class StreamReader:
    """One session's reading of its consumer."""

    def __init__(
        self,
        connection: Connection,
        options: NatsOptions,
        found: Found,
        ledger: Ledger,
        memory: Memory,
        inlet: Inlet[Received],
        session: int,
        topology: Topology,
    ) -> None:
        self._connection = connection
        self._options = options
        self.found = found
        self._ledger = ledger
        self._memory = memory
        self._inlet = inlet
        self._session = session
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{found.name}.{found.durable}"
        self._expires = max(1.0, min(5.0, options.heartbeat))
        self._inbox = connection.new_inbox()
        self._confirmations = connection.new_inbox()
        self._asked = 0
        self._over_at = 0.0
        self._pulls = self._delivered = 0
        self._stopped = False
        self._wake = asyncio.Event()
        self._subscription: Any = None
        self._gone: BrokerAway | None = None
        self._credit = 0
        self._mine: Callable[[str], bool] | None = None
        self.follow(topology, found)

    def follow(self, topology: Topology, found: Found) -> None:
        """There are other patterns, and perhaps another room, now."""
        self.found = found
        # With no room at all, one message must still be able to say that nobody handles it.
        self._credit = max(1, min(self._options.in_flight, topology.room))
        self._mine = _matcher(topology.events) if found.unfiltered else None
        self._wake.set()

    async def begin(self, guard: Callable[..., Any]) -> None:
        """Settle what a lost connection may have swallowed, then listen; `guard`s callbacks."""
        connection, ledger = self._connection, self._ledger
        for _, reply in [*ledger.recent, *ledger.unconfirmed.items()]:
            await connection.publish(reply)
        await self._in_progress()
        if self._options.confirm_acks:
            take = guard(self._confirmed)
            await connection.subscribe(f"{self._confirmations}.*", cb=take)
        self._subscription = await connection.subscribe(
            f"{self._inbox}.*", cb=guard(self._received)
        )

    async def stop(self) -> None:
        """Ask for no more; what was sent already is taken in."""
        self._stopped = True
        self._wake.set()
        if self._subscription is not None:
            await self._subscription.drain()

    async def finish(self) -> None:
        """All is settled: wait until the server has it."""
        await self._connection.flush(timeout=1)
        if self._options.confirm_acks:
            async with asyncio.timeout(0.5):
                while self._ledger.unconfirmed:
                    self._wake.clear()
                    await self._wake.wait()

    # -- asking -----------------------------------------------------------------------

    async def pull(self) -> None:
        """Ask for messages whenever there is credit. Raises `BrokerAway` when there are none."""
        while not self._stopped:
            if self._gone is not None:
                raise self._gone
            self._wake.clear()
            now = time.monotonic()
            if self._asked and now > self._over_at + _LONG_AGO:
                self._asked = 0  # the server has given up on all of it, or never heard of it
            free = self._credit - len(self._ledger.held) - len(self._ledger.unconfirmed)
            free -= self._asked
            if free > 0 and (not self._asked or free >= self._credit // 2):
                await self._ask(free, now)
            try:
                async with asyncio.timeout(self._expires + _LONG_AGO):
                    await self._wake.wait()
            except TimeoutError:
                pass  # look again

    async def _ask(self, count: int, now: float) -> None:
        self._pulls += 1
        self._asked += count
        self._over_at = now + self._expires
        body = b'{"batch":%d,"expires":%d}' % (count, int(self._expires * 1e9))
        await self._connection.publish(self._next, body, f"{self._inbox}.{self._pulls}")

    async def _received(self, message: Any) -> None:
        reply = message.reply
        if not reply.startswith("$JS.ACK."):
            self._status(message)
            return
        self._delivered += 1
        if self._asked > 0:
            self._asked -= 1
        if self._mine is not None and not self._mine(message.subject):
            await self._connection.publish(reply)
            self._wake.set()
            return
        parts = reply.split(".")
        # Servers with domains say two more things, before the name of the stream.
        at = 2 if len(parts) == 9 else 4
        number, attempt = int(parts[at + 3]), int(parts[at + 2])
        ledger = self._ledger
        ledger.unconfirmed.pop(number, None)
        ledger.held[number] = reply
        received = Received(
            channel=message.subject,
            body=message.data,
            headers=message.headers or NO_HEADERS,
            token=(ledger.epoch, number, reply),
            session=self._session,
            message_id=f"{self.found.name}:{number}",
            attempt=attempt,
            redelivered=attempt > 1,
            first_at=int(parts[at + 5]) / 1e9,
        )
        if not self._inlet.offer(received):
            await self._inlet.put(received)

    def _status(self, message: Any) -> None:
        """What the server says about a request of ours."""
        headers = message.headers or NO_HEADERS
        status, text = headers.get("Status", ""), headers.get("Description", "")
        self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", 0)))
        name = f"the consumer {self.found.durable} of the stream {self.found.name}"
        if status == "503":
            self._gone = BrokerAway(f"{name} is not there any more")
        elif status == "409" and "exceeded" not in text.lower():
            self._gone = BrokerAway(f"{name}: {text or 'conflict'}")
        elif status == "409":
            self._asked = 0
            return  # too many ask: `pull` looks again when it would have been answered
        self._wake.set()

    # -- settling ---------------------------------------------------------------------

    async def settle(self, burst: list[Outgoing]) -> None:
        """Acknowledge what is finished, give back what is not."""
        ledger = self._ledger
        due: list[tuple[int, str, bytes]] = []
        for outgoing in burst:
            token = outgoing.received.token
            if token is None or outgoing.verb == "item":
                continue
            epoch, number, reply = token
            if epoch != ledger.epoch:
                continue
            ledger.held.pop(number, None)
            if outgoing.verb == "back":
                due.append((number, reply, _given_back(outgoing.delay)))
            else:
                # Before anything is sent, so that nothing is lost with a connection.
                ledger.recent.append((number, reply))
                due.append((number, reply, b""))
                if self._options.confirm_acks:
                    ledger.unconfirmed[number] = reply
        publish, confirm = self._connection.publish, self._options.confirm_acks
        for number, reply, body in due:
            wanted = f"{self._confirmations}.{number}" if confirm and not body else ""
            await publish(reply, body, wanted)
        if due:
            self._wake.set()

    async def _confirmed(self, message: Any) -> None:
        self._ledger.unconfirmed.pop(int(message.subject.rpartition(".")[2]), None)
        self._wake.set()

    # -- watching ---------------------------------------------------------------------

    async def keep(self) -> None:
        """Tell the server that what is in hand is in hand."""
        while True:
            await asyncio.sleep(self._options.ack_wait / 3)
            await self._in_progress()

    async def _in_progress(self) -> None:
        publish = self._connection.publish
        for reply in list(self._ledger.held.values()):
            await publish(reply, _PROGRESS)
        for number, reply in list(self._ledger.unconfirmed.items()):
            await publish(reply, b"", f"{self._confirmations}.{number}")

    async def look(self) -> None:
        """See now and then whether the consumer is still there and gives what it has."""
        silent = 0
        found = self.found
        stuck = math.inf  # since when messages wait and none comes
        # A request that got lost is repeated first: see `pull`.
        patience = self._expires + _LONG_AGO
        while not self._stopped:
            delivered = self._delivered
            await asyncio.sleep(self._options.heartbeat)
            try:
                info = await found.js.consumer_info(found.name, found.durable)
            except NotFoundError as error:
                why = f"the consumer {found.durable} of the stream {found.name} was deleted"
                raise BrokerAway(why) from error
            except (Error, TimeoutError) as error:
                silent += 1
                if silent > 1:
                    raise BrokerAway("JetStream does not answer") from error
                continue
            silent = 0
            self._memory.floor = info.ack_floor.stream_seq if info.ack_floor else 0
            full = (info.num_ack_pending or 0) >= self._options.most_unacknowledged
            waits = bool(info.num_pending) and bool(self._asked) and not full
            now = time.monotonic()
            stuck = min(stuck, now) if waits and delivered == self._delivered else math.inf
            if now > stuck + patience and not self._stopped:
                raise BrokerAway(
                    f"{info.num_pending} messages wait in the stream {found.name}, and none comes"
                )


def _given_back(delay: float) -> bytes:
    return _NAK if delay <= 0 else b'%b {"delay":%d}' % (_NAK, int(delay * 1e9))


def _matcher(subjects: list[str]) -> Callable[[str], bool]:
    """Whether a subject is one that these stand for."""
    exact = frozenset(each for each in subjects if not is_wildcard(each))
    wild: Wildcards[bool] = Wildcards()
    for each in subjects:
        if is_wildcard(each):
            wild.add(each, True)
    return lambda subject: subject in exact or bool(wild.matching(subject))
