"""How aiokafka is set up, ended, and what its errors mean.

aiokafka has one client for reading, one for writing and one for administration, each with
connections and tasks of its own. It tells nobody why it cannot connect, so a connection is
tried first by itself. Ending one waits for the broker; one that does not answer is left,
and what aiokafka would leave behind then is ended here.
"""

import asyncio
import inspect
import logging
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

from ...actors.errors import DeclarationError
from ..broker.options import tls_context
from ..broker.session import BrokerAway, BrokerRefused, is_cancelled
from ..options import parse_url, shown
from .options import ConnectionOptions, Token, servers

try:
    import aiokafka
    from aiokafka import errors
    from aiokafka.abc import AbstractTokenProvider
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.conn import create_conn
    from aiokafka.protocol.metadata import MetadataRequest
except ImportError as error:
    raise DeclarationError(
        "kafka:// needs aiokafka, which is not installed: pip install 'understudy[kafka]'"
    ) from error

__all__ = ["Library", "begin", "end", "ends_within", "errors", "meaning", "meant"]

_REFUSED: Final = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    ssl.SSLError,
)

_ENDING: Final = 1.0
"""Seconds that an orderly end may take."""

_WAIT: Final = 100
"""Milliseconds that a read waits at the broker for records."""

_FRESH: Final = 30.0
"""Seconds after which what is known of topics is asked for again."""


_log: Final = logging.getLogger("aiokafka")
if _log.level == logging.NOTSET:
    # While a broker is away it says so ten times a second; what matters is said by sessions.
    _log.setLevel(logging.CRITICAL)


class Library:
    """aiokafka with the settings of one bridge or client."""

    def __init__(self, url: str, options: ConnectionOptions, name: str) -> None:
        self.options = options
        self._where = shown(url)
        self._servers = servers(url, options.servers)
        parts = parse_url(url)
        context = tls_context(options, self._where, wanted=parts.scheme == "kafkas")
        self._security: dict[str, Any] = {
            "client_id": name,
            "ssl_context": context,
            "request_timeout_ms": round(1000 * max(options.heartbeat * 2, options.connect_timeout)),
            **_login(parts.username, parts.password, options, tls=context is not None),
        }
        self._common: dict[str, Any] = {
            **self._security,
            "metadata_max_age_ms": round(1000 * _FRESH),
        }

    async def reach(self) -> None:
        """Find out who of the servers answers; those are the ones to begin with from now on.

        Raises `BrokerAway` or `BrokerRefused`: the latter only if every server refused.
        """
        failures: list[BrokerAway] = []
        for host, port in list(self._servers):
            patience = self.options.connect_timeout * 0.6 / len(self._servers)
            try:
                async with asyncio.timeout(patience):
                    await self._try(host, port)
            except (OSError, TimeoutError, errors.KafkaError, BrokerAway) as error:
                failures.append(meaning(error))
                self._servers.append(self._servers.pop(0))
            else:
                break
        else:
            kinds = [error for error in failures if not isinstance(error, BrokerRefused)]
            raise (kinds or failures)[-1]
        self._common["bootstrap_servers"] = [f"{host}:{port}" for host, port in self._servers]

    async def _try(self, host: str, port: int) -> None:
        connection = await create_conn(host, port, **self._security)
        by_token = self.options.token is not None
        refused = BrokerRefused("the broker refused the connection: not with this token")
        try:
            answer: Any = await connection.send(MetadataRequest([]))
        except errors.KafkaConnectionError:
            # What the broker says of a token, aiokafka does not read: this is what is left of it.
            raise refused if by_token else BrokerAway("the broker ended the connection") from None
        finally:
            connection.close()
        if not answer.brokers:
            # It is just starting, and aiokafka would ask it for ever.
            not_ready = BrokerAway("the broker is not ready yet")
            raise refused if by_token and not answer.cluster_id else not_ready

    def producer(self) -> Any:
        """One that every replica in sync has to confirm to, and that writes nothing twice."""
        options = self.options
        try:
            return aiokafka.AIOKafkaProducer(
                acks="all",
                enable_idempotence=True,
                compression_type=options.compression or None,
                max_request_size=options.message_limit,
                max_batch_size=min(options.message_limit, 512 * 1024),
                **self._common,
            )
        except RuntimeError as error:  # of a compression whose library is not there
            raise BrokerRefused(f"{error}: pip install 'understudy[kafka]'") from error

    def consumer(self, **settings: Any) -> Any:
        # A connection answers one question after the other, so that others wait behind a read.
        settings = {"enable_auto_commit": False, "fetch_max_wait_ms": _WAIT, **settings}
        return aiokafka.AIOKafkaConsumer(**self._common, **settings)

    async def create(self, topics: Iterable[str]) -> list[str]:
        """Make topics that are missing, and say which were.

        Raises what aiokafka raises, or `BrokerAway`.
        """
        options = self.options
        missing = [
            NewTopic(
                name=topic,
                num_partitions=options.partitions or -1,
                replication_factor=options.replication or -1,
                # An empty assignment, for aiokafka to take -1 as the broker's own default.
                replica_assignments=None if options.partitions and options.replication else {},
            )
            for topic in topics
        ]
        if not missing:
            return []
        admin = AIOKafkaAdminClient(**self._common)
        try:
            await begin(admin.start)
            answer: Any = await admin.create_topics(missing)
        finally:
            await end(admin.close, admin)
        for topic, code, *_ in answer.topic_errors:
            kind = errors.for_code(code)
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise meaning(kind(f"the topic {topic} cannot be made"))
        return [topic for topic, code, *_ in answer.topic_errors if code == 0]


