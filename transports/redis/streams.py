"""The streams of a Redis bridge: entries are read for a group, and acknowledged when handled.

Promise: at least once. An entry belongs to a consumer from when it is read until it is
acknowledged. Those of a consumer that died are found by their idle time and taken over,
and those of this one at its start; long handlers' entries are kept from looking idle.

Redis counts how often an entry was given to somebody; reading it first counts as one.
Nothing is given back there: who does not want an entry makes it look abandoned.

Invariant: one task reads and claims, so that never more than `in_flight` are held.
Source: Redis' documentation of XREADGROUP, XPENDING, XCLAIM and XACK.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from ...actors.asyncio_queues import Inlet
from ..broker.message import NO_HEADERS, Received
from .connection import meaning
from .ledger import Ledger, Place
from .link import Command, Link, ReplyError
from .options import RedisOptions, streams_of

__all__ = ["IDENTITY", "PACKET", "Streams", "channel_of"]

PACKET: Final = "packet"
"""The field with the message: NestJS's JSON packet of an event."""

IDENTITY: Final = "id"
"""The field that is the same in all entries of one message; its sender may have retried."""

BLOCK: Final = 1000
"""Milliseconds that a read waits at the server."""

_MOMENT: Final = 0.005
"""Seconds without anything settled after which what credit there is has to do."""

_DASH: Final = ord("-")

_CHUNK: Final = 500
"""Entries that one command names at most."""

_PACKET, _IDENTITY = PACKET.encode(), IDENTITY.encode()

Say = Callable[[str, str], object]


def channel_of(stream: str) -> str:
    """What stands for a stream where others have a channel."""
    return f"stream:{stream}"


