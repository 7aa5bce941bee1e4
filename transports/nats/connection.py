"""One connection to NATS: how nats-py is set up, and what its errors mean.

nats-py would reconnect by itself; it is told not to, because sessions do that for all
brokers alike. Of a cluster one server after the other is tried, the ones that servers told
of among them. A message whose subject is not UTF-8 ends nats-py's reader without a word,
so the reader is watched; a peer that freezes says nothing either, so it is asked for a
sign of life every few seconds.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final
from urllib.parse import unquote

import attrs

from ...actors.errors import DeclarationError
from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused, is_cancelled
from ..options import parse_url, shown
from .options import NatsClientOptions, NatsOptions, servers

try:
    from nats.aio.client import Client
    from nats.errors import (
        AuthorizationError,
        Error,
        InvalidUserCredentialsError,
        NoServersError,
        SecureConnRequiredError,
        SecureConnWantedError,
    )
except ImportError as error:
    raise DeclarationError(
        "nats:// needs nats-py, which is not installed: pip install 'understudy[nats]'"
    ) from error

__all__ = ["Connection", "Error", "Servers", "connect", "end", "guarded", "meaning", "watch"]

_DISCARDING: Final = 0.2

_ENDING: Final = 1.0
"""Seconds in which the server must have taken what there is to say to it."""

_REFUSED: Final = (
    AuthorizationError,
    InvalidUserCredentialsError,
    SecureConnRequiredError,
    SecureConnWantedError,
    ssl.SSLError,
)


class Connection(Client):
    """nats-py's, but for one thing: a cancellation while much waits to be sent is none to it."""

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        flushed = await super()._flush_pending(force_flush)
        if force_flush and is_cancelled():
            raise asyncio.CancelledError
        return flushed


@attrs.define
class Servers:
    """The servers of a cluster, the next one to try first; one for all sessions of an owner."""

    waiting: list[str]

    @classmethod
    def of(cls, url: str, more: str) -> "Servers":
        return cls(servers(url, more))

    def met(self, url: str, others: list[str]) -> None:
        """A connection to `url` is there, whose server knows of `others`."""
        self.waiting.remove(url)
        self.waiting.insert(0, url)
        self.waiting += [other for other in others if other not in self.waiting]

    def missed(self, url: str) -> None:
        """No connection to `url`: try the others before it again."""
        self.waiting.remove(url)
        self.waiting.append(url)


async def connect(
    url: str,
    options: NatsOptions | NatsClientOptions,
    known: Servers,
    name: str,
    lose: Callable[[BaseException], None],
    troubled: Callable[[str], None],
) -> Connection:
    """Connect. `lose(error)` is called once it ends by itself, `troubled(text)` on lesser errors.

    Raises `BrokerAway` or `BrokerRefused`: the latter only if every server refused.
    """
    failures: list[BrokerAway] = []
    for server in list(known.waiting):
        patience = options.connect_timeout / len(known.waiting)
        try:
            connection = await _connect(url, server, options, patience, name, lose, troubled)
        except BrokerAway as error:
            known.missed(server)
            failures.append(error)
        else:
            scheme = server.partition("://")[0]
            discovered = [f"{scheme}://{each.netloc}" for each in connection.discovered_servers]
            known.met(server, discovered)
            return connection
    kinds = [error for error in failures if not isinstance(error, BrokerRefused)]
    raise (kinds or failures)[-1]


