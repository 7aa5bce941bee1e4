"""The command line: `understudy run | status | tree | top | send | dead-letters | ...`.

Here are the parser and what all commands share; each group of commands has a file of
its own, which imports what is costly only when one of its commands runs.

Exit codes: 0 done, 1 the answer was an error, an id unknown or a service not ready, 2
wrong usage, 69 the service cannot be reached, 78 a declaration or option is wrong, 130
interrupted, 141 the reader of our output is gone; `run` has those of `supervisors/run.py`
besides.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from ..actors.errors import DeclarationError
from . import check, client, completion, dead_letters, new, run, status, top

__all__ = ["main"]

INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
WRONG: Final = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong usage raises `SystemExit(2)`."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()  # here, where a reader that has left is noticed quietly
    except DeclarationError as error:
        print(f"understudy: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:
        # Python flushes stdout once more at the end: into nothing, then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        # An interrupt inside of a connection comes out in the group of its tasks.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="understudy", description="Supervised actor services: run them, call them, look after."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (new, check, run, status, top, client, dead_letters):
        group.add_commands(commands)
    completion.add_command(commands, parser)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"understudy {version('understudy')}")
        parser.exit()
