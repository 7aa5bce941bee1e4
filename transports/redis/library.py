"""redis-py, as this transport uses it: one connection at a time, which does nothing by itself.

A connection of redis-py connects, logs in, packs and parses. None of its clients is around
it: they send a command again whose reply they missed, and subscribe again without a word
after they missed messages.

Not owned here: what is done with a connection (`link.py`), and who to connect to.
"""

import ssl
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final

from ...actors.errors import DeclarationError
from ..broker.session import BrokerAway

try:
    from hiredis import PushNotification, pack_command
    from redis.asyncio import Connection, SSLConnection
    from redis.asyncio.connection import DefaultParser
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import InvalidResponse, RedisError
    from redis.exceptions import ResponseError as ReplyError
    from redis.exceptions import TimeoutError as RedisTimeout
except ImportError as error:
    raise DeclarationError(
        "redis:// needs redis-py and hiredis, which are not installed: "
        "pip install 'understudy[redis]'"
    ) from error

__all__ = [
    "Connection",
    "PushNotification",
    "RedisConnectionError",
    "RedisError",
    "RedisTimeout",
    "ReplyError",
    "broken",
    "pack_command",
    "unconnected",
]

_READ: Final = 128 * 1024
"""Bytes taken from the socket at once, at most."""


class _Parser(DefaultParser):  # type: ignore[misc,valid-type]  # hiredis's, which is there
    """Replies as they are: errors in the server's own words, whatever they are about."""

    # Otherwise the errors of some replies were those of a broken connection.
    EXCEPTION_CLASSES: ClassVar[dict[str, Any]] = {}

    async def handle_push_response(self, response: Any, **_: Any) -> Any:
        # Otherwise each was formatted for a debug log, whether anybody reads that or not.
        return response


def unconnected(
    host: str,
    port: int,
    *,
    connected: Callable[[Connection], Coroutine[Any, Any, None]],
    within: float,
    tls: ssl.SSLContext | None = None,
    database: int = 0,
    user: str | None = None,
    password: str | None = None,
) -> Connection:
    """A connection that `connect` opens, and that calls `connected` to log in."""
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": database,
        "username": user,
        "password": password,
        "protocol": 3,
        # Whether and when to try again is for the session to say, and each command has its
        # own time for its reply.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "health_check_interval": 0,
        "socket_connect_timeout": within,
        "socket_keepalive": True,
        "socket_read_size": _READ,
        "parser_class": _Parser,
        "redis_connect_func": connected,
        "driver_info": None,  # it would need one more right
    }
    if tls is None:
        return Connection(**arguments)
    connection = SSLConnection(**arguments)
    connection.ssl_context.context = tls
    return connection


def broken(error: RedisError | OSError) -> BrokerAway:
    """What is to be said of a connection that broke."""
    if isinstance(error, InvalidResponse):
        return BrokerAway(f"what listens there does not speak Redis' protocol: {error}")
    reason = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    if isinstance(reason, OSError) and reason.errno:
        return BrokerAway(f"the connection broke: {reason}")
    if isinstance(reason, OSError) or str(error).startswith("Connection closed"):
        return BrokerAway("the server closed the connection")
    return BrokerAway(f"the connection broke: {error}")