async def _connect(
    url: str,
    server: str,
    options: NatsOptions | NatsClientOptions,
    patience: float,
    name: str,
    lose: Callable[[BaseException], None],
    troubled: Callable[[str], None],
) -> Connection:
    last: list[Exception] = []
    connection = Connection()
    live = False

    async def failed(error: Exception) -> None:
        last.append(error)
        del last[:-1]
        if not live:
            return
        if isinstance(error, Error | OSError | TimeoutError):
            troubled(str(error) or type(error).__name__)
        else:
            lose(error)  # a fault of our own, raised by a callback

    async def closed() -> None:
        if live:
            why = last[-1] if last else None
            lose(meaning(why) if why else BrokerAway("the server closed the connection"))

    parts = parse_url(url)
    try:
        await connection.connect(
            [server],
            name=name,
            allow_reconnect=False,
            # With none it would try for ever, with a pause of two seconds.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=patience,  # type: ignore[arg-type]  # seconds as they are
            ping_interval=options.heartbeat,  # type: ignore[arg-type]  # likewise
            max_outstanding_pings=1,
            error_cb=failed,
            closed_cb=closed,
            tls=tls_context(options, shown(url), wanted=server.startswith("tls://")),
            tls_hostname=parse_url(server).hostname if server.startswith("tls://") else None,
            **_login(parts.username, parts.password, options),
        )
    except BaseException as error:
        with suppress(Exception):  # of a connection that never was: `error` says why
            await end(connection, _DISCARDING)
        if isinstance(error, Error | OSError | TimeoutError):
            cause = last[-1] if last and isinstance(error, NoServersError) else error
            raise meaning(cause) from error
        raise
    live = True
    _watch_reader(connection, lose)
    return connection


async def end(connection: Connection, within: float = _ENDING) -> None:
    """Close a connection; one whose server takes nothing more is cut off."""
    try:
        async with asyncio.timeout(within):
            await connection.close()
    except (Error, OSError, TimeoutError):
        pass  # what could not be said is lost with it
    finally:
        # A closed one has closed it already. nats-py would wait for a frozen server for ever.
        writer = getattr(getattr(connection, "_transport", None), "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def _login(
    username: str | None, password: str | None, options: NatsOptions | NatsClientOptions
) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if username and password:
        login = {"user": unquote(username), "password": unquote(password)}
    elif username:
        login = {"token": unquote(username)}
    if options.credentials:
        login["user_credentials"] = options.credentials
    if options.nkey:
        login["nkeys_seed"] = options.nkey
    return login


def _watch_reader(connection: Connection, lose: Callable[[BaseException], None]) -> None:
    """Notice at once that nothing is read any more; without this attribute, by `watch`."""
    reader = getattr(connection, "_reading_task", None)

    def ended(_: object) -> None:
        if not connection.is_closed:
            why = "nats-py stopped reading, as it does for a message whose subject is not UTF-8"
            lose(BrokerAway(why))

    if isinstance(reader, asyncio.Task):
        reader.add_done_callback(ended)


def guarded(
    lose: Callable[[BaseException], None], callback: Callable[..., Awaitable[None]]
) -> Callable[..., Awaitable[None]]:
    """The callback; what it raises ends the session, where nats-py would go on."""

    @wraps(callback)
    async def call(*arguments: Any) -> None:
        try:
            await callback(*arguments)
        except Exception as error:  # noqa: BLE001  # it is raised by the session
            lose(meaning(error) if isinstance(error, Error | OSError) else error)

    return call


async def watch(connection: Connection, every: float) -> None:
    """Ask the server for a sign of life again and again; raises `BrokerAway` when none comes."""
    while True:
        await asyncio.sleep(every)
        try:
            await connection.flush(timeout=every)  # type: ignore[arg-type]  # seconds as they are
        except (Error, OSError, TimeoutError) as error:
            raise meaning(error) from error


def meaning(error: BaseException) -> BrokerAway:
    """What an error of nats-py or of the network means for a session."""
    if isinstance(error, BrokerAway):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        return BrokerAway("connection refused: nothing listens there")
    if isinstance(error, _REFUSED) or "authorization" in text.lower():
        return BrokerRefused(f"the server refused the connection: {text}")
    if isinstance(error, TimeoutError):
        return BrokerAway("the server does not answer")
    return BrokerAway(text.removeprefix("nats: "))
