"""Where the dead letters are when nobody says: the one answer for service and command line."""

import os
from typing import Final

__all__ = ["DEFAULT_FILE", "VARIABLE", "default_path"]

DEFAULT_FILE: Final = "dead-letters.sqlite"
"""In the working directory of the process."""

VARIABLE: Final = "UNDERSTUDY_DEAD_LETTERS"
"""The environment variable that names another file."""


def default_path() -> str:
    """The path of the store for a process that was given none."""
    return os.environ.get(VARIABLE) or DEFAULT_FILE
