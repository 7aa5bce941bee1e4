"""How Redis is found and logged into: one server, sentinels, or a cluster; and its errors.

Each connection is made from nothing, so that a master that has moved is found where it is
now; redis-py's own ways to find it keep pools and try again by themselves.
Source: the specifications of Redis' sentinel clients, its cluster, and HELLO.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused
from ..options import parse_url, shown
from .library import Connection, RedisError, RedisTimeout, ReplyError, broken, unconnected
from .link import Link
from .options import (
    Address,
    RedisClientOptions,
    RedisOptions,
    addresses,
    database,
    slot_of,
    streams_of,
)

__all__ = ["connect", "meaning", "ping", "watch"]

Lose = Callable[[BaseException], object]
Pushed = Callable[[list[Any]], object]

_REFUSED: Final = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "DENIED",
    "WRONGTYPE",
    "ERR DB",
    "ERR invalid DB",
    "ERR This instance has cluster support disabled",
)
_OLD: Final = "this server is too old: it must be Redis 6.2 or newer, or Valkey"


async def connect(
    url: str,
    options: RedisOptions | RedisClientOptions,
    name: str,
    lose: Lose,
    pushed: Pushed,
) -> Link:
    """Connect to who is in charge of what the options name, and log in.

    Raises `BrokerAway` or `BrokerRefused`.
    """
    dial = _Dial(url, options, name)
    failures: list[BrokerAway] = []
    for address in addresses(url, options.servers):
        try:
            if options.sentinel:
                found = await dial.master(address)
            elif options.cluster:
                found = await dial.node(address)
            else:
                found = address
            link = await dial.login(found, pushed)
            link.lose = lose
            return link
        except BrokerRefused:
            raise
        except BrokerAway as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise BrokerAway("; ".join(dict.fromkeys(error.why for error in failures)))


async def watch(link: Link, every: float, *, master: bool) -> None:
    """Ask for a sign of life again and again; raises `BrokerAway` when none comes.

    Of a `master` that sentinels named it is asked whether it still is one.
    """
    while True:
        await asyncio.sleep(every)
        await (_check_master if master else ping)(link, every)


async def ping(link: Link, within: float) -> None:
    """Returns when all that was sent before has been taken. Raises `BrokerAway`."""
    try:
        await link.call("PING", within=within)
    except ReplyError as error:
        raise meaning(error) from error


def meaning(error: BaseException) -> BrokerAway:
    """What an error of Redis or of the network means for a session."""
    if isinstance(error, BrokerAway):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, ReplyError):
        if text.startswith("READONLY"):
            return BrokerAway(f"the server is a read-only replica, not the master ({text})")
        if text.startswith(("MOVED", "ASK")):
            return BrokerAway(
                f"another node of the cluster has the stream; cluster=true finds it ({text})"
            )
        if text.startswith("ERR unknown command"):
            return BrokerRefused(f"{_OLD} ({text})")
        refused = text.startswith(_REFUSED)
        return (BrokerRefused if refused else BrokerAway)(f"the server refused: {text}")
    if isinstance(error, RedisError):
        reason = error.__cause__ or error.__context__
        return meaning(reason) if isinstance(reason, OSError) else broken(error)
    if isinstance(error, ssl.SSLError):
        return BrokerRefused(f"TLS failed: {getattr(error, 'verify_message', '') or text}")
    if isinstance(error, ConnectionRefusedError):
        return BrokerAway("connection refused: nothing listens there")
    return BrokerAway(text)


class _Dial:
    """How to make one connection."""

    def __init__(self, url: str, options: RedisOptions | RedisClientOptions, name: str) -> None:
        parts = parse_url(url)
        self.options = options
        self.name = (
            "".join(c if c.isprintable() and c != " " else "-" for c in name) or "understudy"
        )
        # A session gives all of it `connect_timeout`: one silent address must leave some.
        tried = len(addresses(url, options.servers))
        self.within = options.connect_timeout * 0.8 / tried
        self.database = database(url)
        self.user = unquote(parts.username or "") or "default"
        self.password = unquote(parts.password or "")
        self.tls = tls_context(options, shown(url), wanted=parts.scheme == "rediss")

    async def open(self, address: Address, pushed: Pushed, *, login: bool = False) -> Link:
        """A connection where nothing is said yet but the login, if it is wanted."""
        link = Link(pushed)
        try:
            await link.open(self._connection(address, link, login=login), self.within)
        except (TimeoutError, RedisTimeout) as error:
            text = f"no connection to {_text(address)} within {self.within:g} s"
            if self.tls:
                text += "; perhaps that port does not speak TLS"
            raise BrokerAway(text) from error
        except RedisError as error:
            raise meaning(error) from error
        return link

    def _connection(self, address: Address, link: Link, *, login: bool) -> Connection:
        host, port = address
        with_password = login and self.password
        return unconnected(
            host,
            port,
            connected=link.connected,
            within=self.within,
            tls=self.tls,
            database=self.database if login else 0,
            user=self.user if with_password else None,
            password=self.password if with_password else None,
        )

    async def login(self, address: Address, pushed: Pushed) -> Link:
        """A connection to a server that serves us."""
        link = await self.open(address, pushed, login=True)
        try:
            # redis-py keeps the answer to its own HELLO, and names us with one more right.
            said = await link.call("HELLO", 3, "SETNAME", self.name, within=self.within)
            link.id = said[b"id"]
            if self.options.sentinel:
                await _check_master(link, self.within)
        except ReplyError as error:
            refused = meaning(error)
            link.end(refused)
            raise refused from error
        except BaseException:
            link.end(BrokerAway("given up"))
            raise
        return link

    async def master(self, sentinel: Address) -> Address:
        """Where a sentinel says that the master is."""
        name = self.options.sentinel
        found = await self._asked(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        if not found:
            raise BrokerAway(f"the sentinel at {_text(sentinel)} knows no master {name!r}")
        return found[0].decode(), int(found[1])

    async def node(self, any_node: Address) -> Address:
        """The node of a cluster that has our streams; any of them is good for channels."""
        streams = streams_of(self.options.stream)
        if not streams:
            return any_node
        slot = slot_of(streams[0])
        for begin, end, main, *_ in await self._asked(any_node, "CLUSTER", "SLOTS", login=True):
            if begin <= slot <= end:
                return (main[0] or b"").decode() or any_node[0], int(main[1])
        raise BrokerAway(f"no node of the cluster serves the slot {slot} of {streams[0]!r} now")

    async def _asked(self, address: Address, *command: str, login: bool = False) -> Any:
        open = self.login if login else self.open
        link = await open(address, _nothing)
        try:
            return await link.call(*command, within=self.within)
        except ReplyError as error:
            raise meaning(error) from error
        finally:
            link.end(BrokerAway("asked"))


async def _check_master(link: Link, within: float) -> None:
    try:
        role = (await link.call("ROLE", within=within))[0]
    except ReplyError as error:
        raise meaning(error) from error
    if role != b"master":
        raise BrokerAway("this server is no longer the master; its sentinels are asked again")


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _nothing(_: Any) -> None:
    """Who asks one question need not hear of anything else."""
