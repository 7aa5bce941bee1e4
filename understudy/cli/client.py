"""`understudy send | emit | stream`: one call to a service, answers as JSON lines."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from msgspec import UNSET

from ..actors.encoding import encode
from ..actors.errors import ConnectionLost, RequestTimeout, RpcError

if TYPE_CHECKING:
    from ..transports.client import Client

__all__ = ["UNREACHABLE", "add_commands"]

UNREACHABLE: Final = 69
"""Exit code: no connection, or no answer in time."""

_DATA: Final = "the data as JSON (- reads it from stdin)"
_PATTERN: Final = 'the pattern: a text, or an object as JSON, such as \'{"cmd": "sum"}\''


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands `send`, `emit` and `stream`."""
    send = _command(commands, "send", "send a request and print the answer", _send)
    send.add_argument(
        "--timeout", type=_timeout, default=5.0, metavar="S", help="seconds to wait (5)"
    )
    _command(commands, "emit", "send an event", _emit)
    _command(commands, "stream", "print a streamed answer, one item a line", _stream)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    what: str,
    call: Callable[["Client", argparse.Namespace], Awaitable[None]],
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}. An error of the service is printed as JSON to "
        "stderr, with exit code 1; a service that cannot be reached gives 69.",
    )
    command.add_argument("url", metavar="URL", help="the service, e.g. tcp://127.0.0.1:3001")
    command.add_argument("pattern", metavar="PATTERN", type=_pattern, help=_PATTERN)
    command.add_argument("data", metavar="JSON", nargs="?", type=_data, default=UNSET, help=_DATA)
    command.add_argument("--dialect", choices=("nest", "nestrs"), help="nest if not given")
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="an option of the transport's client, e.g. prefix=shop; may be repeated",
    )
    command.add_argument(
        "--header",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="a header beside the message, where the transport has them; may be repeated",
    )
    command.set_defaults(run=lambda arguments: _connected(call, arguments))
    return command


def _pattern(text: str) -> Any:
    return _json(text) if text.lstrip().startswith("{") else text


def _data(text: str) -> Any:
    return _json(sys.stdin.read() if text == "-" else text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not JSON ({error}). A text needs its quotes: '\"text\"'."
        ) from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=VALUE expected")
    return name, value


def _timeout(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds above zero expected")
    return value


def _connected(
    call: Callable[["Client", argparse.Namespace], Awaitable[None]], arguments: argparse.Namespace
) -> int:
    """Connect, make one call, and say how it went by the exit code."""
    import trio  # noqa: PLC0415  # costs more than the rest of the command line

    from ..transports.client import connect  # noqa: PLC0415

    options = {} if arguments.dialect is None else {"dialect": arguments.dialect}
    url = _with_options(arguments.url, arguments.option)

    async def main() -> None:
        async with connect(url, **options) as client:
            await call(client, arguments)

    try:
        trio.run(main)
    except RpcError as error:
        print(_text(error.error), file=sys.stderr)
        return 1
    except (ConnectionLost, RequestTimeout) as error:
        print(f"understudy: {error}", file=sys.stderr)
        return UNREACHABLE
    return 0


def _with_options(url: str, options: list[tuple[str, str]]) -> str:
    """The URL with options in its query, where each is read as its type asks for."""
    if not options:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}"


async def _send(client: "Client", arguments: argparse.Namespace) -> None:
    answer = await client.send(
        arguments.pattern,
        arguments.data,
        timeout=arguments.timeout,
        headers=dict(arguments.header),
    )
    print(_text(answer))


async def _emit(client: "Client", arguments: argparse.Namespace) -> None:
    await client.emit(arguments.pattern, arguments.data, headers=dict(arguments.header))


async def _stream(client: "Client", arguments: argparse.Namespace) -> None:
    headers = dict(arguments.header)
    async for item in client.stream(arguments.pattern, arguments.data, headers=headers):
        print(_text(item), flush=True)  # one by one, also into a pipe


def _text(value: Any) -> str:
    return encode(value).decode()
