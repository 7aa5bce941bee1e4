"""`understudy new NAME`: a service that runs, with tests that pass."""

import argparse
import keyword
import re
import sys
from pathlib import Path
from typing import Final

from ..actors.errors import DeclarationError
from .skeleton import FILES

__all__ = ["add_commands"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

_EXTRAS: Final = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "kafka": "kafka",
    "kafkas": "kafka",
    "mqtt": "mqtt",
    "mqtts": "mqtt",
    "nats": "nats",
    "redis": "redis",
    "rediss": "redis",
    "tcp": "",
    "ws": "websocket",
    "wss": "websocket",
}
"""Schemes that the skeleton works on, and the extra of each."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `new`."""
    new = commands.add_parser(
        "new",
        help="make a service that runs",
        description="Make a folder with a service that runs: a package, actors, their tests, a "
        "README that says what to do next.",
    )
    new.add_argument("name", metavar="NAME", help="of the folder and the service, e.g. shop")
    new.add_argument(
        "--serve",
        metavar="URL",
        default="tcp://127.0.0.1:3001",
        help="where it listens, or its broker (tcp://127.0.0.1:3001)",
    )
    new.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> int:
    name: str = arguments.name
    package = _package(name)
    words = {
        "NAME": name,
        "PACKAGE": package,
        "EXTRAS": _extras(arguments.serve),
        "VARIABLE": f"{package.upper()}_URL",
        "URL": arguments.serve,
    }
    folder = Path(name)
    try:
        folder.mkdir()
        for path, text in FILES.items():
            file = folder / _filled(path, words)
            file.parent.mkdir(exist_ok=True)
            file.write_text(_filled(text, words))
    except FileExistsError as error:
        raise DeclarationError(
            f"there is a {name!r} here already. Take another name, or remove it."
        ) from error
    except OSError as error:
        raise DeclarationError(f"{name!r} cannot be made: {error}.") from error
    print(
        f"{name}/ is made. What to do next (its README.md says more):\n"
        f"  cd {name}\n"
        "  pip install -e '.[test]' && pytest\n"
        f"  understudy run {package}.service:tree"
    )
    return 0


def _package(name: str) -> str:
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} cannot name a service: small letters and digits expected, in words with "
            "'-' or '_' between them, such as web-shop."
        )
    taken = keyword.iskeyword(package) or package in sys.stdlib_module_names
    if taken or package in ("understudy", "tests", "attrs", "trio"):
        raise DeclarationError(
            f"{name!r} cannot name a service: Python has another meaning for {package!r}. "
            f"Take another name, such as {name}-service."
        )
    return package


def _extras(url: str) -> str:
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in _EXTRAS or not re.fullmatch(r"[!#-\[\]-~]+", url):
        raise DeclarationError(
            f"--serve {url!r}: a URL expected that begins with one of "
            f"{', '.join(f'{known}://' for known in _EXTRAS)}."
        )
    return f"[{_EXTRAS[scheme]}]" if _EXTRAS[scheme] else ""


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)
