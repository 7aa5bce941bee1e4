"""Where in a program something happened: `shop.py:41 in reserve`, and nothing else of it.

Out of a traceback or a running stack it picks the one line that its reader wrote: the
innermost outside of this package and of libraries. No values, no source text and no
directories, so that a place may be shown to anybody.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from os.path import basename
from types import FrameType
from typing import Final, TypeAlias

__all__ = ["Step", "is_ours", "place", "place_of", "steps_of"]

Step: TypeAlias = tuple[FrameType, int]
"""A frame and the line it was at; a list of them begins with the outermost."""

_HOUSE: Final = __name__.partition(".")[0]
_TYPED_IN: Final = ("<string>", "<stdin>")


def place_of(error: BaseException) -> str:
    """The line of the program that an exception came from; empty if it was never raised."""
    return place(list(steps_of(error)))


def place(steps: Sequence[Step]) -> str:
    """The innermost line of the program; without any, of what it called; else of all."""
    theirs = [step for step in steps if not is_ours(step[0])]
    written = [step for step in theirs if not _is_library(step[0])]
    chosen = written or _of_one_package(theirs) or steps
    return _text(*chosen[-1]) if chosen else ""


def steps_of(error: BaseException) -> Iterator[Step]:
    """The way of an exception, from where it was caught to where it was raised."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of this package, or of the event loop below it."""
    return _package(frame) in (_HOUSE, "trio", "outcome")


def _of_one_package(steps: Sequence[Step]) -> list[Step]:
    # A program that is installed looks like a library: its package is the one called first.
    home = _package(steps[0][0]) if steps else ""
    return [step for step in steps if _package(step[0]) == home]


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    made = file.startswith("<") and file not in _TYPED_IN
    return made or file.startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({f"{paths[name]}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _text(frame: FrameType, line: int) -> str:
    return f"{basename(frame.f_code.co_filename)}:{line} in {frame.f_code.co_name}"
