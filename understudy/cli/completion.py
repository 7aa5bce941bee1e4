"""`understudy completion bash | zsh | fish`: completions, made from the parser itself.

Nothing is asked of a running program: the script has commands, options and choices as they
were when it was made.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

__all__ = ["add_command"]


@attrs.frozen
class _Command:
    """One command: the words that lead to it, its options, the commands below it."""

    words: tuple[str, ...]
    options: tuple[tuple[str, str, tuple[str, ...], bool], ...]
    choices: tuple[str, ...]
    below: tuple[tuple[str, str], ...]


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", parser: argparse.ArgumentParser
) -> None:
    """Add the command `completion`, for all commands of `parser`."""
    command = commands.add_parser(
        "completion",
        help="a script that completes these commands in a shell",
        description="Print a script that completes commands and options. bash: eval "
        '"$(understudy completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit; '
        "fish: understudy completion fish > ~/.config/fish/completions/understudy.fish",
    )
    command.add_argument("shell", choices=sorted(_WRITERS))

    def write(arguments: argparse.Namespace) -> int:
        print("\n".join(_WRITERS[arguments.shell](list(_walk(parser, ())))))
        return 0

    command.set_defaults(run=write)


def _walk(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[_Command]:
    options: list[tuple[str, str, tuple[str, ...], bool]] = []
    choices: list[str] = []
    inner: dict[str, argparse.ArgumentParser] = {}
    helps: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = dict(action.choices)
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            continue
        values = tuple(map(str, action.choices or ()))
        takes = action.nargs != 0
        options += [(name, action.help or "", values, takes) for name in action.option_strings]
        if not action.option_strings:
            choices += values
    below = tuple((name, helps.get(name, "")) for name in inner)
    yield _Command(words, tuple(options), tuple(choices), below)
    for name, command in inner.items():
        yield from _walk(command, (*words, name))


# -- shells ---------------------------------------------------------------------------


def _bash(commands: Sequence[_Command]) -> Iterator[str]:
    yield "_understudy() {"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local path="" words="" each'
    yield '    for each in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield '        case "$path $each" in'
    yield f'            {_alternatives(commands)}) path="$path $each" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$path $before" in'
    for command in commands:
        for name, _, values, takes in command.options:
            if takes:
                where = _quoted(" ".join(["", *command.words, name]))
                yield f"        {where}) words={_quoted(' '.join(values))}"
                yield '            COMPREPLY=($(compgen -W "$words" -- "$word"))'
                if not values:
                    yield '            COMPREPLY=($(compgen -f -- "$word"))'
                yield "            return ;;"
    yield "    esac"
    yield '    case "$path" in'
    for command in commands:
        offered = [name for name, _ in command.below] + list(command.choices)
        offered += [name for name, *_ in command.options]
        where = _quoted("".join(f" {word}" for word in command.words))
        yield f"        {where}) words={_quoted(' '.join(offered))} ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield "complete -o default -F _understudy understudy"


def _alternatives(commands: Sequence[_Command]) -> str:
    paths = (" ".join(["", *command.words]) for command in commands if command.words)
    return "|".join(_quoted(path) for path in paths)


def _zsh(commands: Sequence[_Command]) -> Iterator[str]:
    # zsh runs bash's completions, and shows no difference in what is offered.
    yield "#compdef understudy"
    yield "autoload -U +X bashcompinit && bashcompinit"
    yield from _bash(commands)


def _fish(commands: Sequence[_Command]) -> Iterator[str]:
    yield "complete -c understudy -f"
    for command in commands:
        below = " ".join(name for name, _ in command.below)
        when = [f"__fish_seen_subcommand_from {word}" for word in command.words]
        here = [*when, f"not __fish_seen_subcommand_from {below}"] if below else when
        condition = _quoted("; and ".join(here) or "true")
        for name, text in command.below:
            yield f"complete -c understudy -n {condition} -a {name} -d {_quoted(text)}"
        for choice in command.choices:
            yield f"complete -c understudy -n {condition} -a {_quoted(choice)}"
        for name, text, values, takes in command.options:
            flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            value = f" -x -a {_quoted(' '.join(values))}" if values else " -r -F" if takes else ""
            yield f"complete -c understudy -n {condition} {flag}{value} -d {_quoted(text)}"


def _quoted(text: str) -> str:
    return "'" + re.sub(r"\s+", " ", text).replace("%%", "%").replace("'", r"'\''") + "'"


_WRITERS: Final[dict[str, Any]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
