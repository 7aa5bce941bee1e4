"""`understudy run module:tree`: find a tree by its name and run it as this process."""

import argparse
import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..actors.errors import DeclarationError

if TYPE_CHECKING:
    from ..supervisors.child import Supervisor

__all__ = ["add_commands", "find_tree"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `run`."""
    command = commands.add_parser(
        "run",
        help="run a tree as this process",
        description="Run a tree until SIGINT or SIGTERM. The first signal drains, the second "
        "cancels, the third ends the process. Exit codes: 0 clean, 70 the root gave up, "
        "75 the drain was cut short, 78 the tree or its options are wrong.",
    )
    command.add_argument("tree", metavar="module:tree", help="a Supervisor, e.g. shop:tree")
    command.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds a stop may take (30)"
    )
    command.add_argument("--dead-letters", metavar="PATH", help="the file for dead letters")
    command.add_argument(
        "--control", metavar="PATH", help="the path of the control socket, or 'off' for none"
    )
    command.add_argument(
        "--log-format",
        choices=("auto", "text", "json"),
        help="auto (default): text on a terminal, JSON lines anywhere else",
    )
    command.add_argument(
        "--reload", action="store_true", help="start again when Python files here change"
    )
    command.add_argument(
        "--reload-dir",
        action="append",
        default=[],
        metavar="PATH",
        help="watch this folder instead of the working directory; may be repeated",
    )
    command.set_defaults(run=_run)


def find_tree(where: str) -> "Supervisor":
    """The supervisor that `module:name` names; the working directory is searched first.

    Raises `DeclarationError`, saying what is there instead, if there is none. Whatever
    else the module raises is printed before, with its traceback.
    """
    from ..supervisors.child import Supervisor  # noqa: PLC0415  # loads trio

    module_name, _, name = where.partition(":")
    if not module_name or not name:
        raise DeclarationError(f"{where!r}: module:tree expected, such as shop:tree.")
    module = _module(module_name)
    trees = [key for key, value in vars(module).items() if isinstance(value, Supervisor)]
    if not hasattr(module, name):
        near = get_close_matches(name, trees) or get_close_matches(name, vars(module)) or trees
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise DeclarationError(f"the module {module_name!r} has no {name!r}.{hint}")
    tree = getattr(module, name)
    if not isinstance(tree, Supervisor):
        what = "a class" if isinstance(tree, type) else f"of type {type(tree).__name__}"
        hint = f"It has {', '.join(trees)}." if trees else "Assign one in the module."
        raise DeclarationError(f"{where} is {what}, not a Supervisor. {hint}")
    return tree


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except DeclarationError:
        raise
    except Exception as error:
        # A module that is missing further down is the fault of the one that was found.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise DeclarationError(_not_found(name, here)) from error
        traceback.print_exc()
        raise DeclarationError(f"the module {name!r} cannot be imported, see above.") from error


def _not_found(name: str, here: str) -> str:
    files = [path.stem for path in Path(here).glob("*.py")]
    near = get_close_matches(name, files, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"there is no module {name!r} in {here} or on the path.{hint}"


def _run(arguments: argparse.Namespace) -> int:
    if arguments.reload:
        from .reload import run_again  # noqa: PLC0415  # for those who ask for it

        return run_again(arguments)
    from ..supervisors.run import run  # noqa: PLC0415  # loads trio

    tree = find_tree(arguments.tree)
    options = {} if arguments.dead_letters is None else {"dead_letters": arguments.dead_letters}
    control = True if arguments.control is None else arguments.control
    run(
        tree,
        drain=arguments.drain,
        logs=arguments.log_format or True,
        control=False if control == "off" else control,
        **options,
    )
    return 0
