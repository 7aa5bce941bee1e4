"""`understudy dead-letters list | show | replay | discard`: works on the store's file.

No service need run for it. A replay is only marked here; the service that keeps its
dead letters in this file delivers it, now or when it starts.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, get_args

from ..supervisors.delivery.location import VARIABLE, default_path
from ..supervisors.delivery.record import DeadLetter, Status, as_dict, details, summary
from ..supervisors.delivery.store_file import StoreFile

__all__ = ["add_commands"]

_PAGE: Final = 200
_POLL: Final = 0.1
_SETTLED: Final = ("replayed", "dead", "discarded")

Command = Callable[[StoreFile, argparse.Namespace], int]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `dead-letters` with its own."""
    group = commands.add_parser("dead-letters", help="look at dead letters, replay, discard")
    inner = group.add_subparsers(metavar="COMMAND", required=True)
    show_all = _command(inner, "list", "one line for each dead letter, oldest first", _list)
    show_all.add_argument("--status", choices=get_args(Status), help="only those")
    show_all.add_argument("--json", action="store_true", help="one JSON object a line")
    show = _command(inner, "show", "everything about a dead letter, secrets masked", _show)
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="as a JSON object")
    replay = _command(inner, "replay", "mark dead letters; a running service replays them", _replay)
    _add_ids(replay, "every dead letter that has its payload")
    replay.add_argument(
        "--wait", type=float, metavar="S", help="wait up to S seconds for the results"
    )
    discard = _command(inner, "discard", "give dead letters up; they stay readable", _discard)
    discard.add_argument("ids", metavar="ID", nargs="+")
    discard.add_argument("--note", default="", help="why")


def _add_ids(command: argparse.ArgumentParser, everything: str) -> None:
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", default=[])
    which.add_argument("--all", action="store_true", help=everything)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    what: str,
    run: Command,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    command.add_argument(
        "--store", metavar="PATH", help=f"the file; if not given that of {VARIABLE}, or the default"
    )
    command.set_defaults(run=lambda arguments: _with_store(run, arguments))
    return command


def _with_store(run: Command, arguments: argparse.Namespace) -> int:
    path = default_path() if arguments.store is None else arguments.store
    try:
        with StoreFile(path) as file:
            return run(file, arguments)
    except BrokenPipeError:
        raise  # of our output; an OSError as those of the file are
    except OSError as error:
        print(f"understudy: {error}", file=sys.stderr)
        return 1


def _list(file: StoreFile, arguments: argparse.Namespace) -> int:
    empty = True
    for letter in _letters(file, arguments.status):
        print(json.dumps(as_dict(letter)) if arguments.json else summary(letter))
        empty = False
    if empty and not arguments.json:
        which = f" with the status {arguments.status}" if arguments.status else ""
        print(f"{file.path}: no dead letters{which}.")
    return 0


def _letters(file: StoreFile, status: Status | None) -> Iterator[DeadLetter]:
    after = ""
    while page := file.find(status, limit=_PAGE, after=after):
        yield from page
        after = page[-1].id


def _show(file: StoreFile, arguments: argparse.Namespace) -> int:
    letter = file.get(arguments.id)
    if letter is None:
        return _unknown(file, [arguments.id])
    print(json.dumps(as_dict(letter), indent=2) if arguments.json else details(letter))
    return 0


def _replay(file: StoreFile, arguments: argparse.Namespace) -> int:
    if arguments.all:
        letters = [letter for letter in _letters(file, "dead") if letter.body is not None]
    else:
        found, unknown = _find(file, arguments.ids)
        if unknown:
            return _unknown(file, unknown)
        letters = [letter for letter in found if _can_be_replayed(letter)]
        if len(letters) < len(found):
            return 1
    ids = [letter.id for letter in letters]
    file.request_replay(ids)
    print(f"{_count(len(ids))} marked for replay; a running service delivers what is marked.")
    return 0 if arguments.wait is None else _await(file, ids, arguments.wait)


def _can_be_replayed(letter: DeadLetter) -> bool:
    if letter.status != "dead":
        _complain(f"{letter.id} is {letter.status}; only a dead one can be replayed")
    elif letter.body is None:
        _complain(f"{letter.id} was kept without its payload, so it cannot be replayed")
    else:
        return True
    return False


def _await(file: StoreFile, ids: Sequence[str], limit: float) -> int:
    """Print how each replay ends; 1 if one did not succeed, or not in time."""
    end = time.monotonic() + limit
    waiting, failed = list(ids), False
    while waiting:
        letters, _ = _find(file, waiting)
        for letter in (letter for letter in letters if letter.status in _SETTLED):
            print(f"{letter.id}  {letter.status}: {' '.join(letter.note.split()) or '-'}")
            failed |= letter.status != "replayed"
            waiting.remove(letter.id)
        if waiting and time.monotonic() >= end:
            _complain(
                f"{_count(len(waiting))} not delivered within {limit:g} s; is a service running "
                f"that keeps its dead letters in {file.path}"
            )
            return 1
        if waiting:
            time.sleep(_POLL)
    return 1 if failed else 0


def _discard(file: StoreFile, arguments: argparse.Namespace) -> int:
    letters, unknown = _find(file, arguments.ids)
    if unknown:
        return _unknown(file, unknown)
    fixed = [letter for letter in letters if letter.status not in ("dead", "replay-asked")]
    for letter in fixed:
        _complain(f"{letter.id} is {letter.status} and cannot be discarded")
    if fixed:
        return 1
    discarded = file.discard([letter.id for letter in letters], arguments.note)
    print(f"{_count(discarded)} discarded.")
    return 0


def _find(file: StoreFile, ids: Sequence[str]) -> tuple[list[DeadLetter], list[str]]:
    """The letters with these ids, each once, and the ids that no letter has."""
    found = {id: file.get(id) for id in ids}
    letters = [letter for letter in found.values() if letter is not None]
    return letters, [id for id, letter in found.items() if letter is None]


def _unknown(file: StoreFile, ids: Sequence[str]) -> int:
    for id in ids:
        _complain(f"{file.path} has no dead letter {id!r}. `dead-letters list` shows the ids")
    return 1


def _complain(text: str) -> None:
    print(f"understudy: {text}.", file=sys.stderr)


def _count(number: int) -> str:
    return f"{number or 'no'} dead letter{'' if number == 1 else 's'}"
