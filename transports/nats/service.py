"""NATS's service protocol: what a bridge answers to `nats micro ls`, `info` and `stats`.

Endpoints are the patterns of requests. How often one was asked, nats-py counts for each
subscription anyhow; how long an answer takes is measured for one request at a time, which
costs the others nothing: the average is one of samples, and the total is made of it.

Source: ADR-32 of NATS (service API, v1), as `nats.micro` of nats-py 2.16 reads it.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from ...actors.encoding import encode
from .connection import Connection, guarded

__all__ = ["Endpoint", "Service"]

_TYPE: Final = "io.nats.micro.v1.{}_response"
_FAILURES: Final = (b'{"err"', b'{"ok":false')
_MEASURED: Final = 30 * 10**9
_ODD: Final = re.compile(r"[^A-Za-z0-9_-]+")


class Endpoint:
    """One subject, and what is known of its requests."""

    __slots__ = ("_before", "_began", "errors", "samples", "spent", "subject", "subscription")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.subscription: Any = None
        self.errors = 0
        self.samples = self.spent = 0
        self._began = self._before = 0

    def follows(self, subscription: Any) -> None:
        """Count what comes on this subscription from now on, too."""
        self._before = self.requests
        self.subscription = subscription

    @property
    def requests(self) -> int:
        return self._before + getattr(self.subscription, "_received", 0)

    def begins(self) -> None:
        self._began = time.perf_counter_ns()

    def is_measuring(self) -> bool:
        """Whether the answer may still come: an event has none, nor has a caller who left."""
        return time.perf_counter_ns() - self._began < _MEASURED

    def ended(self) -> None:
        self.samples += 1
        self.spent += time.perf_counter_ns() - self._began

    @property
    def average(self) -> int:
        """Nanoseconds from a request's coming to its answer's leaving."""
        return self.spent // self.samples if self.samples else 0


class Service:
    """One instance of a service, from the start of its bridge to its end.

    Without a name it answers nothing.
    """

    def __init__(self, name: str, version: str, queue: str) -> None:
        self.name, self.version, self.queue = name, version, queue
        self.id = ""
        self.started = datetime.now(UTC)
        self._endpoints: dict[str, Endpoint] = {}
        self._served: list[str] = []

    def at(self, subject: str) -> Endpoint:
        """The endpoint of a subject, which keeps its numbers as long as the service lives."""
        return self._endpoints.setdefault(subject, Endpoint(subject))

    def serves(self, subjects: list[str]) -> None:
        """These are the subjects of requests."""
        self._served = subjects

    def is_failure(self, body: bytes) -> bool:
        return body.startswith(_FAILURES)

    def failed(self, subject: str) -> None:
        self.at(subject).errors += 1

    async def answer_on(
        self, connection: Connection, lose: Callable[[BaseException], None]
    ) -> None:
        """Answer on this connection, for everybody and for who asks this one by name or id."""
        self.id = self.id or connection.new_inbox().rpartition(".")[2]
        for verb, describe in (("PING", self.ping), ("INFO", self.info), ("STATS", self.stats)):
            take = guarded(lose, partial(_answer, connection, describe))
            for place in ("", f".{self.name}", f".{self.name}.{self.id}"):
                await connection.subscribe(f"$SRV.{verb}{place}", cb=take)

    def ping(self) -> dict[str, Any]:
        return {
            "type": _TYPE.format("ping"),
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "metadata": {},
        }

    def info(self) -> dict[str, Any]:
        endpoints = [{**_named(each, self.queue), "metadata": {}} for each in self._served]
        return {
            **self.ping(),
            "type": _TYPE.format("info"),
            "description": "an understudy service",
            "endpoints": endpoints,
        }

    def stats(self) -> dict[str, Any]:
        return {
            **self.ping(),
            "type": _TYPE.format("stats"),
            "started": self.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "endpoints": [self._stats_of(each) for each in self._served],
        }

    def _stats_of(self, subject: str) -> dict[str, Any]:
        endpoint = self.at(subject)
        return {
            **_named(subject, self.queue),
            "num_requests": endpoint.requests,
            "num_errors": endpoint.errors,
            "last_error": "",
            "processing_time": endpoint.average * endpoint.requests,
            "average_processing_time": endpoint.average,
            "data": {"samples": endpoint.samples},
        }


def _named(subject: str, queue: str) -> dict[str, str]:
    name = _ODD.sub("_", subject).strip("_") or "endpoint"
    return {"name": name, "subject": subject, "queue_group": queue}


async def _answer(
    connection: Connection, describe: Callable[[], dict[str, Any]], message: Any
) -> None:
    if message.reply:
        await connection.publish(message.reply, encode(describe()))