def _login(
    username: str | None, password: str | None, options: ConnectionOptions, *, tls: bool
) -> dict[str, Any]:
    sasl = options.sasl or ("PLAIN" if username else "")
    found: dict[str, Any] = {
        "security_protocol": ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")
    }
    if sasl:
        found["sasl_mechanism"] = sasl
    if options.token is not None:
        found["sasl_oauth_token_provider"] = _Tokens(options.token)
    elif sasl:
        found["sasl_plain_username"] = unquote(username or "")
        found["sasl_plain_password"] = unquote(password or "")
    return found


@AbstractTokenProvider.register
class _Tokens:
    """What aiokafka asks for tokens."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def token(self) -> str:
        found = self._token()
        return await found if inspect.isawaitable(found) else found


def meaning(error: BaseException) -> BrokerAway:
    """What an error of aiokafka or of the network means for a session."""
    if isinstance(error, BrokerAway):
        return error
    text = " ".join(str(each) for each in error.args) or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        return BrokerAway("connection refused: nothing listens there")
    if isinstance(error, _REFUSED):
        return BrokerRefused(f"the broker refused the connection: {text}")
    if isinstance(error, errors.KafkaConnectionError):
        return BrokerAway(f"{text} (perhaps it wants TLS or a login)")
    if isinstance(error, TimeoutError | errors.RequestTimedOutError):
        return BrokerAway("the broker does not answer")
    return BrokerAway(text)


async def meant(work: Any) -> Any:
    """The result of some work; what aiokafka raises is said as sessions say it."""
    try:
        return await work
    except (OSError, errors.KafkaError) as error:
        raise meaning(error) from error


async def ends_within(seconds: float, work: Any) -> Any:
    """The same for work that must not take longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except (OSError, TimeoutError, errors.KafkaError) as error:
        raise meaning(error) from error


async def begin(start: Any) -> None:
    """Start a consumer, producer or administrator.

    aiokafka loses its first connection when it is cancelled meanwhile: it is seen to its end.
    """
    task = asyncio.get_running_loop().create_task(start())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_ENDING)
        if not task.cancel() and not task.cancelled():
            task.exception()
        raise


async def end(stop: Any, thing: Any) -> None:
    """End a consumer, producer or administrator; one whose broker is silent is cut off."""
    try:
        async with asyncio.timeout(_ENDING):
            await stop()
    except (OSError, TimeoutError, errors.KafkaError):
        pass  # what could not be said is lost with it
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        # aiokafka cancels tasks of its own, and does not always expect that of them.
    finally:
        await _cut_off(thing)


async def _cut_off(thing: Any) -> None:
    """End the tasks and the connections that are still there, whatever they wait for."""
    thing._closed = True
    client = getattr(thing, "_client", None) or getattr(thing, "client", None)
    owners = [
        (getattr(thing, "_coordinator", None), "_coordination_task"),
        (getattr(thing, "_coordinator", None), "_heartbeat_task"),
        (getattr(thing, "_coordinator", None), "_commit_refresh_task"),
        (getattr(thing, "_coordinator", None), "_reset_committed_task"),
        (getattr(thing, "_fetcher", None), "_fetch_task"),
        (getattr(thing, "_sender", None), "_sender_task"),
        (client, "_sync_task"),
    ]
    tasks = [getattr(owner, name, None) for owner, name in owners]
    tasks += list(getattr(getattr(thing, "_fetcher", None), "_pending_tasks", ()))
    running = [task for task in tasks if isinstance(task, asyncio.Task) and not task.done()]
    accumulator = getattr(thing, "_message_accumulator", None)
    if accumulator is not None:
        pending = accumulator._pending_batches
        # Its own callback takes each of them out of there, those to be sent again as well.
        pending.update(each for some in accumulator._batches.values() for each in some)
        for batch in list(pending):
            batch.future.cancel()
        accumulator.reenqueue = lambda batch: None  # nothing is sent again
    _hang_up(client)
    for task in running:
        task.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(_ENDING / 4):
            await asyncio.gather(*running, return_exceptions=True)
    _hang_up(client)  # what one of them has opened meanwhile


def _hang_up(client: Any) -> None:
    for connection in list(getattr(client, "_conns", {}).values()):
        connection.close()