class Streams:
    """One session's way to its streams. `link` is for commands, `reading` waits for entries."""

    def __init__(
        self,
        link: Link,
        reading: Link,
        options: RedisOptions,
        consumer: str,
        ledger: Ledger,
        inlet: Inlet[Received],
        number: int,
        say: Say,
    ) -> None:
        self.names = streams_of(options.stream)
        self._link, self._reading = link, reading
        self._options = options
        self._group, self._consumer = options.group, consumer
        self._ledger = ledger
        self._inlet = inlet
        self._number = number
        self._say = say
        self._within = options.heartbeat
        self._stopping = False
        self._turn = 0
        self._room = asyncio.Event()

    async def begin(self) -> None:
        """Have the groups there, and pay what is owed since an earlier session."""
        for stream in self.names:
            await self._make_group(stream)
        self.acknowledge(list(self._ledger.owed))

    async def read(self) -> None:
        """Read until told to stop; first what an earlier process of ours left behind."""
        loop = asyncio.get_running_loop()
        for stream in self.names:
            await self._remade(self._take_over, stream, 0.0, self._consumer)
        due = loop.time()
        while not self._stopping:
            if loop.time() >= due:
                for stream in self.names:
                    await self._remade(self._take_over, stream, self._options.claim_after, "")
                due = loop.time() + self._options.claim_after / 3
            await self._credit()
            await self._remade(self._read_some)

    async def keep(self) -> None:
        """Again and again: what is in hand is not abandoned, however long it takes."""
        while True:
            await asyncio.sleep(self._options.claim_after / 3)
            for stream in self.names:
                held = sorted(self._ledger.held_of(stream), key=_order)
                for begin in range(0, len(held), _CHUNK):
                    await self._remade(self._refresh, stream, held[begin : begin + _CHUNK])

    async def stop(self) -> None:
        """Let the reader end soon, if it waits at the server."""
        self._stopping = True
        self._room.set()
        with suppress(ReplyError):  # without the right to do that it ends after BLOCK
            await self._link.call("CLIENT", "UNBLOCK", self._reading.id, within=self._within)

    # -- settling -------------------------------------------------------------------

    def acknowledge(self, places: Iterable[Place]) -> None:
        """Send what is owed. It stays owed until the reply."""
        commands = []
        for stream, ids in _by_stream(places).items():
            for begin in range(0, len(ids), _CHUNK):
                some = ids[begin : begin + _CHUNK]
                paid = [(stream, id) for id in some]
                command: Command = ("XACK", stream, self._group, *some)
                commands.append((command, self._paid(paid)))
        if commands:
            self._link.send(commands)

    def give_back(self, places: Sequence[Place], delay: float) -> None:
        """Make entries look abandoned in `delay` seconds."""
        self._room.set()
        idle = max(0, round((self._options.claim_after - delay) * 1000))
        commands = []
        for stream, ids in _by_stream(places).items():
            claim = ("XCLAIM", stream, self._group, self._consumer, 0)
            command: Command = (*claim, *ids, "IDLE", idle, "JUSTID")
            commands.append((command, self._failed))
        if commands:
            self._link.send(commands)

    def settled(self) -> None:
        """There is less in hand than before."""
        self._room.set()

    def _paid(self, places: list[Place]) -> Callable[[Any], object]:
        def then(reply: Any) -> None:
            if isinstance(reply, ReplyError):
                self._failed(reply)
            else:
                self._ledger.confirmed(places)

        return then

    def _failed(self, reply: Any) -> None:
        if isinstance(reply, ReplyError) and not _is_gone(reply):
            self._link.end(meaning(reply))

    # -- reading --------------------------------------------------------------------

    @property
    def _free(self) -> int:
        return self._options.in_flight - len(self._ledger.held)

    async def _credit(self) -> int:
        """How many entries may be read; waits until it is one, 0 for none any more."""
        half = max(1, self._options.in_flight // 2)
        while self._free < half and not self._stopping:
            self._room.clear()
            # A read costs the same for few entries: more may be settled in a moment.
            try:
                async with asyncio.timeout(_MOMENT if self._free > 0 else None):
                    await self._room.wait()
            except TimeoutError:
                break
        return 0 if self._stopping else self._free

    async def _read_some(self) -> None:
        credit = self._free
        if self._stopping or credit <= 0:
            return
        # Each stream may give COUNT of them; with little credit they take turns.
        self._turn += 1
        turn = self._turn % len(self.names)
        names = (self.names[turn:] + self.names[:turn])[:credit]
        count = credit // len(names)
        reader = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count)
        within = BLOCK / 1000 + self._within
        command: Command = (*reader, "BLOCK", BLOCK, "STREAMS", *names, *(">" for _ in names))
        found = await self._reading.call(*command, within=within)
        held, owed, take = self._ledger.held, self._ledger.owed, self._ledger.take
        offer, number = self._inlet.offer, self._number
        for stream, entries in (found or {}).items():
            name = stream.decode()
            channel, before = channel_of(name), f"{name}:"
            for id, fields in entries:
                if len(fields) != 2 or fields[0] != _PACKET:
                    await self._deliver(name, id, fields, 1)
                    continue
                # As a rule an entry is a packet and nothing else: `_deliver`, in place.
                place, known = (name, id), before + id.decode()
                if place in held or place in owed:
                    continue
                received = Received(channel, fields[1], "", take(place, known), number)
                received.message_id = known
                received.first_at = (
                    int(id[:-2] if id[-2] == _DASH else id.partition(b"-")[0]) / 1000
                )
                if not offer(received):
                    await self._put(place, received)

    async def _take_over(self, stream: str, idle: float, of: str) -> None:
        """Claim what is idle for so long, or all of one consumer's, as credit allows."""
        start = "-"
        wanted = ("IDLE", round(idle * 1000)) if idle else ()
        while True:
            credit = min(await self._credit(), _CHUNK)
            if not credit:
                return
            command: Command = ("XPENDING", stream, self._group, *wanted, start, "+", credit)
            rows = await self._call(*command, *((of,) if of else ()))
            if not rows:
                return
            start = f"({rows[-1][0].decode()}"
            counts = {id: count for id, _, _, count in rows if (stream, id) not in self._ledger}
            if counts:
                await self._claim(stream, round(idle * 1000), counts)

    async def _claim(self, stream: str, idle: int, counts: dict[bytes, int]) -> None:
        claim = ("XCLAIM", stream, self._group, self._consumer, idle)
        claimed = await self._call(*claim, *counts)
        missing = set(counts)
        for entry in claimed:
            if entry is not None and entry[1] is not None:
                missing.discard(entry[0])
                await self._deliver(stream, entry[0], entry[1], counts[entry[0]] + 1)
        for id in sorted(missing):
            if not await self._call("XRANGE", stream, id, id):
                await self._call("XACK", stream, self._group, id)
                text = f"the entry {id.decode()} of {stream} was trimmed or deleted unhandled"
                self._say("entries that are lost", text)

    async def _deliver(self, stream: str, id: bytes, fields: list[bytes], attempt: int) -> None:
        place = (stream, id)
        if place in self._ledger:
            return
        received = _received(stream, id, fields, attempt, self._number)
        received.token = self._ledger.take(place, received.message_id)
        await self._put(place, received)

    async def _put(self, place: Place, received: Received) -> None:
        handed = False
        try:
            handed = self._inlet.offer(received) or await self._inlet.put(received)
        finally:
            if not handed:
                self._ledger.drop(place)

    async def _refresh(self, stream: str, ids: list[bytes]) -> None:
        """Reset the idle time of what is still ours."""
        mine = ("XPENDING", stream, self._group, ids[0], ids[-1])
        rows = await self._call(*mine, 8 * self._options.in_flight + _CHUNK, self._consumer)
        known = {row[0] for row in rows}
        ours = [id for id in ids if id in known]
        if ours:
            claim = ("XCLAIM", stream, self._group, self._consumer, 0)
            await self._call(*claim, *ours, "JUSTID")
        held = set(self._ledger.held_of(stream))
        if lost := sum(1 for id in ids if id in held and id not in known):
            text = f"{lost} entries of {stream} in hand here are no longer this consumer's"
            self._say("entries that others took over", text)

    # -- groups ---------------------------------------------------------------------

    async def _make_group(self, stream: str) -> bool:
        """Whether the group had to be made, and the stream with it."""
        try:
            await self._call("XPENDING", stream, self._group)
        except ReplyError as error:
            if not _is_gone(error):
                raise meaning(error) from error
            try:
                await self._call("XGROUP", "CREATE", stream, self._group, "0", "MKSTREAM")
            except ReplyError as failed:
                if not str(failed).startswith("BUSYGROUP"):
                    raise meaning(failed) from failed
            return True
        return False

    async def _remade(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call it; what was deleted at the server is made again, and said."""
        try:
            await function(*arguments)
        except ReplyError as error:
            if not _is_gone(error):
                raise meaning(error) from error
            for stream in self.names:
                if await self._make_group(stream):
                    text = f"the stream {stream} or its group {self._group} was deleted"
                    self._say("streams that were deleted", f"{text}; it is made again, from 0")

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._link.call(*command, within=self._within)


def _is_gone(error: ReplyError) -> bool:
    return str(error).startswith(("NOGROUP", "UNBLOCKED"))


def _by_stream(places: Iterable[Place]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for stream, id in places:
        found.setdefault(stream, []).append(id)
    return found


def _order(id: bytes) -> tuple[int, int]:
    time, _, count = id.partition(b"-")
    return int(time), int(count)


def _received(stream: str, id: bytes, fields: list[bytes], attempt: int, number: int) -> Received:
    body, identity = b"", id.decode()
    headers: dict[str, str] = {}
    for at in range(0, len(fields), 2):
        name, value = fields[at], fields[at + 1]
        if name == _PACKET:
            body = value
        elif name == _IDENTITY:
            identity = value.decode(errors="replace") or identity
        else:
            headers[name.decode(errors="replace")] = value.decode(errors="replace")
    if not body:  # another program's entry: all of it is kept, as a dead letter
        body = msgspec.json.encode(headers)
    return Received(
        channel=channel_of(stream),
        body=body,
        headers=headers or NO_HEADERS,
        session=number,
        message_id=f"{stream}:{identity}",
        attempt=attempt,
        redelivered=attempt > 1,
        first_at=_order(id)[0] / 1000,
    )
