"""The interoperability program: one service and one client for every transport.

    python examples/interop.py serve TRANSPORT URL [--queue NAME] [--prefix NAME]
    python examples/interop.py call TRANSPORT URL [--queue NAME] [--dialect nestrs]

`serve` prints `ready` once it accepts messages and runs until SIGTERM. `call` runs
every case against whatever listens there, this program or a NestJS service with the
same handlers, prints one JSON line per case and exits with 1 if any failed. On gRPC
both speak of the service in interop.proto, elsewhere of the handlers below.
"""

import argparse
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from understudy import (
    UNSET,
    Actor,
    Client,
    NoResponders,
    RpcError,
    Supervisor,
    UnderstudyError,
    child,
    connect,
    event_pattern,
    message_pattern,
    run,
    serve,
)


class Kept(Actor[Any]):
    """Keeps events, so that they survive a crash of the actor that receives them."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @event_pattern("user.created")
    async def on_user_created(self, event: Any) -> None:
        self.events.append(event)

    @message_pattern("seen")
    async def seen(self, _: Any = None) -> list[Any]:
        return self.events


class Interop(Actor):
    """The handlers every peer has. Payloads are untyped where peers send anything."""

    @message_pattern("math.sum")
    async def sum(self, numbers: Any) -> Any:
        return sum(numbers)

    @message_pattern("echo")
    async def echo(self, data: Any = UNSET) -> Any:
        return data

    @message_pattern("fail.rpc")
    async def fail_rpc(self, _: Any = None) -> None:
        raise RpcError({"status": 404, "message": "nope"})

    @message_pattern("fail.text")
    async def fail_text(self, _: Any = None) -> None:
        raise RpcError("refused")

    @message_pattern("fail.plain")
    async def fail_plain(self, _: Any = None) -> None:
        raise ValueError("an unexpected exception; no caller may see this text")

    @message_pattern("stream.count")
    async def stream_count(self, data: Any = None) -> AsyncIterator[int]:
        last = data.get("n", 3) if isinstance(data, dict) else 3
        for number in range(1, last + 1):
            yield number

    # What follows are the odd cases of the recorded packets.

    @message_pattern("stream.slow")
    async def stream_slow(self, _: Any = None) -> AsyncIterator[int]:
        for number in (1, 2, 3):
            await trio.sleep(0.02)
            yield number

    @message_pattern("stream.fail")
    async def stream_fail(self, _: Any = None) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise RpcError({"status": 500, "message": "mid"})

    @message_pattern("void")
    async def void(self, _: Any = None) -> None:
        pass

    @message_pattern("give.null")
    async def give_null(self, _: Any = None) -> Any:
        return None

    @message_pattern("wait")
    async def wait(self, milliseconds: Any) -> Any:
        await trio.sleep(float(milliseconds) / 1000)  # Kafka brings a number as its text
        return milliseconds


class ObjectPatterns(Actor):
    """The handlers whose patterns are objects, which Kafka has no names for."""

    @message_pattern({"cmd": "sum"})
    async def sum(self, numbers: Any) -> Any:
        return sum(numbers)

    @message_pattern({"a": {"b": 2, "y": "s"}, "z": 1})
    async def nested_pattern(self, data: Any) -> dict[str, Any]:
        return {"got": data}


@frozen
class Numbers:
    values: list[int]


@frozen
class Total:
    value: int


class Math(Actor):
    """The service of interop.proto, which is all that gRPC serves."""

    @message_pattern("Math.Sum")
    async def sum(self, numbers: Numbers) -> Total:
        return Total(sum(numbers.values))

    @message_pattern("Math.Count")
    async def count(self, last: Total) -> AsyncIterator[Total]:
        for number in range(1, last.value + 1):
            yield Total(number)

    @message_pattern("Math.Fail")
    async def fail(self, _: Total) -> Total:
        raise RpcError({"code": 5, "message": "nope"})


NOBODY_LISTENS = {"nobody": "listens"}
"""What comes of a request that no service has subscribed to, where a broker knows that."""


class Case:
    """One case of `call`: what to do, and what must come of it."""

    def __init__(self, name: str, act: Callable[[Client], Awaitable[Any]], expected: Any) -> None:
        self.name, self.act, self.expected = name, act, expected

    async def run(self, client: Client) -> bool:
        got: Any = None
        with trio.move_on_after(10) as limit:
            try:
                got = await self.act(client)
            except RpcError as error:
                got = {"error": error.error}
            except NoResponders:
                got = NOBODY_LISTENS
            except UnderstudyError as error:
                got = {"failed": str(error)}
        if limit.cancelled_caught:
            got = {"failed": "nothing came within 10 s"}
        good = bool(got == self.expected)
        print(json.dumps({"case": self.name, "ok": good, "got": got}), flush=True)
        return good


def send(pattern: Any, data: Any = UNSET) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: client.send(pattern, data)


def items(pattern: Any, data: Any) -> Callable[[Client], Awaitable[list[Any]]]:
    async def act(client: Client) -> list[Any]:
        return [item async for item in client.stream(pattern, data)]

    return act


def seen_after(crash: bool, user: dict[str, str]) -> Callable[[Client], Awaitable[bool]]:
    """The service keeps an event; with `crash`, also across the crash of its neighbour."""

    async def act(client: Client) -> bool:
        if crash:
            with suppress(RpcError):
                await client.send("fail.plain", {})
        else:
            await client.emit("user.created", user)
        for _ in range(100):
            if user in await client.send("seen", {}):
                return True
            await trio.sleep(0.02)
        return False

    return act


def many(
    pattern: str, data: Callable[[int], Any], expected: Callable[[int], Any]
) -> Callable[[Client], Awaitable[list[int]]]:
    """64 calls at once; what comes are the numbers whose answers were not theirs."""

    async def act(client: Client) -> list[int]:
        answers: dict[int, Any] = {}

        async def one(number: int) -> None:
            with suppress(UnderstudyError):  # a missing answer is a wrong one
                answers[number] = await client.send(pattern, data(number))

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(one, number)
        return [number for number in range(64) if answers.get(number) != expected(number)]

    return act


def failing(pattern: str, error: Any) -> Case:
    return Case(pattern, send(pattern, {}), {"error": error})


# The errors of one service, as each dialect writes them.
FAILURES = {
    "nest": [
        failing("fail.rpc", {"status": 404, "message": "nope"}),
        failing("fail.text", {"status": "error", "message": "refused"}),
        failing("fail.plain", {"status": "error", "message": "Internal server error"}),
    ],
    "nestrs": [
        failing("fail.rpc", {"message": "nope", "details": {"status": 404}}),
        failing("fail.text", {"message": "refused"}),
        failing("fail.plain", {"message": "Internal server error"}),
    ],
}


def nobody_home(dialect: str, transport: str) -> list[Case]:
    """What a request without a handler comes to: a service says so, or its broker does."""
    if dialect == "nestrs":  # its services hear every pattern there is
        expected: Any = {"message": "no microservice handler for pattern `nobody.home`"}
    elif transport == "kafka":  # a topic that nobody reads keeps what it is given
        return []
    elif transport in ("nats", "redis", "mqtt"):  # a subscription for each pattern
        return [Case("nobody.home", send("nobody.home", {}), NOBODY_LISTENS)]
    else:
        expected = "There is no matching message handler defined in the remote service."
    return [Case("nobody.home", send("nobody.home", {}), {"error": expected})]


def cases(dialect: str, transport: str) -> list[Case]:
    """What to ask, and what must come of it, as far as a transport can carry it."""
    on_kafka = (dialect, transport) == ("nest", "kafka")

    def comes(value: Any) -> Any:
        """On Kafka, without a packet around it, a value that is no object is its text."""
        return json.dumps(value) if on_kafka and isinstance(value, (int, float)) else value

    tricky = {"s": 'héllo ✓ 😀 #12#{"', "n": 1.5, "b": True, "z": None, "l": [1, [2, {"k": "v"}]]}
    user = {"id": str(uuid.uuid4()), "name": "Ada"}
    found = [
        Case("math.sum", send("math.sum", [1, 2, 3]), comes(6)),
        Case("echo", send("echo", tricky), tricky),
        Case("echo zero", send("echo", 0), comes(0)),
        Case("echo false", send("echo", False), comes(False)),
        Case("echo empty text", send("echo", ""), ""),
        *FAILURES[dialect],
        *nobody_home(dialect, transport),
        Case("user.created", seen_after(False, user), True),
        Case("seen after a crash", seen_after(True, user), True),
        Case("64 at once", many("echo", numbered, numbered), []),
    ]
    if not on_kafka:  # no topic has such a name
        found.append(Case('{"cmd":"sum"}', send({"cmd": "sum"}, [4, 5, 6]), 15))
    if (dialect, transport) != ("nestrs", "mqtt"):  # nestrs ends with a packet over 10 KiB there
        found.append(Case("echo 100 kB", send("echo", "é" * 50_000), "é" * 50_000))
    if dialect == "nest":  # nestrs has no streams
        found.append(
            Case("stream.count", items("stream.count", {"n": 3}), [comes(1), comes(2), comes(3)])
        )
    return found


def numbered(number: int) -> Any:
    return {"number": number}


def status_of(pattern: str, data: Any) -> Callable[[Client], Awaitable[Any]]:
    """What gRPC knows of a failed call, without the metadata that a service may add."""

    async def act(client: Client) -> Any:
        try:
            return await client.send(pattern, data)
        except RpcError as failed:
            return failed.error["code"], failed.error["message"]

    return act


# What can be asked of interop.proto's service.
MATH = [
    Case("Math.Sum", send("Math.Sum", {"values": [1, 2, 3]}), {"value": 6}),
    Case("Math.Sum of nothing", send("Math.Sum", {}), {"value": 0}),
    Case("Math.Count", items("Math.Count", {"value": 3}), [{"value": n} for n in (1, 2, 3)]),
    Case("Math.Count to nothing", items("Math.Count", {}), []),
    Case("Math.Fail", status_of("Math.Fail", {"value": 1}), (5, "nope")),
    Case(
        "64 at once",
        many("Math.Sum", lambda n: {"values": [n, 1]}, lambda n: {"value": n + 1}),
        [],
    ),
]
PROTO: dict[str, Any] = {
    "proto": str(Path(__file__).with_name("interop.proto")),
    "package": "interop",
}


def by_proto(url: str, options: dict[str, Any]) -> bool:
    """Whether messages and methods are those of interop.proto."""
    return url.startswith("grpc") and options.get("dialect") != "nestrs"


async def call(transport: str, url: str, options: dict[str, Any]) -> int:
    found = cases(options.get("dialect", "nest"), transport)
    if by_proto(url, options):
        found, options = MATH, PROTO | options
    async with connect(url, patience=10, **options) as client:
        results = [await case.run(client) for case in found]
    return 0 if all(results) else 1


def tree(url: str, options: dict[str, Any]) -> Supervisor:
    """The service, with the actors whose patterns the transport can name."""
    if by_proto(url, options):
        return Supervisor("interop", [child(Math), serve(url, **PROTO | options)])
    actors = [child(Kept), child(Interop, concurrency=16)]
    if not url.startswith("kafka") or options.get("dialect") == "nestrs":
        actors.append(child(ObjectPatterns))
    return Supervisor("interop", [*actors, serve(url, **options)])


GROUPS = {"kafka": "group", "mqtt": "share", "nats": "queue", "rmq": "queue"}
"""The option that tells services apart, or has them share their work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mode", choices=["serve", "call"])
    parser.add_argument("transport", choices=[*GROUPS, "tcp", "redis", "grpc", "ws"])
    parser.add_argument("url")
    parser.add_argument("--queue", help="queue or group name, on transports that have one")
    parser.add_argument("--prefix", help="what stands before every subject, channel or topic")
    parser.add_argument("--dialect", choices=sorted(FAILURES), help="nest if not given")
    given = parser.parse_args()
    asked = ((name, getattr(given, name)) for name in ("prefix", "dialect"))
    options = {name: value for name, value in asked if value}
    if given.queue and (given.mode == "serve" or given.transport == "rmq"):
        # Elsewhere only services have one.
        options[GROUPS.get(given.transport, "queue")] = given.queue
    if given.mode == "call":
        sys.exit(trio.run(call, given.transport, given.url, options))
    if given.transport == "tcp":
        options.pop("dialect", None)  # a service is told by the first byte of a connection
    run(
        tree(given.url, options),
        dead_letters=None,
        on_ready=lambda _: print("ready", flush=True),
    )


if __name__ == "__main__":
    main()
