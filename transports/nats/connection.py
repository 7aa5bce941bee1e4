"""One connection to NATS: how nats-py is set up, and what its errors mean.

nats-py would reconnect by itself; it is told not to, because sessions do that for all
brokers alike. A message whose subject is not UTF-8 ends its reader without a word, and a
peer that freezes says nothing either, so the connection is tried every few seconds.
"""

import asyncio
import ssl
from typing import Any
from urllib.parse import unquote

from ...actors.errors import DeclarationError
from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused
from ..options import parse_url, shown
from .options import NatsClientOptions, NatsOptions, servers

try:
    import nats
    from nats.aio.client import Client as Connection
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

__all__ = ["Connection", "Error", "connect", "meaning", "watch"]

_REFUSED = (
    AuthorizationError,
    InvalidUserCredentialsError,
    SecureConnRequiredError,
    SecureConnWantedError,
    ssl.SSLError,
)


async def connect(
    url: str, options: NatsOptions | NatsClientOptions, name: str, lose: Any, troubled: Any
) -> Connection:
    """Connect. `lose(error)` is called once it ends by itself, `troubled(text)` on lesser errors.

    Raises `BrokerAway` or `BrokerRefused`.
    """
    parts = parse_url(url)
    last: list[Exception] = []

    async def failed(error: Exception) -> None:
        last.append(error)
        troubled(str(error) or type(error).__name__)

    async def closed() -> None:
        why = last[-1] if last else None
        lose(meaning(why) if why is not None else BrokerAway("the server closed the connection"))

    login: dict[str, Any] = {}
    if parts.username and parts.password:
        login = {"user": unquote(parts.username), "password": unquote(parts.password)}
    elif parts.username:
        login = {"token": unquote(parts.username)}
    if options.credentials:
        login["user_credentials"] = options.credentials
    if options.nkey:
        login["nkeys_seed"] = options.nkey
    try:
        return await nats.connect(
            servers(url, options.servers),
            name=name,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of each server, in the first round
            reconnect_time_wait=0,
            connect_timeout=options.connect_timeout,
            ping_interval=options.heartbeat,
            max_outstanding_pings=1,
            error_cb=failed,
            closed_cb=closed,
            tls=tls_context(options, shown(url), wanted=parts.scheme == "tls"),
            tls_hostname=parts.hostname if parts.scheme == "tls" else None,
            **login,
        )
    except (Error, OSError, TimeoutError, ssl.SSLError) as error:
        raise meaning(last[-1] if last and isinstance(error, NoServersError) else error) from error


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
    return BrokerAway(text.removeprefix("nats: "))
