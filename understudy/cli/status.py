"""`understudy status | tree | why`: how running services are.

`status` is for containers and init systems: exit code 0 if the service is ready (with
`--live`: if it answers and its tree has not ended), 1 if not, or if there is none.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..supervisors.control_place import Found
from .services import NoAnswer, add_service, ask, chosen
from .view import heading, rows_of, table

__all__ = ["add_commands"]

UNREACHABLE = 69


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands `status`, `tree` and `why`."""
    status = commands.add_parser(
        "status",
        help="is a running service ready?",
        description="Is a running service ready? Exit code 0 if it is (of several: if all are), "
        "1 if not or if none runs.",
    )
    add_service(status)
    status.add_argument("--live", action="store_true", help="only: does it answer at all?")
    status.add_argument("--json", action="store_true", help="one JSON object a line")
    status.set_defaults(run=_status)
    tree = commands.add_parser(
        "tree",
        help="the children of a running service",
        description="The children of a running service: states, restarts, mailboxes.",
    )
    add_service(tree)
    tree.add_argument("--limit", type=int, default=1000, metavar="N", help="children shown (1000)")
    tree.add_argument("--json", action="store_true", help="one JSON object a line")
    tree.set_defaults(run=_tree)
    why = commands.add_parser(
        "why",
        help="why was a child restarted?",
        description="Why a child was last restarted, or has ended: what led to what.",
    )
    why.add_argument("path", metavar="PATH", help="the child's path, e.g. shop/orders")
    add_service(why)
    why.set_defaults(run=_why)


def _status(arguments: argparse.Namespace) -> int:
    well = True
    try:
        services = chosen(arguments.service)
    except NoAnswer as error:
        return _failed(error, arguments.json)
    for service in services:
        try:
            health = ask(service, "health")
        except NoAnswer as error:
            well = _failed(error, arguments.json) == 0
            continue
        well &= health["live"] if arguments.live else health["ready"]
        _print(health, heading(health), as_json=arguments.json)
    return 0 if well else 1


def _failed(error: NoAnswer, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"live": False, "ready": False, "troubles": [str(error)]}))
    else:
        print(f"understudy: {error}", file=sys.stderr)
    return 1


def _tree(arguments: argparse.Namespace) -> int:
    def show(service: Found) -> None:
        health = ask(service, "tree", limit=arguments.limit)
        _print(health, [*heading(health), *table(rows_of(health))], as_json=arguments.json)

    return _each(arguments.service, show)


def _why(arguments: argparse.Namespace) -> int:
    root = arguments.path.partition("/")[0]

    def show(service: Found) -> None:
        print(ask(service, "why", path=arguments.path))

    return _each(arguments.service or root, show)


def _each(which: str | None, show: Any) -> int:
    try:
        for service in chosen(which):
            show(service)
    except NoAnswer as error:
        print(f"understudy: {error}", file=sys.stderr)
        return UNREACHABLE
    return 0


def _print(health: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    print(json.dumps(health) if as_json else "\n".join(lines))
