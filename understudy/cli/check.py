"""`understudy check | routes`: a tree, looked at before it runs."""

import argparse
import json

from .run import find_tree
from .view import table

__all__ = ["add_commands"]

WRONG = 78


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands `check` and `routes`."""
    check = commands.add_parser(
        "check",
        help="find the faults of a tree before it starts",
        description="Find the faults of a tree without starting it. Exit code 78 if there are any; "
        "doubts are told, and are no faults.",
    )
    check.add_argument("tree", metavar="module:tree", help="a Supervisor, e.g. shop:tree")
    check.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds a stop may take (30)"
    )
    check.set_defaults(run=_check)
    routes = commands.add_parser(
        "routes",
        help="the patterns that a tree handles",
        description="The patterns that a tree handles: kinds, types, how they run, policies.",
    )
    routes.add_argument("tree", metavar="module:tree", help="a Supervisor, e.g. shop:tree")
    routes.add_argument("--json", action="store_true", help="one JSON object a line")
    routes.set_defaults(run=_routes)


def _check(arguments: argparse.Namespace) -> int:
    from .faults import faults_of  # noqa: PLC0415  # loads trio and what brokers need

    found = faults_of(find_tree(arguments.tree), arguments.drain)
    for fault in found:
        print(f"{fault.level}: {fault.path}: {fault.text}")
    faults = sum(fault.level == "fault" for fault in found)
    if faults:
        print(f"{faults} {'fault' if faults == 1 else 'faults'}.")
        return WRONG
    print(f"{arguments.tree}: no faults.")
    return 0


def _routes(arguments: argparse.Namespace) -> int:
    import attrs  # noqa: PLC0415

    from .catalogue import routes_of  # noqa: PLC0415

    routes = routes_of(find_tree(arguments.tree))
    if arguments.json:
        for route in routes:
            print(json.dumps(attrs.asdict(route)))
    elif routes:
        head = ("PATTERN", "KIND", "ACTOR", "PAYLOAD", "ANSWER", "RUNS", "POLICIES")
        rows = [
            (one.pattern, one.kind, one.path, one.payload, one.answer, one.runs, one.policies)
            for one in routes
        ]
        print("\n".join(table([head, *rows])))
    else:
        print(f"{arguments.tree}: no patterns; its actors are reached by reference only.")
    return 0
