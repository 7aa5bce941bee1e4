"""The survivors that are accepted, each with the reason why it cannot matter.

They are kept in survivors.toml beside this file. An entry names a mutant by what it
changes, not by a line number, so that it holds until the changed code itself does.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from .mutants import Mutant

__all__ = ["Accepted", "Key", "accepted", "stale"]

Key = tuple[str, str, str, str, int]
"""File, function, the lines before and after, and which of several that read the same."""

Accepted = Mapping[Key, str]
"""The reason for each."""

_LIST = Path(__file__).with_name("survivors.toml")


def accepted(text: str | None = None) -> Accepted:
    """Read the list; raises `ValueError` for an entry without a reason or named twice."""
    entries = tomllib.loads(_LIST.read_text() if text is None else text).get("survivor", [])
    found: dict[Key, str] = {}
    for entry in entries:
        nth = entry.get("nth", 1)
        key = (entry["file"], entry["function"], entry["before"], entry["after"], nth)
        why = entry.get("why", "").strip()
        if not why or key in found:
            wrong = "is listed twice" if key in found else "has no reason (why=)"
            raise ValueError(f"survivors.toml: {key} {wrong}.")
        found[key] = why
    return found


def stale(listed: Accepted, file: str, survivors: list[Mutant]) -> list[Key]:
    """Entries for `file` whose mutant is noticed by a test now, or no longer exists."""
    alive = {mutant.key for mutant in survivors}
    return [key for key in listed if key[0] == file and key not in alive]
